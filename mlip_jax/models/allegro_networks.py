"""Networks of pairs in Allegro: scalars of distance and elements, and what is made of them.

Every network but the last gives scalar features through a linear map, and networks that read them
begin with one: where that saves operations, the two are one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Embedding(NamedTuple):
    """How distance and elements of a pair enter.

    Attributes:
        frequencies: of the radial basis.
        centre: of the element of the atom.
        neighbor: of the element of its neighbour.
        basis: kernel of the radial basis.
    """

    frequencies: Float[Array, " basis"]
    centre: Float[Array, "species half"]
    neighbor: Float[Array, "species half"]
    basis: Float[Array, "basis width"]


class Network(NamedTuple):
    """A network of pairs, its last kernel split by what it gives; see `split`.

    Attributes:
        hidden: kernels of the layers with SiLU.
        scalars: kernel of the scalar features; `None`: these are the hidden units themselves, and
            the kernel is merged with those of the networks that read them.
        environment: kernel of the weights in the environment, by degree; `None` in the last layer.
    """

    hidden: tuple[Float[Array, "_ _"], ...]
    scalars: Float[Array, "width features"] | None
    environment: Float[Array, "width degrees channels"] | None


def pair_kernel(embedding: Embedding) -> Float[Array, "_ width"] | None:
    """Kernel of the products of radial functions and pairs of elements, where these are few.

    `None` where `embed` does the mixing itself.
    """
    count, size = len(embedding.centre), len(embedding.basis)
    width = embedding.basis.shape[1]
    if count * count * size > width:
        return None
    centre = jnp.repeat(embedding.centre, count, axis=0)
    kinds = jnp.concatenate([centre, jnp.tile(embedding.neighbor, (count, 1))], axis=1)
    return (kinds[:, None, :] * embedding.basis[None]).reshape(-1, width)


def embed(
    embedding: Embedding,
    basis: Float[Array, "atoms max_neighbors basis"],
    centre: Int[Array, " atoms"],
    neighbor: Int[Array, "atoms max_neighbors"],
) -> Float[Array, "atoms max_neighbors _"]:
    """First features of pairs: radial functions, mixed, times what the two elements give.

    With few elements the same before `pair_kernel`: a copy of the radial functions for each pair of
    elements, of which all but one are zero.

    Args:
        embedding: weights.
        basis: radial basis with its envelope.
        centre: element of each atom.
        neighbor: element of each of its neighbours.
    """
    count, half = embedding.centre.shape
    if pair_kernel(embedding) is not None:
        if count == 1:
            return basis
        pairs = jax.nn.one_hot(centre[:, None] * count + neighbor, count * count, dtype=basis.dtype)
        return (pairs[..., :, None] * basis[..., None, :]).reshape(*neighbor.shape, -1)
    own = jnp.broadcast_to(embedding.centre[centre][:, None], (*neighbor.shape, half))
    chosen = jax.nn.one_hot(neighbor, count, dtype=basis.dtype)
    kinds = jnp.concatenate([own, chosen @ embedding.neighbor], axis=-1)
    return kinds * (basis @ embedding.basis)


def scalar_features(
    network: Network, hidden: Float[Array, "atoms max_neighbors width"]
) -> Float[Array, "atoms max_neighbors _"]:
    """What other networks read of the last hidden units of a network."""
    return hidden if network.scalars is None else hidden @ network.scalars


def split(
    kernels: Sequence[Array], size: int, degrees: int, projection: Array | None = None
) -> tuple[Network, Array | None]:
    """A network, and the kernel that is still to be applied to what it gives as scalars.

    A linear map is merged with the linear maps behind it where its input is not wider than its
    output.

    Args:
        kernels: of all layers.
        size: scalar features; what is left of the outputs are weights of the environment.
        degrees: of the environment.
        projection: one more kernel behind, which the scalars pass when they are read.
    """
    *hidden, last = kernels
    whole = last if projection is None else last @ projection
    environment = None
    if whole.shape[1] > size:
        environment = whole[:, size:].reshape(len(whole), degrees, -1)
    if len(last) <= size:
        return Network(tuple(hidden), None, environment), whole[:, :size]
    behind = None if projection is None else projection[:, :size]
    return Network(tuple(hidden), last[:, :size], environment), behind


def read_by(maps: Sequence[Array | None], kernels: Sequence[Array], size: int) -> list[Array]:
    """Kernels of a network that reads scalars of several others, with their maps merged.

    Args:
        maps: kernels that are still to be applied to the scalars of each of the others, if any.
        kernels: of all layers; the first one reads the scalars, and what comes after them.
        size: scalar features of each of the others.
    """
    first, *others = kernels
    parts = [first[i * size : (i + 1) * size] for i in range(len(maps))]
    read = [w if kernel is None else kernel @ w for kernel, w in zip(maps, parts, strict=True)]
    return [jnp.concatenate([*read, first[len(maps) * size :]]), *others]
