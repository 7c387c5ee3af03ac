"""Bispectrum components against the defining integral, done with other tools."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket, make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.descriptors.bispectrum import Bispectrum, triples
from mlip_jax.descriptors.jacobian import pair_jacobian
from mlip_jax.graph import edge_vectors

SPECIES = (8, 14)
CUTOFF = 3.4


@pytest.fixture(scope="module")
def structure():
    rng = np.random.default_rng(0)
    cell = np.diag([4.1, 4.4, 4.9]) + 0.3 * rng.normal(size=(3, 3))
    positions = rng.uniform(size=(5, 3)) @ cell
    return Structure(np.array([8, 14, 14, 8, 14]), positions, cell, np.array([True] * 3))


def components(descriptor, structure):
    graph = make_graph(structure, descriptor.cutoff, dtype=np.float64)
    return np.asarray(jax.jit(lambda g: descriptor.apply({}, g))(graph))


def by_quadrature(descriptor: Bispectrum, structure: Structure, densities) -> np.ndarray:
    """`(n + 1) ∫ f f f` from zonal functions on a product grid of angles.

    `densities` maps a neighbour's element to its share in each of the three densities.
    """
    degree = 3 * descriptor.twojmax + 1
    number = degree // 2 + 1
    theta = np.arange(1, number + 1) * np.pi / (number + 1)
    cosines, heights = np.polynomial.legendre.leggauss(number)
    turns = 2.0 * np.pi * np.arange(degree + 1) / (degree + 1)
    t, c, p = np.meshgrid(theta, cosines, turns, indexing="ij")
    s = np.sqrt(1.0 - c**2)
    q = np.stack([np.cos(t), *(np.sin(t) * np.array([s * np.cos(p), s * np.sin(p), c]))], -1)
    measure = np.sin(theta) ** 2 * 2.0 / (number + 1)
    weights = measure[:, None, None] * heights[None, :, None] / 2.0 / (degree + 1)
    weights = np.broadcast_to(weights, t.shape)
    rows = []
    for i, own in enumerate(structure.atomic_numbers):
        f = np.array([[_zonal(n, q[..., 0]) for n in range(descriptor.twojmax + 1)]] * 3)
        for z, vector in neighbors(structure, i):
            r = np.linalg.norm(vector)
            cutoff, strength = pair(descriptor, own, z, r)
            if r >= cutoff:
                continue
            angle = descriptor.rfac0 * np.pi * (r - descriptor.rmin0) / (cutoff - descriptor.rmin0)
            point = np.r_[np.cos(angle), np.sin(angle) * vector / r]
            zonal = np.array([_zonal(n, q @ point) for n in range(descriptor.twojmax + 1)])
            f = f + strength * np.asarray(densities(z))[:, None, None, None, None] * zonal
        rows.append(
            [
                (k + 1) * np.sum(weights * f[0, a] * f[1, b] * f[2, k])
                for a, b, k in triples(descriptor.twojmax)
            ]
        )
    return np.array(rows)


def _zonal(n: int, x: np.ndarray) -> np.ndarray:
    return np.polynomial.chebyshev.chebval(
        x, [(1.0 if k == 0 else 2.0) if (n - k) % 2 == 0 and k <= n else 0.0 for k in range(n + 1)]
    )


def neighbors(structure, i):
    for j, z in enumerate(structure.atomic_numbers):
        for shift in np.ndindex(5, 5, 5):
            vector = structure.positions[j] - structure.positions[i]
            vector = vector + (np.array(shift) - 2) @ structure.cell
            if np.linalg.norm(vector) > 1e-9:
                yield z, vector


def pair(descriptor, own, z, r):
    radii = dict(zip(SPECIES, descriptor.relative_radii or (1.0, 1.0), strict=True))
    weights = dict(zip(SPECIES, descriptor.weights or (1.0, 1.0), strict=True))
    cutoff = descriptor.cutoff * (radii[own] + radii[z]) / 2
    x = min(max((r - descriptor.rmin0) / (cutoff - descriptor.rmin0), 0.0), 1.0)
    strength = weights[z] * ((1 + np.cos(np.pi * x)) / 2 if descriptor.switch else 1.0)
    if descriptor.inner is not None:
        inner = dict(zip(SPECIES, descriptor.inner, strict=True))
        middle, half = (np.array(inner[own]) + np.array(inner[z])) / 2
        strength *= (1 - np.cos(np.pi / 2 * (1 + np.clip((r - middle) / half, -1, 1)))) / 2
    return cutoff, strength


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"relative_radii": (0.8, 1.0), "weights": (0.6, -1.3), "rmin0": 0.4, "rfac0": 0.9},
        {"switch": False, "inner": ((1.4, 0.3), (1.7, 0.4)), "rfac0": 1.0},
    ],
)
def test_components_are_the_defining_integrals(structure, fields):
    descriptor = Bispectrum(SPECIES, CUTOFF, 3, subtract_isolated=False, **fields)
    expected = by_quadrature(descriptor, structure, lambda z: (1.0, 1.0, 1.0))
    np.testing.assert_allclose(components(descriptor, structure), expected, atol=1e-11)


def test_explicit_elements_have_a_block_for_each_triple_of_elements(structure):
    descriptor = Bispectrum(
        SPECIES, CUTOFF, 2, explicit=True, self_all=True, subtract_isolated=False
    )
    found = components(descriptor, structure)
    size = len(triples(2))
    for block, chosen in enumerate(np.ndindex(2, 2, 2)):
        elements = [SPECIES[e] for e in chosen]
        expected = by_quadrature(
            descriptor, structure, lambda z, of=elements: [float(z == e) for e in of]
        )
        np.testing.assert_allclose(
            found[:, block * size : (block + 1) * size], expected, atol=1e-11
        )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        pytest.param({"explicit": True}, marks=pytest.mark.slow),
        {"explicit": True, "self_all": True},
    ],
)
def test_an_isolated_atom_has_no_components(fields):
    lone = Structure(
        np.array([14, 8]), np.array([[0.0] * 3, [9.0] * 3]), np.zeros((3, 3)), np.zeros(3, bool)
    )
    descriptor = Bispectrum(SPECIES, CUTOFF, 4, **fields)
    np.testing.assert_allclose(components(descriptor, lone), 0.0, atol=1e-13)
    np.testing.assert_array_equal(descriptor.isolated_features(), 0.0)
    whole = descriptor.clone(subtract_isolated=False)
    expected = whole.isolated_features()[[1, 0]]
    assert np.any(expected > 0.0)
    np.testing.assert_allclose(components(whole, lone), expected, atol=1e-13)


@pytest.mark.parametrize("explicit", [False, True])
def test_derivatives_by_pair_vectors_are_those_of_autodiff(structure, explicit):
    descriptor = Bispectrum(SPECIES, CUTOFF, 3, explicit=explicit, self_all=True)
    graph = jax.tree.map(jnp.asarray, make_graph(structure, CUTOFF, dtype=np.float64))

    def along(direction):
        """Features and their derivative along a change of all pair vectors."""

        def moved(step):
            vectors = edge_vectors(graph) + step * direction
            return descriptor.apply({}, dataclasses.replace(graph, vectors=vectors))

        return jax.jvp(moved, (0.0,), (1.0,))

    direction = jnp.asarray(np.random.default_rng(0).normal(size=(*graph.neighbors.shape, 3)))
    expected = jax.jit(along)(direction)
    found, jacobian = jax.jit(lambda g: pair_jacobian(descriptor, {}, g))(graph)
    np.testing.assert_allclose(found, expected[0], atol=1e-12)
    np.testing.assert_allclose(
        jnp.einsum("ijdf,ijd->if", jacobian, direction), expected[1], atol=1e-11
    )


@pytest.mark.parametrize("rmin0", [0.0, 0.5])
def test_values_and_gradients_are_finite_at_every_distance(rmin0):
    descriptor = Bispectrum(SPECIES, CUTOFF, 4, rfac0=1.0, rmin0=rmin0)
    bucket = Bucket(graphs=1, atoms=3, max_neighbors=2)

    @jax.jit
    def evaluate(graph):
        def total(positions):
            return jnp.sum(descriptor.apply({}, dataclasses.replace(graph, positions=positions)))

        return jax.value_and_grad(total)(graph.positions)

    for distance in (0.3, 1e-3, 1.7, CUTOFF - 1e-12, CUTOFF):
        positions = np.array([[0.0, 0, 0], [0, 0, distance], [0, 0, -distance]])
        wire = Structure(np.array([14, 14, 8]), positions, np.zeros((3, 3)), np.zeros(3, bool))
        value, gradient = evaluate(make_graph(wire, CUTOFF, dtype=np.float64, bucket=bucket))
        assert np.isfinite(value), distance
        assert np.all(np.isfinite(gradient)), distance


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"species": None}, "species"),
        ({"weights": (1.0,)}, "weights: got 1 values; .* 2 elements"),
        ({"relative_radii": (0.5, 0.9)}, "largest"),
        ({"rmin0": 4.0}, "rmin0"),
    ],
)
def test_impossible_fields_are_refused(structure, fields, message):
    descriptor = Bispectrum(**{"species": SPECIES, "cutoff": CUTOFF, **fields})
    with pytest.raises(UserError, match=message):
        components(descriptor, structure)
