"""The layers of CHGNet: gated networks, the two convolutions and the update of angles.

B. Deng et al., "CHGNet as a pretrained universal neural network potential for charge-informed
atomistic modelling", Nature Machine Intelligence 5, 1031 (2023), methods.

A bond has one feature. It stands in the slots of both its directions, with the same value: what
bonds receive from the angles at either end is added over a slot and its reverse. Angles are pairs
of slots of the first part of a row, in either order.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mlip_jax.config import UserError
from mlip_jax.graph import AtomicGraph, map_atom_blocks
from mlip_jax.nn import dense, radial
from mlip_jax.nn.dense import Dense, DenseKernels, Norm, NormKernels

COSINE_FACTOR = 1.0 - 1e-6
"""F, by which cosines are multiplied before their angle is taken."""


class Gated(NamedTuple):
    """Weights of a gated network, `silu(core(x)) * sigmoid(gate(x))`.

    Attributes:
        first: first layer of both networks, core and gate side by side.
        core: second layer, where there is one.
        gate: likewise.
        norms: of the outputs of both, before they meet.
    """

    first: Dense
    core: tuple[Dense, ...]
    gate: tuple[Dense, ...]
    norms: tuple[Norm, Norm] | None


class Convolution(NamedTuple):
    """Weights of a convolution: of messages, and of the map behind their sum."""

    message: Gated
    output: Dense


class Angles(NamedTuple):
    """What the bond graph is made of; n slots of every row take part.

    Attributes:
        weights: factors of bonds, zero from the bond graph's cutoff on.
        features: of the angle between two slots of an atom.
    """

    weights: Float[Array, "atoms n features"]
    features: Float[Array, "atoms n n features"]


class GatedKernels(nn.Module):
    """Weights of a gated network.

    Attributes:
        inputs: their number.
        size: number of hidden units, and of outputs.
        deep: with a hidden layer.
        layer_norm: outputs of core and gate are normalised.
    """

    inputs: int
    size: int
    deep: bool
    layer_norm: bool

    @nn.compact
    def __call__(self, dtype: jnp.dtype) -> Gated:
        """The weights."""
        (first,) = DenseKernels((self.inputs, 2 * self.size), name="first")(dtype)
        second = (self.size,) * 2 if self.deep else (self.size,)
        core = DenseKernels(second, name="core")(dtype)
        gate = DenseKernels(second, name="gate")(dtype)
        norms = None
        if self.layer_norm:
            norms = (
                NormKernels(self.size, name="core_norm")(dtype),
                NormKernels(self.size, name="gate_norm")(dtype),
            )
        return Gated(first, core, gate, norms)


class ConvolutionKernels(nn.Module):
    """Weights of a convolution; attributes see `GatedKernels`.

    Attributes:
        bias: the map behind the sum of messages has one.
    """

    inputs: int
    size: int
    layer_norm: bool
    bias: bool

    @nn.compact
    def __call__(self, dtype: jnp.dtype) -> Convolution:
        """The weights."""
        message = GatedKernels(self.inputs, self.size, True, self.layer_norm, name="message")(dtype)
        (output,) = DenseKernels((self.size, self.size), self.bias, name="output")(dtype)
        return Convolution(message, output)


def radial_basis(
    distances: Float[Array, "*edges"],
    frequencies: Float[Array, " basis"],
    cutoff: float,
    exponent: int,
) -> Float[Array, "*edges basis"]:
    """`sqrt(2 / c) sin(n π r / c) / r` times the polynomial envelope, zero from the cutoff on.

    Args:
        distances: Å.
        frequencies: n.
        cutoff: c, Å.
        exponent: of the envelope.
    """
    envelope = radial.polynomial_envelope(distances, cutoff, exponent)
    scaled = envelope * (math.sqrt(2.0 / cutoff) * math.pi / cutoff)
    return radial.bessel(distances, frequencies, cutoff) * scaled[..., None]


def angular_basis(
    directions: Float[Array, "atoms n 3"], frequencies: Float[Array, " half"]
) -> Float[Array, "atoms n n basis"]:
    """`[1/√2, sin f θ, cos f θ] / √π` of the angles between directions; Deng et al., eq. 1.

    The published angle is `θ = arccos(F cos)` with `F = COSINE_FACTOR`, so that 0 and π are never
    reached. Its sine, `sqrt(sin² + (1 - F²) cos²)` with the sine of a cross product, keeps its
    digits where directions are parallel: in float32 the arc cosine loses half of them. Frequencies
    are trained, not integers, so that there is no recurrence without θ.

    Args:
        directions: unit vectors; any vector of length one in padded slots.
        frequencies: f.
    """
    here, there = directions[:, :, None, :], directions[:, None, :, :]
    cosines = jnp.sum(here * there, axis=-1)
    crossed = jnp.cross(here, there)
    squares = jnp.sum(crossed * crossed, axis=-1)
    rest = 1.0 - COSINE_FACTOR**2
    angles = jnp.arctan2(jnp.sqrt(squares + rest * cosines * cosines), COSINE_FACTOR * cosines)
    phases = angles[..., None] * frequencies.reshape(1, 1, 1, -1)
    constant = jnp.full((*cosines.shape, 1), math.sqrt(0.5), cosines.dtype)
    functions = [constant, jnp.sin(phases), jnp.cos(phases)]
    return jnp.concatenate(functions, axis=-1) / math.sqrt(math.pi)


def gated(network: Gated, inputs: Float[Array, "*batch twice"]) -> Float[Array, "*batch features"]:
    """Output of a gated network behind its first layer.

    Args:
        network: weights.
        inputs: outputs of the first layer.
    """
    core, gate = jnp.split(inputs, 2, axis=-1)
    if network.core:
        core = dense.network(network.core, jax.nn.silu(core), jax.nn.silu)
        gate = dense.network(network.gate, jax.nn.silu(gate), jax.nn.silu)
    if network.norms is not None:
        core = dense.layer_norm(network.norms[0], core)
        gate = dense.layer_norm(network.norms[1], gate)
    return jax.nn.silu(core) * jax.nn.sigmoid(gate)


def atom_convolution(
    layer: Convolution,
    graph: AtomicGraph,
    features: Float[Array, "atoms features"],
    bonds: Float[Array, "atoms max_neighbors features"],
    weights: Float[Array, "atoms max_neighbors features"],
) -> Float[Array, "atoms features"]:
    """Features of atoms, with messages of their neighbours added; Deng et al., methods.

    Args:
        layer: weights; a message has the inputs atom, bond, neighbour.
        graph: atoms and neighbours.
        features: of atoms.
        bonds: features of bonds.
        weights: factors of messages, zero from the cutoff on.
    """
    message = layer.message
    of_atom, of_bond, of_neighbor = jnp.split(message.first.kernel, 3)
    own = dense.dense(Dense(of_atom, message.first.bias), features)
    sent = features @ of_neighbor

    def block(bonds, weights, neighbors, own):
        inputs = own[:, None, :] + bonds @ of_bond + sent[neighbors]
        return jnp.sum(gated(message, inputs) * weights, axis=1)

    received = map_atom_blocks(block, graph, bonds, weights, graph.neighbors, own)
    return features + dense.dense(layer.output, received)


def bond_convolution(
    layer: Convolution,
    graph: AtomicGraph,
    features: Float[Array, "atoms features"],
    bonds: Float[Array, "atoms max_neighbors features"],
    angles: Angles,
    with_angles: Bool[Array, " atoms"],
) -> Float[Array, "atoms max_neighbors features"]:
    """Features of bonds, with messages of the bonds at both ends added; Deng et al., methods.

    Args:
        layer: weights; a message has the inputs bond, other bond, angle, atom between them. A
            bias behind their sum goes to every bond of a structure, whatever its length.
        graph: atoms and neighbours, with `reverse`.
        features: of atoms.
        bonds: features of bonds.
        angles: of the bond graph.
        with_angles: atoms of structures that have an angle; there are no biases in the others.
    """
    number = angles.weights.shape[1]
    other = jnp.asarray(1.0 - np.eye(number)[None, :, :, None], bonds.dtype)

    def block(bonds, weights, of_angles, features):
        messages = gated(layer.message, _angle_inputs(layer.message, bonds, of_angles, features))
        return weights * jnp.sum(messages * weights[:, None] * other, axis=2)

    sums = map_atom_blocks(
        block, graph, bonds[:, :number], angles.weights, angles.features, features
    )
    change = (sums + reverse_values(graph, sums)) @ layer.output.kernel
    bonds = jnp.concatenate([bonds[:, :number] + change, bonds[:, number:]], axis=1)
    if layer.output.bias is None:
        return bonds
    return bonds + jnp.where(with_angles[:, None], layer.output.bias[None, :], 0.0)[:, None, :]


def angle_update(
    network: Gated,
    graph: AtomicGraph,
    features: Float[Array, "atoms features"],
    bonds: Float[Array, "atoms max_neighbors features"],
    angles: Angles,
) -> Angles:
    """Angles whose features have seen their bonds and their atom; Deng et al., methods.

    Args:
        network: weights; its inputs are bond, other bond, angle, atom between them.
        graph: atoms and neighbours.
        features: of atoms.
        bonds: features of bonds.
        angles: of the bond graph.
    """

    def block(bonds, of_angles, features):
        return of_angles + gated(network, _angle_inputs(network, bonds, of_angles, features))

    number = angles.weights.shape[1]
    new = map_atom_blocks(block, graph, bonds[:, :number], angles.features, features)
    return angles._replace(features=new)


def reverse_values(
    graph: AtomicGraph, values: Float[Array, "atoms n features"]
) -> Float[Array, "atoms n features"]:
    """What stands in the slots of the opposite edges; zero where that is not among the first n.

    Raises:
        UserError: for a graph without `reverse`.
    """
    if graph.reverse is None:
        raise UserError("graph: got no slots of reverse edges; make the graph with reverse=True.")
    number = values.shape[1]
    atom, slot = jnp.divmod(graph.reverse[:, :number], graph.max_neighbors)
    inside = slot < number
    found = values.reshape(-1, values.shape[2])[atom * number + jnp.where(inside, slot, 0)]
    return jnp.where(inside[..., None], found, 0.0)


def _angle_inputs(
    network: Gated,
    bonds: Float[Array, "atoms n features"],
    angles: Float[Array, "atoms n n features"],
    features: Float[Array, "atoms features"],
) -> Float[Array, "atoms n n twice"]:
    """Outputs of the first layer of a network of two bonds, their angle and their atom."""
    of_bond, of_other, of_angle, of_atom = jnp.split(network.first.kernel, 4)
    own = dense.dense(Dense(of_atom, network.first.bias), features)
    of_bonds = (bonds @ of_bond + own[:, None, :])[:, :, None, :] + (bonds @ of_other)[:, None]
    return of_bonds + angles @ of_angle
