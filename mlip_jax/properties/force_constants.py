"""Harmonic force constants of a crystal, by products of the Hessian with displacements."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mlip_jax.graph import AtomicGraph, Leaf
from mlip_jax.potential import PredictFn
from mlip_jax.properties.curvature import apply_to_basis

ForceConstants = Float[Leaf, "home atoms 3 3"]


def force_constants_fn(
    predict: PredictFn, chunk: int = 8
) -> Callable[[Any, AtomicGraph, Int[Leaf, " home"]], ForceConstants]:
    """Makes `(variables, graph of a supercell, home) -> d²E / (dr_ia dr_jb)` [eV/Å^2].

    Axes of the result are i, j, a, b; i runs over the atoms `home`, those of one primitive cell,
    which determine the others. Three products for each of them, exact to rounding: there is no
    displacement to choose, and the sum over j vanishes.

    Args:
        predict: `potential.predict_fn(model)`.
        chunk: products that are computed at a time; fewer need less memory.
    """

    def force_constants(
        variables: Any, graph: AtomicGraph, home: Int[Leaf, " home"]
    ) -> ForceConstants:
        def gradient(positions: Array) -> Array:
            return -predict(variables, dataclasses.replace(graph, positions=positions)).forces

        _, change = jax.linearize(gradient, graph.positions)
        rows = (3 * jnp.asarray(home)[:, None] + jnp.arange(3)[None]).ravel()
        unit = jax.nn.one_hot(rows, 3 * graph.num_atoms, dtype=graph.positions.dtype)
        found = apply_to_basis(change, (graph.positions,), chunk, unit)
        found = found.reshape(len(home), 3, graph.num_atoms, 3)
        return jnp.swapaxes(found, 1, 2)

    return force_constants
