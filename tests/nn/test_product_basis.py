"""Products of the atomic basis against sums over all components, and how they turn."""

import functools

import e3nn_jax
import jax
import numpy as np
import pytest

from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.nn import product_basis
from mlip_jax.nn.angular import clebsch_gordan
from mlip_jax.nn.product_basis import ProductBasis, product_table

ATOMS, CHANNELS = 3, 2
SPECIES = np.array([0, 2, 1])


@pytest.fixture(scope="module")
def graph():
    positions = np.arange(3.0 * ATOMS).reshape(ATOMS, 3)
    return make_graph(
        Structure(np.ones(ATOMS, int), positions, np.zeros((3, 3)), np.zeros(3, bool)), 1.0
    )


def basis(l_max: int):
    return np.random.default_rng(0).normal(size=(ATOMS, (l_max + 1) ** 2, CHANNELS))


@functools.cache
def module(num_species: int = 3, l_max: int = 2, correlation: int = 3) -> ProductBasis:
    return ProductBasis(l_max, (0, 1, 2)[: l_max + 1], correlation, num_species)


def test_pairs_couple_by_clebsch_gordan():
    """Order 2 to degree L: one coupling for every l1 <= l2 that is even and possible."""
    for total in (0, 1, 2):
        table = product_table(2, 2, (total,))
        found = table.coefficients[total]
        rng = np.random.default_rng(total)
        a = rng.normal(size=9)
        products = np.prod(a[table.factors], axis=1)
        values = np.einsum("mkp,p->mk", found, products)
        k = 0
        for first in range(3):
            for second in range(first, 3):
                even = (first + second + total) % 2 == 0
                if not even or not abs(first - second) <= total <= first + second:
                    continue
                tensor = clebsch_gordan(first, second, total)
                of = [a[l * l : (l + 1) ** 2] for l in (first, second)]
                expected = np.einsum("abm,a,b->m", tensor, *of)
                # couplings have the norm sqrt(2 L + 1), with a sign of their own
                ratio = values[:, k] @ expected / (expected @ expected)
                np.testing.assert_allclose(values[:, k], ratio * expected, atol=1e-12)
                assert abs(ratio) == pytest.approx(np.sqrt(2 * total + 1), rel=1e-12)
                k += 1
        assert k == found.shape[1]


def test_products_turn_with_the_basis(graph):
    """B of the turned and reflected A is B turned and reflected, for every degree."""
    a = basis(2)
    made = module()
    variables = jax.jit(made.init)(jax.random.key(0), graph, a, SPECIES)
    apply = jax.jit(made.apply)
    angles = (0.3, 1.1, -0.7)
    turns = [np.asarray(e3nn_jax.Irrep(l, (-1) ** l).D_from_angles(*angles, 1)) for l in range(3)]
    turned = np.concatenate(
        [np.einsum("mn,anc->amc", turns[l], a[:, l * l : (l + 1) ** 2]) for l in range(3)],
        axis=1,
    )
    before, after = apply(variables, graph, a, SPECIES), apply(variables, graph, turned, SPECIES)
    for l, (b, c) in enumerate(zip(before, after, strict=True)):
        np.testing.assert_allclose(c, np.einsum("mn,anc->amc", turns[l], b), atol=1e-12)


def test_both_forms_and_blocks_of_atoms_agree(graph, monkeypatch):
    a = basis(2)
    made = module()
    variables = jax.jit(made.init)(jax.random.key(0), graph, a, SPECIES)
    separate = jax.jit(made.apply)(variables, graph, a, SPECIES)
    monkeypatch.setattr(product_basis, "MAX_MERGED_ELEMENTS", 3)
    merged = jax.jit(made.apply)(variables, graph, a, SPECIES)
    for one, other in zip(separate, merged, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_channels_and_atoms_do_not_mix(graph):
    a = basis(2)
    made = module()
    variables = jax.jit(made.init)(jax.random.key(0), graph, a, SPECIES)
    changed = a.copy()
    changed[1, :, 0] += 1.0
    before = jax.jit(made.apply)(variables, graph, a, SPECIES)
    after = jax.jit(made.apply)(variables, graph, changed, SPECIES)
    for one, other in zip(before, after, strict=True):
        same = np.asarray(one) == np.asarray(other)
        assert not same[1, :, 0].any()
        same[1, :, 0] = True
        assert same.all()
