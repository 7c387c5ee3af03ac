"""TensorNet: message passing with Cartesian tensors of rank two (Simeon and De Fabritiis 2023).

G. Simeon, G. De Fabritiis, "TensorNet: Cartesian tensor representations for efficient learning of
molecular potentials", NeurIPS 2023, arXiv:2306.06482. Radial functions and readout are those of the
paper or, by choice, those of the program matgl, whose published weights are read by
`interop.weights.tensornet`.
"""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.graph import AtomicGraph, AtomOutputs, edge_vectors, map_atom_blocks, safe_norm
from mlip_jax.nn import cartesian, dense, radial
from mlip_jax.nn.cartesian import TensorKernels, Tensors
from mlip_jax.nn.dense import DenseKernels, NormKernels

RadialName = Literal["exp_normal", "gaussian", "smooth_bessel"]
Group = Literal["O(3)", "SO(3)"]


class Edges(NamedTuple):
    """What every layer needs to know of the pairs.

    Attributes:
        basis: radial functions.
        envelope: zero from the cutoff on.
        directions: unit vectors from the neighbour to the atom.
    """

    basis: Float[Array, "atoms max_neighbors basis"]
    envelope: Float[Array, "atoms max_neighbors"]
    directions: Float[Array, "atoms max_neighbors 3"]


class TensorNet(nn.Module):
    """Energies of atoms from tensors that neighbours send each other.

    Attributes:
        species: atomic numbers; from the training data.
        cutoff: Å.
        num_layers: interactions.
        num_features: channels of the tensors.
        radial_basis: `exp_normal` (the paper's), `gaussian`, or `smooth_bessel`.
        num_radial: size of the radial basis.
        radial_trainable: centres and widths of `exp_normal` are trained.
        gaussian_range: Å, centre of the last function of `gaussian`; the first stands at zero.
        gaussian_width: 1/Å², factor in the exponents of `gaussian`.
        group: with `O(3)` energies are the same for mirror images; with `SO(3)` they may differ.
        activation: see `nn.mlp.ACTIVATIONS`.
        readout: `mlp`, the paper's, or `gated`, a network times a gate.
        energy_scale: eV per unit of the readout; from the training data (root mean square of the
            forces).
    """

    species: tuple[int, ...] | None = None
    cutoff: float = 5.0
    num_layers: int = 2
    num_features: int = 128
    radial_basis: RadialName = "exp_normal"
    num_radial: int = 32
    radial_trainable: bool = False
    gaussian_range: float = 6.0
    gaussian_width: float = 0.5
    group: Group = "O(3)"
    activation: str = "silu"
    readout: Literal["mlp", "gated"] = "mlp"
    energy_scale: float | None = None

    @nn.compact
    def __call__(self, graph: AtomicGraph) -> AtomOutputs:
        """Energies [eV] of all atoms; `features` are the norms of the parts of their tensors.

        Raises:
            UserError: for fields that are not filled in or impossible.
        """
        norms = cartesian.square_norms(self._tensors(graph))
        features = jnp.concatenate(norms, axis=-1)
        readout = Readout(self.num_features, self.readout, self.activation, name="readout")
        # Without neighbours all tensors vanish, whatever the element.
        alone = readout(jnp.zeros_like(features[:1]))
        energies = self._given("energy_scale") * (readout(features) - alone)
        return AtomOutputs(energies=energies, features=features)

    def _tensors(self, graph: AtomicGraph) -> Tensors:
        """Tensors of all atoms after the last interaction."""
        known = self._checked_species()
        species = elements.species_index(graph.atomic_numbers, known)
        edges = self._edges(edge_vectors(graph))
        x = Embedding(
            len(known), self.num_features, self.num_radial, self.activation, name="embedding"
        )(graph, edges, species)
        for i in range(self.num_layers):
            x = Interaction(
                self.num_features,
                self.num_radial,
                self.group,
                self.activation,
                name=f"interaction_{i}",
            )(graph, edges, x)
        return x

    def _edges(self, vectors: Float[Array, "atoms max_neighbors 3"]) -> Edges:
        distances = safe_norm(vectors)
        directions = -vectors / jnp.where(distances == 0.0, 1.0, distances)[..., None]
        envelope = radial.cosine_envelope(distances, self.cutoff)
        return Edges(self._basis()(distances), envelope, directions)

    def _basis(self) -> "RadialBasis":
        return RadialBasis(
            self.radial_basis,
            self.num_radial,
            self.cutoff,
            self.radial_trainable,
            self.gaussian_range,
            self.gaussian_width,
            name="radial",
        )

    def _checked_species(self) -> tuple[int, ...]:
        for name in ("cutoff", "num_features", "num_radial"):
            if getattr(self, name) <= 0:
                raise UserError(
                    f"tensornet.{name}: got {getattr(self, name)}; expected a positive number."
                )
        if self.num_layers < 0:
            raise UserError(f"tensornet.num_layers: got {self.num_layers}; expected 0 or more.")
        return tuple(self._given("species"))

    def _given(self, name: str):
        value = getattr(self, name)
        if value is None:
            raise UserError(
                f"tensornet.{name}: not given. It is computed from the training data; outside of "
                "training, set it."
            )
        return value


class RadialBasis(nn.Module):
    """Radial functions by name; attributes see `TensorNet`."""

    kind: RadialName
    number: int
    cutoff: float
    trainable: bool
    gaussian_range: float
    gaussian_width: float

    @nn.compact
    def __call__(self, distances: Float[Array, "*edges"]) -> Float[Array, "*edges basis"]:
        """Functions of distances [Å]."""
        if self.kind == "smooth_bessel":
            return radial.smooth_bessel(distances, self.number, self.cutoff)
        if self.kind == "gaussian":
            centres = np.linspace(0.0, self.gaussian_range, self.number)
            return radial.gaussians(distances, centres, self.gaussian_width)
        start = radial.exp_normal_start(self.number, self.cutoff)
        centres, widths = (jnp.asarray(array, distances.dtype) for array in start)
        if self.trainable:
            centres = self.param("centres", lambda _: centres)
            widths = self.param("widths", lambda _: widths)
        envelope = radial.cosine_envelope(distances, self.cutoff)[..., None]
        return envelope * radial.exp_normal(distances, centres, widths, self.cutoff)


class Embedding(nn.Module):
    """Tensors of atoms from the directions to their neighbours.

    Simeon and De Fabritiis (2023), section 3.2, embedding.

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
        activation = dense.activation(self.activation, "tensornet.activation")
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

        return map_atom_blocks(block, graph, *edges, graph.neighbors, species)


class Interaction(nn.Module):
    """Messages, their products with the atom's own tensor, and its update.

    Simeon and De Fabritiis (2023), section 3.2, interaction.

    Attributes:
        channels: of the tensors.
        num_radial: size of the radial basis.
        group: which products are formed.
        activation: of the network that weights messages.
    """

    channels: int
    num_radial: int
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
        widths = (self.num_radial, size, 2 * size, 3 * size)
        layers = DenseKernels(widths, name="radial")(dtype)
        before = TensorKernels(size, name="before")(dtype)
        after = TensorKernels(size, name="after")(dtype)
        activation = dense.activation(self.activation, "tensornet.activation")
        x = cartesian.normalised(x)
        y = cartesian.mix(before, x)

        def block(basis, envelope, neighbors, *tensors):
            x, own = Tensors(*tensors[:3]), Tensors(*tensors[3:])
            weights = dense.network(layers, basis, activation, activate_last=True)
            weights = weights * envelope[..., None]
            sent = cartesian.scaled(weights, Tensors(*(part[neighbors] for part in y)))
            received = Tensors(*(jnp.sum(part, axis=1) for part in sent))
            coupled = self._couple(cartesian.to_matrix(received), cartesian.to_matrix(own))
            change = cartesian.mix(after, cartesian.normalised(cartesian.from_matrix(coupled)))
            matrix = cartesian.to_matrix(change)
            square = cartesian.from_matrix(cartesian.matrix_product(matrix, matrix))
            return Tensors(*(a + b + c for a, b, c in zip(x, change, square, strict=True)))

        return map_atom_blocks(block, graph, edges.basis, edges.envelope, graph.neighbors, *x, *y)

    def _couple(self, received: Array, own: Array) -> Float[Array, "atoms 3 3 channels"]:
        product = cartesian.matrix_product(own, received)
        if self.group == "SO(3)":
            return 2.0 * product
        return product + cartesian.matrix_product(received, own)


class Readout(nn.Module):
    """From the norms of the parts of a tensor to a number.

    Attributes:
        channels: of the tensors, and width of the networks.
        kind: `mlp`: one hidden layer of half the width, behind a linear map and an activation.
            `gated`: three hidden layers, times as many whose last number goes through a sigmoid.
        activation: of the network of kind `mlp`; the other has SiLU.
    """

    channels: int
    kind: Literal["mlp", "gated"]
    activation: str

    @nn.compact
    def __call__(self, norms: Float[Array, "atoms features"]) -> Float[Array, " atoms"]:
        """Output for every atom."""
        dtype, size = norms.dtype, self.channels
        norm = NormKernels(3 * size, name="norm")(dtype)
        (first,) = DenseKernels((3 * size, size), name="linear")(dtype)
        x = dense.dense(first, dense.layer_norm(norm, norms))
        if self.kind == "mlp":
            activation = dense.activation(self.activation, "tensornet.activation")
            layers = DenseKernels((size, max(1, size // 2), 1), name="network")(dtype)
            return dense.network(layers, activation(x), activation)[:, 0]
        widths = (size, size, size, size, 1)
        layers = DenseKernels(widths, name="network")(dtype)
        gates = DenseKernels(widths, name="gate")(dtype)
        gate = nn.sigmoid(dense.network(gates, x, nn.silu))
        return (dense.network(layers, x, nn.silu) * gate)[:, 0]
