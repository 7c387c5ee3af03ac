"""Published potentials: one reader for each format.

A reader is `read(files) -> Potential`, or `read(files, species)` where the files do not name their
elements.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path

from mlip_jax import config, elements
from mlip_jax.config import UserError
from mlip_jax.potential import Potential

FORMATS = {
    "ace": "mlip_jax.interop.weights.ace",
    "mtp": "mlip_jax.interop.weights.mtp",
    "snap": "mlip_jax.interop.weights.snap",
}
"""Names of formats and the modules that read them."""

WITHOUT_ELEMENTS = ("mtp",)
"""Formats whose files only number their elements."""


def read(name: str, files: Sequence[Path], species: Sequence[str | int] | None = None) -> Potential:
    """Reads a published potential.

    Args:
        name: of the format, see `FORMATS`.
        files: as the format has them.
        species: elements in the order of the file, for the formats `WITHOUT_ELEMENTS`.

    Raises:
        UserError: for an unknown format, elements that are missing or not asked for, or a file
            that is damaged, missing or not supported.
    """
    if name not in FORMATS:
        raise config.unknown_name("import", "format", name, FORMATS)
    reader = importlib.import_module(FORMATS[name]).read
    if (species is not None) != (name in WITHOUT_ELEMENTS):
        raise UserError(
            f"import: {name} files only number their elements; name them in their order, such as "
            "`--species Mo,W`."
            if species is None
            else f"import: got species; {name} files name their elements. Leave `--species` out."
        )
    if species is None:
        return reader(files)
    try:
        return reader(files, [elements.atomic_number(symbol) for symbol in species])
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"import: {error}") from None
