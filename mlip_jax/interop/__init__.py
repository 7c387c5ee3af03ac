"""Doors to other programs: `ase`, and `weights` of published potentials.

Both are loaded when they are first used: importing this package imports neither.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlip_jax.interop import ase, weights

__all__ = ["ase", "weights"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
