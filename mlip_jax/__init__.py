"""mlip_jax: every family of machine-learning interatomic potential as one pure JAX function.

    import mlip_jax as mj

    potential = mj.load("runs/si/potential")
    predictions = mj.predict(potential, mj.read("si.extxyz"))

Names are loaded when they are first used (PEP 562): importing the package imports nothing else.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mlip_jax import (
        data,
        descriptors,
        interop,
        models,
        neighbors,
        nn,
        properties,
        simulate,
        study,
        train,
    )
    from mlip_jax.config import UserError
    from mlip_jax.data.collate import make_graph
    from mlip_jax.data.formats import read, write
    from mlip_jax.data.structure import Structure
    from mlip_jax.graph import AtomicGraph
    from mlip_jax.inference import evaluate, predict
    from mlip_jax.interop.catalogue import load
    from mlip_jax.models import build_model
    from mlip_jax.potential import Potential, predict_fn, sum_energies
    from mlip_jax.storage import save
    from mlip_jax.terms import add as add_terms

_SOURCES = {
    "AtomicGraph": "graph",
    "Potential": "potential",
    "Structure": "data.structure",
    "UserError": "config",
    "add_terms": "terms:add",
    "build_model": "models",
    "evaluate": "inference",
    "load": "interop.catalogue",
    "make_graph": "data.collate",
    "predict": "inference",
    "predict_fn": "potential",
    "read": "data.formats",
    "save": "storage",
    "sum_energies": "potential",
    "write": "data.formats",
}
_PACKAGES = (
    "data",
    "descriptors",
    "interop",
    "models",
    "neighbors",
    "nn",
    "properties",
    "simulate",
    "study",
    "train",
)

__all__ = [
    "AtomicGraph",
    "Potential",
    "Structure",
    "UserError",
    "add_terms",
    "build_model",
    "data",
    "descriptors",
    "evaluate",
    "interop",
    "load",
    "make_graph",
    "models",
    "neighbors",
    "nn",
    "predict",
    "predict_fn",
    "properties",
    "read",
    "save",
    "simulate",
    "study",
    "sum_energies",
    "train",
    "write",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _SOURCES:
        module, _, own = _SOURCES[name].partition(":")
        value = getattr(importlib.import_module(f"{__name__}.{module}"), own or name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
