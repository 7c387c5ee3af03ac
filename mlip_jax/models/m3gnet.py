"""M3GNet: a graph network of atoms, bonds and triplets (Chen and Ong 2022).

C. Chen, S. P. Ong, "A universal graph deep learning interatomic potential for the periodic table",
Nature Computational Science 2, 718 (2022). Radial functions, and the ends of bonds where triplets
are, may be those of the program matgl: `interop.weights.m3gnet` reads its published weights.
"""

import math
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.graph import AtomicGraph, AtomOutputs, edge_vectors, prefix_length, safe_norm
from mlip_jax.models.fields import from_data, require_positive
from mlip_jax.models.m3gnet_layers import Block, End, Triplets
from mlip_jax.nn import angular, dense, radial, spherical_bessel
from mlip_jax.nn.dense import DenseKernels, GatedKernels

BasisName = Literal["smooth_bessel", "spherical_bessel"]


class M3GNet(nn.Module):
    """Energies of atoms from features of atoms and of bonds, which know their angles.

    The energy of an isolated atom is subtracted: it is zero, whatever the parameters.

    Attributes:
        species: atomic numbers; from the training data.
        cutoff: of bonds, Å.
        threebody_cutoff: of both bonds of a triplet, Å, at most `cutoff`.
        num_blocks: blocks of a three-body interaction and a graph convolution.
        max_n: radial functions; of triplets, as many for each degree.
        max_l: degrees of the angles of triplets, l = 0 … `max_l` - 1.
        num_features: of an atom.
        num_bond_features: of a bond.
        width: of the hidden layers of updates and readout.
        triplets_at: the end of a bond where its triplets are: at the atom that receives messages
            through it (`receiver`, the paper's), or at the neighbour that sends them (`sender`, as
            in matgl up to 4.0).
        radial_basis: functions of the length of a bond. `smooth_bessel` is the paper's (Kocer et
            al. 2020): `max_n` functions. With `spherical_bessel`, `max_n` times `max_l` functions,
            which some published weights have, forces jump where a neighbour passes the cutoff,
            since the slopes of these functions do not vanish there.
        threebody_basis: radial functions of triplets, `max_n` times `max_l` of either kind, zero at
            `cutoff`; a polynomial ends triplets smoothly at `threebody_cutoff`. `spherical_bessel`,
            of the degree of the angle, is the paper's.
        energy_scale: eV per unit of the readout; from the training data (root mean square of the
            forces).
    """

    species: tuple[int, ...] | None = None
    cutoff: float = 5.0
    threebody_cutoff: float = 4.0
    num_blocks: int = 3
    max_n: int = 3
    max_l: int = 3
    num_features: int = 64
    num_bond_features: int = 64
    width: int = 64
    triplets_at: End = "receiver"
    radial_basis: BasisName = "smooth_bessel"
    threebody_basis: BasisName = "spherical_bessel"
    energy_scale: float | None = None

    @property
    def hops(self) -> int:
        """Of each block one, and one more where triplets are at the neighbour that sends."""
        return self.num_blocks * (2 if self.triplets_at == "sender" else 1)

    @property
    def prefix_cutoffs(self) -> tuple[float, ...]:
        """Cutoff of the neighbours that triplets read."""
        return (self.threebody_cutoff,)

    @nn.compact
    def __call__(self, graph: AtomicGraph) -> AtomOutputs:
        """Energies [eV] of all atoms; `features` are those of the last block.

        Raises:
            UserError: for fields that are not filled in or impossible.
        """
        known = self._checked_species()
        dtype, size = graph.positions.dtype, self.num_features
        normal = nn.initializers.normal(1.0)
        embedding = self.param("embedding", normal, (len(known), size), dtype)
        species = elements.species_index(graph.atomic_numbers, known)
        vectors = edge_vectors(graph)
        distances = safe_norm(vectors)
        basis = self._basis(self.radial_basis, distances, self.max_n)
        triplets = self._triplets(graph, vectors, distances)
        num_radial = basis.shape[-1]
        of_bond = DenseKernels((num_radial, self.num_bond_features), name="bond_embedding")(dtype)
        features, bonds = embedding[species], nn.silu(dense.dense(of_bond[0], basis))
        for i in range(self.num_blocks):
            features, bonds = Block(
                num_features=size,
                num_bond_features=self.num_bond_features,
                num_radial=num_radial,
                num_triplet_functions=self.max_n * self.max_l,
                triplets_at=self.triplets_at,
                width=self.width,
                name=f"block_{i}",
            )(graph, basis, triplets, features, bonds)
        readout = GatedKernels(readout_widths(size, self.width), name="readout")(dtype)
        # An isolated atom receives nothing: its features stay those of its element.
        energies, alone = (
            dense.gated_network(readout, x, nn.silu)[:, 0] for x in (features, embedding)
        )
        energies = from_data(self, "energy_scale") * (energies - alone[species])
        return AtomOutputs(energies=energies, features=features)

    def _basis(
        self, name: BasisName, distances: Float[Array, "atoms neighbors"], number: int
    ) -> Float[Array, "atoms neighbors basis"]:
        """Radial functions, `number` smooth ones or those of all degrees."""
        if name == "smooth_bessel":
            return radial.smooth_bessel(distances, number, self.cutoff)
        return spherical_bessel.spherical_bessel(distances, self.max_n, self.max_l, self.cutoff)

    def _triplets(
        self,
        graph: AtomicGraph,
        vectors: Float[Array, "atoms max_neighbors 3"],
        distances: Float[Array, "atoms max_neighbors"],
    ) -> Triplets:
        prefix = prefix_length(graph, self.threebody_cutoff)
        vectors, distances = vectors[:, :prefix], distances[:, :prefix]
        directions = vectors / jnp.where(distances == 0.0, 1.0, distances)[..., None]
        weight = radial.polynomial_envelope(distances, self.threebody_cutoff, 3)
        basis = self._basis(self.threebody_basis, distances, self.max_n * self.max_l)
        degrees = range(self.max_l)
        poles = [
            math.sqrt((2 * l + 1) / (4.0 * math.pi)) for l in degrees for _ in range(self.max_n)
        ]
        harmonics = angular.spherical_harmonics(directions, self.max_l - 1)
        return Triplets(
            neighbors=graph.neighbors[:, :prefix],
            weight=weight,
            radial=basis * weight[..., None] * jnp.asarray(poles, basis.dtype)[None, None],
            harmonics=jnp.concatenate(
                [y / math.sqrt(2 * l + 1) for l, y in enumerate(harmonics)], axis=-1
            ),
        )

    def _checked_species(self) -> tuple[int, ...]:
        require_positive(
            self,
            "cutoff",
            "threebody_cutoff",
            "num_blocks",
            "max_n",
            "max_l",
            "num_features",
            "num_bond_features",
            "width",
        )
        if self.threebody_cutoff > self.cutoff:
            raise UserError(
                f"m3gnet.threebody_cutoff: got {self.threebody_cutoff} Å; expected at most the "
                f"cutoff of bonds, {self.cutoff} Å."
            )
        return tuple(from_data(self, "species"))


def readout_widths(num_features: int, width: int) -> tuple[int, ...]:
    """Widths of the gated network that gives the energy of an atom."""
    return (num_features, num_features, width, width, 1)
