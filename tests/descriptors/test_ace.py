"""Functions of the cluster expansion against sums over pairs and triples of neighbours."""

import itertools

import jax
import numpy as np
import pytest
from numpy.polynomial import legendre

from mlip_jax.config import UserError
from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.descriptors.ace import ClusterExpansion
from mlip_jax.descriptors.ace_functions import Selection, orders, products, sizes, terms
from mlip_jax.nn.angular import harmonic_components
from mlip_jax.nn.symmetric_contraction import couplings

SPECIES = (8, 14)
CUTOFF = 3.0
DESCRIPTOR = ClusterExpansion(SPECIES, CUTOFF, (3, 2, 1), (0, 2, 2), None, "cheb_pow", 2.0)


@pytest.fixture(scope="module")
def cluster():
    positions = np.random.default_rng(3).uniform(-1.6, 1.6, size=(5, 3))
    numbers = np.array([8, 14, 14, 8, 14])
    return Structure(numbers, positions, np.zeros((3, 3)), np.zeros(3, bool))


@pytest.fixture(scope="module")
def found(cluster):
    graph = make_graph(cluster, CUTOFF, dtype=np.float64)
    return np.asarray(jax.jit(lambda g: DESCRIPTOR.apply({}, g))(graph))


def radial(r: float, n: int) -> float:
    """`(1 - T_n(x)) / 2`, n from 0 here."""
    x = 1.0 - 2.0 * (1.0 - r / CUTOFF) ** 2
    return 0.5 * (1.0 - np.cos((n + 1) * np.arccos(x))) if r < CUTOFF else 0.0


def neighbors(structure: Structure, i: int):
    """Index of the element, distance and direction of each other atom."""
    for j, z in enumerate(structure.atomic_numbers):
        if j != i:
            vector = structure.positions[j] - structure.positions[i]
            r = float(np.linalg.norm(vector))
            yield SPECIES.index(z), r, vector / r


def polynomial(degree: int, x):
    return legendre.legval(x, [0.0] * degree + [1.0])


def angular(degrees, directions) -> float:
    """The normalised invariant of one, two or three directions.

    Of one, 1; of two, `√(2l + 1) P_l(cos)`. Of three, the integral of `(2l + 1) P_l(n · u)` over
    all n, divided by the norm of the integrals of three harmonics.
    """
    if len(degrees) == 1:
        return 1.0
    if len(degrees) == 2:
        cosine = directions[0] @ directions[1]
        return np.sqrt(2 * degrees[0] + 1) * polynomial(degrees[0], cosine)
    z, weights = legendre.leggauss(8)
    turns = 2.0 * np.pi * np.arange(16) / 16
    s = np.sqrt(1.0 - z**2)[:, None]
    n = np.stack(np.broadcast_arrays(s * np.cos(turns), s * np.sin(turns), z[:, None]), -1)
    factors = [(2 * l + 1) * polynomial(l, n @ u) for l, u in zip(degrees, directions, strict=True)]
    integral = np.sum(weights[:, None] / 32.0 * np.prod(factors, axis=0))
    norm = np.sum(
        weights / 2.0 * np.prod([(2 * l + 1) * polynomial(l, z) for l in degrees], axis=0)
    )
    return integral / np.sqrt(norm)


def brute_force(structure: Structure, i: int, multiset, num_radial: int, weights=None) -> float:
    """With weights `[elements, channels]` of neighbours in the sums; none: of each element."""
    weights = np.eye(len(SPECIES)) if weights is None else weights
    total = 0.0
    around = list(neighbors(structure, i))
    for chosen in itertools.product(around, repeat=len(multiset)):
        weight = 1.0
        for (element, r, _), (_, channel) in zip(chosen, multiset, strict=True):
            c, n = divmod(channel, num_radial)
            weight *= radial(r, n) * weights[element, c]
        if weight:
            total += weight * angular([l for l, _ in multiset], [u for _, _, u in chosen])
    return total


def test_functions_of_one_neighbor(cluster, found):
    for i in range(5):
        expected = np.zeros((2, 3))
        for element, r, _ in neighbors(cluster, i):
            expected[element] += [radial(r, n) for n in range(3)]
        np.testing.assert_allclose(found[i, :6], expected.ravel(), rtol=1e-12)


@pytest.mark.parametrize("order", [2, 3])
def test_functions_of_two_and_three_neighbors(cluster, found, order):
    """Up to the sign of a coupling, which is a convention."""
    selection = DESCRIPTOR.selection
    start = sum(sizes(selection)[: order - 1])
    of_order = orders(selection)[order - 2]
    assert len(of_order.multisets) == of_order.size  # up to three factors have one coupling
    for index, multiset in list(enumerate(of_order.multisets))[:: 1 if order == 2 else 3]:
        expected = [brute_force(cluster, i, multiset, selection.num_radial) for i in range(2)]
        values = found[:2, start + index]
        sign = np.sign(values[0] * expected[0])
        np.testing.assert_allclose(sign * values, expected, rtol=1e-11, atol=1e-11)


def test_products_are_those_of_the_whole_couplings():
    """Sparse and merged terms against the dense tensor, with two pairs of equal factors."""
    degrees, equal = (1, 1, 2, 2), (0, 0, 1, 1)
    point, other = np.random.default_rng(0).normal(size=(2, 3))
    vectors = [
        np.concatenate(np.broadcast_arrays(*harmonic_components(x, y, z, l)[l], np.ones(1))[:-1])
        for (x, y, z), l in ((point, 1), (other, 2))
    ]
    dense = couplings(degrees, equal)
    expected = np.einsum("pabcd,a,b,c,d->p", dense, vectors[0], vectors[0], vectors[1], vectors[1])
    components, table = terms(degrees, equal)
    assert len(components) < np.sum(np.abs(dense).max(axis=0) > 1e-12)
    factors = [vectors[0][components[:, :2]], vectors[1][components[:, 2:]]]
    sparse = table @ np.prod(np.concatenate(factors, axis=1), axis=1)
    np.testing.assert_allclose(sparse, expected, rtol=1e-12)


def test_the_number_of_functions_is_that_of_pacemaker():
    """Of the published Cu-III and Cu-PBE-core-rep (up to order 3); of order 4 multisets count."""
    assert sizes(Selection(1, (15, 3, 2, 1), (0, 2, 2, 1))) == (15, 18, 26, 3)
    selection = Selection(1, (16, 5, 4, 2), (0, 6, 4, 2))
    assert sizes(selection)[:3] == (16, 105, 548)
    assert len(orders(selection)[2].multisets) == 62


def test_a_bound_on_the_degree_leaves_functions_out():
    bounded = orders(Selection(2, (3, 3, 2), (0, 3, 3), (2, 3, 2)))
    for order, most in zip(bounded, (3, 2), strict=True):
        sums = [sum(l + channel % 3 for l, channel in multiset) for multiset in order.multisets]
        assert max(sums) == most
    assert bounded[0].size < orders(Selection(2, (3, 3, 2), (0, 3, 3)))[0].size


def test_products_of_an_order_are_products_of_its_factors():
    order = orders(DESCRIPTOR.selection)[1]
    basis = np.random.default_rng(0).normal(size=(DESCRIPTOR.selection.num_rows, 2))
    expected = np.prod(basis[order.factors], axis=1)
    found = jax.jit(lambda a: products(a, order))(basis)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_chosen_functions_are_a_part_of_all():
    whole = Selection(1, (3, 2, 1), (0, 1, 1))
    first, *_ = orders(whole)
    chosen = tuple(tuple(sum(multiset, ())) for multiset in first.multisets[1:3])
    part = Selection(1, (3, 2, 1), (0, 1, 1), None, (chosen, ())).checked()
    assert sizes(part) == (3, 2, 0)
    assert orders(part)[0].multisets == first.multisets[1:3]
    for wrong in ((0, 0), (1, 0, 0, 0), (0, 0, 1, 0), (0, 0, 0, 2)):
        with pytest.raises(UserError, match="chosen"):
            Selection(1, (3, 2, 1), (0, 1, 1), None, ((wrong,), ())).checked()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"species": None}, "species"),
        ({"n_max": (3, 2)}, "as many numbers"),
        ({"l_max": (1, 2, 2)}, "l_max = 0"),
        ({"n_max": (3, 0, 1)}, "n_max >= 1"),
        ({"element_channels": 0}, "element_channels: got 0"),
    ],
)
def test_impossible_fields_are_named(cluster, fields, message):
    graph = make_graph(cluster, CUTOFF, dtype=np.float64)
    with pytest.raises(UserError, match=message):
        jax.jit(lambda g: DESCRIPTOR.clone(**fields).apply({}, g))(graph)


WEIGHTS = np.random.default_rng(5).normal(size=(len(SPECIES), 3))


def with_channels(cluster, weights, **fields):
    descriptor = DESCRIPTOR.clone(element_channels=weights.shape[1], **fields)
    graph = make_graph(cluster, CUTOFF, dtype=np.float64)
    kind = "params" if descriptor.channel_weights == "trained" else "constants"
    variables = {kind: {"channels": weights}}
    return descriptor, np.asarray(jax.jit(descriptor.apply)(variables, graph))


def test_channels_that_are_the_elements_give_their_functions(cluster, found):
    _, values = with_channels(cluster, np.eye(2), channel_products="all")
    np.testing.assert_array_equal(values, found)


@pytest.mark.parametrize("kind", ["fixed", "trained"])
def test_products_of_equal_channels(cluster, kind):
    """Weighted sums over neighbours of both elements, channel by channel."""
    descriptor, values = with_channels(cluster, WEIGHTS, channel_weights=kind)
    selection, start = descriptor.selection, 0
    assert selection.elements == 1
    singles = tuple(((0, n),) for n in range(3))
    for multisets in (singles, *(order.multisets for order in orders(selection))):
        for channel in range(3):
            for index, multiset in list(enumerate(multisets))[::3]:
                weights = WEIGHTS[:, channel : channel + 1]
                number = 3 if len(multiset) == 1 else selection.num_radial
                expected = [brute_force(cluster, i, multiset, number, weights) for i in range(2)]
                got = values[:2, start + index]
                sign = np.sign(got[0] * expected[0])
                np.testing.assert_allclose(sign * got, expected, rtol=1e-11, atol=1e-11)
            start += len(multisets)
    assert start == values.shape[1] == descriptor.isolated_features().shape[1]


def test_products_of_all_channels(cluster):
    descriptor, values = with_channels(cluster, WEIGHTS, channel_products="all")
    order, start = orders(descriptor.selection)[0], 9
    for index, multiset in list(enumerate(order.multisets))[::7]:
        expected = brute_force(cluster, 0, multiset, 2, WEIGHTS)
        np.testing.assert_allclose(abs(values[0, start + index]), abs(expected), rtol=1e-11)


def test_the_number_of_functions_does_not_grow_with_that_of_elements(cluster):
    """And the fixed weights of an element are its own."""
    graph = make_graph(cluster, CUTOFF, dtype=np.float64)
    features, weights = [], []
    for species in (SPECIES, (8, 13, 14, 26, 28)):
        descriptor = DESCRIPTOR.clone(species=species, element_channels=2)
        variables = jax.jit(descriptor.init)(jax.random.key(0), graph)
        features.append(descriptor.isolated_features().shape[1])
        weights.append(dict(zip(species, variables["constants"]["channels"], strict=True)))
    assert features[0] == features[1] == 2 * sum(sizes(Selection(1, (3, 2, 1), (0, 2, 2))))
    for z in SPECIES:
        np.testing.assert_array_equal(weights[0][z], weights[1][z])
    assert np.abs(weights[0][8] - weights[0][14]).min() > 1e-3
