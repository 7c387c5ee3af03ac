"""PaiNN: message passing with scalars and vectors (Schütt, Unke and Gastegger 2021).

K. T. Schütt, O. T. Unke, M. Gastegger, "Equivariant message passing for the prediction of tensorial
properties and molecular spectra", ICML 2021, arXiv:2102.03150.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mlip_jax import elements
from mlip_jax.graph import AtomicGraph, AtomOutputs, edge_vectors, map_atom_blocks, safe_norm
from mlip_jax.models.fields import from_data, require_positive
from mlip_jax.models.local import isolated_atoms
from mlip_jax.nn import dense, radial
from mlip_jax.nn.dense import Dense, DenseKernels


class Features(NamedTuple):
    """Features of atoms.

    Attributes:
        scalar: s.
        vector: v.
    """

    scalar: Float[Array, "atoms features"]
    vector: Float[Array, "atoms 3 features"]


class Layer(NamedTuple):
    """Weights of a message and an update.

    Attributes:
        sender: network of the neighbour's scalars.
        filters: map of the radial functions.
        mixing: map of vectors to U v and V v, side by side.
        update: network of scalars and norms.
    """

    sender: tuple[Dense, ...]
    filters: Dense
    mixing: Dense
    update: tuple[Dense, ...]


class Parameters(NamedTuple):
    """All weights of the model."""

    embedding: Float[Array, "species features"]
    layers: tuple[Layer, ...]
    readout: tuple[Dense, ...]


class PaiNN(nn.Module):
    """Energies of atoms from scalars and vectors that neighbours send each other.

    An atom without neighbours would have an energy that depends on its element; it is subtracted.

    Attributes:
        species: atomic numbers; from the training data.
        cutoff: Å.
        num_layers: pairs of a message and an update.
        num_features: scalars, and vectors, of an atom.
        num_radial: size of the radial basis.
        norm_epsilon: ε in the length `sqrt(|v|² + ε)` of a vector. The length alone has no
            derivative at zero, where the vectors of an atom in a symmetric environment are.
        energy_scale: eV per unit of the readout; from the training data (root mean square of the
            forces).
    """

    species: tuple[int, ...] | None = None
    cutoff: float = 5.0
    num_layers: int = 3
    num_features: int = 128
    num_radial: int = 20
    norm_epsilon: float = 1e-8
    energy_scale: float | None = None

    @property
    def hops(self) -> int:
        """Interactions, each of which carries messages over one cutoff."""
        return self.num_layers

    @nn.compact
    def __call__(self, graph: AtomicGraph) -> AtomOutputs:
        """Energies [eV] of all atoms; `features` are their scalars after the last layer.

        Raises:
            UserError: for fields that are not filled in or impossible.
        """
        known = self._checked_species()
        dtype = graph.positions.dtype
        parameters = self._parameters(len(known), dtype)
        species = elements.species_index(graph.atomic_numbers, known)
        features = self._features(parameters, graph, species)
        each = jnp.arange(len(known), dtype=species.dtype)
        alone = self._features(parameters, isolated_atoms(known, dtype), each)
        outputs = [
            dense.network(parameters.readout, scalars, nn.silu)[:, 0]
            for scalars in (features, alone)
        ]
        energies = from_data(self, "energy_scale") * (outputs[0] - outputs[1][species])
        return AtomOutputs(energies=energies, features=features)

    def _features(
        self, parameters: Parameters, graph: AtomicGraph, species: Int[Array, " atoms"]
    ) -> Float[Array, "atoms features"]:
        """Scalars after the last layer."""
        vectors = edge_vectors(graph)
        distances = safe_norm(vectors)
        directions = vectors / jnp.where(distances == 0.0, 1.0, distances)[..., None]
        envelope = radial.cosine_envelope(distances, self.cutoff)
        k = jnp.arange(1, self.num_radial + 1, dtype=distances.dtype)
        basis = radial.bessel(distances, k, self.cutoff) * (math.pi / self.cutoff)
        scalars = parameters.embedding[species]
        zeros = jnp.zeros((scalars.shape[0], 3, scalars.shape[1]), scalars.dtype)
        features = Features(scalars, zeros)
        for i, layer in enumerate(parameters.layers):
            features = interact(
                layer, graph, (basis, envelope, directions), features, self.norm_epsilon, i == 0
            )
        return features.scalar

    def _parameters(self, num_species: int, dtype: jnp.dtype) -> Parameters:
        size = self.num_features
        normal = nn.initializers.normal(1.0)
        layers = []
        for i in range(self.num_layers):
            (filters,) = DenseKernels((self.num_radial, 3 * size), name=f"filters_{i}")(dtype)
            (mixing,) = DenseKernels((size, 2 * size), bias=False, name=f"mixing_{i}")(dtype)
            layers.append(
                Layer(
                    sender=DenseKernels((size, size, 3 * size), name=f"sender_{i}")(dtype),
                    filters=filters,
                    mixing=mixing,
                    update=DenseKernels((2 * size, size, 3 * size), name=f"update_{i}")(dtype),
                )
            )
        return Parameters(
            embedding=self.param("embedding", normal, (num_species, size), dtype),
            layers=tuple(layers),
            readout=DenseKernels((size, max(1, size // 2), 1), name="readout")(dtype),
        )

    def _checked_species(self) -> tuple[int, ...]:
        require_positive(self, "cutoff", "num_layers", "num_features", "num_radial", "norm_epsilon")
        return tuple(from_data(self, "species"))


def interact(
    layer: Layer,
    graph: AtomicGraph,
    edges: tuple[Array, Array, Array],
    features: Features,
    norm_epsilon: float,
    first: bool = False,
) -> Features:
    """One message and one update; Schütt et al. (2021), eq. 7 and 8, and `update`.

    Args:
        layer: weights.
        graph: atoms and neighbours.
        edges: radial functions `[atoms, max_neighbors, basis]`, envelope, and unit vectors from the
            atom to its neighbours.
        features: of every atom.
        norm_epsilon: see `PaiNN`.
        first: all vectors are zero, so that none are sent.
    """
    sent = dense.network(layer.sender, features.scalar, nn.silu)

    def block(basis, envelope, directions, neighbors, scalar, vector):
        filters = dense.dense(layer.filters, basis) * envelope[..., None]
        of_scalar, of_direction, of_vector = jnp.split(sent[neighbors] * filters, 3, axis=-1)
        scalar = scalar + jnp.sum(of_scalar, axis=1)
        vector = vector + jnp.einsum("ijn,ijc->inc", directions, of_direction)
        if not first:
            received = features.vector[neighbors] * of_vector[:, :, None, :]
            vector = vector + jnp.sum(received, axis=1)
        return update(layer, Features(scalar, vector), norm_epsilon)

    return map_atom_blocks(block, graph, *edges, graph.neighbors, *features)


def update(layer: Layer, features: Features, norm_epsilon: float) -> Features:
    """Scalars and vectors of an atom change each other; Schütt et al. (2021), eq. 9 and 10.

    Args:
        layer: weights.
        features: of every atom.
        norm_epsilon: see `PaiNN`.
    """
    scalar, vector = features
    u, v = jnp.split(dense.dense(layer.mixing, vector), 2, axis=-1)
    lengths = jnp.sqrt(jnp.sum(v * v, axis=1) + norm_epsilon)
    inputs = jnp.concatenate([scalar, lengths], axis=-1)
    of_vector, of_product, own = jnp.split(dense.network(layer.update, inputs, nn.silu), 3, axis=-1)
    change = own + of_product * jnp.sum(u * v, axis=1)
    return Features(scalar + change, vector + u * of_vector[:, None, :])
