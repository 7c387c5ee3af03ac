"""Derivatives of descriptors by the pair vectors of their atom."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlip_jax.elements import species_index
from mlip_jax.graph import AtomicGraph, edge_vectors


def pair_jacobian(
    descriptor: nn.Module, variables: Mapping[str, Any], graph: AtomicGraph
) -> tuple[Float[Array, "atoms features"], Float[Array, "atoms max_neighbors 3 features"]]:
    """Features and `dG_i / dr_ij`.

    The features of an atom depend on its own row of pair vectors only: one pass serves all atoms.
    Features of sums over neighbours, with the methods `atomic_basis(vectors, neighbor, own)` and
    `from_atomic_basis(basis)`, take a forward pass through the pairs for each direction and a
    reverse pass through the products for each feature, unless they have a method `along(basis,
    moved)` for their derivatives along directions of the basis; others take a reverse pass through
    everything for each feature. One that can do better has a method `pair_jacobian(graph)`.

    Args:
        descriptor: of one graph.
        variables: of the descriptor; empty for most.
        graph: structures, in blocks or not.

    Returns:
        Features, and their derivatives by the pair vectors [1/Å]; zero in padded slots.
    """
    if hasattr(descriptor, "pair_jacobian"):
        return descriptor.apply(variables, graph, method="pair_jacobian")  # pyright: ignore
    if hasattr(descriptor, "atomic_basis"):
        return _through_basis(descriptor, variables, graph)

    def describe(vectors: Array) -> Array:
        moved = dataclasses.replace(graph, vectors=vectors)
        return descriptor.apply(variables, moved)  # pyright: ignore[reportReturnType]

    features, jacobian = _by_feature(describe, edge_vectors(graph))
    return features, jnp.moveaxis(jacobian, 0, -1)


def _through_basis(
    descriptor: Any, variables: Mapping[str, Any], graph: AtomicGraph
) -> tuple[Array, Array]:
    """By the chain rule; a pair is an atom with one neighbour, as the basis is a sum of these."""
    element = species_index(graph.atomic_numbers, descriptor.species)
    vectors, neighbor = edge_vectors(graph), element[graph.neighbors]
    atoms, slots, _ = vectors.shape

    def sums(vectors: Array, neighbor: Array, own: Array) -> Array:
        return descriptor.apply(variables, vectors, neighbor, own, method="atomic_basis")

    def products(basis: Array) -> Array:
        return descriptor.apply(variables, basis, method="from_atomic_basis")

    own = jnp.broadcast_to(element[:, None], neighbor.shape).reshape(-1)
    single = vectors.reshape(-1, 1, 3)

    def along(direction: Array) -> Array:
        tangent = jnp.broadcast_to(direction, single.shape)
        pairs = jax.jvp(lambda v: sums(v, neighbor.reshape(-1, 1), own), (single,), (tangent,))[1]
        return pairs.reshape(atoms, slots, -1)

    moved = jax.vmap(along, out_axes=2)(jnp.eye(3, dtype=vectors.dtype))
    basis = sums(vectors, neighbor, element)
    if hasattr(descriptor, "along"):
        jacobian: Any = descriptor.apply(variables, basis, moved, method="along")
        return products(basis), jacobian
    features, by_basis = _by_feature(products, basis)
    return features, jnp.einsum("akdb,fab->akdf", moved, by_basis)


def _by_feature(function: Callable[[Array], Array], inputs: Array) -> tuple[Array, Array]:
    """Features of atoms, and their derivatives by the inputs, feature by feature in front."""
    features, pull = jax.vjp(function, inputs)

    def slope(picked: Array) -> Array:
        return pull(jnp.broadcast_to(picked, features.shape))[0]

    picked = jnp.eye(features.shape[1], dtype=features.dtype)[:, None, :]
    return features, jax.lax.map(slope, picked)
