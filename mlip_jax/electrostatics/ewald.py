"""Electrostatic energies of point and Gaussian charges, in periodic cells and in open systems.

A Gaussian charge is a density `q (2πσ²)^(-3/2) exp(-r²/2σ²)`; two of them interact by
`k_e q_i q_j erf(r/√2γ)/r` with `γ² = σ_i² + σ_j²`. In a cell that is periodic in three directions
their energy is a sum over reciprocal lattice vectors alone, which converges as fast as the
narrowest Gaussian allows,

    E = 1/2 Σ_(k≠0) 4π k_e/(V k²) |Σ_i q_i exp(-σ_i² k²/2) exp(i k·r_i)|²,

own images and self-energies `k_e q²/(2σ√π)` included, in a uniform neutralising background and with
a conducting boundary. Point charges are Gaussians of one width plus a correction of short range:
P. P. Ewald, Ann. Phys. 369, 253 (1921); in the form of Toukmaji & Board, Comput. Phys. Commun. 95,
73 (1996), section 2. Open structures are summed directly.

Sums take the reciprocal lattice vectors of `graph.k_range`, a box that covers the sphere of their
cutoff: values and derivatives are smooth in the cell. Where a cell has outgrown the box, for
structures periodic in one or two directions and for ghost atoms, energies are NaN: a truncated sum
must not pass for a converged one.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mlip_jax import units
from mlip_jax.config import UserError
from mlip_jax.graph import AtomicGraph, edge_vectors, safe_norm, sum_over_atoms, volumes

_SERIES = (1.0, -1.0 / 3.0, 1.0 / 10.0, -1.0 / 42.0, 1.0 / 216.0, -1.0 / 1320.0)
"""Coefficients of erf(x)/x in powers of x², in units of 2/√π."""


def reciprocal_cutoff(width: float, accuracy: float) -> float:
    """Length [1/Å] beyond which reciprocal lattice vectors do not matter.

    What is left out of the self-energy of a Gaussian of this width, `erfc(k σ)` of it, is at most
    `accuracy`.

    Args:
        width: σ of the narrowest Gaussian, Å.
        accuracy: between 0 and 1.

    Raises:
        UserError: for a width or accuracy out of range.
    """
    if not (width > 0.0 and math.isfinite(width)):
        raise UserError(f"width: got {width} Å; expected a positive width of a Gaussian charge.")
    return _inverse_erfc(accuracy) / width


def point_cutoff(cutoff: float, accuracy: float) -> float:
    """Likewise, for point charges whose correction ends at a cutoff [Å]."""
    return reciprocal_cutoff(_splitting(cutoff, accuracy), accuracy)


def gaussian_energies(
    graph: AtomicGraph,
    charges: Float[Array, " atoms"],
    widths: Float[Array, " atoms"],
    cutoff: float,
    coulomb: float = units.COULOMB,
) -> Float[Array, " atoms"]:
    """Energies [eV] of Gaussian charges: half of each charge times its potential.

    The self-energies `coulomb q²/(2σ√π)` are included; take `self_energies` from them.

    Args:
        graph: with `k_range` for the cutoff.
        charges: e; those of padded atoms are ignored.
        widths: σ, Å.
        cutoff: of reciprocal lattice vectors, 1/Å, see `reciprocal_cutoff`.
        coulomb: e²/(4πε0), eV Å.

    Raises:
        UserError: for a graph that has vectors instead of positions, or no `k_range`.
    """
    valid = _valid(graph, cutoff)
    charges = jnp.where(graph.atom_mask, charges, 0.0)
    open_pairs = _open_pairs(graph)
    inverse_gammas = 1.0 / jnp.sqrt(2.0 * (widths[:, None] ** 2 + widths[None, :] ** 2))
    direct = jnp.where(
        open_pairs, erf_over_r(_squared_distances(graph, open_pairs), inverse_gammas), 0.0
    )
    potentials = jnp.matmul(direct, charges, precision="highest")
    if graph.k_range is not None and any(graph.k_range):
        potentials = potentials + _reciprocal_potentials(graph, charges, widths, cutoff)
    return 0.5 * coulomb * charges * potentials * valid


def point_energies(
    graph: AtomicGraph,
    charges: Float[Array, " atoms"],
    cutoff: float,
    accuracy: float,
    coulomb: float = units.COULOMB,
) -> Float[Array, " atoms"]:
    """Energies [eV] of point charges.

    Args:
        graph: with all neighbours within the cutoff, and `k_range` for `point_cutoff`.
        charges: e.
        cutoff: of the correction in real space, Å; it and the accuracy fix the splitting.
        accuracy: share of the interaction that is neglected beyond either cutoff.
        coulomb: e²/(4πε0), eV Å.

    Raises:
        UserError: as for `gaussian_energies`.
    """
    reach = point_cutoff(cutoff, accuracy)
    valid = _valid(graph, reach)
    charges = jnp.where(graph.atom_mask, charges, 0.0)
    width = _splitting(cutoff, accuracy)
    periodic = _periodic(graph)[graph.graph_index]
    distances = safe_norm(edge_vectors(graph))
    near = (distances < cutoff) & periodic[:, None] & graph.edge_mask
    r = jnp.where(near, distances, cutoff)
    correction = jnp.where(near, jax.scipy.special.erfc(r / (2.0 * width)) / r, 0.0)
    potentials = jnp.sum(correction * charges[graph.neighbors], axis=1)
    potentials = potentials - jnp.where(periodic, charges / (width * math.sqrt(math.pi)), 0.0)
    # The average of the correction belongs to the background: -4πσ²Q/V; Toukmaji & Board, eq. 8.
    total = sum_over_atoms(graph, charges)
    average = 4.0 * math.pi * width**2 * total / volumes(graph.cell)
    potentials = potentials - jnp.where(periodic, average[graph.graph_index], 0.0)
    others = _open_pairs(graph) & ~jnp.eye(graph.num_atoms, dtype=bool)
    squares = _squared_distances(graph, others)
    direct = jnp.where(others, 1.0 / jnp.sqrt(jnp.where(others, squares, 1.0)), 0.0)
    potentials = potentials + jnp.matmul(direct, charges, precision="highest")
    if graph.k_range is not None and any(graph.k_range):
        widths = jnp.full_like(charges, width)
        potentials = potentials + _reciprocal_potentials(graph, charges, widths, reach)
    return 0.5 * coulomb * charges * potentials * valid


def interaction_matrix(
    graph: AtomicGraph,
    widths: Float[Array, " atoms"],
    cutoff: float,
    coulomb: float = units.COULOMB,
) -> Float[Array, "atoms atoms"]:
    """The matrix A [eV/e²] of Gaussian charges with the energy `q·A q / 2`.

    Self-energies and own images stand on the diagonal; elements between structures, and those of
    padded atoms, are zero. Arguments and errors as for `gaussian_energies`.
    """
    valid = _valid(graph, cutoff)
    open_pairs = _open_pairs(graph)
    inverse_gammas = 1.0 / jnp.sqrt(2.0 * (widths[:, None] ** 2 + widths[None, :] ** 2))
    matrix = erf_over_r(_squared_distances(graph, open_pairs), inverse_gammas)
    matrix = jnp.where(open_pairs, matrix, 0.0)
    if graph.k_range is not None and any(graph.k_range):
        waves = _waves(graph, widths, cutoff)
        strengths = waves.strengths[graph.graph_index]
        products = sum(
            jnp.matmul(part * strengths, part.T, precision="highest")
            for part in (waves.cosines, waves.sines)
        )
        periodic = _periodic(graph)[graph.graph_index]
        matrix = jnp.where(_same_structure(graph) & periodic[:, None], products, matrix)
    return coulomb * matrix * valid[:, None]


def self_energies(
    charges: Float[Array, " atoms"],
    widths: Float[Array, " atoms"],
    coulomb: float = units.COULOMB,
) -> Float[Array, " atoms"]:
    """Energies [eV] `coulomb q²/(2σ√π)` of Gaussian charges [e] by themselves."""
    return coulomb * charges**2 / (2.0 * math.sqrt(math.pi) * widths)


def erf_over_r(
    squares: Float[Array, "*pairs"], inverse_lengths: Float[Array, "*pairs"]
) -> Float[Array, "*pairs"]:
    """`erf(a r)/r` of squared distances r² [Å²] and a [1/Å], with all derivatives finite at 0."""
    x2 = squares * inverse_lengths**2
    small = x2 < 0.01
    inner = jnp.where(small, x2, 0.0)
    series = jnp.zeros_like(x2)
    for coefficient in reversed(_SERIES):
        series = series * inner + coefficient
    x = jnp.sqrt(jnp.where(small, 1.0, x2))
    ratio = jnp.where(small, 2.0 / math.sqrt(math.pi) * series, jax.scipy.special.erf(x) / x)
    return inverse_lengths * ratio


class _Waves(NamedTuple):
    """Plane waves at the atoms `[atoms, k]` times their form factors, and `4π/(V k²)`.

    Of k and -k one is listed, with twice the strength.
    """

    cosines: Array
    sines: Array
    strengths: Array


def _waves(graph: AtomicGraph, widths: Array, cutoff: float) -> _Waves:
    assert graph.k_range is not None
    multiples = jnp.asarray(_half_box(graph.k_range), graph.positions.dtype)
    periodic = _periodic(graph)[:, None, None]
    cell = jnp.where(periodic, graph.cell, jnp.eye(3, dtype=graph.cell.dtype))
    a, b, c = cell[:, 0], cell[:, 1], cell[:, 2]
    normals = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=1)
    dual = normals / jnp.sum(a * normals[:, 0], axis=-1)[:, None, None]
    k = 2.0 * math.pi * jnp.einsum("kn,gnx->gkx", multiples, dual, precision="highest")
    squares = jnp.sum(k * k, axis=-1)
    strengths = jnp.where(periodic[..., 0], 8.0 * math.pi / (volumes(cell)[:, None] * squares), 0.0)
    own = graph.graph_index
    fractions = jnp.einsum("ix,inx->in", graph.positions, dual[own], precision="highest")
    turns = jnp.matmul(fractions, multiples.T, precision="highest")
    phases = 2.0 * math.pi * (turns - jax.lax.stop_gradient(jnp.round(turns)))
    form = jnp.exp(-0.5 * squares[own] * widths[:, None] ** 2)
    form = jnp.where(graph.atom_mask[:, None], form, 0.0)
    return _Waves(form * jnp.cos(phases), form * jnp.sin(phases), strengths)


def _half_box(k_range: tuple[int, int, int]) -> np.ndarray:
    """One of n and -n, without 0, of all multiples n in the range, `[k, 3]`."""
    axes = [np.arange(-limit, limit + 1) for limit in k_range]
    box = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    # In this order n and -n stand at opposite places, and 0 in the middle.
    return box[len(box) // 2 + 1 :]


def _reciprocal_potentials(graph: AtomicGraph, charges: Array, widths: Array, cutoff: float):
    """Potentials of periodic structures without `coulomb`, from their structure factors."""
    waves = _waves(graph, widths, cutoff)
    total = jnp.zeros_like(charges)
    for part in (waves.cosines, waves.sines):
        factors = jax.ops.segment_sum(
            part * charges[:, None],
            graph.graph_index,
            num_segments=graph.num_graphs,
            indices_are_sorted=True,
        )
        total = total + jnp.sum(part * (waves.strengths * factors)[graph.graph_index], axis=1)
    return total


def _periodic(graph: AtomicGraph) -> Bool[Array, " graphs"]:
    return jnp.all(graph.pbc, axis=-1) & graph.graph_mask


def _valid(graph: AtomicGraph, cutoff: float) -> Float[Array, " atoms"]:
    """1 for atoms of structures that these sums are right for, NaN for others."""
    if graph.vectors is not None:
        raise UserError(
            "graph: got pair vectors instead of positions; expected positions and cell. Sums over "
            "reciprocal lattice vectors have no pair form."
        )
    if graph.k_range is None:
        raise UserError(
            "graph: it was made without k_range; expected the range of reciprocal lattice vectors. "
            "Pass reciprocal_cutoff=models.requirements(model).reciprocal_cutoff to make_graph."
        )
    lengths = safe_norm(jax.lax.stop_gradient(graph.cell))
    limit = jnp.asarray(2.0 * math.pi * (np.array([graph.k_range]) + 1), lengths.dtype)
    # A part in 10^5: the host counts in float64.
    covered = jnp.all(lengths * cutoff <= limit * (1.0 + 1e-5), axis=-1)
    valid = jnp.where(_periodic(graph), covered, ~jnp.any(graph.pbc, axis=-1) | ~graph.graph_mask)
    # Ghost atoms of a decomposed system are images, and would count twice.
    valid = valid & jnp.all(graph.energy_mask == graph.atom_mask)
    return jnp.where(valid, 1.0, jnp.nan)[graph.graph_index].astype(graph.positions.dtype)


def _same_structure(graph: AtomicGraph) -> Bool[Array, "atoms atoms"]:
    same = graph.graph_index[:, None] == graph.graph_index[None, :]
    return same & graph.atom_mask[:, None] & graph.atom_mask[None, :]


def _open_pairs(graph: AtomicGraph) -> Bool[Array, "atoms atoms"]:
    """Pairs of atoms of one open structure, every atom with itself included."""
    return _same_structure(graph) & ~_periodic(graph)[graph.graph_index][:, None]


def _squared_distances(graph: AtomicGraph, pairs: Array) -> Float[Array, "atoms atoms"]:
    """Squared distances [Å²] of pairs; 1 elsewhere."""
    vectors = graph.positions[:, None, :] - graph.positions[None, :, :]
    return jnp.where(pairs, jnp.sum(vectors * vectors, axis=-1), 1.0)


def _splitting(cutoff: float, accuracy: float) -> float:
    """Width [Å] of Gaussians whose difference to point charges ends at the cutoff [Å]."""
    return cutoff / (2.0 * _inverse_erfc(accuracy))


def _inverse_erfc(value: float) -> float:
    if not 1e-300 < value < 1.0:
        raise UserError(f"accuracy: got {value}; expected a small positive number, such as 1e-10.")
    low, high = 0.0, 30.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if math.erfc(middle) > value else (low, middle)
    return high
