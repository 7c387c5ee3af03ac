"""Potentials as two files: constructor arguments in JSON, and weights in safetensors."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from mlip_jax.config import UserError


class State(Mapping[str, np.ndarray]):
    """Arrays by name; a name that is missing is an error that names the file.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path, arrays: Mapping[str, np.ndarray]):
        self.path = path
        self._arrays = dict(arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            raise UserError(
                f"{self.path}: got no array {name}; expected all weights of the model. The config "
                "belongs to another model, or the file was written by another version."
            )
        return self._arrays[name]

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __iter__(self):
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def read(files: Sequence[Path], form: str) -> tuple[dict[str, Any], State]:
    """Config and weights.

    Args:
        files: a `.json` and a `.safetensors` file, in any order.
        form: name of the format, for messages.

    Raises:
        UserError: for other files, or damaged ones.
    """
    found = {path.suffix: path for path in files}
    if sorted(found) != [".json", ".safetensors"] or len(files) != 2:
        raise UserError(
            f"{form}: got {', '.join(path.name for path in files) or 'no files'}; expected a .json "
            "file with the config and a .safetensors file with the weights."
        )
    path = found[".json"]
    try:
        config = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: {error}. Expected the config of a model in JSON.") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: got a {type(config).__name__}; expected an object in JSON.")
    path = found[".safetensors"]
    try:
        return config, State(path, safetensors.numpy.load_file(str(path)))
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: {error}. The file is damaged or of another format.") from None


def field(config: Mapping[str, Any], name: str, path: Sequence[Path]) -> Any:
    """A value of the config.

    Raises:
        UserError: where it is missing.
    """
    if name not in config:
        where = next((p for p in path if p.suffix == ".json"), "config")
        raise UserError(f"{where}: got no {name!r}; expected it among the model's arguments.")
    return config[name]
