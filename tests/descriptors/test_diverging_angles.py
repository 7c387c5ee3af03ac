"""Angular functions of negative ζ, which published potentials have: they diverge at one angle."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.data.collate import Bucket, make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.descriptors.acsf import SymmetryFunctions
from mlip_jax.descriptors.symmetry_functions import Angular, Radial

CUTOFF = 3.0
FUNCTIONS = tuple(
    Angular(0.1, 0.0, lam, zeta, CUTOFF, narrow)
    for lam, zeta in ((1.0, -1.0), (1.0, -2.0), (-1.0, -1.0))
    for narrow in (True, False)
)
DESCRIPTOR = SymmetryFunctions((Radial(0.1, 0.0, CUTOFF),), FUNCTIONS, species=(14,))


def describe(positions):
    positions = np.asarray(positions, dtype=np.float64)
    none = np.zeros(3, dtype=bool)
    structure = Structure(np.full(len(positions), 14), positions, np.zeros((3, 3)), none)
    # Five padded slots in each row: their vectors point along x.
    graph = make_graph(structure, CUTOFF, dtype=np.float64, bucket=Bucket(1, 4, 8))

    def features(positions):
        moved = dataclasses.replace(graph, positions=positions)
        return DESCRIPTOR.apply({}, jax.tree.map(jnp.asarray, moved))

    return jax.jit(features)(graph.positions), jax.jit(jax.jacobian(features))(graph.positions)


def test_values_by_loops():
    positions = np.array([[0.0, 0, 0], [1.1, 0.3, 0], [-0.4, 1.4, 0.2], [0.3, -1.0, 1.2]])
    values = np.asarray(describe(positions)[0])

    def weight(r):
        return math.exp(-0.1 * r * r) * 0.5 * (1.0 + math.cos(math.pi * r / CUTOFF))

    for i in range(4):
        others = [j for j in range(4) if j != i]
        for column, f in enumerate(FUNCTIONS, 1):
            expected = 0.0
            for a, j in enumerate(others):
                for k in others[:a]:
                    first, second = positions[j] - positions[i], positions[k] - positions[i]
                    r, s, t = map(np.linalg.norm, (first, second, first - second))
                    value = (1.0 + f.lam * first @ second / (r * s)) ** f.zeta * 2.0 ** (1 - f.zeta)
                    expected += value * weight(r) * weight(s) * (weight(t) if f.narrow else 1.0)
            assert values[i, column] == pytest.approx(expected, rel=1e-12)


def test_padded_slots_and_straight_lines_are_finite():
    """Neighbours opposite to the padded vectors, and three atoms in a line, as in n2p2: zero."""
    straight = [[0.0, 0, 0], [-1.2, 0, 0], [1.3, 0, 0], [0.0, 9.0, 0]]
    values, slopes = describe(straight)
    assert np.isfinite(values).all()
    assert np.isfinite(slopes).all()
    assert float(values[0, 1]) == 0.0
