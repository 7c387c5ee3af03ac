"""Symmetry functions against loops over neighbours; moments against explicit pairs."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.descriptors import angles, envelopes
from mlip_jax.descriptors.acsf import ACSF, SymmetryFunctions
from mlip_jax.descriptors.envelopes import ENVELOPES
from mlip_jax.descriptors.symmetry_functions import Angular, Radial
from mlip_jax.graph import edge_vectors, safe_norm

SPECIES = (8, 14)
CUTOFF = 3.2
RADIAL = (Radial(0.8, 0.0, CUTOFF), Radial(4.0, 1.9, 2.7, neighbor=14), Radial(0.8, 0.0, 2.7))
RADIAL += (Radial(0.8, 1.0, CUTOFF, weighted=True),)
ANGULAR = (
    Angular(0.1, 0.0, -1.0, 2.0, CUTOFF),
    Angular(0.1, 0.0, 1.0, 16.0, CUTOFF, neighbors=(14, 8)),
    Angular(0.1, 0.0, 1.0, 12.0, CUTOFF),
    Angular(0.5, 1.5, 1.0, 4.0, 2.6, narrow=True),
    Angular(0.2, 0.0, -1.0, 1.0, 3.0, narrow=True, neighbors=(14, 14)),
    Angular(0.3, 0.5, 1.0, 2.5, 3.0),
    Angular(0.1, 0.5, 1.0, 3.0, CUTOFF, weighted=True),
    Angular(0.5, 1.5, -1.0, 2.0, 2.6, narrow=True, weighted=True),
    Angular(0.3, 0.5, 1.0, 2.5, 3.0, weighted=True),
)


def _structure(seed=0) -> Structure:
    rng = np.random.default_rng(seed)
    cell = np.diag([4.1, 4.4, 4.9]) + 0.3 * rng.normal(size=(3, 3))
    fractions = np.stack(np.meshgrid(*[[0.0, 0.5]] * 3, indexing="ij"), -1).reshape(-1, 3)
    positions = fractions @ cell + 0.25 * rng.normal(size=(8, 3))
    numbers = np.array([8, 14, 14, 8, 14, 14, 8, 14])
    return Structure(numbers, positions, cell, np.array([True, True, True]))


def _graph(structure: Structure, cutoff: float, **options):
    return jax.tree.map(jnp.asarray, make_graph(structure, cutoff, **options))


def _decay(kind: str, x: float) -> float:
    if x >= 1.0:
        return 0.0
    formulas = {
        "cosine": 0.5 * (math.cos(math.pi * x) + 1.0),
        "tanh_cubed": math.tanh(1.0 - x) ** 3,
        "polynomial": ((15.0 - 6.0 * x) * x - 10.0) * x**3 + 1.0,
    }
    return formulas[kind]


def _images(structure: Structure, i: int):
    """Vectors to, and Z of, all atoms around atom i, by brute force over lattice translations."""
    for j, shift in itertools.product(
        range(len(structure.positions)), itertools.product(range(-3, 4), repeat=3)
    ):
        vector = structure.positions[j] + np.array(shift) @ structure.cell - structure.positions[i]
        if 1e-9 < np.linalg.norm(vector) < CUTOFF:
            yield vector, int(structure.atomic_numbers[j])


def _loops(structure: Structure, i: int, kind: str) -> list[float]:
    neighbors = list(_images(structure, i))

    def weight(f, r):
        return math.exp(-f.eta * (r - f.r_shift) ** 2) * _decay(kind, r / f.cutoff)

    features = []
    for f in RADIAL:
        if f.weighted:
            features.append(sum(n * weight(f, np.linalg.norm(v)) for v, n in neighbors))
            continue
        for z in SPECIES if f.neighbor is None else (f.neighbor,):
            features.append(sum(weight(f, np.linalg.norm(v)) for v, n in neighbors if n == z))
    for f in ANGULAR:
        pairs = [(8, 8), (8, 14), (14, 14)] if f.neighbors is None else [tuple(sorted(f.neighbors))]
        for pair in [None] if f.weighted else pairs:
            total = 0.0
            for (a, za), (b, zb) in itertools.combinations(neighbors, 2):
                if f.weighted or tuple(sorted((za, zb))) == pair:
                    ra, rb = np.linalg.norm(a), np.linalg.norm(b)
                    base = max(1.0 + f.lam * float(a @ b) / (ra * rb), 0.0)
                    term = 2.0 ** (1.0 - f.zeta) * base**f.zeta * weight(f, ra) * weight(f, rb)
                    term *= za * zb if f.weighted else 1.0
                    total += term * (weight(f, np.linalg.norm(a - b)) if f.narrow else 1.0)
            features.append(total)
    return features


@functools.cache
def _expected(kind: str) -> list[list[float]]:
    """Of the first atoms: two of each element."""
    return [_loops(_structure(), i, kind) for i in range(4)]


@pytest.mark.parametrize("kind", sorted(ENVELOPES))
@pytest.mark.parametrize("block", [0, 4])
def test_functions_equal_loops_over_neighbors(kind, block):
    structure = _structure()
    descriptor = SymmetryFunctions(RADIAL, ANGULAR, SPECIES, kind)
    graph = _graph(structure, CUTOFF + 0.5, dtype=np.float64, block=block)
    values = jax.jit(lambda g: descriptor.apply({}, g))(graph)
    expected = _expected(kind)
    # 1e-12: sums of some 1000 terms, of order one but for weighted functions, in float64.
    np.testing.assert_allclose(values[: len(expected)], expected, rtol=1e-12, atol=1e-12)


def test_moments_equal_triplets():
    graph = _graph(_structure(), CUTOFF, dtype=np.float64)
    vectors = edge_vectors(graph)
    r = safe_norm(vectors)
    weights = jnp.stack([ENVELOPES["cosine"](r / c) for c in (CUTOFF, 2.5)], axis=-1)
    elements = jax.nn.one_hot((graph.atomic_numbers == 14).astype(int)[graph.neighbors], 2)
    shapes = tuple((lam, float(zeta)) for zeta in (1, 2, 3, 8, 12, 16) for lam in (-1.0, 1.0))
    units = vectors / r[..., None]
    moments = angles.wide_from_moments(units, weights, elements, shapes)
    triplets = angles.from_pairs(vectors, r, jnp.swapaxes(weights, 1, 2), None, elements, shapes)
    # The series of ζ = 16 loses a few digits to cancellation.
    np.testing.assert_allclose(moments, triplets, rtol=1e-10, atol=1e-11)


def test_harmonics_obey_the_addition_theorem():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(1, 40, 3))
    units = jnp.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))
    values = angles.harmonics(units, 12)[0]
    cosines = np.asarray(units[0] @ units[0].T)
    for l in range(13):
        rows = values[l * l : (l + 1) ** 2]
        legendre = np.polynomial.legendre.legval(cosines, [0.0] * l + [1.0])
        np.testing.assert_allclose(rows.T @ rows, legendre, atol=1e-13)


def _curvature(descriptor, graph):
    """Third-order use of the descriptor: the gradient of a loss on its gradient."""

    def energy(positions):
        moved = dataclasses.replace(graph, positions=positions)
        return jnp.sum(jnp.sin(descriptor.apply({}, moved)))

    def loss(positions):
        return jnp.sum(jax.grad(energy)(positions) ** 2)

    return jax.jit(jax.value_and_grad(loss))(jnp.asarray(graph.positions))


@pytest.mark.slow
def test_padding_and_skin_change_nothing_and_stay_finite():
    structure = _structure()
    # One of each way to sum: moments, explicit pairs, narrow functions.
    chosen = tuple(ANGULAR[k] for k in (0, 3, 5))
    descriptor = SymmetryFunctions(RADIAL, chosen, SPECIES)
    tight = _graph(structure, CUTOFF, dtype=np.float64)
    skin = _graph(structure, CUTOFF + 1.0, dtype=np.float64)
    width = skin.max_neighbors + 3

    def widen(rows, fill):
        missing = width - rows.shape[1]
        return np.concatenate([rows, np.repeat(fill, missing, axis=1)], axis=1)

    own = np.arange(8, dtype=skin.neighbors.dtype)[:, None]
    padded = dataclasses.replace(
        skin,
        neighbors=widen(np.asarray(skin.neighbors), own),
        shifts=widen(np.asarray(skin.shifts), np.zeros((8, 1, 3), skin.shifts.dtype)),
        edge_mask=widen(np.asarray(skin.edge_mask), np.zeros((8, 1), bool)),
    )
    expected_loss, expected = _curvature(descriptor, tight)
    loss, gradient = _curvature(descriptor, padded)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-11)
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_grid_and_explicit_list_agree():
    grid = ACSF(species=SPECIES, cutoff=CUTOFF, num_radial=4, num_angular=3, zetas=(1, 4))
    listed = SymmetryFunctions(grid.radial, grid.angular, SPECIES, grid.envelope)
    graph = _graph(_structure(), CUTOFF, dtype=np.float64)
    found, expected = (jax.jit(d.apply)({}, graph) for d in (grid, listed))
    np.testing.assert_array_equal(found, expected)
    assert found.shape == (8, 4 * 2 + 3 * 2 * 2 * 3)


def test_weighted_grid_does_not_grow_with_the_elements():
    grid = ACSF(species=SPECIES, cutoff=CUTOFF, num_radial=4, num_angular=3, zetas=(1, 4))
    graph = _graph(_structure(), CUTOFF, dtype=np.float64)
    weighted = jax.jit(grid.clone(weighted=True).apply)({}, graph)
    assert weighted.shape == (8, 4 + 3 * 2 * 2)
    plain = jax.jit(grid.apply)({}, graph)
    # Functions of elements and pairs, in that order, times their atomic numbers.
    radial = plain[:, :8].reshape(8, 4, 2) @ np.array([8.0, 14.0])
    angular = plain[:, 8:].reshape(8, 12, 3) @ np.array([8.0 * 8.0, 8.0 * 14.0, 14.0 * 14.0])
    np.testing.assert_allclose(weighted, np.concatenate([radial, angular], axis=1), rtol=1e-12)


def test_weighted_functions_name_no_neighbors():
    with pytest.raises(ValueError, match=r"got weighted with the neighbours 14"):
        Radial(0.8, 0.0, CUTOFF, neighbor=14, weighted=True)


@pytest.mark.parametrize("kind", sorted(ENVELOPES))
def test_a_plateau_leaves_the_rest_of_the_cutoff_function(kind):
    envelope = jax.jit(envelopes.named(kind, 0.25))
    x = np.linspace(0.0, 1.1, 45)
    expected = [_decay(kind, max(0.0, (v - 0.25) / 0.75)) for v in x]
    np.testing.assert_allclose(envelope(x), expected, atol=1e-15)


def test_short_angular_cutoff_uses_a_prefix():
    descriptor = ACSF(species=SPECIES, cutoff=CUTOFF, num_radial=4, angular_cutoff=2.4)
    assert descriptor.prefix_cutoffs == (2.4,)
    structure = _structure()
    whole = _graph(structure, CUTOFF, dtype=np.float64)
    short = _graph(structure, CUTOFF, prefix_cutoffs=(2.4,), dtype=np.float64)
    assert short.prefixes[0][1] < short.max_neighbors
    np.testing.assert_allclose(
        jax.jit(descriptor.apply)({}, short),
        jax.jit(descriptor.apply)({}, whole),
        rtol=1e-12,
        atol=1e-14,
    )


def test_missing_species_are_explained():
    graph = _graph(_structure(), CUTOFF)
    with pytest.raises(ValueError, match="expected the atomic numbers"):
        ACSF(cutoff=CUTOFF).apply({}, graph)


def test_a_unit_of_a_gaussian_is_a_factor_of_every_weight():
    plain = SymmetryFunctions(
        (Radial(1.5, 0.5, 4.0),), (Angular(0.8, 0.0, 1.0, 2.0, 4.0, narrow=True),), (14,)
    )
    scaled = plain.clone(
        radial=(Radial(1.5, 0.5, 4.0, r_unit=2.0),),
        angular=(Angular(0.8, 0.0, 1.0, 2.0, 4.0, narrow=True, r_unit=2.0),),
    )
    rng = np.random.default_rng(0)
    positions = 2.0 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    positions = positions + 0.1 * rng.normal(size=(4, 3))
    structure = Structure(np.full(4, 14), positions, np.zeros((3, 3)), np.zeros(3, bool))
    graph = make_graph(structure, 4.0, dtype=np.float64)
    values = [np.asarray(jax.jit(d.apply)({}, graph)) for d in (plain, scaled)]
    factors = np.exp([1.5 * 1.5**2, 3 * 0.8 * 2.0**2])
    np.testing.assert_allclose(values[1], values[0] * factors, rtol=1e-12)
