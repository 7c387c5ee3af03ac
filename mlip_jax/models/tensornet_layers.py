"""The layers of TensorNet: embedding, interaction and readout (Simeon and De Fabritiis 2023).

G. Simeon, G. De Fabritiis, NeurIPS 2023, arXiv:2306.06482, section 3.2.
"""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mlip_jax.graph import AtomicGraph, map_atom_blocks
from mlip_jax.nn import cartesian, dense, mlp, radial_series
from mlip_jax.nn.cartesian import TensorKernels, Tensors
from mlip_jax.nn.dense import DenseKernels, NormKernels

Group = Literal["O(3)", "SO(3)"]
ReadoutName = Literal["mlp", "gated"]


class Edges(NamedTuple):
    """What every layer needs to know of the pairs.

    Attributes:
        distances: Å.
        basis: radial functions.
        envelope: zero from the cutoff on.
        directions: unit vectors from the neighbour to the atom.
    """

    distances: Float[Array, "atoms max_neighbors"]
    basis: Float[Array, "atoms max_neighbors basis"]
    envelope: Float[Array, "atoms max_neighbors"]
    directions: Float[Array, "atoms max_neighbors 3"]


class Embedding(nn.Module):
    """Tensors of atoms from the directions to their neighbours.

    Attributes:
        num_species: elements.
        channels: of the tensors.
        num_radial: size of the radial basis.
        activation: of the network that weights the parts.
    """

    num_species: int
    channels: int
    num_radial: int
    activation: str

    @nn.compact
    def __call__(self, graph: AtomicGraph, edges: Edges, species: Int[Array, " atoms"]) -> Tensors:
        """Tensors of every atom.

        Args:
            graph: atoms and neighbours.
            edges: of all pairs.
            species: element of every atom.
        """
        dtype, size = edges.basis.dtype, self.channels
        normal = nn.initializers.normal(1.0)
        vectors = self.param("elements", normal, (self.num_species, size), dtype)
        (pair,) = DenseKernels((2 * size, size), name="pair")(dtype)
        (weights,) = DenseKernels((self.num_radial, 3 * size), name="radial")(dtype)
        mixing = TensorKernels(size, name="mixing")(dtype)
        norm = NormKernels(size, name="norm")(dtype)
        factors = DenseKernels((size, 2 * size, 3 * size), name="factors")(dtype)
        activation = mlp.activation(self.activation, "tensornet.activation")
        of_neighbor = vectors @ pair.kernel[:size]
        of_atom = dense.dense(dense.Dense(pair.kernel[size:], pair.bias), vectors)

        def block(basis, envelope, directions, neighbors, own):
            elements_of_pair = of_neighbor[species[neighbors]] + of_atom[own][:, None, :]
            radial_weights = jnp.split(dense.dense(weights, basis), 3, axis=-1)
            of_pair = elements_of_pair * envelope[..., None]
            symmetric = cartesian.symmetric_part(directions)
            x = Tensors(
                jnp.sum(of_pair * radial_weights[0], axis=1, keepdims=True),
                jnp.einsum("ijn,ijc->inc", directions, of_pair * radial_weights[1]),
                jnp.einsum("ijn,ijc->inc", symmetric, of_pair * radial_weights[2]),
            )
            invariants = dense.layer_norm(norm, cartesian.square_norm(x))
            scale = dense.network(factors, invariants, activation, activate_last=True)
            return cartesian.scaled(scale, cartesian.mix(mixing, x))

        return map_atom_blocks(block, graph, *edges[1:], graph.neighbors, species)


class Interaction(nn.Module):
    """Messages, their products with the atom's own tensor, and its update.

    Attributes:
        channels: of the tensors.
        num_radial: size of the radial basis.
        cutoff: Å.
        group: which products are formed.
        activation: of the network that weights messages.
    """

    channels: int
    num_radial: int
    cutoff: float
    group: Group
    activation: str

    @nn.compact
    def __call__(self, graph: AtomicGraph, edges: Edges, x: Tensors) -> Tensors:
        """New tensors of every atom.

        Args:
            graph: atoms and neighbours.
            edges: of all pairs.
            x: tensors of every atom.
        """
        dtype, size = edges.basis.dtype, self.channels
        layers = DenseKernels(message_widths(self.num_radial, size), name="radial")(dtype)
        before = TensorKernels(size, name="before")(dtype)
        after = TensorKernels(size, name="after")(dtype)
        series = self.get_variable("constants", "series")
        activation = mlp.activation(self.activation, "tensornet.activation")
        x = cartesian.normalised(x)
        y = cartesian.mix(before, x)

        def block(distances, basis, envelope, neighbors, *tensors):
            x, own = Tensors(*tensors[:3]), Tensors(*tensors[3:])
            if series is None:
                weights = dense.network(layers, basis, activation, activate_last=True)
                weights = weights * envelope[..., None]
            else:
                weights = radial_series.evaluate(series, distances, envelope, self.cutoff)
            sent = cartesian.scaled(weights, Tensors(*(part[neighbors] for part in y)))
            received = Tensors(*(jnp.sum(part, axis=1) for part in sent))
            coupled = self._couple(cartesian.to_matrix(received), cartesian.to_matrix(own))
            change = cartesian.mix(after, cartesian.normalised(cartesian.from_matrix(coupled)))
            matrix = cartesian.to_matrix(change)
            square = cartesian.from_matrix(cartesian.matrix_product(matrix, matrix))
            return Tensors(*(a + b + c for a, b, c in zip(x, change, square, strict=True)))

        return map_atom_blocks(block, graph, *edges[:3], graph.neighbors, *x, *y)

    def _couple(self, received: Array, own: Array) -> Float[Array, "atoms 3 3 channels"]:
        product = cartesian.matrix_product(own, received)
        if self.group == "SO(3)":
            return 2.0 * product
        return product + cartesian.matrix_product(received, own)


def message_widths(num_radial: int, channels: int) -> tuple[int, ...]:
    """Widths of the network that weights messages: one weight for each part and channel."""
    return (num_radial, channels, 2 * channels, 3 * channels)


class Readout(nn.Module):
    """From the norms of the parts of a tensor to a number.

    Attributes:
        channels: of the tensors, and width of the networks.
        kind: `mlp`: one hidden layer of half the width, behind a linear map and an activation.
            `gated`: three hidden layers, times as many whose last number goes through a sigmoid.
        activation: of the network of kind `mlp`; the other has SiLU.
    """

    channels: int
    kind: ReadoutName
    activation: str

    @nn.compact
    def __call__(self, norms: Float[Array, "atoms features"]) -> Float[Array, " atoms"]:
        """Output for every atom."""
        dtype, size = norms.dtype, self.channels
        norm = NormKernels(3 * size, name="norm")(dtype)
        (first,) = DenseKernels((3 * size, size), name="linear")(dtype)
        x = dense.dense(first, dense.layer_norm(norm, norms))
        if self.kind == "mlp":
            activation = mlp.activation(self.activation, "tensornet.activation")
            layers = DenseKernels((size, max(1, size // 2), 1), name="network")(dtype)
            return dense.network(layers, activation(x), activation)[:, 0]
        widths = (size, size, size, size, 1)
        weights = dense.Gated(
            DenseKernels(widths, name="network")(dtype), DenseKernels(widths, name="gate")(dtype)
        )
        return dense.gated_network(weights, x, nn.silu)[:, 0]
