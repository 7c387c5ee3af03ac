"""Products of the atomic basis against sums over all components, and how they turn."""

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


def basis(l_max: int = 2):
    return np.random.default_rng(0).normal(size=(ATOMS, (l_max + 1) ** 2, CHANNELS))


MADE = ProductBasis(2, (0, 1, 2), 3, 3)
APPLY = jax.jit(MADE.apply)


@pytest.fixture(scope="module")
def variables(graph):
    return jax.jit(MADE.init)(jax.random.key(0), graph, basis(), SPECIES)


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


def test_products_turn_with_the_basis(graph, variables):
    """B of the turned and reflected A is B turned and reflected, for every degree."""
    a = basis()
    angles = (0.3, 1.1, -0.7)
    turns = [np.asarray(e3nn_jax.Irrep(l, (-1) ** l).D_from_angles(*angles, 1)) for l in range(3)]
    turned = np.concatenate(
        [np.einsum("mn,anc->amc", turns[l], a[:, l * l : (l + 1) ** 2]) for l in range(3)],
        axis=1,
    )
    before, after = APPLY(variables, graph, a, SPECIES), APPLY(variables, graph, turned, SPECIES)
    for l, (b, c) in enumerate(zip(before, after, strict=True)):
        np.testing.assert_allclose(c, np.einsum("mn,anc->amc", turns[l], b), atol=1e-12)


def test_both_forms_and_blocks_of_atoms_agree(graph, variables, monkeypatch):
    a = basis()
    separate = APPLY(variables, graph, a, SPECIES)
    monkeypatch.setattr(product_basis, "MAX_MERGED_ELEMENTS", 3)
    merged = jax.jit(MADE.apply)(variables, graph, a, SPECIES)
    for one, other in zip(separate, merged, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_channels_and_atoms_do_not_mix(graph, variables):
    a = basis()
    changed = a.copy()
    changed[1, :, 0] += 1.0
    before = APPLY(variables, graph, a, SPECIES)
    after = APPLY(variables, graph, changed, SPECIES)
    for one, other in zip(before, after, strict=True):
        same = np.asarray(one) == np.asarray(other)
        assert not same[1, :, 0].any()
        same[1, :, 0] = True
        assert same.all()
