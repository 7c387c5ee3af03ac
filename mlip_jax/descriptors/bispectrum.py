"""Bispectrum components of the neighbour density on the sphere in four dimensions (SNAP).

A. P. Thompson et al., J. Comput. Phys. 285, 316 (2015); several elements apart: M. A. Cusentino et
al., J. Phys. Chem. A 124, 5456 (2020). A neighbour at distance r in direction n becomes the point
`q = (cos θ, sin θ n)` with `θ = π rfac0 (r - rmin0) / (r_c - rmin0)`, the atom itself the pole. The
density `Σ_j w_j s(r_j) δ(q - q_j) + δ(q - pole)` has, for every degree n = 2j, the projection

    f_n(q) = Σ_j w_j s(r_j) U_n(q · q_j) + U_n(q · pole),

and a component is `B(n1, n2, n) = (n + 1) ∫ f_n1 f_n2 f_n dq` over the normalised sphere. (Products
of three rotation matrices integrate to two Clebsch-Gordan coefficients: the same number as
Thompson's eq. 5.) Here the projections come from harmonics summed over neighbours, and the integral
from a quadrature that is exact: dense matrix products, and no special case at any angle.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mlip_jax.config import UserError
from mlip_jax.descriptors.bispectrum_products import integrals, slope_plan, tables, triples
from mlip_jax.elements import species_index
from mlip_jax.graph import AtomicGraph, edge_vectors, map_atom_blocks, safe_norm
from mlip_jax.nn import angular, hyperspherical


class Bispectrum(nn.Module):
    """Bispectrum components of each atom, named as in LAMMPS (`pair_style snap`).

    Attributes:
        species: atomic numbers.
        cutoff: Å, of a pair of the largest elements.
        twojmax: highest degree n = 2j.
        rfac0: share of the sphere that the cutoff reaches, below 1.
        rmin0: Å, distance that becomes the pole.
        relative_radii: of each element, the largest 1: a pair is cut off at the mean of its radii
            times `cutoff`. `None`: all 1.
        weights: w of each element. `None`: all 1.
        switch: s falls to 0 at the cutoff as a cosine; otherwise s = 1 inside.
        inner: `(middle, half width)` [Å] for each element, between which s rises from 0; of a pair
            the means count.
        explicit: one density, and one block of components, for each element, as with `chemflag`.
        self_all: the atom itself counts in the densities of all elements (`wselfallflag`).
        normalized: components without the factor n + 1 (`bnormflag`).
        subtract_isolated: components of an isolated atom are zero (`bzeroflag`).
    """

    species: tuple[int, ...] | None = None
    cutoff: float = 5.0
    twojmax: int = 6
    rfac0: float = 0.99363
    rmin0: float = 0.0
    relative_radii: tuple[float, ...] | None = None
    weights: tuple[float, ...] | None = None
    switch: bool = True
    inner: tuple[tuple[float, float], ...] | None = None
    explicit: bool = False
    self_all: bool = False
    normalized: bool = False
    subtract_isolated: bool = True

    def __call__(self, graph: AtomicGraph) -> Float[Array, "atoms features"]:
        """Components in LAMMPS's order: blocks (e1, e2, e3) of elements, then n1 >= n2, n >= n1.

        Raises:
            UserError: for fields that are not filled in or impossible.
        """
        return map_atom_blocks(self.environment, graph, *self.pairs(graph))

    def pairs(self, graph: AtomicGraph) -> tuple[Array, Array, Array]:
        """Pair vectors [Å], elements of neighbours and of atoms: what features depend on."""
        element = species_index(graph.atomic_numbers, self._checked_species())
        return edge_vectors(graph), element[graph.neighbors], element

    def environment(
        self, vectors: Array, neighbor: Array, own: Array
    ) -> Float[Array, "atoms features"]:
        """Features of some atoms, from their rows of `pairs`."""
        return self._components(self._projections(vectors, neighbor, own), own)

    def _projections(self, vectors: Array, neighbor: Array, own: Array) -> list[Array]:
        """f_n at the points of the quadrature, `[densities, atoms, points]` for each degree n."""
        strength, radial, spherical = self._factors_of_pairs(vectors, neighbor, own)
        members = self._densities_of(neighbor, strength.dtype)
        sums = [
            hyperspherical.sums(member * strength, radial, spherical, self.twojmax)
            for member in members
        ]
        pole = self._pole(own, strength.dtype)
        projections = []
        for n, harmonics in enumerate(tables(self.twojmax).harmonics):
            coefficients = jnp.stack([of_density[n] for of_density in sums])
            coefficients = coefficients.at[:, :, 0].add(math.sqrt(n + 1) * pole)
            projections.append(coefficients @ jnp.asarray(harmonics, strength.dtype))
        return projections

    def _factors_of_pairs(self, vectors: Array, neighbor: Array, own: Array):
        """`w s(r)`, and the radial and the spherical factor of the harmonics of every pair."""
        r = safe_norm(vectors)
        cutoff, strength = self._strength(r, neighbor, own)
        angle = math.pi * self.rfac0 * (r - self.rmin0) / (cutoff - self.rmin0)
        units = vectors / jnp.where(r > 0.0, r, 1.0)[..., None]
        radial = hyperspherical.radial_factors(jnp.cos(angle), jnp.sin(angle), self.twojmax)
        return strength, radial, angular.stacked_harmonics(units, self.twojmax)

    def _densities_of(self, neighbor: Array, dtype) -> Array:
        """1 for the densities that a neighbour is part of, `[densities, atoms, max_neighbors]`."""
        if self.explicit:
            return jax.nn.one_hot(neighbor, self._densities, axis=0, dtype=dtype)
        return jnp.ones((1, *neighbor.shape), dtype)

    def pair_jacobian(
        self, graph: AtomicGraph
    ) -> tuple[Float[Array, "atoms features"], Float[Array, "atoms max_neighbors 3 features"]]:
        """Components of each atom and their derivatives by its pair vectors.

        With `B = ∫ f_a f_b f_c`, the derivative by a coefficient of f_a is that coefficient of the
        product `f_b f_c`: products of pairs of projections serve all components.
        """
        vectors, neighbor, element = self.pairs(graph)
        projections = self._projections(vectors, neighbor, element)
        slopes = self._slopes(projections)

        def harmonics(vectors: Array) -> Array:
            strength, radial, spherical = self._factors_of_pairs(vectors, neighbor, element)
            rows, columns = hyperspherical.factors_of_harmonics(self.twojmax)
            return jnp.moveaxis(strength[None] * radial[rows] * spherical[columns], 0, -1)

        def along(direction: Array) -> Array:
            tangent = jnp.broadcast_to(direction, vectors.shape)
            return jax.jvp(harmonics, (vectors,), (tangent,))[1]

        moved = jax.vmap(along, out_axes=2)(jnp.eye(3, dtype=vectors.dtype))
        member = self._densities_of(neighbor, vectors.dtype)
        jacobian = sum(
            part[..., None, None] * jnp.einsum("ijdc,ifc->ijdf", moved, slope)
            for part, slope in zip(member, slopes, strict=True)
        )
        return self._components(projections, element), jnp.asarray(jacobian)

    def _slopes(self, projections: list[Array]) -> Float[Array, "densities atoms features _"]:
        """Derivatives of the components by the coefficients of the densities, all degrees."""
        table, dtype = tables(self.twojmax), projections[0].dtype
        plan = slope_plan(self.twojmax, self._densities)
        pieces = []
        for matrix, pairs in zip(table.harmonics, plan.pairs, strict=True):
            products = [projections[a][e] * projections[b][f] for (a, e), (b, f) in pairs]
            analysed = jnp.stack(products, axis=1) @ jnp.asarray((matrix * table.weights).T, dtype)
            pieces.append(analysed.reshape(analysed.shape[0], -1))
        pieces.append(jnp.zeros_like(pieces[0][:, :1]))
        factors = jnp.asarray(plan.counts * self._factors()[:, None], dtype)
        return factors[:, None] * jnp.moveaxis(
            jnp.concatenate(pieces, axis=1)[:, plan.columns], 0, 1
        )

    def _components(self, projections: list[Array], own: Array) -> Array:
        """Integrals of all triples of projections, `[atoms, blocks * triples]`."""
        dtype = projections[0].dtype
        values = integrals(self.twojmax, projections)
        values = values * jnp.asarray(self._factors(), dtype)[None]
        if not self.subtract_isolated:
            return values
        return values - jnp.asarray(self._integrals_of_isolated(), dtype)[own]

    def isolated_features(self) -> Float[np.ndarray, "elements features"]:
        """Components of an isolated atom of each element, as a call gives them."""
        whole = self._integrals_of_isolated()
        return np.zeros_like(whole) if self.subtract_isolated else whole

    def _integrals_of_isolated(self) -> Float[np.ndarray, "elements features"]:
        """`n + 1` in the blocks in whose three densities the atom itself counts, else 0."""
        number = len(self._checked_species())
        alone = self.explicit and not self.self_all
        own = np.eye(number) if alone else np.ones((number, self._densities))
        blocks = np.einsum("ia,ib,ic->iabc", own, own, own).reshape(number, -1)
        return np.repeat(blocks, len(triples(self.twojmax)), axis=1) * self._factors()

    def _factors(self) -> Float[np.ndarray, " features"]:
        """`n + 1` of every component, or 1."""
        factors = np.array([c + 1.0 for _, _, c in triples(self.twojmax)])
        if self.normalized:
            factors = np.ones_like(factors)
        return np.tile(factors, self._densities**3)

    def _strength(self, r: Array, neighbor: Array, own: Array) -> tuple[Array, Array]:
        """Cutoff [Å] and `w s(r)` of every pair; s is zero from the cutoff on."""
        cutoff = jnp.full_like(r, self.cutoff)
        if self.relative_radii is not None:
            cutoff = cutoff * self._pair_mean(self.relative_radii, neighbor, own, r.dtype)
        inside = r < cutoff
        strength = jnp.ones_like(r)
        if self.switch:
            x = jnp.clip((r - self.rmin0) / (cutoff - self.rmin0), 0.0, 1.0)
            strength = 0.5 * (1.0 + jnp.cos(jnp.pi * x))
        if self.inner is not None:
            middle, half = (
                self._pair_mean(values, neighbor, own, r.dtype)
                for values in zip(*self.inner, strict=True)
            )
            x = jnp.clip((r - middle) / half, -1.0, 1.0)
            strength = strength * 0.5 * (1.0 + jnp.sin(0.5 * jnp.pi * x))
        if self.weights is not None:
            strength = strength * jnp.asarray(self.weights, r.dtype)[neighbor]
        return cutoff, jnp.where(inside, strength, 0.0)

    def _pair_mean(self, values, neighbor: Array, own: Array, dtype) -> Array:
        """Mean of a value of two elements, for every pair."""
        table = jnp.asarray(values, dtype)
        return 0.5 * (table[own][:, None] + table[neighbor])

    @property
    def _densities(self) -> int:
        return len(self._checked_species()) if self.explicit else 1

    def _pole(self, own: Int[Array, " atoms"], dtype) -> Float[Array, "densities atoms"]:
        """Strength of the atom itself in each density."""
        if not self.explicit or self.self_all:
            return jnp.ones((self._densities, own.shape[0]), dtype)
        return jax.nn.one_hot(own, self._densities, axis=0, dtype=dtype)

    def _checked_species(self) -> tuple[int, ...]:
        if self.species is None:
            raise UserError(
                "bispectrum: got no species; expected atomic numbers. Give species, or let "
                "training take them from the data."
            )
        for name in ("relative_radii", "weights", "inner"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.species):
                raise UserError(
                    f"bispectrum.{name}: got {len(values)} values; expected one for each of the "
                    f"{len(self.species)} elements."
                )
        if self.relative_radii is not None and max(self.relative_radii) != 1.0:
            raise UserError(
                f"bispectrum.relative_radii: got {self.relative_radii}; expected 1 for the largest "
                "element, whose pairs are cut off at `cutoff`."
            )
        if not 0.0 <= self.rmin0 < self.cutoff or self.twojmax < 0:
            raise UserError(
                f"bispectrum: got rmin0 = {self.rmin0} Å, cutoff = {self.cutoff} Å, twojmax = "
                f"{self.twojmax}; expected 0 <= rmin0 < cutoff and twojmax >= 0."
            )
        return self.species
