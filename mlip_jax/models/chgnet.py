"""CHGNet: messages over atoms, bonds and angles, with magnetic moments (Deng et al. 2023).

B. Deng, P. Zhong, K. Jun, J. Riebesell, K. Han, C. J. Bartel, G. Ceder, "CHGNet as a pretrained
universal neural network potential for charge-informed atomistic modelling", Nature Machine
Intelligence 5, 1031 (2023), doi:10.1038/s42256-023-00716-3. `interop.weights.chgnet` reads the
published weights.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.graph import (
    AtomicGraph,
    AtomOutputs,
    edge_vectors,
    pair_room,
    prefix_length,
    safe_norm,
)
from mlip_jax.models import chgnet_basis
from mlip_jax.models import chgnet_layers as layers
from mlip_jax.models.chgnet_layers import Angles, Bonds, Far
from mlip_jax.models.chgnet_networks import (
    Convolution,
    ConvolutionKernels,
    GatedKernels,
    Parameters,
)
from mlip_jax.models.fields import from_data, require_positive
from mlip_jax.nn import dense, double, slot_pairs, slot_pieces
from mlip_jax.nn.dense import Dense, DenseKernels, NormKernels


class CHGNet(nn.Module):
    """Energies and magnetic moments of atoms from features of atoms, bonds and angles.

    Each block is a convolution of atoms, one of bonds and an update of angles; the last convolution
    is one of atoms alone. (The published program updates angles behind the last convolution of
    bonds, too, where nothing reads them any more; here that update does not exist.) An atom
    without neighbours would have an energy that depends on its element; it is subtracted.

    Energies are smooth with the default fields. With `mlp_out_bias`, the form of the published
    weights 0.2.0, they are not: features of all bonds of a structure change by a constant when its
    first angle appears, and an energy is no longer the sum of those of distant parts.

    Attributes:
        species: atomic numbers; from the training data.
        cutoff: Å.
        bond_cutoff: Å, of the bonds between which there are angles.
        num_layers: convolutions of atoms.
        num_features: of atoms, bonds and angles.
        num_radial: size of the radial bases, whose frequencies are trained.
        num_angular: size of the angular basis, an odd number; frequencies are trained.
        polynomial_cutoff_p: exponent of the envelopes.
        readout_hidden: widths of the hidden layers of the energy's network.
        layer_norm: outputs of gated networks, and features before the readout, are normalised.
        mlp_out_bias: the maps behind sums of messages have biases, see above.
        predict_magmoms: absolute values of magnetic moments are predicted; they are trained with a
            weight `loss.magmoms`.
        energy_scale: eV per unit of the readout; from the training data (root mean square of the
            forces).
    """

    species: tuple[int, ...] | None = None
    cutoff: float = 6.0
    bond_cutoff: float = 3.0
    num_layers: int = 4
    num_features: int = 64
    num_radial: int = 31
    num_angular: int = 31
    polynomial_cutoff_p: int = 8
    readout_hidden: tuple[int, ...] = (64, 64, 64)
    layer_norm: bool = True
    mlp_out_bias: bool = False
    predict_magmoms: bool = False
    energy_scale: float | None = None
    many_activations = True  # see `mlip_jax.compilation`

    @property
    def hops(self) -> int:
        """Convolutions of atoms, each of which carries messages over one cutoff."""
        return self.num_layers

    @property
    def prefix_cutoffs(self) -> tuple[float, ...]:
        """Cutoffs [Å] of prefixes of the rows: that of the bond graph."""
        return (self.bond_cutoff,)

    @property
    def pair_cutoffs(self) -> tuple[float, ...]:
        """Cutoffs [Å] of angles, which are pairs of neighbours."""
        return (self.bond_cutoff,)

    @property
    def needs_reverse(self) -> bool:
        """A bond receives messages at both its ends."""
        return True

    def __call__(self, graph: AtomicGraph) -> AtomOutputs:
        """Energies [eV] and moments [μ_B]; `features` are those of atoms after the last layer.

        Raises:
            UserError: for fields that are not filled in or impossible.
        """
        known = self._checked_species()
        scale = from_data(self, "energy_scale")
        parameters = self._parameters(graph.positions.dtype)
        species = elements.species_index(graph.atomic_numbers, known)
        features, before_last = _features(self, parameters, graph, parameters.embedding[species])
        alone = self.get_variable("constants", "isolated_energies")
        if alone is None:
            alone = scale * _readout(parameters, _isolated(parameters))
        energies = scale * _readout(parameters, features) - alone[species]
        magmoms = None
        if parameters.moment is not None:
            magmoms = jnp.abs(dense.dense(parameters.moment, before_last)[:, 0])
        return AtomOutputs(energies=energies, magmoms=magmoms, features=features)

    def fold(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Variables for a program of float32, made from those in float64.

        Energies of isolated atoms become constants. Published weights never met such atoms, and
        give phosphorus 338 eV (r2SCAN), which the network has to 1e-4 eV in float32.
        """
        with double.allowed():
            energies = jax.jit(
                lambda given: self.apply(
                    given, np.dtype(np.float64), method=CHGNet.isolated_energies
                )
            )({"params": variables["params"]})
        constants = {**variables.get("constants", {}), "isolated_energies": np.asarray(energies)}
        return {**variables, "constants": constants}

    def isolated_energies(self, dtype: jnp.dtype) -> Float[Array, " species"]:
        """Energies [eV] of an atom of each element without neighbours, which are subtracted."""
        parameters = self._parameters(dtype)
        scale = from_data(self, "energy_scale")
        return scale * _readout(parameters, _isolated(parameters))

    @nn.compact
    def _parameters(self, dtype: jnp.dtype) -> Parameters:
        size, norm, bias = self.num_features, self.layer_norm, self.mlp_out_bias
        number = len(from_data(self, "species"))

        def linear(name: str, inputs: int, outputs: int = size, biased: bool = False) -> Dense:
            return DenseKernels((inputs, outputs), biased, name=name)(dtype)[0]

        def frequencies(name: str, number: int) -> Array:
            return self.param(name, lambda _: jnp.arange(1, number + 1, dtype=dtype))

        def convolution(name: str, parts: int) -> Convolution:
            kernels = ConvolutionKernels(parts * size, size, norm, bias, name=name)
            return kernels(dtype)

        between = range(self.num_layers - 1)
        return Parameters(
            embedding=self.param("embedding", nn.initializers.normal(1.0), (number, size), dtype),
            frequencies=(
                frequencies("atom_frequencies", self.num_radial),
                frequencies("bond_frequencies", self.num_radial),
                frequencies("angle_frequencies", self.num_angular // 2),
            ),
            maps=(
                linear("bond_embedding", self.num_radial),
                linear("atom_weights", self.num_radial),
                linear("bond_weights", self.num_radial),
                linear("angle_embedding", self.num_angular),
            ),
            atom_layers=tuple(convolution(f"atoms_{i}", 3) for i in range(self.num_layers)),
            bond_layers=tuple(convolution(f"bonds_{i}", 4) for i in between),
            angle_layers=tuple(
                GatedKernels(4 * size, size, False, norm, name=f"angles_{i}")(dtype)
                for i in between[:-1]
            ),
            moment=linear("moment", size, 1, True) if self.predict_magmoms else None,
            norm=NormKernels(size, name="norm")(dtype) if norm else None,
            readout=DenseKernels((size, *self.readout_hidden, 1), name="readout")(dtype),
        )

    def _checked_species(self) -> tuple[int, ...]:
        require_positive(self, "cutoff", "bond_cutoff", "num_layers", "num_features", "num_radial")
        if self.bond_cutoff > self.cutoff:
            raise UserError(
                f"chgnet.bond_cutoff: got {self.bond_cutoff} Å; expected at most the cutoff, "
                f"{self.cutoff} Å."
            )
        if self.num_angular < 1 or self.num_angular % 2 == 0:
            raise UserError(
                f"chgnet.num_angular: got {self.num_angular}; expected an odd number: a constant, "
                "and pairs of sine and cosine."
            )
        if self.polynomial_cutoff_p < 2:
            raise UserError(
                f"chgnet.polynomial_cutoff_p: got {self.polynomial_cutoff_p}; expected at least 2."
            )
        return tuple(from_data(self, "species"))


def _features(
    model: CHGNet, parameters: Parameters, graph: AtomicGraph, features: Float[Array, "atoms _"]
) -> tuple[Float[Array, "atoms _"], Float[Array, "atoms _"]]:
    """Features of atoms after the last layer, and before it.

    Args:
        model: its fields.
        parameters: its weights.
        graph: atoms and neighbours.
        features: of atoms, at first.
    """
    bonds, angles = _embed(model, parameters, graph)
    before_last = features
    for i, layer in enumerate(parameters.atom_layers):
        before_last = features
        features = layers.atom_convolution(layer, graph, features, bonds)
        if i < len(parameters.bond_layers):
            convolution = parameters.bond_layers[i]
            bonds = layers.bond_convolution(convolution, graph, features, bonds, angles)
        if i < len(parameters.angle_layers):
            update = parameters.angle_layers[i]
            angles = layers.angle_update(update, graph, features, bonds.near, angles)
    return features, before_last


def _embed(model: CHGNet, parameters: Parameters, graph: AtomicGraph) -> tuple[Bonds, Angles]:
    """Bonds and angles at first."""
    number = prefix_length(graph, model.bond_cutoff)
    exponent = model.polynomial_cutoff_p
    of_atoms, of_bonds, of_angles = parameters.frequencies
    to_bond, to_weight, to_bond_weight, to_angle = parameters.maps

    def radial(distances):
        return chgnet_basis.radial_basis(distances, of_atoms, model.cutoff, exponent)

    def near(distances):
        """Features and factors of messages, of atoms and of bonds."""
        basis = radial(distances)
        shorter = chgnet_basis.radial_basis(distances, of_bonds, model.bond_cutoff, exponent)
        kernels = (to_bond.kernel, to_weight.kernel)
        return jnp.concatenate(
            [*(basis @ kernel for kernel in kernels), shorter @ to_bond_weight.kernel], axis=-1
        )

    def basis(here, there):
        return chgnet_basis.angular_basis(here, there, of_angles) @ to_angle.kernel

    vectors = edge_vectors(graph)
    distances = safe_norm(vectors)
    within = distances < model.cutoff
    inside = distances[:, :number] < model.bond_cutoff
    found = slot_pieces.map_slots(near, graph, within[:, :number], (distances[:, :number],))
    features, of_message, weights = jnp.split(found, 3, axis=-1)
    lengths = jnp.where(distances == 0.0, 1.0, distances)[..., None]
    directions = (vectors / lengths)[:, :number]
    pairs = slot_pairs.slot_pairs(inside, pair_room(graph, model.bond_cutoff))
    # Angles that found no place would be missing silently.
    weights = jnp.where(slot_pairs.overfull(pairs), jnp.nan, weights)
    angles = Angles(weights, pairs, slot_pairs.map_pairs(basis, pairs, directions, directions))
    most = jax.ops.segment_max(
        jnp.sum(inside, axis=1), graph.graph_index, num_segments=graph.num_graphs
    )
    with_angles = most[graph.graph_index] >= np.int32(2)
    kernels = (to_bond.kernel, to_weight.kernel)
    far = Far(distances[:, number:], within[:, number:], radial, kernels)
    return Bonds(features, of_message, within[:, :number], far, with_angles), angles


def _isolated(parameters: Parameters) -> Float[Array, "species _"]:
    """Features, after the last layer, of atoms without neighbours: sums of messages are zero."""
    features = parameters.embedding
    for layer in parameters.atom_layers:
        features = features + dense.dense(layer.output, jnp.zeros_like(features))
    return features


def _readout(parameters: Parameters, features: Float[Array, "atoms _"]) -> Float[Array, " atoms"]:
    """Energies of atoms, in units of the scale."""
    if parameters.norm is not None:
        features = dense.layer_norm(parameters.norm, features)
    return dense.network(parameters.readout, features, jax.nn.silu)[:, 0]
