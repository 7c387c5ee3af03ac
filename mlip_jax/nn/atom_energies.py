"""Energies of atoms that depend on their own neighbours only, block by block with their slopes."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from mlip_jax.graph import AtomicGraph, map_atom_blocks

EnergyOfRows = Callable[..., Float[Array, " rows"]]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def atom_energies(
    function: EnergyOfRows,
    parameters: Any,
    graph: AtomicGraph,
    vectors: Float[Array, "atoms max_neighbors 3"],
    arrays: tuple[Array, ...],
) -> Float[Array, " atoms"]:
    """Evaluates `function(parameters, vectors, *arrays)`, energies, over blocks of atoms.

    With `map_atom_blocks` the backward pass computes every block again. Here a block is
    differentiated by its vectors as soon as it is evaluated, and its slopes, small as they are,
    wait for the backward pass: forces cost one evaluation less. Derivatives of any order, in any
    mode, are those of the function.

    Args:
        function: energy of row i depends on row i of `vectors` and `arrays` only; it closes over
            nothing that is differentiated.
        parameters: what it depends on besides, any tree of arrays.
        graph: says the size of a block, see `map_atom_blocks`.
        vectors: Å.
        arrays: leading axis atoms; not differentiated.
    """
    return map_atom_blocks(lambda *rows: function(parameters, *rows), graph, vectors, *arrays)


def _jvp(function: EnergyOfRows, primals: Any, tangents: Any) -> tuple[Array, Array]:
    parameters, graph, vectors, arrays = primals
    changes, _, moved, _ = tangents

    def sloped(vectors: Array, *arrays: Array) -> tuple[Array, Array]:
        energies, pull = jax.vjp(lambda v: function(parameters, v, *arrays), vectors)
        # Tied to the block: what does not depend on it would leave the loop, a load on memory.
        ones, _ = jax.lax.optimization_barrier((jnp.ones_like(energies), vectors))
        return energies, pull(ones)[0]

    if isinstance(moved, SymbolicZero):
        energies = atom_energies(function, parameters, graph, vectors, arrays)
        tangent = jnp.zeros_like(energies)
    else:
        energies, slopes = map_atom_blocks(sloped, graph, vectors, *arrays)
        tangent = jnp.sum(slopes * moved, axis=(1, 2)).astype(energies.dtype)
    leaves = jax.tree.leaves(changes, is_leaf=_is_zero)
    if all(_is_zero(change) for change in leaves):
        return energies, tangent

    def of_parameters(parameters: Any) -> Array:
        return map_atom_blocks(lambda *rows: function(parameters, *rows), graph, vectors, *arrays)

    whole = jax.tree.map(_instantiated, changes, is_leaf=_is_zero)
    return energies, tangent + jax.jvp(of_parameters, (parameters,), (whole,))[1]


def _is_zero(change: Any) -> bool:
    return isinstance(change, SymbolicZero)


def _instantiated(change: Any) -> Array:
    return jnp.zeros(change.shape, change.dtype) if _is_zero(change) else change


atom_energies.defjvp(_jvp, symbolic_zeros=True)
