"""TensorNet: message passing with Cartesian tensors of rank two (Simeon and De Fabritiis 2023).

G. Simeon, G. De Fabritiis, "TensorNet: Cartesian tensor representations for efficient learning of
molecular potentials", NeurIPS 2023, arXiv:2306.06482. Radial functions and readout are those of the
paper or, by choice, those of the program matgl, whose published weights are read by
`interop.weights.tensornet`.
"""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.graph import AtomicGraph, AtomOutputs, edge_vectors, safe_norm
from mlip_jax.models.fields import from_data, require_positive
from mlip_jax.models.tensornet_layers import (
    Edges,
    Embedding,
    Group,
    Interaction,
    Readout,
    ReadoutName,
    message_widths,
)
from mlip_jax.nn import cartesian, dense, double, mlp, radial, radial_series
from mlip_jax.nn.cartesian import Tensors
from mlip_jax.nn.dense import DenseKernels

RadialName = Literal["exp_normal", "gaussian", "smooth_bessel"]


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
    readout: ReadoutName = "mlp"
    energy_scale: float | None = None

    @property
    def hops(self) -> int:
        """The embedding sees neighbours, and every interaction carries messages one cutoff on."""
        return self.num_layers + 1

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
        energies = from_data(self, "energy_scale") * (readout(features) - alone)
        return AtomOutputs(energies=energies, features=features)

    def fold(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Variables for a program of float32, made from those in float64.

        The networks that weight messages become series of the distance, as constants `series` of
        the interactions; those that vary too quickly for that stay.
        """
        params = variables["params"]
        constants = dict(variables.get("constants", {}))
        widths = message_widths(self.num_radial, self.num_features)
        activation = mlp.activation(self.activation, "tensornet.activation")
        basis = RadialBasis(*self._radial(), parent=None)
        network = DenseKernels(widths, parent=None)
        for i in range(self.num_layers):
            of_layer = {"params": params[f"interaction_{i}"]["radial"]}

            def weights(distances: Array, of_layer: Any = of_layer) -> Array:
                layers: Any = network.apply(of_layer, distances.dtype)
                functions: Any = basis.apply({"params": params.get("radial", {})}, distances)
                return dense.network(layers, functions, activation, activate_last=True)

            with double.allowed():
                sampled = jax.jit(weights)
                series = radial_series.radial_series(sampled, self.cutoff, radial_series.PRECISION)
            if series is not None:
                constants[f"interaction_{i}"] = {"series": series}
        return {**variables, "constants": constants}

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
                self.cutoff,
                self.group,
                self.activation,
                name=f"interaction_{i}",
            )(graph, edges, x)
        return x

    def _edges(self, vectors: Float[Array, "atoms max_neighbors 3"]) -> Edges:
        distances = safe_norm(vectors)
        directions = -vectors / jnp.where(distances == 0.0, 1.0, distances)[..., None]
        envelope = radial.cosine_envelope(distances, self.cutoff)
        return Edges(
            distances, RadialBasis(*self._radial(), name="radial")(distances), envelope, directions
        )

    def _radial(self) -> tuple[Any, ...]:
        """Fields of the radial basis."""
        return (
            self.radial_basis,
            self.num_radial,
            self.cutoff,
            self.radial_trainable,
            self.gaussian_range,
            self.gaussian_width,
        )

    def _checked_species(self) -> tuple[int, ...]:
        require_positive(self, "cutoff", "num_features", "num_radial")
        if self.num_layers < 0:
            raise UserError(f"tensornet.num_layers: got {self.num_layers}; expected 0 or more.")
        return tuple(from_data(self, "species"))


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
        centres = jnp.asarray(start[0], distances.dtype)
        widths = jnp.asarray(start[1], distances.dtype)
        if self.trainable:
            centres = self.param("centres", lambda _: jnp.asarray(start[0], distances.dtype))
            widths = self.param("widths", lambda _: jnp.asarray(start[1], distances.dtype))
        envelope = radial.cosine_envelope(distances, self.cutoff)[..., None]
        return envelope * radial.exp_normal(distances, centres, widths, self.cutoff)
