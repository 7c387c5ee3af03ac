"""Errors of predictions on one set, as they are and after shifts of the reference energy."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlip_jax import inference, units
from mlip_jax.data.structure import Structure
from mlip_jax.inference import StructurePrediction
from mlip_jax.potential import Potential

RIDGE = 0.01
"""Of the shifts by element: about the square of the share of an atom in a cell of ten."""
WORST = 3


def not_finite(predictions: Sequence[StructurePrediction]) -> dict[int, str]:
    """Reasons, by place, of predictions that are not numbers."""
    reasons = {}
    for place, one in enumerate(predictions):
        names = [
            n for n in ("energy", "forces", "stress") if not np.isfinite(getattr(one, n)).all()
        ]
        if names:
            reasons[place] = f"{', '.join(names)}: not finite"
    return reasons


def measure(
    structures: Sequence[Structure],
    predictions: Sequence[StructurePrediction],
    potential: Potential,
) -> dict[str, Any]:
    """Errors of energies [meV/atom], forces [eV/Å, by component] and stresses [GPa, likewise].

    Energies in three ways: as they are; less their mean error (`shifted`, with the `shift`); and
    less a shift for each element (`by_element`), found from the other structures, by ridge
    regression of the errors per atom, less the mean of all, on the composition.
    """
    compared = inference.compare(structures, predictions, potential)
    energy = compared["energy"]
    error = 1e3 * (energy.predicted - energy.label)
    shift = float(error.mean())
    summary = inference.summarize(compared, structures)["total"]
    worst = np.argsort(-np.abs(error - shift))[:WORST]
    return {
        "energy": {
            "unit": "meV/atom",
            "as_is": spread(error),
            "shift": round(shift, 2),
            "shifted": spread(error - shift),
            "by_element": spread(without_own_element_shift(structures, error)),
            "worst_shifted": [
                {"structure": structures[i].name, "error": round(float(error[i] - shift), 1)}
                for i in worst
            ],
        },
        "forces": {"unit": "eV/Å"} | rounded(summary["forces"]),
        "stress": {"unit": "GPa"} | rounded(summary["stress"], 1.0 / units.GPA),
    }


def without_own_element_shift(structures: Sequence[Structure], error: np.ndarray) -> np.ndarray:
    """Errors less a shift for each element that is fitted to all other structures.

    A ridge regression y = A x on the fractions A of the elements has the residuals
    r_i / (1 - h_i) where structure i is left out, h being the diagonal of A (A^T A + λ)^-1 A^T.
    """
    numbers = sorted({int(z) for structure in structures for z in structure.atomic_numbers})
    fractions = np.array([[np.mean(s.atomic_numbers == z) for z in numbers] for s in structures])
    normal = fractions.T @ fractions + RIDGE * np.eye(len(numbers))
    hat = fractions @ np.linalg.solve(normal, fractions.T)
    centred = error - error.mean()
    return (centred - hat @ centred) / (1.0 - np.diag(hat))


def spread(error: np.ndarray) -> dict[str, float]:
    """Mean absolute and root mean square error."""
    mae, rmse = np.mean(np.abs(error)), np.sqrt(np.mean(np.square(error)))
    return {"mae": round(float(mae), 2), "rmse": round(float(rmse), 2)}


def rounded(found: dict[str, Any], factor: float = 1.0) -> dict[str, Any]:
    """Mean absolute, root mean square and largest error, in another unit."""
    return {name: round(factor * found[name], 4) for name in ("mae", "rmse", "max")}
