"""Which structures a potential cannot be applied to, and why."""

from collections.abc import Sequence

from mlip_jax import models
from mlip_jax.config import UserError
from mlip_jax.data.lists import NeighborLists
from mlip_jax.data.structure import Structure
from mlip_jax.potential import Potential


def refusals(potential: Potential, structures: Sequence[Structure]) -> dict[int, str]:
    """Reasons, by index, why `predict` would refuse structures; the others it takes.

    One bad structure of many, with an element that the potential does not know or with two atoms
    at one place, ends `predict`. Who goes through a large set leaves these out, and says so.

    Args:
        potential: what is to be applied.
        structures: in memory or lazy.
    """
    needs = models.requirements(potential.model)
    reasons: dict[int, str] = {}
    for index in range(len(structures)):
        structure = structures[index]
        try:
            potential.check_species(structure.atomic_numbers, structure.name or "structure")
            NeighborLists.of_model([structure], needs, keep=False)
        except UserError as error:
            reasons[index] = str(error)
    return reasons
