"""Potentials of other programs: a reader for each format, `read(files) -> Potential`.

Some formats have a writer, too: `write(potential, stem) -> files`.

A reader has keywords for what its files do not say: `species`, their elements in order, or the
units `length` and `energy`.
"""

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlip_jax import config
from mlip_jax.config import UserError
from mlip_jax.potential import Potential

FORMATS = {
    "ace": "mlip_jax.interop.weights.ace",
    "allegro": "mlip_jax.interop.weights.allegro",
    "chgnet": "mlip_jax.interop.weights.chgnet",
    "gap": "mlip_jax.interop.weights.gap",
    "m3gnet": "mlip_jax.interop.weights.m3gnet",
    "mace": "mlip_jax.interop.weights.mace",
    "mtp": "mlip_jax.interop.weights.mtp",
    "n2p2": "mlip_jax.interop.weights.n2p2",
    "nequip": "mlip_jax.interop.weights.nequip",
    "nequix": "mlip_jax.interop.weights.nequix",
    "sevennet": "mlip_jax.interop.weights.sevennet",
    "snap": "mlip_jax.interop.weights.snap",
    "tensornet": "mlip_jax.interop.weights.tensornet",
}
"""Names of formats and the modules that read them."""

WRITERS = {
    "ace": "mlip_jax.interop.weights.ace_export",
    "snap": "mlip_jax.interop.weights.snap_export",
}
"""Names of formats and the modules that write them."""


def read(name: str, files: Sequence[Path], **facts: Any) -> Potential:
    """Reads a published potential.

    Args:
        name: of the format, see `FORMATS`.
        files: as the format has them.
        **facts: what the files of some formats do not say: `species` (symbols or atomic numbers in
            the order of the file), the units `length` and `energy`, or the `head` of several.

    Raises:
        UserError: for an unknown format, facts that are missing or not asked for, or a file that is
            damaged, missing or not supported.
    """
    if name not in FORMATS:
        raise config.unknown_name("import", "format", name, FORMATS)
    reader = importlib.import_module(FORMATS[name]).read
    known = dict(inspect.signature(reader).parameters)
    del known["files"]
    for fact in facts:
        if fact not in known:
            raise UserError(
                f"import: got {fact}; {name} files say that themselves. Leave `--{fact}` out."
            )
    for fact, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and fact not in facts:
            example = {"species": "Mo,W"}.get(fact, "…")
            raise UserError(
                f"import: {name} files do not say their {fact}; give it, such as "
                f"`--{fact} {example}`."
            )
    return reader(files, **facts)


def write(name: str, potential: Potential, stem: Path) -> list[Path]:
    """Writes a potential for another program.

    Args:
        name: of the format, see `WRITERS`.
        potential: of a model that the format can express.
        stem: path of the files without their suffix.

    Returns:
        The files; the last one holds the commands of the program.

    Raises:
        UserError: for an unknown format, or a model that it cannot express.
    """
    if name not in WRITERS:
        raise config.unknown_name("export", "format", name, WRITERS)
    return importlib.import_module(WRITERS[name]).write(potential, Path(stem))
