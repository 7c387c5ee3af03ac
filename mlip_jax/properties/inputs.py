"""What the functions of this package take: variables and a graph, made of a potential."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mlip_jax import models
from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure, require_inputs
from mlip_jax.graph import AtomicGraph
from mlip_jax.inference import require_precision
from mlip_jax.potential import Potential


def variables_and_graph(
    potential: Potential,
    structures: Structure | Sequence[Structure],
    precision: str = "float64",
    block: int = 0,
) -> tuple[Any, AtomicGraph]:
    """Variables and the graph of one or several structures, on the device.

    Args:
        potential: the potential.
        structures: atoms stand in the graph in their order.
        precision: `float32` or `float64`; second derivatives want float64.
        block: atoms of a block, see `data.collate.make_graph`.

    Raises:
        UserError: for an unknown element, an impossible structure, a charge that the model does not
            read, or float64 where jax is limited to 32 bits.
    """
    dtype = require_precision(precision)
    listed = [structures] if isinstance(structures, Structure) else list(structures)
    needs = models.requirements(potential.model)
    for structure in listed:
        potential.check_species(structure.atomic_numbers, structure.name or "structure")
        require_inputs(structure, needs.inputs)
    graph = make_graph(
        listed,
        needs.cutoff,
        prefix_cutoffs=needs.prefix_cutoffs,
        dtype=dtype,
        reverse=needs.reverse,
        block=block,
        reciprocal_cutoff=needs.reciprocal_cutoff,
    )
    return jax.tree.map(jnp.asarray, (potential.variables_in(dtype), graph))
