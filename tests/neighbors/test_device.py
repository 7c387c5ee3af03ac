"""Capacities, flags and validity of the list on the device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.graph import PADDED_DISTANCE, edge_vectors
from mlip_jax.neighbors import active, device
from mlip_jax.neighbors.device import Flag

CELL = np.array([[7.0, 0.0, 0.0], [1.0, 6.5, 0.0], [-0.5, 0.8, 7.5]])
ALL = np.ones(3, bool)
CUTOFF, SKIN = 3.0, 0.6


@pytest.fixture(scope="module")
def listed():
    positions = np.random.default_rng(0).random((12, 3)) @ CELL
    return device.allocate(
        positions,
        CELL,
        ALL,
        CUTOFF,
        SKIN,
        prefix_cutoffs=(2.0,),
        pair_cutoffs=(2.0,),
        dtype=np.float64,
    )


def graph_of(listed, positions=None):
    positions = np.asarray(listed.reference_positions if positions is None else positions)
    template = make_graph(
        Structure(np.full(len(positions), 14), positions, CELL, ALL), CUTOFF, dtype=np.float64
    )
    return jax.jit(active.to_graph)(template, listed, jnp.asarray(positions), jnp.asarray(CELL))


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"row": 4}, Flag.ROW),
        ({"active": 3}, Flag.ACTIVE),
        ({"prefixes": ((2.0, 1),)}, Flag.PREFIX),
        ({"pair_rooms": ((2.0, 1),)}, Flag.PREFIX),
        ({"occupancy": 2}, Flag.BIN),
        ({"search": (0, 0, 0)}, Flag.CELL),
    ],
)
def test_what_does_not_fit_raises_its_flag(listed, change, flag):
    assert int(device.flags(listed)) == 0
    tight = device.with_capacity(listed, dataclasses.replace(listed.capacity, **change))
    _, tight = graph_of(tight)
    assert int(device.flags(tight)) & flag


def test_rows_have_slots_for_the_neighbors_just_outside_the_cutoff():
    """Silicon has 28 neighbours within 4.9 Å and the next ones at 5.43 Å: no slot is empty."""
    basis = np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0]]) / 4.0
    positions = 5.431 * np.concatenate([basis, basis + 0.25])
    cell = 5.431 * np.eye(3)
    capacity = device.allocate(positions, cell, ALL, 4.9, 0.5, dtype=np.float64).capacity
    assert capacity.active == 28
    shell = 5.431 - 0.9 * device.VIBRATION
    assert device.allocate(positions, cell, ALL, shell, 0.5, dtype=np.float64).capacity.active == 34
    roomy = device.allocate(positions, cell, ALL, 4.9, 0.5, dtype=np.float64, active_margin=1.1)
    assert roomy.capacity.active == 32


def test_the_shortest_distance_is_that_of_the_graph(listed):
    moved = listed.reference_positions + 0.1 * np.random.default_rng(2).normal(size=(12, 3))
    shortest = device_shortest(listed, moved)
    graph, _ = graph_of(listed, moved)
    distances = np.linalg.norm(np.asarray(edge_vectors(graph)), axis=-1)
    np.testing.assert_allclose(shortest, distances.min(), rtol=1e-12)
    alone = device.allocate(np.zeros((1, 3)), CELL, ~ALL, CUTOFF, SKIN, dtype=np.float64)
    assert device_shortest(alone, alone.reference_positions) == PADDED_DISTANCE


def device_shortest(listed, positions):
    return float(active.shortest_distance(listed, positions, listed.reference_cell))


def test_growth_makes_room_for_all_that_was_met(listed):
    tight = dataclasses.replace(listed.capacity, row=4, active=3, occupancy=2)
    overflowed = device.with_capacity(listed, tight)
    for _ in range(2):  # rows are counted among the atoms that the bins hold
        if not int(device.flags(overflowed)):
            break
        overflowed = device.with_capacity(listed, device.grown_capacity(overflowed))
    graph, grown = graph_of(overflowed)
    assert int(device.flags(grown)) == 0
    expected, _ = graph_of(listed)
    assert int(graph.edge_mask.sum()) == int(expected.edge_mask.sum())


def test_a_cell_that_fluctuates_gets_bins_that_serve_it_throughout():
    """Wide and narrow along two vectors in turn; each division alone is too fine for the other."""
    positions = np.random.default_rng(3).random((32, 3))
    cells = [np.diag(sides) for sides in ((11.4, 10.5, 11.18), (11.2, 10.8, 11.6))]
    reach = 3.78
    lists = [
        device.allocate(positions @ cell, cell, ALL, reach - SKIN, SKIN, dtype=np.float64)
        for cell in cells
    ]
    assert [one.capacity.bins for one in lists] == [(3, 2, 2), (2, 2, 3)]
    capacity = lists[0].capacity.at_least(lists[1].capacity)
    assert capacity.bins == (2, 2, 2)
    for cell, other in zip(cells, reversed(lists), strict=True):
        there = jnp.asarray(positions @ cell), jnp.asarray(cell)
        assert int(device.flags(device.update(other, *there))) & Flag.CELL
        grown = dataclasses.replace(other, reference_positions=there[0], reference_cell=there[1])
        assert not int(device.flags(device.with_capacity(grown, capacity))) & Flag.CELL


def test_a_flag_stays_up(listed):
    tight = device.with_capacity(listed, dataclasses.replace(listed.capacity, row=4))
    apart = jnp.asarray(np.arange(12.0)[:, None] * np.array([0.0, 0.0, 50.0]))
    later = jax.jit(device.update)(tight, apart, jnp.asarray(CELL * 100.0))
    assert int(device.flags(later)) & Flag.ROW


def test_the_list_is_valid_within_half_the_skin(listed):
    positions, cell = listed.reference_positions, listed.reference_cell
    one = jnp.zeros_like(positions).at[3, 1].set(1.0)
    assert not device.is_stale(listed, positions, cell)
    assert not device.is_stale(listed, positions + 0.499 * SKIN * one, cell)
    assert device.is_stale(listed, positions + 0.501 * SKIN * one, cell)


def test_a_strained_cell_makes_the_list_stale(listed):
    """Homogeneous strain moves no atom against the lattice, but pairs come closer."""
    positions, cell = listed.reference_positions, listed.reference_cell
    for strain, stale in ((0.9999, False), (1.0001, False), (0.8, True)):
        assert bool(device.is_stale(listed, strain * positions, strain * cell)) == stale


def test_refresh_in_a_scan_never_misses_a_pair(listed):
    """Atoms drift; at every step the graph has all the pairs that a new list finds."""
    drift = 0.03 * np.random.default_rng(1).normal(size=(12, 3))
    capacity = dataclasses.replace(
        listed.capacity, row=96, active=64, prefixes=((2.0, 32),), occupancy=12
    )
    roomy = device.with_capacity(listed, capacity)
    start, cell = roomy.reference_positions, roomy.reference_cell
    template = make_graph(
        Structure(np.full(12, 14), np.asarray(start), CELL, ALL), CUTOFF, dtype=np.float64
    )

    def step(current, number):
        positions = start + number * drift
        current = device.refresh(current, positions, cell)
        graph, current = active.to_graph(template, current, positions, cell)
        return current, (graph.edge_mask.sum(), jnp.all(current.reference_positions == positions))

    last, (counts, rebuilt) = jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(12.0)))(roomy)
    assert int(device.flags(last)) == 0
    assert 0 < int(rebuilt[1:].sum()) < 11
    for number, count in enumerate(counts):
        positions = np.asarray(start + number * drift)
        structure = Structure(np.full(12, 14), positions, CELL, ALL)
        assert int(make_graph(structure, CUTOFF, dtype=np.float64).edge_mask.sum()) == int(count)


def test_wrapping_keeps_atoms_in_place(listed):
    positions = listed.reference_positions + jnp.asarray([[30.0, -20.0, 9.0]])
    wrapped, images = device.wrap(listed, positions, listed.reference_cell)
    fractional = np.asarray(wrapped) @ np.linalg.inv(CELL)
    assert np.all((fractional > -1e-12) & (fractional < 1.0 + 1e-12))
    np.testing.assert_allclose(wrapped + images @ CELL, positions, atol=1e-12)
