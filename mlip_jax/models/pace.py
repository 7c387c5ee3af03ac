"""PACE: a non-linear atomic cluster expansion with learned radial functions.

R. Drautz, Phys. Rev. B 99, 014104 (2019); Y. Lysogorskiy et al., npj Comput. Mater. 7, 97 (2021);
A. Bochkarev et al., Phys. Rev. Mater. 6, 013804 (2022). The form that pacemaker fits and LAMMPS's
`pair_style pace` runs: the atomic basis is `A_(z n l m) = Σ_j R_nl(r_ij) Y_lm(r_ij)` over the
neighbours of element z, `R_nl = Σ_k c_nlk g_k`, densities are linear in its invariant products
(those of order 1 in `Σ_j g_k`), and the energy is a Finnis-Sinclair function of the densities.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.descriptors.ace_basis import Neighborhood, of_each_element, projections
from mlip_jax.descriptors.ace_functions import (
    Chosen,
    Selection,
    orders,
    product_coefficients,
    products,
    sizes,
)
from mlip_jax.descriptors.ace_radial import Bond, smooth_step
from mlip_jax.elements import species_index
from mlip_jax.graph import AtomicGraph, AtomOutputs, edge_vectors, map_atom_blocks, safe_norm
from mlip_jax.nn import double, finnis_sinclair


@dataclasses.dataclass(frozen=True)
class Embedding:
    """How the energy of an atom of one element depends on its densities.

    Attributes:
        weights: w of each density.
        exponents: m of each density.
        form: see `nn.finnis_sinclair.power`.
        core_cutoff: core repulsion [eV] of an atom at which the rest of its energy has gone.
        core_width: range [eV] before it in which it goes.
    """

    weights: tuple[float, ...] = (1.0, 1.0)
    exponents: tuple[float, ...] = (1.0, 0.5)
    form: finnis_sinclair.Form = "shifted_scaled"
    core_cutoff: float = 100000.0
    core_width: float = 250.0


class PACE(nn.Module):
    """A non-linear atomic cluster expansion.

    Attributes:
        species: atomic numbers.
        bonds: radial functions: one `Bond` for all pairs of elements, or one for each pair
            (central, neighbour), row by row.
        num_basis: number of functions g_k.
        n_max: radial functions of each order of products, from 1.
        l_max: highest degree of each order.
        degree: bound on `Σ (n + l)` of each order, n from 0; `None`: there is none.
        chosen: for each order from 2, the functions that count, each as l and channel of its
            factors, with channel `z max(n_max[1:]) + n` of element z; `None`: all in the bounds.
        embeddings: one for all elements, or one for each.
        energy_scale: eV per unit of the embedding; the force scale [eV/Å] of the data is a good
            one.
        spline: width [Å] of the bins of tables that stand for the radial functions, as in LAMMPS;
            `None`: they are analytic.
        double_sums: predictions in float32 have the atomic basis, products and densities in float64
            all the same, for coefficients with which terms cancel; see `fold`.
    """

    species: tuple[int, ...] | None = None
    bonds: tuple[Bond, ...] = (Bond(),)
    num_basis: int = 12
    n_max: tuple[int, ...] = (12, 5, 3, 1)
    l_max: tuple[int, ...] = (0, 3, 2, 1)
    degree: tuple[int, ...] | None = None
    chosen: Chosen | None = None
    embeddings: tuple[Embedding, ...] = (Embedding(),)
    energy_scale: float | None = None
    spline: float | None = None
    double_sums: bool = False

    @property
    def cutoff(self) -> float:
        """The longest cutoff of a bond [Å]."""
        return max(bond.cutoff for bond in self.bonds)

    @property
    def selection(self) -> Selection:
        """The functions of the expansion."""
        elements = len(self._checked_species())
        return Selection(elements, self.n_max, self.l_max, self.degree, self.chosen).checked()

    hops = 1

    @nn.compact
    def __call__(self, graph: AtomicGraph) -> AtomOutputs:
        """Atom energies [eV]."""
        species = self._checked_species()
        element = species_index(graph.atomic_numbers, species)
        vectors = edge_vectors(graph)
        folded = self.has_variable("constants", "low")
        with double.allowed(folded):
            dtype = jnp.dtype(jnp.float64) if folded else vectors.dtype
            radial, linear, tables = self._parameters(dtype)

            def block(vectors: Array, neighbor: Array, own: Array) -> Array:
                return self._energies(vectors, neighbor, own, radial, linear, tables)

            energies = map_atom_blocks(block, graph, vectors, element[graph.neighbors], element)
        return AtomOutputs(energies=energies)

    def fold(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Variables for a program of float32, made from those in float64.

        With `double_sums` the constants get what float32 leaves of the coefficients.
        """
        if not self.double_sums:
            return dict(variables)
        low = jax.tree.map(double.low_part, dict(variables["params"]))
        return {**variables, "constants": {**variables.get("constants", {}), "low": low}}

    def _parameters(self, dtype: jnp.dtype) -> tuple[Array, Array, list[Array]]:
        """Radial coefficients, coefficients of order 1, and those of products of each order."""
        selection = self.selection
        elements, number = selection.elements, len(self.embeddings[0].exponents)
        shape = (elements, elements, selection.num_radial, selection.highest + 1, self.num_basis)
        low = self.get_variable("constants", "low", {})

        def given(name: str, make: Callable[..., Array], *arguments: Any) -> Array:
            values = self.param(name, make, *arguments).astype(dtype)
            return values + low[name].astype(dtype) if name in low else values

        radial = given("radial", _unit_matrices, shape)
        normal = nn.initializers.normal(1.0 / sum(sizes(selection)) ** 0.5)
        coefficients = [
            given(f"order_{order}", normal, (size, elements, number))
            for order, size in enumerate(sizes(selection), 1)
        ]
        tables = [
            product_coefficients(values, order)
            for values, order in zip(coefficients[1:], orders(selection), strict=True)
        ]
        return radial, coefficients[0], tables

    def _energies(
        self,
        vectors: Array,
        neighbor: Array,
        own: Array,
        radial: Array,
        linear: Array,
        tables: list[Array],
    ) -> Float[Array, " atoms"]:
        selection = self.selection
        r = safe_norm(vectors)
        around = Neighborhood(self.bonds, selection.elements, self.spline)
        basic = around.radial(r, own, neighbor, self.num_basis)
        weights = of_each_element(neighbor, selection.elements, r.dtype)
        sums = projections(vectors, basic, weights, selection.highest, radial.dtype)
        first = sums[:, :, : self.n_max[0], 0].reshape(len(r), -1)
        densities = jnp.einsum("if,fep->epi", first, linear)
        basis = _atomic_basis(sums, radial, own, selection.highest)
        for order, table in zip(orders(selection), tables, strict=True):
            terms = products(basis, order)
            densities = densities + jnp.einsum("kep,ki->epi", table, terms)
        core = jnp.sum(around.core(r, own, neighbor), axis=1)
        return self._embedded(densities.astype(r.dtype), core, own)

    def _embedded(self, densities: Array, core: Array, own: Array) -> Float[Array, " atoms"]:
        """Energies [eV] of densities `[elements, densities, atoms]` of every element."""
        elements = densities.shape[0]
        embeddings = self.embeddings * (elements if len(self.embeddings) == 1 else 1)
        scale = 1.0 if self.energy_scale is None else self.energy_scale
        result = jnp.zeros_like(core)
        for index, embedding in enumerate(embeddings):
            values = finnis_sinclair.energy(
                densities[index].T, embedding.weights, embedding.exponents, embedding.form
            )
            if any(bond.core[0] for bond in self.bonds):
                values = values * smooth_step(core, embedding.core_cutoff, embedding.core_width)
            result = jnp.where(own == index, scale * values, result)
        return result + core

    def _checked_species(self) -> tuple[int, ...]:
        if self.species is None:
            raise UserError(
                "pace: got no species; expected atomic numbers. Give species, or let training take "
                "them from the data."
            )
        if max(self.n_max) > self.num_basis:
            raise UserError(
                f"pace.n_max: got {self.n_max}; expected at most num_basis = {self.num_basis}."
            )
        if len({len(e.exponents) for e in self.embeddings}) != 1 or len(self.embeddings) not in (
            1,
            len(self.species),
        ):
            raise UserError(
                "pace.embeddings: expected one for all elements or one for each, all with the same "
                "number of densities."
            )
        if len(self.bonds) not in (1, len(self.species) ** 2):
            raise UserError(
                f"pace.bonds: got {len(self.bonds)}; expected one for all pairs of elements, or "
                f"one for each of the {len(self.species) ** 2} pairs (central, neighbour)."
            )
        return self.species


def _atomic_basis(sums: Array, radial: Array, own: Array, l_max: int) -> Float[Array, "rows atoms"]:
    """A by (element, n, l, m) from projections on g_k."""
    parts = []
    for l in range(l_max + 1):
        of_degree = sums[..., l * l : (l + 1) ** 2]
        if radial.shape[0] == 1:
            parts.append(jnp.einsum("iukm,unk->unmi", of_degree, radial[0, :, :, l]))
        else:
            parts.append(jnp.einsum("iukm,iunk->unmi", of_degree, radial[:, :, :, l][own]))
    basis = jnp.concatenate(parts, axis=2)
    return basis.reshape(-1, basis.shape[-1])


def _unit_matrices(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Radial coefficients with which R_nl = g_n."""
    del key
    unit = np.eye(shape[2], shape[4])[None, None, :, None, :]
    return jnp.broadcast_to(jnp.asarray(unit, dtype), shape)
