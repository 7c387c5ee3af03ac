"""Doors to other programs: `ase`, `lammps`, `weights` of published potentials, their `catalogue`.

All are loaded when they are first used: importing this package imports none.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlip_jax.interop import ase, catalogue, lammps, weights

__all__ = ["ase", "catalogue", "lammps", "weights"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
