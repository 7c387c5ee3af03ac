"""Doors to other programs: `ase`, `lammps`, `torch_sim`, `weights` of potentials, `catalogue`.

All are loaded when they are first used: importing this package imports none.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlip_jax.interop import ase, catalogue, lammps, torch_sim, weights

__all__ = ["ase", "catalogue", "lammps", "torch_sim", "weights"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
