"""The graph as a pytree under the runtime shape checks, its geometry and its sums."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax import graph as graphs
from mlip_jax.data.collate import Bucket, collate, make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.graph import AtomicGraph
from mlip_jax.neighbors.host import neighbor_list

CUTOFF = 3.0


def _structure(seed: int, atoms: int = 3) -> Structure:
    rng = np.random.default_rng(seed)
    cell = np.diag([3.0, 3.3, 3.6]) + 0.2 * rng.normal(size=(3, 3))
    positions = rng.uniform(size=(atoms, 3)) @ cell
    return Structure(np.full(atoms, 14), positions, cell, np.ones(3, dtype=bool))


def _graph(*seeds: int, block: int = 0) -> AtomicGraph:
    structures = [_structure(seed) for seed in seeds]
    lists = [neighbor_list(s.positions, s.cell, s.pbc, CUTOFF) for s in structures]
    bucket = Bucket(len(seeds) + 1, 8, 40, ((2.0, 24),), block)
    return jax.tree.map(jnp.asarray, collate(structures, lists, bucket, dtype=np.float64))


def _sum(graph: AtomicGraph):
    return jnp.sum(graphs.safe_norm(graphs.edge_vectors(graph)) * graph.edge_mask)


def test_transformations_rebuild_the_tree():
    one, two = _graph(0, 1), _graph(2, 3)
    stacked = jax.tree.map(lambda a, b: jnp.stack([a, b]), one, two)
    assert stacked.positions.shape == (2, 8, 3)
    assert stacked.reverse is None
    assert stacked.prefixes == one.prefixes
    expected = np.array([_sum(one), _sum(two)])
    np.testing.assert_allclose(jax.jit(jax.vmap(_sum))(stacked), expected, rtol=1e-14)
    scanned = jax.lax.scan(lambda c, g: (c, _sum(g)), 0, stacked)[1]
    np.testing.assert_allclose(scanned, expected, rtol=1e-14)
    np.testing.assert_allclose(jax.lax.map(_sum, stacked), expected, rtol=1e-14)
    shapes = jax.eval_shape(lambda g: g, one)
    assert shapes.neighbors.shape == (8, 40)
    nothing = jax.tree.map(lambda _: None, one)
    assert nothing.positions is None
    gradient = jax.grad(_sum, allow_int=True)(one)
    assert gradient.positions.shape == (8, 3)


def test_static_fields_are_part_of_the_structure():
    graph = _graph(0)
    other = dataclasses.replace(graph, block=4)
    assert jax.tree.structure(graph) != jax.tree.structure(other)
    assert jax.tree.structure(graph) == jax.tree.structure(_graph(5))
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(graph)]
    assert ".positions" in names
    assert ".block" not in names


def test_constructor_checks_shapes():
    graph = _graph(0)
    with pytest.raises(Exception, match="positions"):
        dataclasses.replace(graph, positions=graph.positions[:, :2])


def test_edge_vectors_are_differences_of_images():
    structure = _structure(4)
    graph = jax.tree.map(jnp.asarray, make_graph(structure, CUTOFF, dtype=np.float64))
    vectors = np.asarray(graphs.edge_vectors(graph))
    assert np.all(np.linalg.norm(vectors[graph.edge_mask], axis=-1) <= CUTOFF)
    i, slot = np.argwhere(graph.edge_mask)[3]
    j, shift = graph.neighbors[i, slot], graph.shifts[i, slot]
    expected = graph.positions[j] + shift @ graph.cell[0] - graph.positions[i]
    np.testing.assert_allclose(vectors[i, slot], expected, rtol=1e-14)
    given = dataclasses.replace(graph, vectors=2.0 * jnp.asarray(vectors))
    np.testing.assert_array_equal(
        graphs.edge_vectors(given)[graph.edge_mask], 2.0 * vectors[graph.edge_mask]
    )


def test_padded_slots_are_far_and_constant():
    graph = _graph(0, 1)
    vectors = graphs.edge_vectors(graph)
    far = np.broadcast_to([graphs.PADDED_DISTANCE, 0.0, 0.0], vectors.shape)
    np.testing.assert_array_equal(vectors[~graph.edge_mask], far[~graph.edge_mask])

    def padded_only(positions):
        moved = dataclasses.replace(graph, positions=positions)
        return jnp.sum(jnp.where(graph.edge_mask[..., None], 0.0, graphs.edge_vectors(moved)) ** 2)

    np.testing.assert_array_equal(jax.grad(padded_only)(graph.positions), 0.0)


def test_safe_norm_has_a_finite_gradient_at_zero():
    vectors = jnp.array([[0.0, 0.0, 0.0], [3.0, 4.0, 0.0]])
    np.testing.assert_allclose(graphs.safe_norm(vectors), [0.0, 5.0])
    gradient = jax.grad(lambda v: graphs.safe_norm(v).sum())(vectors)
    np.testing.assert_allclose(gradient, [[0.0, 0.0, 0.0], [0.6, 0.8, 0.0]], rtol=1e-15)


def test_sums_skip_padding_and_ghosts():
    graph = _graph(0, 1)
    ghosts = dataclasses.replace(graph, energy_mask=graph.energy_mask.at[0].set(False))
    values = jnp.arange(1.0, 9.0)
    np.testing.assert_allclose(graphs.sum_over_atoms(graph, values), [6.0, 15.0, 0.0])
    np.testing.assert_allclose(graphs.sum_over_atoms(ghosts, values), [5.0, 15.0, 0.0])
    np.testing.assert_array_equal(graphs.atoms_per_graph(graph), [3, 3, 0])


def test_strain_moves_positions_and_cell_alike():
    graph = _graph(0, 1)
    strain = jnp.asarray(np.random.default_rng(0).normal(scale=0.02, size=(3, 3, 3)))
    symmetric = 0.5 * (strain + jnp.swapaxes(strain, 1, 2))
    strained = graphs.apply_strain(graph, strain)
    # Every pair vector is multiplied by 1 + ε of its own structure.
    deformation = (jnp.eye(3)[None] + symmetric)[graph.graph_index]
    expected = jnp.einsum("ijk,ikl->ijl", graphs.edge_vectors(graph), deformation)
    actual = graphs.edge_vectors(strained)
    mask = graph.edge_mask
    np.testing.assert_allclose(actual[mask], expected[mask], rtol=1e-12, atol=1e-12)


def test_volumes_are_positive_and_guarded():
    cells = jnp.stack([jnp.diag(jnp.array([2.0, 3.0, 4.0])), jnp.zeros((3, 3))])
    np.testing.assert_allclose(graphs.volumes(cells), [24.0, 1.0])
    np.testing.assert_allclose(graphs.volumes(-cells), [24.0, 1.0])


def test_blocks_change_nothing_and_must_divide():
    whole, blocks = _graph(0, 1), _graph(0, 1, block=4)

    def function(positions, nothing):
        assert nothing is None
        return {"square": positions**2, "norm": graphs.safe_norm(positions)}

    expected = graphs.map_atom_blocks(function, whole, whole.positions, None)
    actual = graphs.map_atom_blocks(function, blocks, blocks.positions, None)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    odd = dataclasses.replace(whole, block=3)
    with pytest.raises(ValueError, match="expected a divisor"):
        graphs.map_atom_blocks(function, odd, odd.positions, None)


def test_prefix_length_is_the_shortest_that_suffices():
    graph = _graph(0)
    assert graphs.prefix_length(graph, 1.9) == 24
    assert graphs.prefix_length(graph, 2.1) == 40
