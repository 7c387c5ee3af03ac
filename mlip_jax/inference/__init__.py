"""A potential applied to structures: predictions, their errors, and the file of predictions."""

from mlip_jax.inference.arrays import SCHEMA_VERSION, write_npz
from mlip_jax.inference.errors import (
    ERROR_UNITS,
    Comparison,
    compare,
    evaluate,
    predict_and_compare,
    source_references,
    summarize,
)
from mlip_jax.inference.prediction import (
    StructurePrediction,
    predict,
    require_precision,
)
from mlip_jax.inference.references import refit_reference_energies
from mlip_jax.inference.refusals import refusals
from mlip_jax.inference.uncertainty import Uncertainty, uncertainties

__all__ = [
    "ERROR_UNITS",
    "SCHEMA_VERSION",
    "Comparison",
    "StructurePrediction",
    "Uncertainty",
    "compare",
    "evaluate",
    "predict",
    "predict_and_compare",
    "refit_reference_energies",
    "refusals",
    "require_precision",
    "source_references",
    "summarize",
    "uncertainties",
    "write_npz",
]
