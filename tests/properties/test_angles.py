"""Angular distribution functions: crystals, molecules, smearing, derivatives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.properties import angles
from tests.properties import crystals


def water(angle: float = 104.5) -> Structure:
    half = np.deg2rad(angle) / 2
    hydrogen = 0.96 * np.array([[np.sin(half), np.cos(half), 0], [-np.sin(half), np.cos(half), 0]])
    positions = np.concatenate([np.zeros((1, 3)), hydrogen])
    return Structure(np.array([8, 1, 1]), positions, np.zeros((3, 3)), np.zeros(3, bool))


def test_angles_of_crystals_are_counted():
    found = angles.angular_distribution(crystals.diamond(5.43), 3.0, bins=360)
    assert found.number == pytest.approx(6.0)
    (filled,) = np.flatnonzero(found.values)
    assert found.angles[filled] == pytest.approx(np.rad2deg(np.arccos(-1 / 3)), abs=0.25)
    found = angles.angular_distribution(crystals.fcc(4.0, 18), 3.0, bins=179)  # edges miss angles
    assert found.number == pytest.approx(66.0)
    filled = np.flatnonzero(found.values)
    np.testing.assert_allclose(found.angles[filled], [60, 90, 120, 180], atol=0.6)
    counts = found.values[filled] * 66 * 180 / 179
    np.testing.assert_allclose(counts, [24, 12, 24, 6])


def test_elements_choose_the_angles_of_a_molecule():
    found = angles.angular_distribution(water(), 1.2, triple=(1, 8, 1))
    assert found.number == pytest.approx(1.0)
    assert found.angles[np.argmax(found.values)] == pytest.approx(104.5, abs=0.5)
    for triple in ((8, 1, 1), (1, 1, 8)):
        found = angles.angular_distribution(water(), 2.0, triple=triple)
        assert found.number == pytest.approx(1.0)
    with pytest.raises(UserError, match=r"no atom has two neighbours within 1\.2 Å of the atomic"):
        angles.angular_distribution(water(), 1.2, triple=(8, 1, 8))
    with pytest.raises(UserError, match="positive cutoff"):
        angles.angular_distribution(water(), 0.0)


def test_smeared_angles_are_gaussians_with_derivatives():
    found = angles.angular_distribution(water(), 1.2, bins=720, width=5.0)
    gaussian = np.exp(-0.5 * ((found.angles - 104.5) / 5.0) ** 2) / (5.0 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(found.values, gaussian, atol=1e-5)
    graph = jax.tree.map(jnp.asarray, make_graph([water()], 1.2, dtype=np.float64))
    of = angles.angular_distribution_fn(1.2, bins=30, width=8.0)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=30))

    def loss(positions):
        return jnp.sum(weights * of(dataclasses.replace(graph, positions=positions)).values)

    value, slope = jax.jit(loss), jax.jit(jax.grad(loss))(graph.positions)
    for atom, axis in ((0, 1), (1, 0), (2, 1)):
        step = np.zeros(graph.positions.shape)
        step[atom, axis] = 1e-5
        difference = (value(graph.positions + step) - value(graph.positions - step)) / 2e-5
        np.testing.assert_allclose(slope[atom, axis], difference, rtol=1e-6, atol=1e-9)
    line = jax.jit(jax.grad(loss))(jnp.asarray(water(180.0).positions))
    assert np.all(np.isfinite(line))
