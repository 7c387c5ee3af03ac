import dataclasses

import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket, collate, exact_bucket, make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.graph import edge_vectors
from mlip_jax.neighbors.host import neighbor_list

CUTOFF = 4.0


def random_structure(seed, atoms=5, pbc=(True, True, True)):
    rng = np.random.default_rng(seed)
    cell = 4.5 * np.eye(3) + rng.normal(scale=0.5, size=(3, 3))
    positions = rng.uniform(-2, 2, (atoms, 3)) @ cell
    return Structure(rng.integers(1, 90, atoms), positions, cell, np.array(pbc))


def sorted_distances(graph, rows):
    distances = np.linalg.norm(np.asarray(edge_vectors(graph))[rows], axis=-1)
    return np.sort(distances[np.asarray(graph.edge_mask)[rows]])


def test_rows_are_sorted_by_distance_and_vectors_match_the_list():
    structure = random_structure(0)
    pairs = neighbor_list(structure.positions, structure.cell, structure.pbc, CUTOFF)
    graph = make_graph(structure, CUTOFF, dtype=np.float64)
    distances = np.linalg.norm(np.asarray(edge_vectors(graph)), axis=-1)
    assert np.all(np.diff(distances, axis=1) > -1e-12)
    np.testing.assert_allclose(
        np.sort(distances[graph.edge_mask]), np.sort(pairs.distances), atol=1e-12
    )


def test_reverse_slot_holds_the_opposite_vector_in_a_batch():
    structures = [random_structure(s) for s in range(3)]
    graph = make_graph(structures, CUTOFF, dtype=np.float64, reverse=True)
    vectors = np.asarray(edge_vectors(graph)).reshape(-1, 3)
    mask = np.asarray(graph.edge_mask).ravel()
    assert graph.reverse is not None
    opposite = vectors[np.asarray(graph.reverse).ravel()]
    np.testing.assert_allclose(opposite[mask], -vectors[mask], atol=1e-12)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, False, False)])
def test_moving_atoms_by_lattice_vectors_changes_no_vector(pbc):
    structure = random_structure(1, pbc=pbc)
    moves = np.random.default_rng(2).integers(-3, 4, (5, 3)) * np.array(pbc)
    moved = dataclasses.replace(structure, positions=structure.positions + moves @ structure.cell)
    a = make_graph(structure, CUTOFF, dtype=np.float64)
    b = make_graph(moved, CUTOFF, dtype=np.float64)
    for row in range(5):
        np.testing.assert_allclose(
            sorted_distances(a, [row]), sorted_distances(b, [row]), atol=1e-10
        )


def test_padding_is_masked_and_points_at_itself():
    structures = [random_structure(s) for s in range(2)]
    lists = [neighbor_list(s.positions, s.cell, s.pbc, CUTOFF) for s in structures]
    exact = exact_bucket(lists)
    bucket = Bucket(4, exact.atoms + 6, exact.max_neighbors + 3)
    graph = collate(structures, lists, bucket)
    assert graph.positions.dtype == np.float32
    assert graph.atom_mask.sum() == 10
    assert graph.graph_mask.tolist() == [True, True, False, False]
    own = np.arange(bucket.atoms)[:, None]
    assert np.all(np.where(graph.edge_mask, own, graph.neighbors) == own)
    np.testing.assert_array_equal(np.asarray(edge_vectors(graph))[~graph.edge_mask][:, 0], 1000.0)
    assert np.all(graph.atomic_numbers[~graph.atom_mask] == 0)


def test_float32_keeps_its_precision_far_from_the_origin():
    structure = random_structure(3, pbc=(False, False, False))
    far = dataclasses.replace(structure, positions=structure.positions + 1e5)
    near = np.asarray(edge_vectors(make_graph(structure, CUTOFF, dtype=np.float64)))
    np.testing.assert_allclose(np.asarray(edge_vectors(make_graph(far, CUTOFF))), near, atol=1e-5)


def test_prefixes_hold_all_closer_neighbors():
    structure = random_structure(4)
    graph = make_graph(structure, CUTOFF, prefix_cutoffs=(2.5,), dtype=np.float64)
    ((cutoff, k),) = graph.prefixes
    distances = np.linalg.norm(np.asarray(edge_vectors(graph)), axis=-1)
    assert cutoff == 2.5
    assert np.all(distances[:, k:] >= 2.5)
    assert np.any(distances[:, k - 1] < 2.5)


def test_charges_and_spins_are_carried_where_some_structure_has_them():
    first, second = random_structure(0), random_structure(1)
    assert make_graph([first, second], CUTOFF).total_charge is None
    assert make_graph([first, second], CUTOFF).spins is None
    spins = np.random.default_rng(2).normal(size=(5, 3))
    structures = [
        dataclasses.replace(first, total_charge=-2.0),
        dataclasses.replace(second, spins=spins),
    ]
    lists = [neighbor_list(s.positions, s.cell, s.pbc, CUTOFF) for s in structures]
    exact = exact_bucket(lists)
    bucket = Bucket(3, exact.atoms + 2, exact.max_neighbors)
    graph = collate(structures, lists, bucket, dtype=np.float64)
    assert graph.total_charge is not None
    assert graph.spins is not None
    np.testing.assert_array_equal(graph.total_charge, [-2.0, 0.0, 0.0])
    np.testing.assert_array_equal(graph.spins, [*np.zeros((5, 3)), *spins, *np.zeros((2, 3))])
    assert collate(structures, lists, bucket).spins.dtype == np.float32
    only = collate([first], lists[:1], bucket, inputs=("spins",))
    assert only.total_charge is None
    np.testing.assert_array_equal(only.spins, np.zeros((12, 3)))


def test_too_small_a_bucket_is_refused():
    structure = random_structure(5)
    pairs = neighbor_list(structure.positions, structure.cell, structure.pbc, CUTOFF)
    with pytest.raises(ValueError, match="larger bucket"):
        collate([structure], [pairs], Bucket(1, 4, 100))
    with pytest.raises(ValueError, match="larger bucket"):
        collate([structure], [pairs], Bucket(1, 5, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.zeros((5, 3))}, "one place"),
        ({"positions": np.full((5, 3), np.nan)}, "finite"),
        ({"cell": np.zeros((3, 3))}, "linearly independent"),
        ({"cell": np.ones((3, 3))}, "linearly independent"),
    ],
)
def test_impossible_geometry_is_refused(change, message):
    structure = dataclasses.replace(random_structure(6), **change)
    with pytest.raises(UserError, match=message):
        make_graph(structure, CUTOFF)


def test_a_cutoff_must_be_positive():
    with pytest.raises(UserError, match="cutoff"):
        make_graph(random_structure(7), 0.0)
