"""SchNet: continuous-filter convolutions (Schütt et al. 2017, 2018).

K. T. Schütt et al., "SchNet: A continuous-filter convolutional neural network for modeling quantum
interactions", NeurIPS 2017, arXiv:1706.08566; "SchNet – a deep learning architecture for molecules
and materials", J. Chem. Phys. 148, 241722 (2018), arXiv:1712.06113.
"""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mlip_jax import elements
from mlip_jax.graph import AtomicGraph, AtomOutputs, edge_vectors, map_atom_blocks, safe_norm
from mlip_jax.models.fields import from_data, require_positive
from mlip_jax.models.local import isolated_atoms
from mlip_jax.nn import dense, radial
from mlip_jax.nn.dense import Dense, DenseKernels
from mlip_jax.nn.mlp import shifted_softplus

EnvelopeName = Literal["cosine", "polynomial"]


class Interaction(NamedTuple):
    """Weights of an interaction block.

    Attributes:
        sender: map of the neighbour's features before they are filtered.
        filters: the filter-generating network.
        update: network of what was received.
    """

    sender: Dense
    filters: tuple[Dense, ...]
    update: tuple[Dense, ...]


class SchNet(nn.Module):
    """Energies of atoms from features that neighbours send each other through radial filters.

    An atom without neighbours would have an energy that depends on its element; it is subtracted.

    Attributes:
        species: atomic numbers; from the training data.
        cutoff: Å.
        num_interactions: interaction blocks T.
        num_features: size F of the representation of an atom.
        num_filters: size of what is filtered.
        num_gaussians: radial functions, with centres evenly spread from zero to the cutoff.
        gamma: γ in the exponents of the radial functions, 1/Å².
        envelope: factor of the filters that ends at the cutoff. The papers have none, for molecules
            within one cutoff; `cosine` is that of their program, `polynomial` (Gasteiger et al.
            2020, p = 6) has a continuous second derivative.
        energy_scale: eV per unit of the readout; from the training data (root mean square of the
            forces).
    """

    species: tuple[int, ...] | None = None
    cutoff: float = 5.0
    num_interactions: int = 3
    num_features: int = 64
    num_filters: int = 64
    num_gaussians: int = 50
    gamma: float = 10.0
    envelope: EnvelopeName = "cosine"
    energy_scale: float | None = None

    @property
    def hops(self) -> int:
        """Interactions, each of which carries messages over one cutoff."""
        return self.num_interactions

    @nn.compact
    def __call__(self, graph: AtomicGraph) -> AtomOutputs:
        """Energies [eV] of all atoms; `features` are their representations.

        Raises:
            UserError: for fields that are not filled in or impossible.
        """
        known = self._checked_species()
        dtype, size = graph.positions.dtype, self.num_features
        normal = nn.initializers.normal(1.0)
        embedding = self.param("embedding", normal, (len(known), size), dtype)
        interactions = [self._interaction(i, dtype) for i in range(self.num_interactions)]
        readout = DenseKernels((size, max(1, size // 2), 1), name="readout")(dtype)
        species = elements.species_index(graph.atomic_numbers, known)
        features = self._features(interactions, graph, embedding[species])
        alone = self._features(interactions, isolated_atoms(known, dtype), embedding)
        energies, of_nothing = (
            dense.network(readout, x, shifted_softplus)[:, 0] for x in (features, alone)
        )
        energies = from_data(self, "energy_scale") * (energies - of_nothing[species])
        return AtomOutputs(energies=energies, features=features)

    def _features(
        self,
        interactions: list[Interaction],
        graph: AtomicGraph,
        features: Float[Array, "atoms features"],
    ) -> Float[Array, "atoms features"]:
        """Representations after the last interaction block."""
        distances = safe_norm(edge_vectors(graph))
        for interaction in interactions:
            sent = dense.dense(interaction.sender, features)

            def block(
                distances: Array,
                neighbors: Int[Array, "atoms max_neighbors"],
                own: Array,
                interaction: Interaction = interaction,
                sent: Array = sent,
            ) -> Array:
                filters = self._filters(interaction.filters, distances)
                received = jnp.einsum("ijf,ijf->if", sent[neighbors], filters)
                return own + dense.network(interaction.update, received, shifted_softplus)

            features = map_atom_blocks(block, graph, distances, graph.neighbors, features)
        return features

    def _filters(
        self, layers: tuple[Dense, ...], distances: Float[Array, "atoms max_neighbors"]
    ) -> Float[Array, "atoms max_neighbors filters"]:
        """Filters, zero from the cutoff on; Schütt et al. (2018), section II B."""
        centres = np.linspace(0.0, self.cutoff, self.num_gaussians)
        basis = radial.gaussians(distances, centres, self.gamma)
        filters = dense.network(layers, basis, shifted_softplus, activate_last=True)
        if self.envelope == "cosine":
            envelope = radial.cosine_envelope(distances, self.cutoff)
        else:
            envelope = radial.polynomial_envelope(distances, self.cutoff, 6)
        return filters * envelope[..., None]

    def _interaction(self, i: int, dtype: jnp.dtype) -> Interaction:
        size, filters = self.num_features, self.num_filters
        (sender,) = DenseKernels((size, filters), name=f"sender_{i}")(dtype)
        widths = (self.num_gaussians, filters, filters)
        return Interaction(
            sender=sender,
            filters=DenseKernels(widths, name=f"filters_{i}")(dtype),
            update=DenseKernels((filters, size, size), name=f"update_{i}")(dtype),
        )

    def _checked_species(self) -> tuple[int, ...]:
        require_positive(
            self,
            "cutoff",
            "num_interactions",
            "num_features",
            "num_filters",
            "gamma",
            "num_gaussians",
        )
        return tuple(from_data(self, "species"))
