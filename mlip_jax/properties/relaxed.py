"""Structures brought to the minimum that properties are defined at."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure
from mlip_jax.inference import predict
from mlip_jax.potential import Potential
from mlip_jax.simulate.batch_relax import relax_many
from mlip_jax.simulate.settings import BatchRelaxationConfig

MAX_FORCE, MAX_STRESS = 1e-6, 1e-7
"""eV/Å and eV/Å^3: far below what shows in a property."""

_MAX_STEPS = 5000

Cell = Literal["fixed", "full", "hydrostatic"]
Progress = Callable[[int, int], None]


def relax(
    potential: Potential,
    structures: Sequence[Structure],
    cell: Cell = "fixed",
    progress: Progress | None = None,
) -> list[Structure]:
    """The nearest minima of the energy, in float64; what is at one already is left as it is.

    Args:
        potential: whose energy is made least.
        structures: to start from.
        cell: what changes of it, see `simulate.settings.BatchRelaxationConfig`.
        progress: called with the numbers of structures done and of all.

    Raises:
        UserError: for a structure that does not relax.
    """
    predictions = predict(potential, structures, precision="float64")
    moving = [i for i, found in enumerate(predictions) if not _at_rest(found, cell)]
    settings = BatchRelaxationConfig(
        cell=cell, max_force=MAX_FORCE, max_stress=MAX_STRESS, max_steps=_MAX_STEPS
    )
    results = list(structures)
    chosen = [structures[i] for i in moving]
    for i, result in zip(moving, relax_many(potential, chosen, settings, progress), strict=True):
        if not result.converged:
            raise UserError(
                f"relaxation before the property: structure {i} is {result.status} after "
                f"{result.steps} steps; expected forces below {MAX_FORCE:g} eV/Å and stresses "
                f"below {MAX_STRESS:g} eV/Å^3. Start nearer to the minimum, or do not relax."
            )
        results[i] = result.structure
    return results


def relax_positions(potential: Potential, structures: Sequence[Structure]) -> list[Structure]:
    """Minima in the cells that the structures have, see `relax`."""
    return relax(potential, structures, "fixed")


def _at_rest(prediction: Any, cell: Cell) -> bool:
    if np.sqrt(np.max(np.sum(prediction.forces**2, axis=1))) > MAX_FORCE:
        return False
    stress = prediction.stress
    if cell == "full":
        return bool(np.max(np.abs(stress)) < MAX_STRESS)
    return cell == "fixed" or bool(abs(np.trace(stress)) / 3.0 < MAX_STRESS)
