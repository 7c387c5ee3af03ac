"""Derivatives of descriptors by the pair vectors of their atom."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlip_jax.graph import AtomicGraph, edge_vectors


def pair_jacobian(
    descriptor: nn.Module, variables: Mapping[str, Any], graph: AtomicGraph
) -> tuple[Float[Array, "atoms features"], Float[Array, "atoms max_neighbors 3 features"]]:
    """Features and `dG_i / dr_ij`, one reverse pass for each feature.

    The features of an atom depend on its own row of pair vectors only: one pass serves all atoms.
    A descriptor that can do better has a method `pair_jacobian(graph)`.

    Args:
        descriptor: of one graph.
        variables: of the descriptor; empty for most.
        graph: structures, in blocks or not.

    Returns:
        Features, and their derivatives by the pair vectors [1/Å]; zero in padded slots.
    """
    if hasattr(descriptor, "pair_jacobian"):
        return descriptor.apply(variables, graph, method="pair_jacobian")  # pyright: ignore
    vectors = edge_vectors(graph)

    def describe(vectors: Array) -> Array:
        moved = dataclasses.replace(graph, vectors=vectors)
        return descriptor.apply(variables, moved)  # pyright: ignore[reportReturnType]

    features, pull = jax.vjp(describe, vectors)

    def slope(picked: Array) -> Array:
        return pull(jnp.broadcast_to(picked, features.shape))[0]

    jacobian = jax.lax.map(slope, jnp.eye(features.shape[1], dtype=features.dtype)[:, None, :])
    return features, jnp.moveaxis(jacobian, 0, -1)
