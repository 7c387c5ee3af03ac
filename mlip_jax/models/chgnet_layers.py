"""The layers of CHGNet: gated networks, the two convolutions and the update of angles.

B. Deng et al., "CHGNet as a pretrained universal neural network potential for charge-informed
atomistic modelling", Nature Machine Intelligence 5, 1031 (2023), methods.

A bond has one feature. It stands in the slots of both its directions, with the same value: what
bonds receive from the angles at either end is added over a slot and its reverse. Angles are pairs
of slots of the first part of a row, in either order, as a list of those that are there.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mlip_jax.config import UserError
from mlip_jax.graph import AtomicGraph
from mlip_jax.nn import dense, slot_pairs, slot_pieces
from mlip_jax.nn.dense import Dense, DenseKernels, Norm, NormKernels
from mlip_jax.nn.slot_pairs import SlotPairs


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
        pairs: the pairs of slots between which there are angles.
        features: of these angles.
    """

    weights: Float[Array, "atoms n features"]
    pairs: SlotPairs
    features: Float[Array, "groups places features"]


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
    inside: Bool[Array, "atoms max_neighbors"],
) -> Float[Array, "atoms features"]:
    """Features of atoms, with messages of their neighbours added; Deng et al., methods.

    Args:
        layer: weights; a message has the inputs atom, bond, neighbour.
        graph: atoms and neighbours.
        features: of atoms.
        bonds: features of bonds.
        weights: factors of messages, zero from the cutoff on.
        inside: neighbours within the cutoff.
    """
    message = layer.message
    of_atom, of_bond, of_neighbor = jnp.split(message.first.kernel, 3)
    own = dense.dense(Dense(of_atom, message.first.bias), features)
    sent = features @ of_neighbor

    def messages(bonds, weights, neighbors, own):
        inputs = own[:, None, :] + bonds @ of_bond + sent[neighbors]
        return gated(message, inputs) * weights

    slots = (bonds, weights, graph.neighbors)
    received = slot_pieces.map_slots(messages, graph, inside, slots, (own,), sums=True)
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
    number, size = angles.weights.shape[1:]
    first, second = _of_ends(layer.message, features, bonds[:, :number])

    def messages(first, second, of_angles):
        # The factors of the bonds stand before what the network reads.
        inputs = _angle_inputs(layer.message, first[:, size:], second[:, size:], of_angles)
        return gated(layer.message, inputs) * first[:, :size] * second[:, :size]

    sums = slot_pairs.map_pairs(
        messages,
        angles.pairs,
        jnp.concatenate([angles.weights, first], axis=-1),
        jnp.concatenate([angles.weights, second], axis=-1),
        angles.features,
        sums=True,
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

    def updated(first, second, of_angles):
        return of_angles + gated(network, _angle_inputs(network, first, second, of_angles))

    number = angles.weights.shape[1]
    ends = _of_ends(network, features, bonds[:, :number])
    return angles._replace(
        features=slot_pairs.map_pairs(updated, angles.pairs, *ends, angles.features)
    )


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


def _of_ends(
    network: Gated,
    features: Float[Array, "atoms features"],
    bonds: Float[Array, "atoms n features"],
) -> tuple[Float[Array, "atoms n twice"], Float[Array, "atoms n twice"]]:
    """What bonds, first or second of an angle, and their atom give to a network's first layer."""
    of_bond, of_other, _, of_atom = jnp.split(network.first.kernel, 4)
    own = dense.dense(Dense(of_atom, network.first.bias), features)
    return bonds @ of_bond + own[:, None, :], bonds @ of_other


def _angle_inputs(
    network: Gated,
    first: Float[Array, "angles twice"],
    second: Float[Array, "angles twice"],
    angles: Float[Array, "angles features"],
) -> Float[Array, "angles twice"]:
    """Outputs of the first layer of a network of two bonds, their angle and their atom."""
    return first + second + angles @ jnp.split(network.first.kernel, 4)[2]
