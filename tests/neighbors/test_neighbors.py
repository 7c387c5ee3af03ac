"""Both neighbour lists, on the host and on the device, against ASE's."""

import dataclasses

import ase.neighborlist
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.neighbors import active, device, host

TRICLINIC = np.array([[6.1, 0.3, -0.4], [2.2, 5.7, 0.5], [-1.9, 1.3, 6.6]])
NONE = np.zeros(3, bool)
ALL = np.ones(3, bool)


def random_positions(seed, atoms, cell, spread=1.0, minimum=0.9):
    """Random atoms that keep a distance, possibly outside the cell."""
    rng = np.random.default_rng(seed)
    accepted = []
    while len(accepted) < atoms:
        candidate = (rng.random(3) * spread - 0.5 * (spread - 1.0)) @ cell
        if all(np.linalg.norm(candidate - other) > minimum for other in accepted):
            accepted.append(candidate)
    return np.array(accepted)


def cases():
    box = np.diag([9.0, 8.0, 10.0])
    left = TRICLINIC[[1, 0, 2]]
    spread = random_positions(0, 40, np.diag([14.0, 13.0, 12.0]))
    wide = np.diag([23.0, 19.0, 21.0])
    flat = np.array([[4.0, 0.0, 0.0], [7.5, 1.5, 0.0], [0.5, 0.7, 9.0]])
    slab = np.array([True, True, False])
    wire = np.array([False, True, False])
    return {
        "triclinic": (random_positions(1, 17, TRICLINIC), TRICLINIC, ALL, 4.0),
        "left-handed": (random_positions(2, 17, left), left, ALL, 4.0),
        "one atom, cutoff of three cells": (np.array([[0.3, 0.1, 0.2]]), np.eye(3) * 2.0, ALL, 6.1),
        "flat triclinic": (random_positions(3, 9, flat), flat, ALL, 5.0),
        "slab": (random_positions(4, 30, box), box, slab, 4.5),
        "slab without a third vector": (
            random_positions(4, 30, box), box * np.array([[1.0], [1.0], [0.0]]), slab, 4.5,
        ),
        "wire": (random_positions(5, 30, box), box, wire, 4.5),
        "skewed wire": (random_positions(6, 17, TRICLINIC, 2.0), TRICLINIC, wire, 4.0),
        "molecule": (spread, np.zeros((3, 3)), NONE, 4.0),
        "molecule in a cell": (spread, box, NONE, 4.0),
        "outside": (random_positions(7, 40, TRICLINIC, 6.0), TRICLINIC, ALL, 3.0),
        "coincident images": (np.array([[0.0, 0, 0], [1.5, 1.5, 1.5]]), np.eye(3) * 3.0, ALL, 7.0),
        "many bins": (random_positions(8, 500, wide), wide, ALL, 3.0),
        "many bins, slab": (random_positions(9, 400, wide, 1.2), wide, slab, 3.0),
        "no pair": (np.array([[0.0, 0, 0], [9.0, 0, 0]]), np.zeros((3, 3)), NONE, 3.0),
    }  # fmt: skip


def reference(positions, cell, pbc, cutoff):
    """ASE's pairs as a sorted array of (i, j, S), and their distances."""
    cell = host.complete_cell(cell, pbc)
    i, j, d, shifts = ase.neighborlist.primitive_neighbor_list("ijdS", pbc, cell, positions, cutoff)
    pairs = np.column_stack([i, j, shifts])
    order = np.lexsort(pairs.T[::-1])
    return pairs[order], d[order]


def graph_pairs(indices, shifts, mask):
    """Pairs of rows as a sorted array of (i, j, S)."""
    i, slot = np.nonzero(mask)
    pairs = np.column_stack([i, indices[i, slot], shifts[i, slot]])
    return pairs[np.lexsort(pairs.T[::-1])]


def row_distances(positions, cell, indices, shifts):
    vectors = positions[indices] - positions[:, None] + shifts @ cell
    return np.linalg.norm(vectors, axis=-1)


def assert_sorted(distances, mask, tolerance):
    """Real entries come first, by distance."""
    assert np.all(np.diff(mask.astype(int), axis=1) <= 0)
    steps = np.diff(distances, axis=1)[mask[:, 1:]]
    assert np.all(steps > -tolerance)


@pytest.mark.parametrize("name", cases())
def test_host_list_is_that_of_ase(name):
    positions, cell, pbc, cutoff = cases()[name]
    expected, distances = reference(positions, cell, pbc, cutoff)
    found = host.neighbor_list(positions, cell, pbc, cutoff)
    pairs = np.column_stack([found.centers, found.neighbors, found.shifts])
    order = np.lexsort(pairs.T[::-1])
    np.testing.assert_array_equal(pairs[order], expected)
    np.testing.assert_allclose(found.distances[order], distances, atol=1e-12)
    same_row = np.diff(found.centers) == 0
    assert np.all(np.diff(found.distances)[same_row] >= 0.0)


@pytest.mark.parametrize("name", cases())
def test_device_list_is_that_of_ase(name):
    positions, cell, pbc, cutoff = cases()[name]
    expected, _ = reference(positions, cell, pbc, cutoff)
    listed = device.allocate(positions, cell, pbc, cutoff, dtype=np.float64)
    indices, shifts, mask = map(np.asarray, (listed.neighbors, listed.shifts, listed.edge_mask))
    assert int(device.flags(listed)) == 0
    np.testing.assert_array_equal(graph_pairs(indices, shifts, mask), expected)
    # Sorting keys are float32 squares: 1e-6 relative.
    assert_sorted(row_distances(positions, cell, indices, shifts), mask, 1e-5)


@pytest.mark.parametrize("name", ["triclinic", "slab", "molecule", "outside", "many bins"])
def test_device_graph_is_that_of_the_host(name):
    """Rows, prefixes and opposite edges taken from a list with a skin, after atoms moved."""
    positions, cell, pbc, cutoff = cases()[name]
    skin, short = 0.8, 0.6 * cutoff
    rng = np.random.default_rng(10)
    moved = positions + 0.2 * rng.uniform(-1.0, 1.0, positions.shape)
    numbers = np.full(len(positions), 14)
    structure = Structure(numbers, moved, cell, pbc)
    expected = make_graph(
        structure, cutoff, prefix_cutoffs=(short,), dtype=np.float64, reverse=True
    )
    room = {"margin": 1.5, "active_margin": 1.5}
    listed = device.allocate(
        positions, cell, pbc, cutoff, skin, prefix_cutoffs=(short,), dtype=np.float64, **room
    )
    present = jnp.asarray(moved), jnp.asarray(cell)
    assert not device.is_stale(listed, *present)
    graph, listed = jax.jit(active.to_graph)(expected, listed, *present)
    assert int(device.flags(listed)) == 0
    # The host's graph is wrapped: its shifts differ, its pairs and distances do not.
    indices, mask = np.asarray(graph.neighbors), np.asarray(graph.edge_mask)
    distances = row_distances(moved, cell, indices, np.asarray(graph.shifts))
    wanted = row_distances(expected.positions, cell, expected.neighbors, expected.shifts)
    assert_sorted(distances, mask, 1e-5)
    width = expected.max_neighbors
    np.testing.assert_array_equal(mask[:, :width], expected.edge_mask)
    assert not mask[:, width:].any()
    np.testing.assert_allclose(distances[mask], wanted[expected.edge_mask], atol=1e-5)
    ((_, prefix),) = graph.prefixes
    assert np.all(distances[:, prefix:][mask[:, prefix:]] >= short)
    assert_opposite(graph)


def assert_opposite(graph):
    """`reverse` is an involution that swaps the atoms and turns the shift round."""
    indices, shifts = np.asarray(graph.neighbors), np.asarray(graph.shifts)
    mask, flat = np.asarray(graph.edge_mask), np.asarray(graph.reverse).ravel()
    np.testing.assert_array_equal(flat[flat], np.arange(flat.size))
    i = np.broadcast_to(np.arange(len(indices))[:, None], indices.shape).ravel()[mask.ravel()]
    opposite = flat[mask.ravel()]
    np.testing.assert_array_equal(indices.ravel()[opposite], i)
    np.testing.assert_array_equal(shifts.reshape(-1, 3)[opposite], -shifts[mask])


def test_single_precision_finds_the_same_pairs_as_double():
    positions, cell, pbc, cutoff = cases()["many bins"]
    single = device.allocate(positions, cell, pbc, cutoff, dtype=np.float32)
    expected, distances = reference(positions, cell, pbc, cutoff)
    assert np.min(np.abs(distances - cutoff)) > 1e-6  # no pair on the edge, where rounding decides
    found = graph_pairs(*map(np.asarray, (single.neighbors, single.shifts, single.edge_mask)))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_a_hundred_thousand_atoms():
    rng = np.random.default_rng(11)
    grid = np.stack(np.meshgrid(*[np.arange(47.0)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    cell = np.array([[47.0 * 2.3, 0, 0], [3.0, 47.0 * 2.3, 0], [0, -2.0, 47.0 * 2.3]])
    positions = (grid / 47.0) @ cell + rng.uniform(-0.4, 0.4, grid.shape)
    assert len(positions) > 100_000
    expected, _ = reference(positions, cell, ALL, 4.0)
    on_host = host.neighbor_list(positions, cell, ALL, 4.0)
    pairs = np.column_stack([on_host.centers, on_host.neighbors, on_host.shifts])
    np.testing.assert_array_equal(pairs[np.lexsort(pairs.T[::-1])], expected)
    listed = device.allocate(positions, cell, ALL, 4.0, dtype=np.float64)
    assert int(device.flags(listed)) == 0
    rows = map(np.asarray, (listed.neighbors, listed.shifts, listed.edge_mask))
    np.testing.assert_array_equal(graph_pairs(*rows), expected)


@pytest.mark.parametrize(
    ("positions", "cell", "pbc", "cutoff", "message"),
    [
        (np.zeros((2, 3)), np.eye(3) * 5, ALL, 3.0, "one place"),
        (np.zeros((1, 3)), np.zeros((3, 3)), ALL, 3.0, "linearly independent"),
        (np.zeros((1, 3)), np.eye(3), ALL, 0.0, "positive"),
        (np.full((1, 3), np.nan), np.eye(3), ALL, 3.0, "finite"),
    ],
)
def test_impossible_structures_are_refused(positions, cell, pbc, cutoff, message):
    with pytest.raises(UserError, match=message):
        host.neighbor_list(positions, cell, pbc, cutoff)
    with pytest.raises(UserError, match=message):
        device.allocate(positions, cell, pbc, cutoff)


def test_rows_are_copied_into_a_larger_template():
    """Padded atoms of the template stay without neighbours."""
    positions, cell, pbc, cutoff = cases()["triclinic"]
    structure = Structure(np.full(len(positions), 14), positions, cell, pbc)
    template = make_graph(structure, cutoff, dtype=np.float64, block=8)
    assert template.num_atoms > len(positions)
    listed = device.allocate(positions, cell, pbc, cutoff, 0.5, dtype=np.float64)
    graph, _ = active.to_graph(template, listed, listed.reference_positions, listed.reference_cell)
    assert graph.block == 8
    padded = np.asarray(~graph.atom_mask)
    assert not np.asarray(graph.edge_mask)[padded].any()
    own = np.arange(graph.num_atoms)[padded][:, None]
    assert np.all(np.asarray(graph.neighbors)[padded] == own)
    assert dataclasses.replace(graph).edge_mask.sum() == template.edge_mask.sum()
