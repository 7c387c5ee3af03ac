"""MACE: higher-order equivariant message passing (Batatia et al. 2022).

I. Batatia et al., "MACE: Higher order equivariant message passing neural networks for fast and
accurate force fields", NeurIPS 2022 (arXiv:2206.07697). Layers and normalisations are those of the
program mace-torch 0.3, so that its weights mean the same here.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import annotated_types
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.graph import AtomicGraph, AtomOutputs, edge_vectors, safe_norm
from mlip_jax.models.fields import from_data
from mlip_jax.models.mace_readout import Readout, of_head, take_head
from mlip_jax.nn import convolution, covalent, radial
from mlip_jax.nn.convolution import MAX_SUMMED_ELEMENTS, ConvolutionKernels, Edges, make_edges
from mlip_jax.nn.equivariant import LinearKernels, SelfConnection, linear
from mlip_jax.nn.irreps import (
    SCALAR,
    Channels,
    ElementFeatures,
    Features,
    Layout,
    harmonic,
    parse_layout,
)
from mlip_jax.nn.product_basis import ProductBasis

_Positive = Annotated[int, annotated_types.Ge(1)]


class MACE(nn.Module):
    """Energies of atoms from many-body equivariant messages.

    The energy of an isolated atom is subtracted: it is zero, whatever the parameters.

    Attributes:
        species: atomic numbers; from the training data.
        cutoff: Å.
        num_layers: interactions.
        hidden_irreps: features between layers, such as `32x0e+32x1o`: as many channels of every
            degree, of the parity of the harmonics.
        max_ell: highest degree of the harmonics and of the atomic basis.
        correlation: highest number of factors of the products ν; body order ν + 1 a layer.
        num_bessels: size of the radial basis.
        polynomial_cutoff_p: exponent of the envelope.
        radial_mlp: hidden widths of the radial networks.
        readout_width: hidden width of the last readout.
        residual_first: the first layer, too, adds a map of the atom's own features to the
            products; otherwise it maps the messages by element.
        density_normalization: messages are divided by a learned density of neighbours instead of
            `avg_num_neighbors`.
        distance_transform: of the distances that the radial basis reads, see `nn.covalent`.
        repulsion: factor of a screened repulsion of nuclei within covalent radii; 0: none.
        heads: sources of the data (levels of theory) with readouts of their own; everything else
            is shared. None: one readout for all.
        avg_num_neighbors: normalises sums over neighbours; from the training data.
        energy_scale: eV; from the training data (root mean square of the forces).
    """

    species: tuple[int, ...] | None = None
    cutoff: float = 5.0
    num_layers: _Positive = 2
    hidden_irreps: str = "32x0e+32x1o"
    max_ell: Annotated[int, annotated_types.Ge(0)] = 3
    correlation: Annotated[int, annotated_types.Ge(1), annotated_types.Le(4)] = 3
    num_bessels: _Positive = 8
    polynomial_cutoff_p: Annotated[int, annotated_types.Ge(2)] = 5
    radial_mlp: tuple[int, ...] = (64, 64, 64)
    readout_width: _Positive = 16
    residual_first: bool = True
    density_normalization: bool = False
    distance_transform: covalent.Transform | None = None
    repulsion: float = 0.0
    heads: tuple[str, ...] = ()
    avg_num_neighbors: float | None = None
    energy_scale: float | None = None

    @property
    def hops(self) -> int:
        """Interactions, each of which carries messages over one cutoff."""
        return self.num_layers

    @nn.compact
    def __call__(self, graph: AtomicGraph) -> AtomOutputs:
        """Energies [eV] of all atoms, without reference energies.

        Raises:
            UserError: for fields that are not filled in or impossible.
        """
        known = tuple(from_data(self, "species"))
        hidden = self.layout()
        width = hidden[0].channels
        species = elements.species_index(graph.atomic_numbers, known)
        dtype = graph.positions.dtype
        embedding = self.param("embedding", nn.initializers.normal(1.0), (len(known), width), dtype)
        distances, edges = self._edges(graph, species, known)
        layout: Layout = (Channels(SCALAR, width),)
        features: Features = (embedding[species][:, None, :],)
        alone: ElementFeatures = (embedding[:, None, :],)
        energies = jnp.zeros(graph.num_atoms, dtype)
        kept = []
        for i in range(self.num_layers):
            last = i == self.num_layers - 1
            layer = Interaction(
                inputs=layout,
                outputs=hidden[:1] if last else hidden,
                max_ell=self.max_ell,
                correlation=self.correlation,
                radial_widths=(self.num_bessels, *self.radial_mlp),
                avg_num_neighbors=from_data(self, "avg_num_neighbors"),
                density_normalization=self.density_normalization,
                first=i == 0,
                residual=self.residual_first or i > 0,
                name=f"layer_{i}",
            )
            features, alone = layer(graph, edges, features, alone, species)
            layout = layer.outputs
            hidden_width = self.readout_width if last and self.num_layers > 1 else None
            readout = Readout(hidden_width, len(self.heads), name=f"readout_{i}")
            values = readout(features[0][:, 0]) - readout(alone[0][:, 0])[species]
            energies = energies + of_head(values, graph, self.heads)
            kept.append(features[0][:, 0])
        energies = from_data(self, "energy_scale") * energies
        if self.repulsion:
            others = jnp.broadcast_to(species[:, None], distances.shape)
            pairs = covalent.repulsion(
                distances, others, species[graph.neighbors], known, self.polynomial_cutoff_p
            )
            energies = energies + 0.5 * self.repulsion * jnp.sum(pairs, axis=1)
        return AtomOutputs(energies=energies, features=jnp.concatenate(kept, axis=-1))

    def fold(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Variables in float64 for a program of float32: networks of the distance are series."""
        if self.distance_transform is not None:
            return dict(variables)

        def basis(distances: Array) -> tuple[Array, Array]:
            envelope = radial.polynomial_envelope(distances, self.cutoff, self.polynomial_cutoff_p)
            return self._basis(distances, envelope), envelope

        return convolution.fold_networks(variables, basis, self.cutoff)

    def one_head(self, variables: Mapping[str, Any], head: str) -> tuple["MACE", dict[str, Any]]:
        """The model of one of its heads, and its variables.

        Args:
            variables: of this model.
            head: one of `heads`.
        """
        params = take_head(variables["params"], self.heads.index(head))
        return self.clone(heads=()), {**variables, "params": params}

    def layout(self) -> Layout:
        """Layout of the features between layers.

        Raises:
            UserError: for irreps that MACE does not have.
        """
        layout = parse_layout(self.hidden_irreps)
        degrees = [c.irrep for c in layout]
        counts = {c.channels for c in layout}
        if degrees != [harmonic(l) for l in range(len(layout))] or len(counts) != 1:
            raise UserError(
                f"mace.hidden_irreps: got {self.hidden_irreps}; expected as many channels of each "
                "of the irreps 0e, 1o, 2e, … in this order, such as 32x0e+32x1o."
            )
        return layout

    def _edges(
        self, graph: AtomicGraph, species: Int[Array, " atoms"], known: tuple[int, ...]
    ) -> tuple[Float[Array, "atoms max_neighbors"], Edges]:
        vectors = edge_vectors(graph)
        distances = safe_norm(vectors)
        envelope = radial.polynomial_envelope(distances, self.cutoff, self.polynomial_cutoff_p)
        seen = distances
        if self.distance_transform is not None:
            radii = jnp.asarray(covalent.covalent_radii(known), distances.dtype)
            sums = radii[species][:, None] + radii[species[graph.neighbors]]
            inside = jnp.where(distances < self.cutoff, distances, self.cutoff)
            seen = covalent.transform(self.distance_transform, inside, sums)
        basis = self._basis(seen, envelope)
        edges = make_edges(vectors, distances, self.max_ell, self.cutoff, basis, envelope)
        return distances, edges

    def _basis(self, seen: Array, envelope: Array) -> Float[Array, "*edges basis"]:
        """Bessel functions of (transformed) distances [Å], times the envelope."""
        frequencies = jnp.arange(1, self.num_bessels + 1, dtype=seen.dtype)
        scaled = envelope * (math.sqrt(2.0 / self.cutoff) * math.pi / self.cutoff)
        return radial.bessel(seen, frequencies, self.cutoff) * scaled[..., None]


class Interaction(nn.Module):
    """Messages, their symmetric products, and the update; Batatia et al., eq. 8 to 11.

    Attributes:
        inputs: layout of the features.
        outputs: layout of the new features.
        max_ell: highest degree of harmonics and messages.
        correlation: highest number of factors.
        radial_widths: size of the radial basis and hidden widths of the radial network.
        avg_num_neighbors: normalises the messages.
        density_normalization: a learned density normalises them instead.
        first: the features are those of the elements.
        residual: adds a map of the atom's own features, with weights for each element; otherwise
            the messages pass such a map.
    """

    inputs: Layout
    outputs: Layout
    max_ell: int
    correlation: int
    radial_widths: tuple[int, ...]
    avg_num_neighbors: float
    density_normalization: bool
    first: bool
    residual: bool

    @nn.compact
    def __call__(
        self,
        graph: AtomicGraph,
        edges: Edges,
        features: Features,
        alone: ElementFeatures,
        species: Int[Array, " atoms"],
    ) -> tuple[Features, ElementFeatures]:
        """New features of every atom, and of an isolated atom of every element.

        Args:
            graph: atoms and neighbours.
            edges: radial basis and harmonics of the pairs.
            features: of every atom, in the layout `inputs`.
            alone: those of an isolated atom of every element.
            species: element of every atom.
        """
        count = alone[0].shape[0]
        each = jnp.eye(count, dtype=alone[0].dtype)
        messages = self._messages(graph, edges, features, alone, species)
        width = self.inputs[0].channels
        middle = tuple(Channels(harmonic(l), width) for l in range(self.max_ell + 1))
        if not self.residual:
            messages = SelfConnection(middle, middle, name="element_map")(
                tuple(messages[c.irrep] for c in middle), each, species
            )
        basis = jnp.concatenate([messages[c.irrep] for c in middle], axis=1)
        products = ProductBasis(
            self.max_ell,
            tuple(c.irrep.degree for c in self.outputs),
            self.correlation,
            count,
            name="products",
        )(graph, basis, species)
        mixing = LinearKernels(self.outputs, self.outputs, name="linear_products")(basis.dtype)
        result = linear(mixing, self.outputs, products)
        rows = {c.irrep: jnp.zeros((count, c.irrep.dim, width), basis.dtype) for c in self.outputs}
        if self.residual:
            own = SelfConnection(self.inputs, self.outputs, name="self_connection")
            for irrep, x in own(features, each, species).items():
                result[irrep] = result[irrep] + x
            rows |= own(alone, each, jnp.arange(count))
        new = tuple(result[c.irrep] for c in self.outputs)
        return new, tuple(rows[c.irrep] for c in self.outputs)

    def _messages(self, graph, edges, features, alone, species):
        """Atomic basis A of each degree."""
        dtype = edges.basis.dtype
        width = self.inputs[0].channels
        mixing = LinearKernels(self.inputs, self.inputs, name="linear_in")(dtype)
        weights = ConvolutionKernels(
            inputs=self.inputs,
            outputs=tuple(Channels(harmonic(l), width) for l in range(self.max_ell + 1)),
            l_max=self.max_ell,
            radial_widths=self.radial_widths,
            divisor=1.0 if self.density_normalization else self.avg_num_neighbors,
            name="convolution",
        )(dtype)
        if self.first and alone[0].shape[0] <= MAX_SUMMED_ELEMENTS:
            senders = alone[0][:, 0] @ mixing[SCALAR]
            total = convolution.convolve_elements(weights, graph, edges, senders, species)
        else:
            mixed = linear(mixing, self.inputs, features)
            senders = tuple(mixed[c.irrep] for c in self.inputs)
            total = convolution.convolve(weights, graph, edges, senders)
        if not self.density_normalization:
            return total
        kernel = self.param("density", nn.initializers.normal(1.0), (self.radial_widths[0],), dtype)
        logits = edges.basis @ (kernel / math.sqrt(self.radial_widths[0]))
        density = jnp.sum(jnp.tanh(logits * logits), axis=1)
        return {irrep: x / (1.0 + density)[:, None, None] for irrep, x in total.items()}
