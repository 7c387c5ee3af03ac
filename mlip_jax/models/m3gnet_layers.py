"""The layers of M3GNet: sums over triplets, and updates of bonds and atoms (Chen and Ong 2022).

C. Chen, S. P. Ong, Nature Computational Science 2, 718 (2022). A bond is directed: it stands in the
row of the atom that receives it, and comes from the neighbour. Its triplets are at either end.
"""

import functools
import math
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mlip_jax.graph import AtomicGraph, map_atom_blocks
from mlip_jax.nn import dense
from mlip_jax.nn.dense import Dense, DenseKernels, Gated, GatedKernels

End = Literal["receiver", "sender"]

_einsum = functools.partial(jnp.einsum, precision="highest")


class Triplets(NamedTuple):
    """What sums over triplets need to know of the pairs within the three-body cutoff.

    Attributes:
        neighbors: index of each neighbour.
        weight: envelope of the three-body cutoff.
        radial: radial functions times weight, with those of one degree side by side, and the norm
            of the harmonic of this degree at the pole, `sqrt((2l + 1) / 4π)`.
        harmonics: of all degrees, with `Σ_m Y_lm(a) Y_lm(b) = P_l(a · b)`, of the unit vectors from
            the atom to its neighbours.
    """

    neighbors: Int[Array, "atoms prefix"]
    weight: Float[Array, "atoms prefix"]
    radial: Float[Array, "atoms prefix functions"]
    harmonics: Float[Array, "atoms prefix harmonics"]

    @property
    def num_degrees(self) -> int:
        """Degrees of the harmonics."""
        return math.isqrt(self.harmonics.shape[-1])

    def of_degree(self, l: int) -> Float[Array, "atoms prefix _"]:
        """The harmonics of one degree."""
        return self.harmonics[..., l * l : (l + 1) ** 2]


def moments(
    triplets: Triplets, values: Float[Array, "atoms prefix functions"]
) -> Float[Array, "atoms components"]:
    """`Σ_k f_b(k) Y_lm(r_ik)` of every function b of degree l, with the values f of the neighbours.

    Degree after degree, with the components m of a function side by side.
    """
    parts = []
    for l, of_degree in enumerate(jnp.split(values, triplets.num_degrees, axis=-1)):
        moment = _einsum("ikn,ikm->inm", of_degree, triplets.of_degree(l))
        parts.append(moment.reshape(moment.shape[0], -1))
    return jnp.concatenate(parts, axis=-1)


def sums_at_receiver(
    triplets: Triplets, sent: Float[Array, "all_atoms functions"]
) -> Float[Array, "atoms prefix functions"]:
    """Sums over the triplets of each bond at the atom that receives it; Chen and Ong (2022), eq. 2.

    For the bond of atom i to its neighbour j they are
    `w(r_ij) Σ_(k ≠ j) w(r_ik) R_b(r_ik) s_b(k) Y_l0(θ_jik)`. By the addition theorem the sum over
    all k is a product of the harmonics of r_ij and the moments of i; what k = j adds to it, at an
    angle of zero, is subtracted. No pairs of neighbours are formed.

    Args:
        triplets: pairs of some atoms.
        sent: s, of every atom.
    """
    values = triplets.radial * sent[triplets.neighbors]
    of_pairs = _products(triplets, moments(triplets, values), "inm,ikm->ikn")
    return triplets.weight[..., None] * (jnp.concatenate(of_pairs, axis=-1) - values)


def sums_at_sender(
    triplets: Triplets,
    at_atoms: Float[Array, "all_atoms components"],
    sent: Float[Array, "atoms functions"],
) -> Float[Array, "atoms prefix functions"]:
    """The same at the neighbour that a bond comes from, where its vector points the other way.

    Args:
        triplets: pairs of some atoms.
        at_atoms: moments of every atom.
        sent: s, of these atoms, which are among the neighbours of their neighbours.
    """
    values = triplets.radial * sent[:, None, :]
    of_pairs = _products(triplets, at_atoms[triplets.neighbors], "iknm,ikm->ikn")
    reflected = [(-1.0) ** l * of_degree for l, of_degree in enumerate(of_pairs)]
    return triplets.weight[..., None] * (jnp.concatenate(reflected, axis=-1) - values)


def _products(
    triplets: Triplets, of_rows: Float[Array, "*rows components"], subscripts: str
) -> list[Float[Array, "atoms prefix _"]]:
    """Products of moments and harmonics, summed over the components of each degree."""
    degrees = triplets.num_degrees
    number = triplets.radial.shape[-1] // degrees
    ends = [number * l * l for l in range(degrees + 1)]
    return [
        _einsum(
            subscripts,
            of_rows[..., ends[l] : ends[l + 1]].reshape(*of_rows.shape[:-1], number, 2 * l + 1),
            triplets.of_degree(l),
        )
        for l in range(degrees)
    ]


class BondInputs(NamedTuple):
    """The first layers of a gated network of [sender, receiver, bond], by where inputs come from.

    Attributes:
        sender: kernel for the features of the atom where the bond begins.
        receiver: layer for those of the atom where it ends.
        bond: kernel for those of the bond.
        rest: layers behind.
    """

    sender: Float[Array, "_ _"]
    receiver: Dense
    bond: Float[Array, "_ _"]
    rest: Gated


def bond_inputs(weights: Gated, features: int) -> BondInputs:
    """Splits the first layers of a gated network, and puts both side by side."""
    first = [layers[0] for layers in weights]
    kernel = jnp.concatenate([layer.kernel for layer in first], axis=-1)
    bias = jnp.concatenate([layer.bias for layer in first if layer.bias is not None])
    return BondInputs(
        sender=kernel[:features],
        receiver=Dense(kernel[features : 2 * features], bias),
        bond=kernel[2 * features :],
        rest=Gated(*(layers[1:] for layers in weights)),
    )


def bond_network(
    weights: BondInputs,
    sender: Float[Array, "atoms max_neighbors _"],
    receiver: Float[Array, "atoms features"],
    bond: Float[Array, "atoms max_neighbors bond_features"],
) -> Float[Array, "atoms max_neighbors _"]:
    """The gated network of all bonds.

    Args:
        weights: see `bond_inputs`.
        sender: what the kernel of the senders makes of their features.
        receiver: features of the atoms where bonds end.
        bond: features of the bonds.
    """
    first = sender + bond @ weights.bond
    first = nn.silu(first + dense.dense(weights.receiver, receiver)[:, None, :])
    network, gate = jnp.split(first, 2, axis=-1)
    gate = nn.sigmoid(dense.network(weights.rest.gate, gate, nn.silu))
    return dense.network(weights.rest.network, network, nn.silu, activate_last=True) * gate


class BlockWeights(NamedTuple):
    """Weights of a block.

    Attributes:
        sender: what an atom contributes to the triplets of its neighbours.
        triplets: from sums over triplets to bonds.
        bond: network that updates bonds.
        atom: network of messages.
        filters: factors of both, from radial functions.
    """

    sender: Dense
    triplets: Gated
    bond: BondInputs
    atom: BondInputs
    filters: tuple[Dense, Dense]


class Block(nn.Module):
    """Bonds learn of their triplets and of their atoms, then atoms of their bonds.

    Chen and Ong (2022), eq. 2 to 5.

    Attributes:
        num_features: of atoms.
        num_bond_features: of bonds.
        num_radial: size of the radial basis of bonds.
        num_triplet_functions: size of the basis of triplets.
        triplets_at: the end of a bond where its triplets are.
        width: of hidden layers.
    """

    num_features: int
    num_bond_features: int
    num_radial: int
    num_triplet_functions: int
    triplets_at: End
    width: int

    @nn.compact
    def __call__(
        self,
        graph: AtomicGraph,
        basis: Float[Array, "atoms max_neighbors basis"],
        triplets: Triplets,
        features: Float[Array, "atoms features"],
        bonds: Float[Array, "atoms max_neighbors bond_features"],
    ) -> tuple[Float[Array, "atoms features"], Float[Array, "atoms max_neighbors bond_features"]]:
        """New features of atoms and of the bonds that they receive.

        Args:
            graph: atoms and neighbours.
            basis: radial functions of bonds, zero from the cutoff on.
            triplets: pairs within the three-body cutoff.
            features: of atoms.
            bonds: features of bonds.
        """
        weights = self._weights(basis.dtype)
        sent = nn.sigmoid(dense.dense(weights.sender, features))
        collected = None
        if self.triplets_at == "sender":
            collected = _moments(graph, triplets, sent)
        senders = tuple(features @ inputs.sender for inputs in (weights.bond, weights.atom))

        def block(basis, neighbors, own, own_sent, bonds, *rows):
            triplets = Triplets(*rows)
            if collected is None:
                sums = sums_at_receiver(triplets, sent)
            else:
                sums = sums_at_sender(triplets, collected, own_sent)
            change = dense.gated_network(weights.triplets, sums, nn.silu, activate_last=True)
            prefix = change.shape[1]
            bonds = jnp.concatenate([bonds[:, :prefix] + change, bonds[:, prefix:]], axis=1)
            filters = [dense.dense(layer, basis) for layer in weights.filters]
            update = bond_network(weights.bond, senders[0][neighbors], own, bonds)
            bonds = bonds + update * filters[0]
            message = bond_network(weights.atom, senders[1][neighbors], own, bonds)
            return own + jnp.sum(message * filters[1], axis=1), bonds

        return map_atom_blocks(
            block, graph, basis, graph.neighbors, features, sent, bonds, *triplets
        )

    def _weights(self, dtype: jnp.dtype) -> BlockWeights:
        size, of_bond = self.num_features, self.num_bond_features
        functions = self.num_triplet_functions
        (sender,) = DenseKernels((size, functions), name="sender")(dtype)
        inputs = (2 * size + of_bond, self.width, self.width)
        filters = {}
        for name, outputs in (("bond_filter", of_bond), ("atom_filter", size)):
            (filters[name],) = DenseKernels((self.num_radial, outputs), False, name=name)(dtype)
        return BlockWeights(
            sender=sender,
            triplets=GatedKernels((functions, of_bond), bias=False, name="triplets")(dtype),
            bond=bond_inputs(GatedKernels((*inputs, of_bond), name="bond")(dtype), size),
            atom=bond_inputs(GatedKernels((*inputs, size), name="atom")(dtype), size),
            filters=(filters["bond_filter"], filters["atom_filter"]),
        )


def _moments(
    graph: AtomicGraph, triplets: Triplets, sent: Float[Array, "atoms functions"]
) -> Float[Array, "atoms components"]:
    """Moments of what the neighbours of every atom send."""

    def block(*rows: Array) -> Array:
        of_rows = Triplets(*rows)
        return moments(of_rows, of_rows.radial * sent[of_rows.neighbors])

    return map_atom_blocks(block, graph, *triplets)
