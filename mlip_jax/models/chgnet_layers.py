"""The layers of CHGNet: the two convolutions and the update of angles.

B. Deng et al., "CHGNet as a pretrained universal neural network potential for charge-informed
atomistic modelling", Nature Machine Intelligence 5, 1031 (2023), methods.

Features of bonds change only within the bond graph, whose bonds stand in the first n slots of every
row. Those of the others are functions of their lengths, and are computed where they are read.

A bond has one feature. It stands in the slots of both its directions, with the same value: what
bonds receive from the angles at either end is added over a slot and its reverse. Angles are pairs
of slots of the first part of a row, in either order, as a list of those that are there.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mlip_jax.config import UserError
from mlip_jax.graph import PADDED_DISTANCE, AtomicGraph
from mlip_jax.models.chgnet_networks import Convolution, Gated, gated
from mlip_jax.nn import dense, slot_pairs, slot_pieces
from mlip_jax.nn.dense import Dense
from mlip_jax.nn.slot_pairs import SlotPairs


class Far(NamedTuple):
    """Bonds beyond the bond graph.

    Attributes:
        distances: Å.
        inside: which are within the cutoff.
        radial: basis of a distance.
        kernels: of the basis to the features of a bond, and to the factors of its messages.
    """

    distances: Float[Array, "atoms slots"]
    inside: Bool[Array, "atoms slots"]
    radial: Callable[[Float[Array, "*slots"]], Float[Array, "*slots basis"]]
    kernels: tuple[Float[Array, "basis features"], Float[Array, "basis features"]]


class Bonds(NamedTuple):
    """Bonds of all rows.

    Attributes:
        near: features of those in the first n slots.
        weights: factors of messages along these.
        inside: which of these are within the cutoff.
        far: the others.
        with_angles: atoms of structures that have an angle; there are no biases in the others.
        bias: sum of the biases that every bond of a structure with angles has got, for the far
            ones.
    """

    near: Float[Array, "atoms n features"]
    weights: Float[Array, "atoms n features"]
    inside: Bool[Array, "atoms n"]
    far: Far
    with_angles: Bool[Array, " atoms"]
    bias: Float[Array, " features"] | None = None


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


def atom_convolution(
    layer: Convolution,
    graph: AtomicGraph,
    features: Float[Array, "atoms features"],
    bonds: Bonds,
) -> Float[Array, "atoms features"]:
    """Features of atoms, with messages of their neighbours added; Deng et al., methods.

    Args:
        layer: weights; a message has the inputs atom, bond, neighbour.
        graph: atoms and neighbours.
        features: of atoms.
        bonds: those of the graph.
    """
    message, far = layer.message, bonds.far
    number = bonds.near.shape[1]
    of_atom, of_bond, of_neighbor = jnp.split(message.first.kernel, 3)
    own = dense.dense(Dense(of_atom, message.first.bias), features)
    sent = features @ of_neighbor
    to_bond, to_weight = far.kernels
    to_input = to_bond @ of_bond

    def messages(bonds, weights, neighbors, own):
        inputs = own[:, None, :] + bonds @ of_bond + sent[neighbors]
        return gated(message, inputs) * weights

    def far_messages(distances, neighbors, own):
        basis = far.radial(jnp.where(distances > 0.0, distances, PADDED_DISTANCE))
        inputs = own[:, None, :] + basis @ to_input + sent[neighbors]
        return gated(message, inputs) * (basis @ to_weight)

    near = (bonds.near, bonds.weights, graph.neighbors[:, :number])
    received = slot_pieces.map_slots(messages, graph, bonds.inside, near, (own,), sums=True)
    if far.distances.shape[1] > 0:
        if bonds.bias is not None:
            own = own + jnp.where(bonds.with_angles[:, None], bonds.bias @ of_bond, 0.0)
        slots = (far.distances, graph.neighbors[:, number:])
        received = received + slot_pieces.map_slots(
            far_messages, graph, far.inside, slots, (own,), sums=True
        )
    return features + dense.dense(layer.output, received)


def bond_convolution(
    layer: Convolution,
    graph: AtomicGraph,
    features: Float[Array, "atoms features"],
    bonds: Bonds,
    angles: Angles,
) -> Bonds:
    """Bonds, with messages of the bonds at both ends added; Deng et al., methods.

    Args:
        layer: weights; a message has the inputs bond, other bond, angle, atom between them. A
            bias behind their sum goes to every bond of a structure, whatever its length.
        graph: atoms and neighbours, with `reverse`.
        features: of atoms.
        bonds: those of the graph.
        angles: of the bond graph.
    """
    size = angles.weights.shape[2]
    first, second = _of_ends(layer.message, features, bonds.near)

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
    near, bias = bonds.near + change, layer.output.bias
    if bias is None:
        return bonds._replace(near=near)
    near = near + jnp.where(bonds.with_angles[:, None], bias, 0.0)[:, None, :]
    return bonds._replace(near=near, bias=bias if bonds.bias is None else bonds.bias + bias)


def angle_update(
    network: Gated,
    graph: AtomicGraph,
    features: Float[Array, "atoms features"],
    bonds: Float[Array, "atoms n features"],
    angles: Angles,
) -> Angles:
    """Angles whose features have seen their bonds and their atom; Deng et al., methods.

    Args:
        network: weights; its inputs are bond, other bond, angle, atom between them.
        graph: atoms and neighbours.
        features: of atoms.
        bonds: features of bonds of the bond graph.
        angles: of the bond graph.
    """

    def updated(first, second, of_angles):
        return of_angles + gated(network, _angle_inputs(network, first, second, of_angles))

    ends = _of_ends(network, features, bonds)
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
