"""The published weights of a potential: a config in JSON and arrays in safetensors.

Read here by hand, since the environments of the peers do not have safetensors.
"""

import json
import struct
from pathlib import Path

import numpy as np

DTYPES = {"F32": np.float32, "F64": np.float64, "I64": np.int64, "I32": np.int32, "BOOL": np.bool_}


def read(files: list[str]) -> tuple[dict, dict[str, np.ndarray]]:
    """The config and the arrays by name, from one `.json` and one `.safetensors` file."""
    paths = {Path(name).suffix: Path(name) for name in files}
    config = json.loads(paths[".json"].read_text(encoding="utf-8"))
    data = paths[".safetensors"].read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        start, stop = (8 + length + offset for offset in entry["data_offsets"])
        values = np.frombuffer(data[start:stop], DTYPES[entry["dtype"]])
        arrays[name] = values.reshape(entry["shape"]).copy()
    return config, arrays
