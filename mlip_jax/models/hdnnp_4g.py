"""Fourth-generation high-dimensional neural network potential: global charge equilibration.

T. W. Ko, J. A. Finkler, S. Goedecker, J. Behler, Nat. Commun. 12, 398 (2021); terms as in n2p2 2.3.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from mlip_jax import units
from mlip_jax.config import UserError
from mlip_jax.descriptors import envelopes
from mlip_jax.descriptors.envelopes import EnvelopeName
from mlip_jax.electrostatics import ewald, qeq
from mlip_jax.elements import species_index
from mlip_jax.graph import AtomicGraph, AtomOutputs, edge_vectors, safe_norm
from mlip_jax.models.local import isolated_atoms


class HDNNP4G(nn.Module):
    """Charges from global equilibration, and a short-range network that sees them.

    A first model gives every atom an electronegativity χ. Charges minimise the energy of Gaussian
    charges at the structure's total charge (eqs. 1 to 6 of the paper, `electrostatics.qeq`). The
    energy is the interaction of these charges, without their self-energies and switched off at
    short range, and the short-range network's, which has the charge as one more input:

        E_i = 1/2 q_i Σ_j q_j k_e s(r_ij) erf(r_ij/√2γ_ij)/r_ij + scale (N(G_i, q_i) - N(G_0, 0)),

    where s grows from 0 at the inner to 1 at the outer screening radius, and G_0 are the features
    of an isolated atom. In periodic cells interactions are summed over all images; there a net
    charge has a uniform neutralising background.

    Structures are open or periodic in three directions. Forces contain the change of the charges.

    Attributes:
        electronegativity: a model with features, such as `local`; its energies [eV] are taken as
            electronegativities [eV/e].
        short_range: a regressor of these features and the charge [e].
        widths: of the Gaussian charges [Å], in the order of the species; covalent radii are good.
        screening: inner and outer radius [Å]; `None` screens nothing.
        screening_form: how the screening passes from 1 to 0.
        energy_scale: eV per unit of the short-range output; `None` takes the force scale of the
            data.
        initial_hardness: eV/e², before training; the hardness of each element is a parameter, the
            square of `hardness_root`.
        accuracy: share of a charge's self-energy that sums in reciprocal space may miss.
        coulomb: e²/(4πε0), eV Å.
    """

    electronegativity: nn.Module
    short_range: nn.Module
    widths: tuple[float, ...]
    screening: tuple[float, float] | None = None
    screening_form: EnvelopeName = "cosine"
    energy_scale: float | None = None
    initial_hardness: float = 10.0
    accuracy: float = 1e-10
    coulomb: float = units.COULOMB

    inputs = ("total_charge",)
    """Further inputs of the graph that the model reads."""

    @property
    def species(self) -> tuple[int, ...] | None:
        """Atomic numbers: those of the electronegativity model."""
        return self.electronegativity.species  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def cutoff(self) -> float:
        """Å: of features and screening, whichever is longer."""
        return max(self._feature_cutoff, self.screening[1] if self.screening else 0.0)

    @property
    def prefix_cutoffs(self) -> tuple[float, ...]:
        """Shorter cutoffs [Å] of terms that use a prefix of the rows."""
        shorter = {*getattr(self.electronegativity, "prefix_cutoffs", ()), self._feature_cutoff}
        return tuple(sorted(shorter - {self.cutoff}))

    @property
    def needs_reverse(self) -> bool:
        """Whether the electronegativity model reads the slots of opposite edges."""
        return bool(getattr(self.electronegativity, "needs_reverse", False))

    @property
    def reciprocal_cutoff(self) -> float:
        """Of sums over reciprocal lattice vectors, 1/Å."""
        return ewald.reciprocal_cutoff(min(self.widths), self.accuracy)

    @property
    def _feature_cutoff(self) -> float:
        return self.electronegativity.cutoff  # pyright: ignore[reportAttributeAccessIssue]

    @nn.compact
    def __call__(self, graph: AtomicGraph) -> AtomOutputs:
        """Atom energies [eV] and charges [e]; `features` end with the charge."""
        species = self._checked_species()
        element = species_index(graph.atomic_numbers, species)
        initial = nn.initializers.constant(math.sqrt(self.initial_hardness))
        root = self.param("hardness_root", initial, (len(species),))
        first = self.electronegativity(graph)
        if first.features is None:
            raise UserError(
                f"electronegativity: got {type(self.electronegativity).__name__}, which has no "
                "features for the short-range network; expected a model such as local."
            )
        dtype = first.features.dtype
        widths = jnp.asarray(self.widths, dtype)[element]
        hardness = (root.astype(dtype) ** 2)[element]
        interaction = ewald.interaction_matrix(graph, widths, self.reciprocal_cutoff, self.coulomb)
        found = qeq.equilibrate(graph, first.energies, hardness, interaction)
        charges = found.charges
        energies = 0.5 * charges * jnp.matmul(interaction, charges, precision="highest")
        energies = energies - ewald.self_energies(charges, widths, self.coulomb)
        if self.screening is not None:
            energies = energies - self._screened(graph, charges, widths)
        features = jnp.concatenate([first.features, charges[:, None]], axis=1)
        energies = energies + self._short_range(features, element, species)
        return AtomOutputs(energies=energies, charges=charges, features=features)

    def _screened(self, graph: AtomicGraph, charges: Array, widths: Array) -> Array:
        """Half of what screening takes from the interactions of each atom, eV."""
        assert self.screening is not None
        inner, outer = self.screening
        share = envelopes.named(self.screening_form, inner / outer)
        r = safe_norm(edge_vectors(graph))
        near = (r < outer) & graph.edge_mask
        inverse_gammas = 1.0 / jnp.sqrt(2.0 * (widths[:, None] ** 2 + widths[graph.neighbors] ** 2))
        r = jnp.where(near, r, outer)
        pairs = ewald.erf_over_r(r * r, inverse_gammas) * share(r / outer)
        pairs = jnp.where(near, pairs, 0.0) * charges[graph.neighbors]
        return 0.5 * self.coulomb * charges * jnp.sum(pairs, axis=1)

    def _short_range(self, features: Array, element: Array, species: tuple[int, ...]) -> Array:
        """Energies of the short-range network, less those of isolated neutral atoms, eV."""
        alone = self.electronegativity(isolated_atoms(species, features.dtype)).features
        alone = jnp.pad(alone, ((0, 0), (0, 1)))
        own = jnp.arange(len(species), dtype=element.dtype)
        outputs = self.short_range(
            jnp.concatenate([features, alone]), jnp.concatenate([element, own]), len(species)
        )
        scale = 1.0 if self.energy_scale is None else self.energy_scale
        number = len(features)
        return scale * (outputs[:number] - outputs[number:][element])

    def _checked_species(self) -> tuple[int, ...]:
        species = self.species
        if species is None:
            raise UserError(
                "hdnnp_4g: electronegativity has no species; expected atomic numbers. Give them, "
                "or let training take them from the data."
            )
        if len(self.widths) != len(species):
            raise UserError(
                f"hdnnp_4g.widths: got {len(self.widths)} for {len(species)} elements; expected "
                "one width [Å] for each, in the order of the species."
            )
        if self.screening is not None and not 0.0 <= self.screening[0] < self.screening[1]:
            raise UserError(
                f"hdnnp_4g.screening: got {list(self.screening)} Å; expected an inner radius "
                "below the outer one."
            )
        return species

    def calibrate(
        self, variables: Mapping[str, Any], graphs: Iterable[AtomicGraph]
    ) -> dict[str, Any]:
        """Variables with the constants that the electronegativity model takes from the data."""
        if hasattr(self.short_range, "calibrate"):
            raise UserError(
                f"hdnnp_4g.short_range: got {type(self.short_range).__name__}, which has to see "
                "features of the data first; expected a network such as mlp."
            )
        inner = getattr(self.electronegativity, "calibrate", None)
        if inner is None:
            return dict(variables)
        name = "electronegativity"
        own = {kind: tree[name] for kind, tree in variables.items() if name in tree}
        found = inner(own, graphs)
        return {
            kind: {**tree, name: found[kind]} if kind in found else tree
            for kind, tree in variables.items()
        }
