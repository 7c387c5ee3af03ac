"""Derivatives of descriptors by the pair vectors of their atom."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mlip_jax.elements import species_index
from mlip_jax.graph import AtomicGraph, edge_vectors


def pair_jacobian(
    descriptor: nn.Module, variables: Mapping[str, Any], graph: AtomicGraph
) -> tuple[Float[Array, "atoms features"], Float[Array, "atoms max_neighbors 3 features"]]:
    """Features and `dG_i / dr_ij`.

    The features of an atom depend on its own row of pair vectors only: one pass serves all atoms.
    Features of sums over neighbours, with the methods `atomic_basis(vectors, neighbor, own)` and
    `from_atomic_basis(basis)`, take a forward pass through the pairs for each direction and a
    reverse pass through the products for each feature; others take a reverse pass through
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


def _through_basis(
    descriptor: Any, variables: Mapping[str, Any], graph: AtomicGraph
) -> tuple[Array, Array]:
    """By the chain rule."""
    element = species_index(graph.atomic_numbers, descriptor.species)
    basis, moved = jax.vmap(functools.partial(basis_jacobian, descriptor, variables))(
        edge_vectors(graph), element[graph.neighbors], element
    )

    def products(basis: Array) -> Array:
        return descriptor.apply(variables, basis, method="from_atomic_basis")

    features, by_basis = _by_feature(products, basis)
    return features, jnp.einsum("akdb,fab->akdf", moved, by_basis)


def _by_feature(function: Callable[[Array], Array], inputs: Array) -> tuple[Array, Array]:
    """Features of atoms, and their derivatives by the inputs, feature by feature in front."""
    features, pull = jax.vjp(function, inputs)

    def slope(picked: Array) -> Array:
        return pull(jnp.broadcast_to(picked, features.shape))[0]

    picked = jnp.eye(features.shape[1], dtype=features.dtype)[:, None, :]
    return features, jax.lax.map(slope, picked)
