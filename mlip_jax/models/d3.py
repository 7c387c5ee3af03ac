"""Dispersion between atoms, for potentials of functionals that lack it; Grimme et al. (2010)."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mlip_jax import units
from mlip_jax.config import UserError
from mlip_jax.descriptors import envelopes
from mlip_jax.electrostatics import dispersion, dispersion_functionals, dispersion_tables
from mlip_jax.electrostatics.dispersion_functionals import DampingName
from mlip_jax.electrostatics.dispersion_tables import ExplicitTables
from mlip_jax.elements import species_index
from mlip_jax.graph import (
    AtomicGraph,
    AtomOutputs,
    edge_vectors,
    map_atom_blocks,
    prefix_length,
    safe_norm,
)
from mlip_jax.models import fields


class D3(nn.Module):
    """D3 of Grimme et al. (2010), two-body terms, with zero or Becke-Johnson damping (2011).

        E_i = -1/2 Σ_j C6_ij(CN_i, CN_j) g(r_ij) S(r_ij),    CN_i = Σ_j counted(r_ij) S'(r_ij)

    with g of `electrostatics.dispersion`. S and S' fall from 1 to 0 (C2 at both ends) between an
    onset and a cutoff; the programs of D3 cut at about 50 Å instead (coordination numbers at 21 Å),
    with a step. README.md beside this file says what the shorter range changes.

    Reference systems of the elements are read from an installed package when variables are
    initialised (`electrostatics.dispersion_tables`) and are constants of the potential from then
    on. There are no parameters to be trained.

    Attributes:
        species: atomic numbers.
        cutoff: of the dispersion, Å.
        coordination_cutoff: of the coordination numbers, Å; `None`: 10 Å, or the cutoff where that
            is shorter.
        functional: whose parameters are taken, such as `pbe`, `r2scan` or `b3lyp`.
        damping: `bj` (Becke-Johnson) or `zero`.
        s6: instead of the functional's; likewise the next ones.
        s8: scale of the term with C8.
        a1: of `bj`.
        a2: of `bj`, bohr, as it is published.
        rs6: of `zero`.
        rs8: of `zero`.
        onset: Å, where S starts to fall; `None`: 0.8 cutoff.
        coordination_onset: Å, where S' starts to fall; `None`: 0.8 coordination_cutoff.
        tables: of the reference systems, instead of those of the package.
    """

    species: tuple[int, ...] | None = None
    cutoff: float = 15.0
    coordination_cutoff: float | None = None
    functional: str | None = None
    damping: DampingName = "bj"
    s6: float | None = None
    s8: float | None = None
    a1: float | None = None
    a2: float | None = None
    rs6: float | None = None
    rs8: float | None = None
    onset: float | None = None
    coordination_onset: float | None = None
    tables: ExplicitTables | None = None

    hops = 2
    """Coordination numbers of neighbours count."""

    @property
    def prefix_cutoffs(self) -> tuple[float, ...]:
        """The cutoff [Å] of coordination numbers, where it is shorter."""
        shorter = self._coordination_cutoff
        return (shorter,) if shorter < self.cutoff else ()

    @property
    def _coordination_cutoff(self) -> float:
        if self.coordination_cutoff is None:
            return min(10.0, self.cutoff)
        return self.coordination_cutoff

    @nn.compact
    def __call__(self, graph: AtomicGraph) -> AtomOutputs:
        """Atom energies [eV]."""
        species = fields.from_data(self, "species")
        pair_function = self._pair_function()
        read = self._tables(species) if self.is_initializing() else None

        def constant(name: str) -> Array:
            values = self.variable("constants", name, lambda: getattr(read, name)).value
            return jnp.asarray(values, graph.positions.dtype)

        r = safe_norm(edge_vectors(graph)[:, : prefix_length(graph, self.cutoff)])
        element = species_index(graph.atomic_numbers, species)
        coordination = self._coordination(graph, r, element, constant("covalent_radii"))
        weights = dispersion.reference_weights(coordination, constant("coordination")[element])
        own = jnp.einsum("ia,ifab->ifb", weights, constant("c6")[element], precision="highest")
        roots, radii = constant("ratio_roots"), constant("cutoff_radii")
        ratios = 3.0 * roots[:, None] * roots[None, :]
        smooth = envelopes.switch(self.onset, self.cutoff)

        def rows(r: Array, first: Array, neighbors: Array, own: Array) -> Array:
            inside = r < self.cutoff
            r = jnp.where(inside, r, self.cutoff)
            pair = first[:, None], element[neighbors]
            c6 = dispersion.c6_of_pairs(own, weights, element, neighbors)
            values = c6 * pair_function(r, ratios[pair], radii[pair]) * smooth(r)
            return -0.5 * jnp.sum(jnp.where(inside, values, 0.0), axis=1)

        neighbors = graph.neighbors[:, : r.shape[1]]
        return AtomOutputs(energies=map_atom_blocks(rows, graph, r, element, neighbors, own))

    def _coordination(
        self,
        graph: AtomicGraph,
        r: Float[Array, "atoms max_neighbors"],
        element: Int[Array, " atoms"],
        radii: Float[Array, " elements"],
    ) -> Float[Array, " atoms"]:
        cutoff = self._coordination_cutoff
        if not 0.0 < cutoff <= self.cutoff:
            raise UserError(
                f"d3.coordination_cutoff: got {cutoff} Å; expected a positive value up to the "
                f"cutoff {self.cutoff} Å."
            )
        smooth = envelopes.switch(self.coordination_onset, cutoff)
        near = min(prefix_length(graph, cutoff), r.shape[1])

        def rows(r: Array, first: Array, neighbors: Array) -> Array:
            inside = r < cutoff
            r = jnp.where(inside, r, cutoff)
            sums = radii[first][:, None] + radii[element[neighbors]]
            terms = dispersion.counted(r, sums) * smooth(r)
            return jnp.sum(jnp.where(inside, terms, 0.0), axis=1)

        return map_atom_blocks(rows, graph, r[:, :near], element, graph.neighbors[:, :near])

    def _pair_function(self) -> Callable[[Array, Array, Array], Array]:
        """`(r, C8/C6, cutoff radius) -> energy divided by -C6`."""
        names = ("s6", "s8", "a1", "a2", "rs6", "rs8")
        found = dispersion_functionals.parameters(
            self.damping, self.functional, {name: getattr(self, name) for name in names}
        )
        if self.damping == "zero":
            return lambda r, ratio, radius: dispersion.zero_damped(r, ratio, radius, **found)
        found["a2"] *= units.BOHR
        return lambda r, ratio, radius: dispersion.becke_johnson(r, ratio, **found)

    def _tables(self, species: tuple[int, ...]) -> dispersion_tables.Tables:
        if self.tables is not None:
            return self.tables.arrays(len(species))
        return dispersion_tables.read(species)
