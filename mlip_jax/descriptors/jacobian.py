"""Derivatives of descriptors by the pair vectors of their atom."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mlip_jax.graph import AtomicGraph, edge_vectors


def pair_jacobian(
    descriptor: nn.Module, variables: Mapping[str, Any], graph: AtomicGraph
) -> tuple[Float[Array, "atoms features"], Float[Array, "atoms max_neighbors 3 features"]]:
    """Features and `dG_i / dr_ij`.

    The features of an atom depend on its own row of pair vectors only: one pass serves all atoms, a
    reverse pass for each feature. A descriptor that can do better has a method
    `pair_jacobian(graph)`; one of sums over neighbours, with the methods `atomic_basis(vectors,
    neighbor, own)` and `from_atomic_basis(basis)`, is served by `basis_jacobian`.

    Args:
        descriptor: of one graph.
        variables: of the descriptor; empty for most.
        graph: structures, in blocks or not.

    Returns:
        Features, and their derivatives by the pair vectors [1/Å]; zero in padded slots.
    """
    if hasattr(descriptor, "pair_jacobian"):
        return descriptor.apply(variables, graph, method="pair_jacobian")  # pyright: ignore

    def describe(vectors: Array) -> Array:
        moved = dataclasses.replace(graph, vectors=vectors)
        return descriptor.apply(variables, moved)  # pyright: ignore[reportReturnType]

    features, pull = jax.vjp(describe, edge_vectors(graph))

    def slope(picked: Array) -> Array:
        return pull(jnp.broadcast_to(picked, features.shape))[0]

    picked = jnp.eye(features.shape[1], dtype=features.dtype)[:, None, :]
    return features, jnp.moveaxis(jax.lax.map(slope, picked), 0, -1)


def basis_jacobian(
    descriptor: Any,
    variables: Mapping[str, Any],
    vectors: Float[Array, "max_neighbors 3"],
    neighbor: Int[Array, " max_neighbors"],
    own: Int[Array, ""],
) -> tuple[Float[Array, " basis"], Float[Array, "max_neighbors 3 basis"]]:
    """What `atomic_basis` gives for one atom, and its derivatives by the pair vectors.

    The basis is a sum over pairs: one pass for each direction serves all of them, each as an atom
    with one neighbour.

    Args:
        descriptor: with a method `atomic_basis`.
        variables: of the descriptor.
        vectors: Å.
        neighbor: index of the element of each neighbour.
        own: that of the atom.
    """

    def sums(vectors: Array, neighbor: Array, own: Array) -> Array:
        return descriptor.apply(variables, vectors, neighbor, own, method="atomic_basis")

    basis = sums(vectors[None], neighbor[None], own[None])[0]
    single, owns = vectors[:, None, :], jnp.broadcast_to(own, neighbor.shape)

    def along(direction: Array) -> Array:
        tangent = jnp.broadcast_to(direction, single.shape)
        return jax.jvp(lambda v: sums(v, neighbor[:, None], owns), (single,), (tangent,))[1]

    return basis, jax.vmap(along, out_axes=1)(jnp.eye(3, dtype=vectors.dtype))
