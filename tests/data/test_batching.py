import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlip_jax.config import UserError
from mlip_jax.data import collate, planning, shapes
from mlip_jax.data.batching import BatchConfig, BatchSource, make_labels, reference_energy
from mlip_jax.data.collate import Bucket
from mlip_jax.data.lists import NeighborLists, Sizes
from tests.data.structures import copper, everything


def sizes_of(seed: int, count: int = 97) -> Sizes:
    generator = np.random.default_rng(seed)
    atoms = generator.integers(1, 200, count)
    longest = generator.integers(0, 120, count)
    return Sizes(atoms, atoms * longest // 2, longest, longest[:, None] // 4, (3.0,))


@given(seed=st.integers(0, 2**16), epoch=st.integers(0, 9), devices=st.sampled_from([1, 2, 4]))
def test_an_epoch_deals_every_structure_once_into_buckets_that_hold_it(seed, epoch, devices):
    sizes = sizes_of(seed)
    config = BatchConfig(batch_size=8, devices=devices, max_shapes=4, seed=seed)
    plans = planning.plan(seed, epoch, sizes, config)
    members = np.concatenate([m for p in plans for m in p.members])
    assert sorted(members.tolist()) == list(range(len(sizes)))
    assert len(plans) == -(-len(sizes) // 8)
    for planned in plans:
        assert len(planned.members) == devices
        for part in planned.members:
            bucket = planned.bucket
            assert len(part) <= bucket.graphs == 8 // devices
            assert sizes.num_atoms[part].sum() <= bucket.atoms
            assert sizes.max_neighbors[part].max(initial=0) <= bucket.max_neighbors
            assert sizes.prefixes[part].max(initial=0) <= bucket.prefixes[0][1]


def test_the_plan_is_a_pure_function_of_seed_epoch_and_sizes():
    sizes, config = sizes_of(1), BatchConfig(batch_size=8)

    def members(seed, epoch):
        return [p.members[0].tolist() for p in planning.plan(seed, epoch, sizes, config)]

    assert members(0, 3) == members(0, 3)
    assert members(0, 3) != members(0, 4)
    assert members(0, 3) != members(1, 3)


@pytest.mark.parametrize("devices", [1, 2])
def test_lists_of_pairs_have_room_in_every_batch(devices):
    structures = [*copper(9), *(s for s in everything() if s.num_atoms > 1)]
    lists = NeighborLists(structures, 4.0, (2.0, 3.0), pair_cutoffs=(3.0,))
    config = BatchConfig(batch_size=4, devices=devices)
    shapes = planning.choose_shapes(lists.sizes, config)
    for epoch in range(12):
        for planned in planning.plan(0, epoch, lists.sizes, config, shapes):
            ((cutoff, places),) = planned.bucket.pair_rooms
            assert cutoff == 3.0
            for part in planned.members:
                of = [lists[i] for i in part.tolist()]
                assert collate.pair_rooms(of, planned.bucket.atoms, (3.0,))[0][1] <= places
    found = lists.sizes.extent([np.arange(3), np.arange(3, 9)])
    counts = [lists[i].near(3.0 + collate.ROUNDING) for i in range(9)]
    pairs = [int(np.sum(c * (c - 1))) for c in counts]
    most = max(int((c * (c - 1)).max()) for c in counts)
    assert found[-2:] == (most, max(sum(pairs[:3]), sum(pairs[3:])))


def test_few_shapes_and_little_padding_for_a_mixed_set():
    """31 atoms on average and rows of 20 to 120 neighbours, as in MPtrj at 6 Å."""
    generator = np.random.default_rng(0)
    atoms = np.clip(generator.lognormal(3.1, 0.8, 900), 2, 190).astype(int)
    mean = generator.normal(65, 18, 900).clip(20, 120)
    longest = (1.08 * mean).astype(int)
    sizes = Sizes(atoms, (atoms * mean).astype(int), longest, np.zeros((900, 0), int))
    config = BatchConfig(batch_size=8, max_shapes=6)
    shapes = planning.choose_shapes(sizes, config)
    assert len(shapes) <= 6
    waste = planning.measure_waste(planning.plan(0, 7, sizes, config, shapes), sizes)
    assert waste.slots < 0.3
    assert waste.atoms < 0.12


def test_ladders_hold_what_they_are_asked_for():
    for length in range(1, 700):
        assert shapes.row_ladder(length) >= length
        assert shapes.atom_ladder(length) >= length
        assert shapes.atom_ladder(length, 16) % 16 == 0
    rungs = sorted({shapes.row_ladder(k) for k in range(129)})
    assert rungs == [8, 16, 24, 32, 40, 48, 64, 80, 96, 128]


def test_batch_larger_than_the_data():
    with pytest.raises(UserError, match="got 8 for a set of 5"):
        planning.plan(0, 0, sizes_of(0, 5), BatchConfig(batch_size=8))
    with pytest.raises(UserError, match="multiple of the number of devices"):
        BatchConfig(batch_size=9, devices=2)


def test_a_batch_holds_the_labels_of_its_structures():
    structures = copper(5)
    source = BatchSource(
        structures, NeighborLists(structures, 3.0), BatchConfig(2), {29: -0.3}, np.float64
    )
    for index in range(source.num_batches()):
        batch, planned = source.batch(2, index), source.plan(2)[index]
        chosen = [structures[i] for i in planned.members[0]]
        assert batch.labels.charges is None
        for graph, structure in enumerate(chosen):
            atoms = batch.graph.graph_index == graph
            atoms = atoms & batch.graph.atom_mask
            expected = structure.labels.energy + 0.3 * structure.num_atoms
            np.testing.assert_allclose(batch.labels.energy.value[graph], expected, rtol=1e-12)
            np.testing.assert_array_equal(batch.labels.forces.value[atoms], structure.labels.forces)
            np.testing.assert_array_equal(batch.labels.stress.value[graph], structure.labels.stress)
        assert batch.labels.energy.mask.sum() == len(chosen)
        assert batch.labels.weight.sum() == len(chosen)


def test_each_label_has_its_own_mask():
    structures = everything()
    labels = make_labels(structures, Bucket(3, 8, 4), {1: 0.0, 8: 0.0, 14: 0.0})
    np.testing.assert_array_equal(labels.energy.mask, [True, True, False])
    np.testing.assert_array_equal(labels.stress.mask, [False, False, False])
    np.testing.assert_array_equal(labels.forces.mask, [True] * 3 + [False] * 5)
    np.testing.assert_array_equal(labels.magmoms.mask, labels.forces.mask)
    np.testing.assert_array_equal(labels.weight, [2.5, 1.0, 0.0])


def test_moments_count_by_their_absolute_values():
    crystal = everything()[0]
    given = np.array([-2.0, 0.5, 1.0])
    crystal = dataclasses.replace(
        crystal, labels=dataclasses.replace(crystal.labels, magmoms=given)
    )
    labels = make_labels([crystal], Bucket(1, 4, 4), {1: 0.0, 8: 0.0, 14: 0.0})
    np.testing.assert_array_equal(labels.magmoms.value, [2.0, 0.5, 1.0, 0.0])


def test_a_stress_counts_only_where_all_directions_are_periodic():
    slab = everything()[0]
    assert slab.labels.stress is not None
    assert NeighborLists([slab], 3.0).coverage["stress"] == 0
    crystal = dataclasses.replace(slab, pbc=np.ones(3, bool))
    assert NeighborLists([slab, crystal], 3.0).coverage["stress"] == 1
    labels = make_labels([slab, crystal], Bucket(2, 6, 4), {1: 0.0, 8: 0.0, 14: 0.0})
    np.testing.assert_array_equal(labels.stress.mask, [False, True])
    np.testing.assert_array_equal(labels.stress.value[0], np.zeros((3, 3)))


def test_large_reference_energies_leave_float32_exact():
    """1e6 eV of core energies go in float64, before the cast."""
    (structure,) = copper(1)
    energy = structure.labels.energy
    labels = make_labels([structure], Bucket(1, 8, 4), {29: (energy - 1e-3) / 8 - 0.0})
    assert labels.energy.value.dtype == np.float32
    np.testing.assert_allclose(labels.energy.value[0], 1e-3, rtol=1e-4)


def test_a_device_batch_is_a_stack_of_one_bucket_even_where_it_is_not_full():
    structures = copper(5)
    source = BatchSource(
        structures, NeighborLists(structures, 3.0), BatchConfig(4, devices=4), {29: 0.0}
    )
    batches = [source.batch(0, i) for i in range(source.num_batches())]
    assert all(leaf.shape[0] == 4 for b in batches for leaf in jax.tree.leaves(b))
    assert sum(int(b.graph.graph_mask.sum()) for b in batches) == 5


def test_all_batches_have_the_inputs_that_one_structure_has():
    """One tree for all batches: they stack over devices, and compile once."""
    structures = copper(5)
    structures[3] = dataclasses.replace(structures[3], total_charge=2.0)
    lists = NeighborLists(structures, 3.0)
    assert lists.inputs == ("total_charge",)
    source = BatchSource(structures, lists, BatchConfig(2, devices=2, shuffle=False), {29: 0.0})
    graphs = [source.batch(0, index).graph for index in range(source.num_batches())]
    assert all(graph.total_charge.shape == (2, 1) for graph in graphs)
    assert sorted(np.concatenate([g.total_charge.ravel() for g in graphs])) == [0.0] * 5 + [2.0]
    assert all(graph.spins is None for graph in graphs)


def test_reference_energies_by_source_and_unknown_elements():
    numbers = np.array([1, 1, 8])
    assert reference_energy(numbers, {1: 1.0, 8: 2.0}) == 4.0
    assert reference_energy(numbers, {"a": {1: 1.0, 8: 2.0}}, "a") == 4.0
    with pytest.raises(UserError, match="no reference energy for O"):
        reference_energy(numbers, {1: 1.0})
    with pytest.raises(UserError, match="source 'b'"):
        reference_energy(numbers, {"a": {1: 1.0}}, "b")


def test_coincident_atoms_are_named_with_their_structure():
    structures = copper(2)
    positions = structures[1].positions.copy()
    positions[3] = positions[5] + structures[1].cell[0]
    structures[1] = dataclasses.replace(structures[1], positions=positions)
    with pytest.raises(UserError, match=r"cu:1: .*atoms 3 and 5|cu:1: .*atoms 5 and 3"):
        NeighborLists(structures, 3.0)


def test_lists_found_on_demand_are_those_that_were_kept():
    structures = copper(3)
    kept, lazy = (NeighborLists(structures, 4.0, (2.8,), keep=k) for k in (True, False))
    for name in ("num_atoms", "max_neighbors", "prefixes"):
        np.testing.assert_array_equal(getattr(kept.sizes, name), getattr(lazy.sizes, name))
    np.testing.assert_array_equal(kept[1].shifts, lazy[1].shifts)
    np.testing.assert_array_equal(kept[1].neighbors, lazy[1].neighbors)
    assert kept.coverage["energy"] == 3


def test_single_structures_share_few_shapes_that_hold_them():
    sizes = sizes_of(3, 60)
    buckets = shapes.single_buckets(sizes)
    assert len({bucket.atoms for bucket in buckets}) == 1  # nothing is worth a compilation here
    for bucket, atoms, row in zip(buckets, sizes.num_atoms, sizes.max_neighbors, strict=True):
        assert bucket.atoms >= atoms
        assert bucket.max_neighbors >= row
    halves = {"num_atoms": sizes.num_atoms // 2 + 1, "max_neighbors": sizes.max_neighbors // 2}
    smaller = dataclasses.replace(sizes, **halves)
    assert set(shapes.single_buckets(smaller)) != {buckets[0]}
    assert set(shapes.single_buckets(smaller, buckets[0])) == {buckets[0]}
    many = sizes_of(3, 60)
    many = dataclasses.replace(many, num_atoms=np.where(np.arange(60) < 55, 2, 100_000))
    assert len({bucket.atoms for bucket in shapes.single_buckets(many)}) == 2
