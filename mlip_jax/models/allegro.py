"""Allegro: strictly local equivariant features of pairs (Musaelian et al. 2023).

A. Musaelian et al., "Learning local equivariant representations for large-scale atomistic
dynamics", Nat. Commun. 14, 579 (2023). Layers, normalisations and initialisation are those of the
program nequip-allegro 0.8, so that its weights mean the same here: every network reads the scalars
of all layers before it, where the paper adds them up.
"""

import math
from typing import Annotated, NamedTuple

import annotated_types
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.graph import AtomicGraph, AtomOutputs, edge_vectors, map_atom_blocks, safe_norm
from mlip_jax.models.allegro_networks import (
    Embedding,
    Network,
    embed,
    pair_kernel,
    read_by,
    scalar_features,
    split,
)
from mlip_jax.models.allegro_tensors import (
    Product,
    environments,
    layer_paths,
    pair_scalars,
    scalar_coefficients,
    tensor_layouts,
)
from mlip_jax.models.fields import from_data
from mlip_jax.nn import angular, radial

_Positive = Annotated[int, annotated_types.Ge(1)]


class Weights(NamedTuple):
    """All weights, ready for use.

    Attributes:
        embedding: of pairs.
        networks: first that of two bodies, then that of each layer.
        tensors: kernel from the first scalars to the weights of the tensors.
        products: of each layer.
        readout: kernels of the hidden layers of the last network.
        energy: last kernel.
        norms: `1 / sqrt(neighbours)` for each element.
    """

    embedding: Embedding
    networks: tuple[Network, ...]
    tensors: Float[Array, "features _"]
    products: tuple[Product, ...]
    readout: tuple[Float[Array, "_ _"], ...]
    energy: Float[Array, "width 1"]
    norms: Float[Array, " species"]


class Allegro(nn.Module):
    """Energies of pairs from scalars and tensors that see all neighbours of the centre.

    Nothing passes between atoms: the energy of an atom depends on its neighbours within the cutoff
    alone, whatever the number of layers.

    Attributes:
        species: atomic numbers; from the training data.
        cutoff: Å.
        num_layers: products of the tensors with the environment.
        l_max: highest degree of tensors and harmonics.
        parity: tensors of both parities; otherwise only those of the harmonics.
        num_scalar_features: scalars of a pair in each layer.
        num_tensor_features: channels of each irrep of its tensors.
        embedding_features: size of the first embedding of a pair, an even number;
            `num_scalar_features` if `None`.
        num_bessels: size of the radial basis.
        bessel_trainable: the frequencies of the radial basis are trained.
        polynomial_cutoff_p: exponent of the envelope.
        two_body_mlp: hidden widths of the network of distance and elements.
        latent_mlp: hidden widths of the network of each layer.
        readout_mlp: hidden widths of the network that gives the energy of a pair.
        tp_path_channel_coupling: every channel has weights of its own for the products of irreps.
        avg_num_neighbors: normalises sums over neighbours; one number, or one for each of the
            species. From the training data.
        energy_scale: initial scale [eV] of the energies, trained for each element; from the
            training data (root mean square of the forces).
    """

    species: tuple[int, ...] | None = None
    cutoff: float = 5.0
    num_layers: _Positive = 2
    l_max: Annotated[int, annotated_types.Ge(0)] = 2
    parity: bool = True
    num_scalar_features: _Positive = 64
    num_tensor_features: _Positive = 16
    embedding_features: _Positive | None = None
    num_bessels: _Positive = 8
    bessel_trainable: bool = False
    polynomial_cutoff_p: Annotated[int, annotated_types.Ge(2)] = 6
    two_body_mlp: tuple[int, ...] = (64,)
    latent_mlp: tuple[int, ...] = (64,)
    readout_mlp: tuple[int, ...] = (32,)
    tp_path_channel_coupling: bool = True
    avg_num_neighbors: float | tuple[float, ...] | None = None
    energy_scale: float | None = None

    hops = 1

    @nn.compact
    def __call__(self, graph: AtomicGraph) -> AtomOutputs:
        """Energies [eV] of all atoms, without reference energies.

        `features` are the last hidden units of the readout, summed over the neighbours.

        Raises:
            UserError: for fields that are not filled in or impossible.
        """
        known = self._checked_species()
        dtype = graph.positions.dtype
        weights = self._weights(len(known), dtype)
        start = nn.initializers.constant(from_data(self, "energy_scale"))
        scale = self.param("scale", start, (len(known),), dtype)
        species = elements.species_index(graph.atomic_numbers, known)

        def block(vectors: Array, centre: Array, neighbor: Array) -> Array:
            return self._summed_features(weights, vectors, centre, neighbor)

        features = map_atom_blocks(
            block, graph, edge_vectors(graph), species, species[graph.neighbors]
        )
        energies = scale[species] * (features @ weights.energy)[:, 0]
        return AtomOutputs(energies=energies, features=features)

    def _summed_features(
        self,
        weights: Weights,
        vectors: Float[Array, "atoms max_neighbors 3"],
        centre: Int[Array, " atoms"],
        neighbor: Int[Array, "atoms max_neighbors"],
    ) -> Float[Array, "atoms features"]:
        """Last hidden units of the readout, summed over the neighbours of each atom.

        No network has a bias: where the radial basis is zero, so is everything.
        """
        norm = weights.norms[centre]
        distances = safe_norm(vectors)
        directions = vectors / jnp.where(distances == 0.0, 1.0, distances)[..., None]
        harmonics = jnp.concatenate(angular.spherical_harmonics(directions, self.l_max), axis=-1)
        envelope = radial.polynomial_envelope(distances, self.cutoff, self.polynomial_cutoff_p)
        basis = radial.bessel(distances, weights.embedding.frequencies, self.cutoff)
        inputs = embed(weights.embedding, basis * envelope[..., None], centre, neighbor)
        first, *layers = weights.networks
        hidden = radial.hidden_network(first.hidden, inputs)
        scalars = [scalar_features(first, hidden)]
        of_tensors = scalars[0] @ weights.tensors
        around: list[dict[int, Array]] = []
        for i, (network, before) in enumerate(zip(layers, weights.networks, strict=False)):
            assert before.environment is not None
            around.append(environments(harmonics, hidden, before.environment, norm))
            coefficients = scalar_coefficients(weights.products[: i + 1], around)
            invariants = pair_scalars(of_tensors, harmonics, coefficients)
            inputs = jnp.concatenate([*scalars, invariants], axis=-1)
            hidden = radial.hidden_network(network.hidden, inputs)
            scalars.append(scalar_features(network, hidden))
        last = radial.hidden_network(weights.readout, jnp.concatenate(scalars, axis=-1))
        return jnp.sum(last, axis=1) * (norm / math.sqrt(2.0))[:, None]

    def _weights(self, num_species: int, dtype: jnp.dtype) -> Weights:
        size, degrees = self.num_scalar_features, self.l_max + 1
        weights = degrees * self.num_tensor_features

        def kernels(name: str, *widths: int) -> tuple[Array, ...]:
            return radial.ScalarKernels(widths, name=name)(dtype)

        embedding = self._embedding(num_species, dtype)
        width = embedding.basis.shape[1]
        two_body = kernels("two_body", width, *self.two_body_mlp, size)
        (projection,) = kernels("projection", size, size + weights)
        (tensors,) = kernels("tensors", size, weights)
        two_body = read_by([pair_kernel(embedding)], two_body, width)
        first, kernel = split(two_body, size, degrees, projection)
        networks, maps = [first], [kernel]
        for i in range(self.num_layers):
            inputs = (i + 1) * size + self.num_tensor_features
            outputs = size + (weights if i < self.num_layers - 1 else 0)
            layer = kernels(f"layer_{i}", inputs, *self.latent_mlp, outputs)
            network, kernel = split(read_by(maps, layer, size), size, degrees)
            networks.append(network)
            maps.append(kernel)
        readout = kernels("readout", (self.num_layers + 1) * size, *self.readout_mlp, 1)
        *hidden, energy = read_by(maps, readout, size)
        return Weights(
            embedding=embedding,
            networks=tuple(networks),
            tensors=tensors if first.scalars is not None else two_body[-1] @ tensors,
            products=self._products(dtype),
            readout=tuple(hidden),
            energy=energy,
            norms=self._norms(num_species, dtype),
        )

    def _embedding(self, num_species: int, dtype: jnp.dtype) -> Embedding:
        width = self.embedding_features or self.num_scalar_features
        if width % 2:
            raise UserError(
                f"allegro.embedding_features: got {width} (num_scalar_features where nothing is "
                "given); expected an even number, one half for each of the two elements."
            )
        normal, shape = nn.initializers.normal(1.0), (num_species, width // 2)
        frequencies = jnp.arange(1, self.num_bessels + 1, dtype=dtype)
        if self.bessel_trainable:
            frequencies = self.param("frequencies", lambda _: frequencies)
        (basis,) = radial.ScalarKernels((self.num_bessels, width), name="basis")(dtype)
        centre = self.param("centre", normal, shape, dtype)
        return Embedding(frequencies, centre, self.param("neighbor", normal, shape, dtype), basis)

    def _products(self, dtype: jnp.dtype) -> tuple[Product, ...]:
        channels = self.num_tensor_features
        layouts = tensor_layouts(self.l_max, channels, self.parity, self.num_layers)
        products = []
        for i in range(self.num_layers):
            paths = layer_paths(layouts[i], layouts[i + 1], self.l_max)
            shape = (len(paths), channels if self.tp_path_channel_coupling else 1)
            weight = self.param(f"product_{i}", radial.uniform_unit_variance, shape, dtype)
            products.append(Product(layouts[i], paths, weight))
        return tuple(products)

    def _norms(self, num_species: int, dtype: jnp.dtype) -> Float[Array, " species"]:
        neighbors = from_data(self, "avg_num_neighbors")
        numbers = neighbors if isinstance(neighbors, tuple) else (neighbors,) * num_species
        if len(numbers) != num_species or min(numbers) <= 0.0:
            raise UserError(
                f"allegro.avg_num_neighbors: got {neighbors} for {num_species} species; expected a "
                "positive number, or one for each of the species."
            )
        return jnp.asarray(numbers, dtype) ** -0.5

    def _checked_species(self) -> tuple[int, ...]:
        if self.cutoff <= 0:
            raise UserError(f"allegro.cutoff: got {self.cutoff}; expected a positive number.")
        return tuple(from_data(self, "species"))
