"""NequIP: an equivariant graph network of interaction blocks (Batzner et al. 2022).

S. Batzner et al., "E(3)-equivariant graph neural networks for data-efficient and accurate
interatomic potentials", Nat. Commun. 13, 2453 (2022). Layers, normalisations and initialisation are
those of the program nequip 0.19, so that its weights mean the same here.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.graph import AtomicGraph, AtomOutputs, edge_vectors, safe_norm
from mlip_jax.models.fields import from_data, require_positive
from mlip_jax.nn import convolution, radial
from mlip_jax.nn.convolution import MAX_SUMMED_ELEMENTS, ConvolutionKernels, Edges
from mlip_jax.nn.equivariant import (
    LayerNorm,
    LinearKernels,
    SelfConnection,
    gate,
    gate_inputs,
    linear,
)
from mlip_jax.nn.irreps import (
    SCALAR,
    Channels,
    ElementFeatures,
    Features,
    Layout,
    hidden_layout,
    product_paths,
)


class NequIP(nn.Module):
    """Energies of atoms from equivariant messages between neighbours.

    Attributes:
        species: atomic numbers; from the training data.
        cutoff: Å.
        num_layers: interaction blocks.
        l_max: highest degree of features and harmonics.
        parity: features of both parities; otherwise only those of the harmonics.
        num_features: channels of each irrep: one number, or one for each degree.
        type_embed_num_features: channels of the elements' embedding; those of degree 0 if `None`.
        num_bessels: size of the radial basis.
        bessel_trainable: the frequencies of the radial basis are trained.
        polynomial_cutoff_p: exponent of the envelope.
        radial_mlp_depth: hidden layers of the radial networks.
        radial_mlp_width: their width.
        avg_num_neighbors: normalises sums over neighbours; from the training data.
        energy_scale: initial scale [eV] of the energies, trained for each element; from the
            training data (root mean square of the forces).
        trainable_shift: adds a trained energy [eV] for each element, zero at first. An isolated
            atom then has this energy on top of its reference energy.
        self_connection: whether the weights of an atom's own features depend on its element.
        first_self_connection: the first block has one, too. The energy of an isolated atom is then
            not zero and is subtracted.
        layer_norm: features are divided by their root mean square, and multiplied by a trained
            weight for each channel, before they are gated (as in Nequix).
        reflections: features and harmonics have parity. Without, all products of degrees are
            formed, and mirror images may differ in energy (as in SevenNet).
        envelope_onset: Å, from where an envelope like XPLOR's falls, whose second derivative jumps;
            `None`: the polynomial envelope.
    """

    species: tuple[int, ...] | None = None
    cutoff: float = 5.0
    num_layers: int = 4
    l_max: int = 1
    parity: bool = True
    num_features: int | tuple[int, ...] = 32
    type_embed_num_features: int | None = None
    num_bessels: int = 8
    bessel_trainable: bool = False
    polynomial_cutoff_p: int = 6
    radial_mlp_depth: int = 1
    radial_mlp_width: int = 128
    avg_num_neighbors: float | None = None
    energy_scale: float | None = None
    trainable_shift: bool = False
    self_connection: Literal["element", "linear"] = "element"
    first_self_connection: bool = False
    layer_norm: bool = False
    reflections: bool = True
    envelope_onset: float | None = None

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
        known = self._checked_species()
        if self.layer_norm and not self.first_self_connection:
            raise UserError(
                "nequip.layer_norm: got true without first_self_connection; features that fade at "
                "the cutoff would be blown up. Set first_self_connection: true."
            )
        channels = self._channels()
        species = elements.species_index(graph.atomic_numbers, known)
        width = self.type_embed_num_features or channels[0]
        normal = nn.initializers.normal(1.0)
        embedding = self.param("embedding", normal, (len(known), width), graph.positions.dtype)
        edges = self._edges(edge_vectors(graph))
        layout: Layout = (Channels(SCALAR, width),)
        features: Features = (embedding[species][:, None, :],)
        alone: ElementFeatures = (embedding[:, None, :],)
        for i in range(self.num_layers):
            last = i == self.num_layers - 1
            hidden = hidden_layout(
                channels[:1] if last else channels, self.parity and not last, self.reflections
            )
            block = InteractionBlock(
                inputs=layout,
                outputs=reachable(layout, self.l_max, hidden, self.reflections),
                l_max=self.l_max,
                radial_widths=(self.num_bessels, *[self.radial_mlp_width] * self.radial_mlp_depth),
                avg_num_neighbors=from_data(self, "avg_num_neighbors"),
                first=i == 0,
                self_connection=self.self_connection if i or self.first_self_connection else None,
                layer_norm=self.layer_norm,
                reflections=self.reflections,
                name=f"block_{i}",
            )
            features, alone = block(graph, edges, features, alone, embedding, species)
            layout = block.outputs
        return self._readout(features[0][:, 0], alone[0][:, 0], species)

    def fold(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Variables for a program of float32, made from those in float64.

        Radial networks become series, constants of the convolutions, unless the envelope has a
        step in its second derivative.
        """
        if self.envelope_onset is not None:
            return dict(variables)
        module = radial.BesselBasis(*self._radial(), parent=None)
        frequencies = {"params": variables["params"].get("bessel", {})}

        def basis(distances: Array) -> tuple[Any, Array]:
            return module.apply(frequencies, distances), module.envelope(distances)

        return convolution.fold_networks(variables, basis, self.cutoff)

    def _edges(self, vectors: Float[Array, "atoms max_neighbors 3"]) -> Edges:
        distances = safe_norm(vectors)
        basis = radial.BesselBasis(*self._radial(), name="bessel")
        envelope = basis.envelope(distances)
        return convolution.make_edges(
            vectors, distances, self.l_max, self.cutoff, basis(distances), envelope
        )

    def _radial(self) -> tuple[Any, ...]:
        """Fields of the radial basis."""
        return (
            self.cutoff,
            self.num_bessels,
            self.polynomial_cutoff_p,
            self.bessel_trainable,
            self.envelope_onset,
        )

    def _readout(
        self,
        features: Float[Array, "atoms features"],
        alone: Float[Array, "species features"],
        species: Int[Array, " atoms"],
    ) -> AtomOutputs:
        dtype = features.dtype
        num_species, width = alone.shape
        readout = self.param("readout", radial.uniform_unit_variance, (width, 1), dtype)
        start = nn.initializers.constant(from_data(self, "energy_scale"))
        scale = self.param("scale", start, (num_species,), dtype)
        differences = features - alone[species] if self.first_self_connection else features
        energies = scale[species] * (differences @ (readout / math.sqrt(width)))[:, 0]
        if self.trainable_shift:
            zeros = nn.initializers.zeros
            energies = energies + self.param("shift", zeros, (num_species,), dtype)[species]
        return AtomOutputs(energies=energies, features=features)

    def _channels(self) -> tuple[int, ...]:
        """Channels of each degree."""
        if isinstance(self.num_features, int):
            return (self.num_features,) * (self.l_max + 1)
        if len(self.num_features) != self.l_max + 1:
            raise UserError(
                f"nequip.num_features: got {len(self.num_features)} numbers for l_max = "
                f"{self.l_max}; expected one number, or one for each degree from 0 to l_max."
            )
        return tuple(self.num_features)

    def _checked_species(self) -> tuple[int, ...]:
        require_positive(self, "cutoff", "num_layers", "num_bessels")
        return tuple(from_data(self, "species"))


class InteractionBlock(nn.Module):
    """Linear map, convolution, linear map, self-connection and gate; Batzner et al., fig. 1.

    Attributes:
        inputs: layout of the features.
        outputs: layout of the new features.
        l_max: highest degree of the harmonics.
        radial_widths: size of the radial basis and hidden widths of the radial network.
        avg_num_neighbors: normalises the sum over neighbours.
        first: the features are those of the elements.
        self_connection: how a map of the atom's own features is added, see `NequIP`; `None`: not,
            as in the first block, so that an atom without neighbours has zero features.
        layer_norm: see `NequIP`.
        reflections: see `NequIP`.
    """

    inputs: Layout
    outputs: Layout
    l_max: int
    radial_widths: tuple[int, ...]
    avg_num_neighbors: float
    first: bool
    self_connection: Literal["element", "linear"] | None
    layer_norm: bool
    reflections: bool

    @nn.compact
    def __call__(
        self,
        graph: AtomicGraph,
        edges: Edges,
        features: Features,
        alone: ElementFeatures,
        embedding: Float[Array, "species attributes"],
        species: Int[Array, " atoms"],
    ) -> tuple[Features, ElementFeatures]:
        """New features of every atom, and of an isolated atom of every element.

        Args:
            graph: atoms and neighbours.
            edges: radial basis and harmonics of the pairs.
            features: of every atom, in the layout `inputs`.
            alone: of an isolated atom of every element.
            embedding: of every element.
            species: element of every atom.
        """
        gated = gate_inputs(self.outputs)
        dtype = embedding.dtype
        mixing = LinearKernels(self.inputs, self.inputs, name="linear_in")(dtype)
        weights = ConvolutionKernels(
            inputs=self.inputs,
            outputs=gated,
            l_max=self.l_max,
            radial_widths=self.radial_widths,
            divisor=math.sqrt(self.avg_num_neighbors),
            reflections=self.reflections,
            name="convolution",
        )(dtype)
        if self.first and len(embedding) <= MAX_SUMMED_ELEMENTS:
            mixed = embedding @ mixing[SCALAR]
            total = convolution.convolve_elements(weights, graph, edges, mixed, species)
        else:
            mixed = linear(mixing, self.inputs, features)
            senders = tuple(mixed[c.irrep] for c in self.inputs)
            total = convolution.convolve(weights, graph, edges, senders)
        count = len(embedding)
        rows = {c.irrep: jnp.zeros((count, c.irrep.dim, c.channels), dtype) for c in gated}
        if self.self_connection is not None:
            own = self._self_connection(gated, embedding)
            for irrep, x in own(features, species).items():
                total[irrep] = total[irrep] + x
            rows |= own(alone, jnp.arange(count))
        if self.layer_norm:
            norm = LayerNorm(gated, name="layer_norm")
            total, rows = norm(total), norm(rows)
        return gate(self.outputs, total), gate(self.outputs, rows)

    def _self_connection(self, gated: Layout, embedding: Array):
        """A function of features and their elements."""
        if self.self_connection == "element":
            of_element = SelfConnection(self.inputs, gated, name="self_connection")
            return lambda features, species: of_element(features, embedding, species)
        kernels = LinearKernels(self.inputs, gated, name="self_connection")(embedding.dtype)
        return lambda features, species: linear(kernels, self.inputs, features)


def reachable(inputs: Layout, l_max: int, hidden: Layout, reflections: bool = True) -> Layout:
    """The part of a hidden layout that products of `inputs` with harmonics can fill."""
    paths = product_paths(inputs, l_max, [c.irrep for c in hidden], reflections)
    targets = {path.target for path in paths}
    return tuple(c for c in hidden if c.irrep in targets)
