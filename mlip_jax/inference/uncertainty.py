"""Standard deviations of the predictions of models that were solved for exactly.

The parameters of such a model have a Gaussian posterior, and predictions are linear in them: the
variance of a prediction with the row a is `a C aᵀ` (Bishop, "Pattern Recognition and Machine
Learning" (2006), eq. 3.59). With more data than parameters it is small against what the model
cannot express, so that variances are scaled, and a constant is added, such that the errors of
validation structures are as likely as can be: `v = s a C aᵀ + n` for each property.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Float

from mlip_jax import models
from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket, collate
from mlip_jax.data.lists import NeighborLists
from mlip_jax.data.shapes import single_buckets
from mlip_jax.data.structure import Structure
from mlip_jax.inference.prediction import StructurePrediction, predict, require_precision
from mlip_jax.models.linear_rows import compiled_rows
from mlip_jax.potential import Potential

PROPERTIES = ("energy", "forces", "stress")
"""Properties with a variance, in the order of the rows of `scales`."""


class Uncertainty(NamedTuple):
    """Standard deviations for one structure.

    Attributes:
        energy: eV, of the whole structure.
        forces: eV/Å.
        stress: eV/Å^3; NaN where not all directions are periodic.
    """

    energy: float
    forces: Float[np.ndarray, "atoms 3"]
    stress: Float[np.ndarray, "3 3"]


def uncertainties(
    potential: Potential,
    structures: Sequence[Structure],
    *,
    progress: Callable[[int, int], None] | None = None,
    room: Bucket | None = None,
) -> list[Uncertainty]:
    """Standard deviations of predicted energies, forces and stresses; in float64, which needs x64.

    Args:
        potential: fitted by an exact solver.
        structures: their order is kept.
        progress: called with the numbers of structures done and of all.
        room: see `shapes.single_buckets`.

    Raises:
        UserError: where the potential has no posterior.
    """
    scales = np.asarray(_posterior(potential)["scales"])
    results: list[Any] = [None] * len(structures)
    for done, (index, variances) in enumerate(_variances(potential, structures, room), 1):
        energy, forces, stress = (s * v + n for v, (s, n) in zip(variances, scales, strict=True))
        atoms = structures[index].num_atoms
        results[index] = Uncertainty(
            float(np.sqrt(energy)) * atoms, np.sqrt(forces), np.sqrt(stress)
        )
        if progress is not None:
            progress(done, len(structures))
    return results


def calibrate(
    potential: Potential, structures: Sequence[Structure], room: Bucket | None = None
) -> Potential:
    """The potential with the scale and the constant of its variances fitted to errors.

    Args:
        potential: with a posterior.
        structures: labelled ones that its parameters were not fitted to.
        room: see `shapes.single_buckets`.
    """
    scales = np.tile([1.0, 0.0], (len(PROPERTIES), 1))
    predictions = predict(potential, structures, precision="float64")
    variances = dict(_variances(potential, structures, room))
    for row, name in enumerate(PROPERTIES):
        errors, found = [], []
        for index, structure in enumerate(structures):
            error = _errors(structure, predictions[index], name)
            if error is not None:
                errors.append(np.ravel(error))
                found.append(np.ravel(variances[index][row]))
        if errors:
            scales[row] = _likeliest(np.concatenate(errors), np.concatenate(found))
    posterior = {**_posterior(potential), "scales": scales}
    variables = {**potential.variables, "posterior": posterior}
    return Potential(potential.model, variables, potential.reference_energies, potential.card)


def _errors(structure: Structure, prediction: StructurePrediction, name: str) -> np.ndarray | None:
    """Prediction less label: of the energy by atom; `None` without a label."""
    label, value = getattr(structure.labels, name), getattr(prediction, name)
    if label is None or not np.all(np.isfinite(value)):
        return None
    difference = np.asarray(value - label)
    return np.asarray(difference / structure.num_atoms) if name == "energy" else difference


def _likeliest(errors: np.ndarray, variances: np.ndarray) -> tuple[float, float]:
    """The s and n for which Gaussian errors of variances `s v + n` are most likely."""
    floor = 1e-6 * float(np.mean(errors**2)) + np.finfo(float).tiny
    spread = max(float(np.mean(variances)), np.finfo(float).tiny)

    def surprise(logs: np.ndarray) -> float:
        s, n = np.exp(logs)
        total = s * variances / spread + n + floor
        return float(np.mean(errors**2 / total + np.log(total)))

    start = np.log(np.full(2, 0.5 * np.mean(errors**2) + floor))
    best = scipy.optimize.minimize(surprise, start, method="Nelder-Mead")
    s, n = np.exp(best.x)
    return float(s) / spread, float(n) + floor


def _variances(
    potential: Potential, structures: Sequence[Structure], room: Bucket | None
) -> Iterator[tuple[int, tuple[Any, Any, Any]]]:
    """Unscaled variances of E/N, forces and stress of each structure, by its index."""
    dtype = require_precision("float64")
    needs = models.requirements(potential.model)
    lists = NeighborLists.of_model(structures, needs, keep=True)
    posterior = _posterior(potential)
    factor = np.asarray(posterior["factor"], np.float64)
    free = np.asarray(posterior["free"])
    variables = {k: v for k, v in potential.variables.items() if k != "posterior"}
    for index, bucket in enumerate(single_buckets(lists.sizes, room)):
        structure = structures[index]
        graph = collate([structure], [lists[index]], bucket, dtype=dtype)
        rows = compiled_rows(potential.model, variables, jax.tree.map(jnp.asarray, graph))
        numbers = structure.atomic_numbers
        composition = np.array([np.sum(numbers == z) for z in free], np.float64)
        energy = np.concatenate([composition, rows.energy[0]]) / len(numbers)
        forces = _squares(np.asarray(rows.forces[: len(numbers)]), factor[len(free) :])
        stress = _squares(np.asarray(rows.stress[0]), factor[len(free) :])
        if not np.all(structure.pbc):
            stress = np.full((3, 3), np.nan)
        yield index, (np.sum((energy @ factor) ** 2), forces, stress)


def _squares(rows: np.ndarray, factor: np.ndarray) -> np.ndarray:
    return np.sum((rows @ factor) ** 2, axis=-1)


def _posterior(potential: Potential) -> Any:
    posterior = potential.variables.get("posterior")
    if posterior is None:
        raise UserError(
            "uncertainty: this potential has no posterior of its parameters; expected one that was "
            "fitted with a `solver` (and solver.posterior: true)."
        )
    return posterior
