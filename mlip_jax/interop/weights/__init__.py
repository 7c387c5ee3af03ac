"""Published potentials: one reader for each format, `read(files) -> Potential`."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from mlip_jax import config
from mlip_jax.potential import Potential

FORMATS = {
    "gap": "mlip_jax.interop.weights.gap",
    "snap": "mlip_jax.interop.weights.snap",
}
"""Names of formats and the modules that read them."""


def read(name: str, files: Sequence[Path]) -> Potential:
    """Reads a published potential.

    Args:
        name: of the format, see `FORMATS`.
        files: as the format has them.

    Raises:
        UserError: for an unknown format, or a file that is damaged, missing or not supported.
    """
    if name not in FORMATS:
        raise config.unknown_name("import", "format", name, FORMATS)
    return importlib.import_module(FORMATS[name]).read(files)
