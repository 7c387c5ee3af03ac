"""Contractions of moment tensors of the neighbours (MTP).

A. V. Shapeev, Multiscale Model. Simul. 14, 1153 (2016); several elements: K. Gubaev et al., Comput.
Mater. Sci. 156, 148 (2019); as in MLIP: I. S. Novikov et al., Mach. Learn.: Sci. Technol. 2, 025002
(2021), eqs. 3 to 8. The moments

    M_μν(i) = Σ_j f_μ(r_ij, z_i, z_j) u_ij ⊗ … ⊗ u_ij   (ν factors, u = r_ij / r_ij)

are multiplied and summed over common indices in all ways that give scalars, see
`moment_contractions`. Their radial functions are trained:

    f_μ(r, z_i, z_j) = Σ_β c_{z_i z_j μ β} T_β(x) ((r_c - r) / (r_c - r_min))²,

with Chebyshev polynomials T_β of x from -1 at r_min to 1 at r_c. (MLIP does not divide by
r_c - r_min, and has a factor `scaling`; both are of the unit of c.)
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.descriptors.moment_contractions import Rows, Schedule, Vertex, schedule
from mlip_jax.elements import species_index
from mlip_jax.graph import AtomicGraph, edge_vectors, map_atom_blocks, safe_norm


class MomentTensors(nn.Module):
    """Contracted moment tensors of each atom.

    Attributes:
        species: atomic numbers.
        cutoff: r_c, Å.
        level: moments M_μν are contracted to scalars of `Σ (2 + 4 μ + ν)` up to this; even numbers
            make a difference. There are 1 + (level - 2) // 4 radial functions.
        min_dist: r_min, Å: about the shortest distance in the data. Below it the polynomials go on.
        radial_basis_size: number of polynomials.
        max_moments: moments that one product may have.
    """

    species: tuple[int, ...] | None = None
    cutoff: float = 5.0
    level: int = 16
    min_dist: float = 1.5
    radial_basis_size: int = 8
    max_moments: int = 4

    def setup(self):
        """Coefficients of the radial functions."""
        elements = len(self._checked_species())
        shape = (elements, elements, self.radial_functions, self.radial_basis_size)
        self.radial = self.param("radial", _near_identity, shape)

    def __call__(self, graph: AtomicGraph) -> Float[Array, "atoms features"]:
        """Scalars in the order of `moment_contractions.scalars`.

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
        return self.from_atomic_basis(self.atomic_basis(vectors, neighbor, own))

    def atomic_basis(
        self, vectors: Array, neighbor: Array, own: Array
    ) -> Float[Array, "atoms basis"]:
        """Components of the moments, sums over neighbours."""
        return self._moments(vectors, neighbor, own, self.radial.astype(vectors.dtype)).T

    def from_atomic_basis(
        self, basis: Float[Array, "atoms basis"]
    ) -> Float[Array, "atoms features"]:
        """The scalars, contractions of what `atomic_basis` gives."""
        return self._scalars(basis.T)

    def basis_slopes(
        self, basis: Float[Array, "atoms basis"]
    ) -> Float[Array, "atoms features basis"]:
        """Derivatives of what `from_atomic_basis` gives by the basis.

        Forward through the contractions: all directions stand side by side in a row, where reverse
        passes, one for each feature, would scatter.
        """
        return jax.vmap(self._slopes)(basis)

    def isolated_features(self) -> Float[np.ndarray, "elements features"]:
        """Zero: there is nothing without neighbours."""
        return np.zeros((len(self._checked_species()), len(self._schedule.scalars)))

    @property
    def radial_functions(self) -> int:
        """Number of radial functions, μ + 1 for the largest μ."""
        return (self.level - 2) // 4 + 1

    @property
    def _schedule(self) -> Schedule:
        return schedule(self.level, self.max_moments)

    def _moments(
        self, vectors: Array, neighbor: Array, own: Array, coefficients: Array
    ) -> Float[Array, "components atoms"]:
        """The components of moments that the schedule begins with."""
        r = safe_norm(vectors)
        basis = radial_basis(r, self.min_dist, self.cutoff, self.radial_basis_size)
        number = coefficients.shape[0]
        if number == 1:
            radial = basis @ coefficients[0, 0].T
        else:
            chosen = jax.nn.one_hot(neighbor, number, dtype=r.dtype)
            basis = (chosen[..., :, None] * basis[..., None, :]).reshape(*r.shape, -1)
            table = jnp.swapaxes(coefficients, 1, 2).reshape(number, self.radial_functions, -1)
            radial = jnp.einsum("ijb,imb->ijm", basis, table[own])
        some = r > 0.0  # Any unit vector does where there is none: the direction of x.
        along_x = jnp.eye(1, 3, dtype=r.dtype)[None]
        units = jnp.where(some[..., None], vectors, along_x) / jnp.where(some, r, 1.0)[..., None]
        wanted = self._schedule.basic
        highest = max(a + b + c for _, a, b, c in wanted)
        sums = jnp.einsum("ijm,ijk->imk", radial, monomials(units, highest))
        return _components(jnp.moveaxis(sums, 0, -1), highest, wanted)

    def _scalars(self, values: Float[Array, "components atoms"]) -> Float[Array, "atoms features"]:
        """Carries out the schedule."""
        for stage in self._schedule.stages:
            values = jnp.concatenate([values, *(_evaluate(rows, values) for rows in stage)])
        return values[self._schedule.scalars].T

    def _slopes(self, values: Float[Array, " components"]) -> Float[Array, "features components"]:
        """Carries out the schedule for one atom, with the derivatives of all values."""
        slopes = jnp.eye(len(values), dtype=values.dtype)
        for stage in self._schedule.stages:
            found = [_evaluate_slopes(rows, values, slopes) for rows in stage]
            new = [_evaluate(rows, values[:, None])[:, 0] for rows in stage]
            values = jnp.concatenate([values, *new])
            slopes = jnp.concatenate([slopes, *found])
        return slopes[self._schedule.scalars]

    def _checked_species(self) -> tuple[int, ...]:
        if self.species is None:
            raise UserError(
                "moment_tensors: got no species; expected atomic numbers. Give species, or let "
                "training take them from the data."
            )
        if not 0.0 <= self.min_dist < self.cutoff:
            raise UserError(
                f"moment_tensors: got min_dist = {self.min_dist} Å and cutoff = {self.cutoff} Å; "
                "expected 0 <= min_dist < cutoff."
            )
        if self.level < 2 or self.radial_basis_size < 1 or self.max_moments < 1:
            raise UserError(
                f"moment_tensors: got level = {self.level}, radial_basis_size = "
                f"{self.radial_basis_size}, max_moments = {self.max_moments}; expected a level of "
                "2 or more, and at least one of the others."
            )
        return self.species


def radial_basis(
    distances: Float[Array, "*edges"], min_dist: float, cutoff: float, size: int
) -> Float[Array, "*edges size"]:
    """`T_β(x) ((r_c - r) / (r_c - r_min))²` of distances r [Å]; exactly 0 from the cutoff on.

    Novikov et al. (2021), eq. 4, divided by (r_c - r_min)².
    """
    inside = distances < cutoff
    y = (cutoff - jnp.where(inside, distances, cutoff)) / (cutoff - min_dist)
    x = 1.0 - 2.0 * y
    polynomials = [jnp.ones_like(x), x]
    for _ in range(2, size):
        polynomials.append(2.0 * x * polynomials[-1] - polynomials[-2])
    return jnp.stack(polynomials[:size], axis=-1) * (y * y)[..., None]


def monomials(vectors: Float[Array, "*edges 3"], degree: int) -> Float[Array, "*edges _"]:
    """Monomials of a degree, then of the degree below, each in the order of `exponents`."""
    powers = []
    for axis in range(3):
        found = [jnp.ones_like(vectors[..., axis])]
        for _ in range(degree):
            found.append(found[-1] * vectors[..., axis])
        powers.append(found)
    x, y, z = powers
    wanted = (*exponents(degree), *exponents(degree - 1))
    return jnp.stack([x[a] * y[b] * z[c] for a, b, c in wanted], axis=-1)


@functools.cache
def exponents(degree: int) -> tuple[tuple[int, int, int], ...]:
    """Exponents of x, y, z in the monomials of a degree."""
    return tuple(
        (a, b, degree - a - b) for a in range(degree, -1, -1) for b in range(degree - a, -1, -1)
    )


def _components(
    sums: Float[Array, "functions _ atoms"], highest: int, wanted: tuple[Vertex, ...]
) -> Float[Array, "components atoms"]:
    """Components of moments of all orders from those of the highest two.

    A moment is the trace of the one two orders higher, as x² + y² + z² = 1.
    """
    number = len(exponents(highest))
    orders = {highest: sums[:, :number], highest - 1: sums[:, number:]}
    for order in range(highest - 2, -1, -1):
        place = {key: i for i, key in enumerate(exponents(order + 2))}
        raised = np.array(
            [
                [place[a + 2, b, c], place[a, b + 2, c], place[a, b, c + 2]]
                for a, b, c in exponents(order)
            ]
        )
        orders[order] = jnp.sum(orders[order + 2][:, raised], axis=2)
    every = [key for order in range(highest + 1) for key in exponents(order)]
    place = {key: i for i, key in enumerate(every)}
    functions = np.array([mu for mu, *_ in wanted])
    columns = np.array([place[a, b, c] for _, a, b, c in wanted])
    return jnp.concatenate([orders[order] for order in range(highest + 1)], axis=1)[
        functions, columns
    ]


def _evaluate(rows: Rows, values: Float[Array, "values atoms"]) -> Float[Array, "rows atoms"]:
    coefficients = jnp.asarray(rows.coefficients, values.dtype)[..., None]
    return jnp.sum(coefficients * values[rows.left] * values[rows.right], axis=1)


def _evaluate_slopes(
    rows: Rows, values: Float[Array, " values"], slopes: Float[Array, "values basis"]
) -> Float[Array, "rows basis"]:
    """Derivatives of what `_evaluate` gives, of one atom."""
    coefficients = jnp.asarray(rows.coefficients, values.dtype)
    by_left = jnp.einsum("rk,rkb->rb", coefficients * values[rows.right], slopes[rows.left])
    by_right = jnp.einsum("rk,rkb->rb", coefficients * values[rows.left], slopes[rows.right])
    return by_left + by_right


def _near_identity(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """f_μ is about the polynomial T_μ, with some noise that tells the pairs of elements apart."""
    identity = jnp.broadcast_to(jnp.eye(*shape[-2:], dtype=dtype)[None, None], shape)
    return identity + 0.1 * jax.random.normal(key, shape, dtype)
