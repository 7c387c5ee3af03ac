"""Functions of slots, some atoms and some slots at a time; pieces without a neighbour are skipped.

Rows are as long as the longest of a batch, and sorted by distance. Cut into pieces, a row of 20
neighbours costs what 24 slots cost, however long the others are, and a padded atom nothing.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mlip_jax.graph import AtomicGraph

PIECE = 64
"""Slots that are worked off at a time, of all atoms of a block."""


def map_slots(
    function: Callable[..., Float[Array, "block slots features"]],
    graph: AtomicGraph,
    inside: Bool[Array, "atoms n"],
    of_slots: tuple[Array, ...],
    of_atoms: tuple[Array, ...] = (),
    sums: bool = False,
) -> Array:
    """Evaluates a function of slots over pieces of `graph.block` atoms, with recomputation.

    Args:
        function: takes the values of slots, `[block, slots, ...]`, then those of atoms,
            `[block, ...]`. It is zero where `inside` is not true.
        graph: says the size of a block; 0 evaluates everything at once.
        inside: slots that take part.
        of_slots: values of slots, with leading axes atoms and n.
        of_atoms: values of atoms.
        sums: results are summed over the slots of each atom.

    Returns:
        Results `[atoms, n, features]`, or their sums `[atoms, features]`.
    """
    atoms, n = inside.shape
    if graph.block == 0 or atoms <= graph.block:
        result = function(*of_slots, *of_atoms)
        return jnp.sum(result, axis=1) if sums else result
    count = -(-n // max(1, PIECE // graph.block))
    width = -(-n // count)

    def cut(values):
        """`[block, n, ...]` as `[count, block, width, ...]`."""
        padding = ((0, 0), (0, count * width - n), *((0, 0),) * (values.ndim - 2))
        rows = jnp.pad(values, padding).reshape(-1, count, width, *values.shape[2:])
        return jnp.swapaxes(rows, 0, 1)

    def block(inputs):
        used, slots, own = inputs
        pieces = (cut(used), tuple(cut(a) for a in slots))

        def evaluate(*values):
            result = function(*values, *own)
            return jnp.sum(result, axis=1) if sums else result

        shape = jax.eval_shape(evaluate, *(a[0] for a in pieces[1]))

        def nothing(*_: Array) -> Array:
            return jnp.zeros(shape.shape, shape.dtype)

        def piece(rows):
            there, values = rows
            return jax.lax.cond(jnp.any(there), evaluate, nothing, *values)

        results = jax.lax.map(jax.checkpoint(piece), pieces)
        if sums:
            return jnp.sum(results, axis=0)
        joined = jnp.swapaxes(results, 0, 1).reshape(-1, count * width, results.shape[-1])
        return joined[:, :n]

    blocks = jax.tree.map(
        lambda a: a.reshape(-1, graph.block, *a.shape[1:]), (inside, of_slots, of_atoms)
    )
    result = jax.lax.map(block, blocks)
    return result.reshape(-1, *result.shape[2:])
