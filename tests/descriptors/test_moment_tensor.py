"""Moment tensors against sums over neighbours and contractions of whole tensors, done in numpy."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket, make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.descriptors.moment_contractions import Graph, scalars, schedule
from mlip_jax.descriptors.moment_tensor import MomentTensors

SPECIES = (8, 14)
CUTOFF = 3.4

PUBLISHED = {2: 1, 4: 2, 6: 5, 8: 9, 10: 16, 12: 29, 14: 52, 16: 92, 18: 163, 20: 288}
"""Scalars of the untrained potentials of MLIP-2 by level; the same numbers as in motep 0.2.0."""

BASIC = {14: 81, 16: 130, 20: 295}
"""`alpha_index_basic_count` of potentials of these levels, as published with maml."""


@pytest.mark.parametrize("level", PUBLISHED)
def test_there_are_as_many_scalars_as_published(level):
    found = scalars(level, 4)
    assert len(found) == len(set(found)) == PUBLISHED[level]
    if level in BASIC:
        assert len(schedule(level, 4).basic) == BASIC[level]


@pytest.mark.parametrize(("level", "moments"), [(10, 4), (14, 3), (12, 6)])
def test_scalars_are_all_multigraphs_up_to_isomorphism(level, moments):
    """All matrices of numbers of edges, sorted out by trying all orders of the vertices."""
    found = set()
    for number in range(1, moments + 1):
        pairs = list(itertools.combinations(range(number), 2))
        room = (level - 2 * number) // 2
        for colours in itertools.combinations_with_replacement(range(level // 4 + 1), number):
            edges = room - 2 * sum(colours)
            for counts in itertools.product(range(max(edges, -1) + 1), repeat=len(pairs)):
                if sum(counts) <= edges:
                    matrix = np.diag(colours)
                    for (i, j), count in zip(pairs, counts, strict=True):
                        matrix[i, j] = matrix[j, i] = count
                    orders = itertools.permutations(range(number))
                    found.add(min(matrix[np.ix_(p, p)].tobytes() for p in map(list, orders)))
    assert len(scalars(level, moments)) == len(found)


@pytest.fixture(scope="module")
def structure():
    rng = np.random.default_rng(0)
    cell = np.diag([3.1, 3.4, 3.9]) + 0.3 * rng.normal(size=(3, 3))
    positions = rng.uniform(size=(4, 3)) @ cell
    return Structure(np.array([8, 14, 14, 8]), positions, cell, np.array([True] * 3))


@pytest.mark.parametrize("level", [12, pytest.param(20, marks=pytest.mark.slow)])
def test_scalars_are_contractions_of_sums_over_neighbors(structure, level):
    descriptor = MomentTensors(SPECIES, CUTOFF, level, min_dist=1.2, radial_basis_size=4)
    rng = np.random.default_rng(1)
    radial = rng.normal(size=(2, 2, descriptor.radial_functions, 4))
    graph = make_graph(structure, CUTOFF, dtype=np.float64)
    variables = {"params": {"radial": jnp.asarray(radial)}}
    found = np.asarray(jax.jit(descriptor.apply)(variables, graph))
    wanted = scalars(level, 4)
    for i, row in enumerate(found):
        moments = {}
        for factors in wanted:
            for part in factors:
                for mu, order in zip(*_colours_and_orders(part), strict=True):
                    key = (mu, order)
                    if key not in moments:
                        moments[key] = _moment(structure, i, *key, radial, descriptor)
        expected = [np.prod([_contract(part, moments) for part in f]) for f in wanted]
        # 1e-13 of the largest product; the scalars span ten orders of magnitude.
        np.testing.assert_allclose(row, expected, rtol=1e-9, atol=1e-13 * np.abs(expected).max())


def _moment(structure, i, mu, order, radial, descriptor) -> np.ndarray:
    """M_μν of an atom, all 3^ν components, by a loop over neighbours."""
    total = np.zeros((3,) * order)
    own = SPECIES.index(structure.atomic_numbers[i])
    for j, z in enumerate(structure.atomic_numbers):
        for shift in itertools.product(range(-3, 4), repeat=3):
            vector = structure.positions[j] + shift @ structure.cell - structure.positions[i]
            r = np.linalg.norm(vector)
            if 1e-9 < r < CUTOFF:
                width = CUTOFF - descriptor.min_dist
                x = (2 * r - CUTOFF - descriptor.min_dist) / width
                coefficients = radial[own, SPECIES.index(z), mu]
                f = np.polynomial.chebyshev.chebval(x, coefficients) * ((r - CUTOFF) / width) ** 2
                outer = np.array(1.0)
                for _ in range(order):
                    outer = np.multiply.outer(outer, vector / r)
                total = total + f * outer
    return total


def _colours_and_orders(graph: Graph) -> tuple[list[int], list[int]]:
    orders = [0] * len(graph.vertices)
    for i, j, number in graph.edges:
        orders[i] += number
        orders[j] += number
    return [mu for mu, *_ in graph.vertices], orders


def _contract(graph: Graph, moments) -> float:
    letters = iter("abcdefghijklmnop")
    indices = [""] * len(graph.vertices)
    for i, j, number in graph.edges:
        common = "".join(itertools.islice(letters, number))
        indices[i] += common
        indices[j] += common
    tensors = [moments[key] for key in zip(*_colours_and_orders(graph), strict=True)]
    return float(np.einsum(",".join(indices) + "->", *tensors, optimize=True))


def test_values_and_gradients_are_finite_at_every_distance():
    descriptor = MomentTensors(SPECIES, CUTOFF, 8, min_dist=1.5)
    bucket = Bucket(graphs=1, atoms=3, max_neighbors=2)
    variables = {"params": {"radial": jnp.ones((2, 2, descriptor.radial_functions, 8))}}

    @jax.jit
    def evaluate(graph):
        def total(positions):
            moved = dataclasses.replace(graph, positions=positions)
            return jnp.sum(jnp.asarray(descriptor.apply(variables, moved)))

        return jax.value_and_grad(total)(graph.positions)

    for distance in (0.3, 1e-3, 1.5, 1.7, CUTOFF - 1e-12, CUTOFF):
        positions = np.array([[0.0, 0, 0], [0, 0, distance], [0, 0, -distance]])
        wire = Structure(np.array([14, 14, 8]), positions, np.zeros((3, 3)), np.zeros(3, bool))
        value, gradient = evaluate(make_graph(wire, CUTOFF, dtype=np.float64, bucket=bucket))
        assert np.isfinite(value), distance
        assert np.all(np.isfinite(gradient)), distance
        assert (value == 0.0) == (distance == CUTOFF)


def test_isolated_atoms_are_known_to_have_no_features():
    descriptor = MomentTensors(SPECIES, CUTOFF, 8)
    lone = Structure(
        np.array([14, 8]), np.array([[0.0] * 3, [9.0] * 3]), np.zeros((3, 3)), np.zeros(3, bool)
    )
    graph = make_graph(lone, CUTOFF, dtype=np.float64)
    found, _ = jax.jit(descriptor.init_with_output)(jax.random.key(0), graph)
    np.testing.assert_array_equal(found, descriptor.isolated_features())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"species": None}, "species"),
        ({"min_dist": 5.0}, "min_dist = 5.0 Å and cutoff = 5.0 Å"),
        ({"level": 1}, "level = 1"),
        ({"radial_basis_size": 0}, "radial_basis_size = 0"),
    ],
)
def test_impossible_fields_are_refused(structure, fields, message):
    descriptor = MomentTensors(**{"species": SPECIES, **fields})
    with pytest.raises(UserError, match=message):
        descriptor.init(jax.random.key(0), make_graph(structure, CUTOFF))
