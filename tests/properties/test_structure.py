"""Radial distribution functions: shells, ideal gases, partial ones, derivatives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.properties import structure as structural
from tests.properties import crystals
from tests.simulate import silicon


def gas(seed: int, atoms: int = 60, edge: float = 9.0) -> Structure:
    """Atoms at random, of two elements."""
    rng = np.random.default_rng(seed)
    numbers = np.where(np.arange(atoms) < atoms // 3, 8, 14)
    return Structure(numbers, rng.uniform(0, edge, (atoms, 3)), edge * np.eye(3), np.ones(3, bool))


def test_shells_of_diamond_are_counted_beyond_half_the_cell():
    found = structural.radial_distribution(crystals.diamond(silicon.LATTICE), 6.0, bins=600)
    for shell, total in ((np.sqrt(3) / 4, 4), (np.sqrt(0.5), 16), (np.sqrt(11) / 4, 28), (1, 34)):
        edge = found.distances > shell * silicon.LATTICE + 0.02
        assert found.neighbors[edge][0] == pytest.approx(total)
    assert np.sum(found.values > 0) == 5  # the fifth at sqrt(19)/4, 5.92 Å


def test_an_ideal_gas_has_no_structure():
    frames = [gas(seed) for seed in range(100)]
    found = structural.radial_distribution(frames, 5.0, bins=10)
    np.testing.assert_allclose(found.values[4:], 1.0 - 1 / 60, atol=0.06)
    partial = structural.radial_distribution(frames, 5.0, bins=10, pair=(8, 14))
    np.testing.assert_allclose(partial.values[4:], 1.0, atol=0.09)
    density = 40 / 9.0**3
    expected = density * 4 / 3 * np.pi * 5.0**3
    assert partial.neighbors[-1] == pytest.approx(expected, rel=0.02)


def test_one_distance_is_right_in_narrower_cells_or_no_number():
    """The images are those of a cell narrower by a tenth; without enough of them g is NaN."""
    wide = gas(0, atoms=12, edge=7.0)
    at = structural.smooth_distribution_fn(wide, 4.5, 0.2)
    flawless = 0
    for factor in np.linspace(1.0, 0.5, 11):
        small = dataclasses.replace(
            wide, cell=factor * wide.cell, positions=factor * wide.positions
        )
        with jax.debug_nans(False):
            value = float(at(jnp.asarray(small.positions), jnp.asarray(small.cell)))
        if np.isfinite(value):
            # Another function, of images enough for this cell.
            own = structural.smooth_distribution_fn(small, 4.5, 0.2)
            expected = own(jnp.asarray(small.positions), jnp.asarray(small.cell))
            assert value == pytest.approx(float(expected), rel=1e-10)
            flawless += 1
        else:
            assert factor < 0.9
    assert 3 <= flawless < 11


def test_the_smooth_function_is_the_counted_one_smeared():
    frames = [gas(seed) for seed in range(3)]
    counted = structural.radial_distribution(frames, 5.0, bins=25)
    smooth = structural.radial_distribution(frames, 5.0, bins=25, width=1e-4)
    np.testing.assert_allclose(smooth.neighbors, counted.neighbors, atol=0.05)
    crystal = crystals.diamond(silicon.LATTICE)
    peak = structural.radial_distribution(crystal, 5.0, bins=2000, width=0.1)
    bond = silicon.LATTICE * np.sqrt(3) / 4
    middle = np.argmin(np.abs(peak.distances - 3.0))
    assert peak.neighbors[middle] == pytest.approx(4.0, abs=1e-6)  # whatever the width
    density = 8 / silicon.LATTICE**3
    gaussian = np.exp(-0.5 * ((peak.distances - bond) / 0.1) ** 2) / (0.1 * np.sqrt(2 * np.pi))
    expected = 4 * gaussian / (4 * np.pi * peak.distances**2 * density)
    near = np.abs(peak.distances - bond) < 0.3
    np.testing.assert_allclose(peak.values[near], expected[near], rtol=1e-3)


def test_derivatives_by_positions_are_those_of_differences():
    graph = jax.tree.map(jnp.asarray, make_graph(gas(0, atoms=12), 5.0, dtype=np.float64))
    weights = jnp.asarray(np.random.default_rng(1).normal(size=20))
    of = structural.radial_distribution_fn(4.0, bins=20, width=0.15)

    def loss(positions):
        return jnp.sum(weights * of(dataclasses.replace(graph, positions=positions)).values)

    value = jax.jit(loss)
    slope = jax.jit(jax.grad(loss))(graph.positions)
    for atom, axis in ((0, 1), (7, 2)):
        step = np.zeros(graph.positions.shape)
        step[atom, axis] = 1e-5
        difference = (value(graph.positions + step) - value(graph.positions - step)) / 2e-5
        np.testing.assert_allclose(slope[atom, axis], difference, rtol=1e-6, atol=1e-8)
    assert np.all(np.isfinite(slope))


def test_what_has_no_density_or_no_such_pair_is_refused():
    crystal = crystals.diamond(silicon.LATTICE)
    open_one = dataclasses.replace(crystal, pbc=np.array([True, True, False]))
    with pytest.raises(UserError, match="three periodic"):
        structural.radial_distribution(open_one)
    with pytest.raises(UserError, match="no atoms of one"):
        structural.radial_distribution(crystal, pair=(14, 8))
    with pytest.raises(UserError, match="positive cutoff"):
        structural.radial_distribution(crystal, cutoff=-1.0)
