"""Published potentials: one reader for each format, `read(files) -> Potential`."""

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path

from mlip_jax import config
from mlip_jax.config import UserError
from mlip_jax.potential import Potential

FORMATS = {
    "n2p2": "mlip_jax.interop.weights.n2p2",
    "snap": "mlip_jax.interop.weights.snap",
}
"""Names of formats and the modules that read them."""


def read(name: str, files: Sequence[Path], **units: str) -> Potential:
    """Reads a published potential.

    Args:
        name: of the format, see `FORMATS`.
        files: as the format has them.
        **units: `length` and `energy` of the files, for formats that do not say.

    Raises:
        UserError: for an unknown format, or a file that is damaged, missing or not supported.
    """
    if name not in FORMATS:
        raise config.unknown_name("import", "format", name, FORMATS)
    reader = importlib.import_module(FORMATS[name]).read
    for unit in units:
        if unit not in inspect.signature(reader).parameters:
            raise UserError(f"{name}: got the unit of {unit}; this format has units of its own.")
    return reader(files, **units)
