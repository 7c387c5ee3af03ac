"""Predictions do not depend on how structures are batched; errors are those computed by hand."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlip_jax import inference, models
from mlip_jax.cli.use import with_labels
from mlip_jax.config import UserError
from mlip_jax.data import formats
from mlip_jax.data.collate import make_graph
from mlip_jax.data.lists import NeighborLists, Sizes
from mlip_jax.data.shapes import SLOTS_PER_COMPILATION
from mlip_jax.data.structure import StructureLabels
from mlip_jax.inference import StructurePrediction, packing
from mlip_jax.inference.price import Price, price_of
from mlip_jax.potential import Potential, predict_fn
from tests.train import tiny


@pytest.fixture(scope="module")
def potential():
    model = tiny.Tiny()
    graph = make_graph(tiny.structures(1), tiny.CUTOFF)
    variables = model.init(jax.random.key(1), graph)
    return Potential(model, variables, tiny.REFERENCE)


def slab(structure):
    return dataclasses.replace(structure, pbc=np.array([True, True, False]))


def test_predictions_are_those_of_single_structures_in_their_order(potential):
    items = tiny.structures(7)
    items[3] = slab(items[3])
    together = inference.predict(potential, items, precision="float64")
    for structure, prediction in zip(items, together, strict=True):
        variables = jax.tree.map(lambda x: x.astype(np.float64), potential.variables)
        graph = make_graph(structure, tiny.CUTOFF, dtype=np.float64)
        alone = jax.jit(predict_fn(potential.model))(variables, graph)
        energy = float(alone.energy[0]) + structure.num_atoms * tiny.REFERENCE[14]
        # float64, sums of a few terms.
        assert prediction.energy == pytest.approx(energy, abs=1e-12)
        assert prediction.energy == pytest.approx(prediction.atom_energies.sum(), abs=1e-12)
        np.testing.assert_allclose(prediction.forces, alone.forces, atol=1e-12)
        if np.all(structure.pbc):
            np.testing.assert_allclose(prediction.stress, alone.stress[0], atol=1e-12)
        else:
            assert np.isnan(prediction.stress).all()


def test_small_batches_give_the_same(potential):
    items, seen = tiny.structures(9), []
    large = inference.predict(potential, items)
    small = inference.predict(
        potential, items, batch_atoms=4, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (9, 9)
    for a, b in zip(large, small, strict=True):
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-6)  # float32


def test_many_structures_are_worked_off_in_blocks(potential):
    items, shapes = tiny.structures(60), set()
    many = inference.predict(potential, items, shapes=shapes)
    on_cpu = jax.default_backend() == "cpu"
    assert {shape.block > 0 for shape in shapes} == {on_cpu}
    assert all(shape.block == 0 or shape.atoms % shape.block == 0 for shape in shapes)
    for a, b in zip(many, inference.predict(potential, items, block=0), strict=True):
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-6)  # float32


def test_a_shape_that_is_compiled_serves_a_later_call(potential):
    shapes = set()
    inference.predict(potential, tiny.structures(9), shapes=shapes)
    assert len(shapes) == 1
    few = tiny.structures(2, seed=1)
    padded = inference.predict(potential, few, shapes=shapes)
    assert len(shapes) == 1
    for a, b in zip(padded, inference.predict(potential, few), strict=True):
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-6)  # float32


def test_a_new_shape_holds_those_of_earlier_calls_where_that_costs_little():
    lists = NeighborLists(tiny.structures(2), tiny.CUTOFF, (2.6,), keep=True)
    ((_, alone),) = packing.pack(lists, 256, set())
    earlier = dataclasses.replace(alone, atoms=3 * alone.atoms, prefixes=((2.6, 2),))
    shapes = {earlier, dataclasses.replace(alone, block=8), dataclasses.replace(alone, graphs=1)}
    ((_, chosen),) = packing.pack(lists, 256, shapes)
    assert chosen == dataclasses.replace(alone, atoms=3 * alone.atoms)
    assert chosen in shapes
    ((_, chosen),) = packing.pack(lists, 256, {earlier}, price=Price(0.0))
    assert chosen == alone


def test_a_shape_that_wastes_more_than_a_compilation_is_not_taken():
    lists = NeighborLists(tiny.structures(2), tiny.CUTOFF, (2.6,), keep=True)
    ((members, needed),) = packing.pack(lists, 256, set(), price=Price(0.0))
    assert sorted(members) == [0, 1]
    for field in ("graphs", "atoms", "max_neighbors"):
        larger = dataclasses.replace(needed, **{field: getattr(needed, field) + 1})
        ((_, chosen),) = packing.pack(lists, 256, {larger}, price=Price(0.0))
        assert chosen == (larger if field == "graphs" else needed)
    smaller = dataclasses.replace(needed, prefixes=((2.6, needed.prefixes[0][1] - 1),))
    ((_, chosen),) = packing.pack(lists, 256, {smaller}, price=Price(1e9))
    assert chosen == needed


@pytest.mark.parametrize(("worth", "count"), [(0.0, 3), (1e9, 1)])
def test_classes_hold_their_structures_and_cost_what_a_compilation_saves(worth, count):
    rows, prefixes = np.array([8, 60, 8, 60]), np.array([[4], [12], [4], [30]])
    atoms = np.array([100, 50, 20, 3])
    sizes = Sizes(atoms, atoms * rows, rows, prefixes, (3.0,))
    found = packing.classes(sizes, Price(worth))
    assert len(found) == count
    assert sorted(np.concatenate([members for members, _ in found]).tolist()) == [0, 1, 2, 3]
    for members, (row, prefix) in found:
        assert row >= rows[members].max()
        assert row >= prefix >= prefixes[members].max()


def test_triplets_decide_where_structures_are_parted():
    rows, prefixes = np.array([40, 48, 40, 48]), np.array([[4], [4], [24], [24]])
    atoms = np.full(4, 10)
    found = packing.classes(Sizes(atoms, atoms * rows, rows, prefixes, (3.0,)), Price(5000.0))
    assert [members.tolist() for members, _ in found] == [[0, 1], [2, 3]]
    free = packing.classes(Sizes(atoms, atoms * rows, rows, prefixes, (3.0,)), Price(100.0, 0.0))
    assert [members.tolist() for members, _ in free] == [[0, 2], [1, 3]]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=80), st.integers(1, 256))
def test_batches_hold_what_fits_and_leave_no_two_that_could_be_one(atoms, limit):
    batches = packing._fill(np.arange(len(atoms)), np.array(atoms), limit)
    assert sorted(itertools.chain(*batches)) == list(range(len(atoms)))
    totals = [sum(atoms[i] for i in batch) for batch in batches]
    for batch, total in zip(batches, totals, strict=True):
        assert len(batch) <= packing.MAX_GRAPHS
        assert total <= limit or len(batch) == 1
    open_ones = sorted(
        t for t, b in zip(totals, batches, strict=True) if len(b) < packing.MAX_GRAPHS
    )
    assert len(open_ones) < 2 or open_ones[0] + open_ones[1] > limit


def test_more_operations_make_a_compilation_cheaper():
    items = tiny.structures(3)
    lists = NeighborLists(items, tiny.CUTOFF)
    prices = []
    for width in (4, 200_000, 400_000):
        model = tiny.Tiny(width=width)
        variables = model.init(jax.random.key(0), make_graph(items[:1], tiny.CUTOFF))
        prices.append(price_of(model, variables, items, lists).compilation)
    assert prices[0] == SLOTS_PER_COMPILATION
    assert prices[2] == pytest.approx(0.5 * prices[1], rel=0.01)  # operations of the rest


def test_triplets_cost_what_a_model_makes_of_them():
    """Their sums are products over neighbours in the one, over pairs of these in the other."""
    items = tiny.structures(3)
    found = {}
    for name, fields in (
        ("m3gnet", {"cutoff": 4.0, "threebody_cutoff": 3.9, "num_blocks": 1, "energy_scale": 1.0}),
        ("behler_parrinello", {"cutoff": 4.0, "num_radial": 3, "num_angular": 4, "hidden": [4]}),
    ):
        model = models.build_model({name: {"species": [14], **fields}})
        needs = models.requirements(model)
        lists = NeighborLists.of_model(items, needs)
        graph = make_graph(items[:1], needs.cutoff, prefix_cutoffs=needs.prefix_cutoffs)
        found[name] = price_of(
            model, jax.jit(model.init)(jax.random.key(0), graph), items, lists
        ).triplet
    assert found["m3gnet"] < 0.01
    assert found["behler_parrinello"] > 0.1


def test_what_cannot_be_predicted_is_named_and_the_rest_goes_on(potential):
    items = tiny.structures(4)
    items[1] = dataclasses.replace(
        items[1], atomic_numbers=np.array([14, 8, 14]), name="with oxygen"
    )
    items[2] = dataclasses.replace(items[2], positions=np.zeros((4, 3)), name="in one place")
    reasons = inference.refusals(potential, items)
    assert sorted(reasons) == [1, 2]
    assert "with oxygen" in reasons[1]
    assert "in one place" in reasons[2]
    for index in reasons:
        with pytest.raises(UserError, match=items[index].name):
            inference.predict(potential, items[index])
    assert len(inference.predict(potential, [items[0], items[3]])) == 2


def oxides():
    """Structures of Si and O in three compositions, without labels, and a potential for them."""
    items = [
        dataclasses.replace(
            item,
            atomic_numbers=np.array([14, 8, 8, 14])[: item.num_atoms],
            labels=StructureLabels(),
        )
        for item in tiny.structures(6)
    ]
    model = tiny.Tiny(species=(1, 8, 14))
    variables = model.init(jax.random.key(1), make_graph(items[0], tiny.CUTOFF))
    return items, Potential(model, variables, {1: -1.0, 8: -3.0, 14: -5.0})


def test_reference_energies_move_by_what_the_labels_differ():
    items, potential = oxides()
    shifts = {14: 0.3, 8: -0.2}
    predictions = inference.predict(potential, items, precision="float64")
    labelled = [
        dataclasses.replace(
            item,
            labels=StructureLabels(
                energy=one.energy + sum(shifts[int(z)] for z in item.atomic_numbers)
            ),
        )
        for item, one in zip(items, predictions, strict=True)
    ]
    refit = inference.refit_reference_energies(
        potential, [*labelled, items[0]], precision="float64"
    )
    assert refit.reference_energies[1] == -1.0
    # The fit has a ridge of 1e-10 of the largest eigenvalue.
    assert refit.reference_energies[14] == pytest.approx(-4.7, abs=1e-7)
    assert refit.reference_energies[8] == pytest.approx(-3.2, abs=1e-7)
    assert refit.card["reference_energies"]["structures"] == 6
    again = inference.predict(refit, items, precision="float64")
    for label, before, after in zip(labelled, predictions, again, strict=True):
        assert after.energy == pytest.approx(label.labels.energy, abs=1e-7)
        np.testing.assert_array_equal(after.forces, before.forces)


def test_reference_energies_need_an_energy():
    items, potential = oxides()
    with pytest.raises(UserError, match="none of 6 structures has an energy"):
        inference.refit_reference_energies(potential, items)


def test_an_unknown_element_is_refused(potential):
    structure = dataclasses.replace(tiny.structures(1)[0], atomic_numbers=np.array([14, 8]))
    with pytest.raises(UserError, match=r"tiny:0: .*'O'"):
        inference.predict(potential, structure)


def test_an_unknown_precision_is_refused(potential):
    with pytest.raises(UserError, match="float32 or float64"):
        inference.predict(potential, tiny.structures(1), precision="float16")


def test_errors_are_those_computed_by_hand(potential):
    first, second = tiny.structures(2)  # 2 and 3 atoms
    first = dataclasses.replace(first, config_type="a")
    second = dataclasses.replace(
        second, config_type="b", labels=StructureLabels(energy=3.0), atomic_numbers=np.full(3, 6)
    )
    stress = first.labels.stress + 0.01
    predictions = [
        StructurePrediction(
            energy=first.labels.energy + 0.2,
            forces=first.labels.forces + np.array([0.3, 0.0, 0.0]),
            stress=stress,
            atom_energies=np.zeros(2),
        ),
        StructurePrediction(
            energy=3.0 - 0.9, forces=np.ones((3, 3)), stress=stress, atom_energies=np.zeros(3)
        ),
    ]
    pairs = inference.compare([first, second], predictions, potential)
    errors = inference.summarize(pairs, [first, second])
    assert errors["total"]["energy"]["mae"] == pytest.approx((0.1 + 0.3) / 2)
    assert errors["total"]["energy"]["rmse"] == pytest.approx(np.sqrt((0.01 + 0.09) / 2))
    assert errors["total"]["forces"]["mae"] == pytest.approx(0.1)
    assert errors["total"]["forces"]["count"] == 6
    assert errors["total"]["stress"]["mae"] == pytest.approx(0.01)
    assert errors["per_config_type"]["b"].keys() == {"energy"}
    assert errors["per_element"].keys() == {"Si"}
    assert errors["units"]["energy"] == "eV/atom"
    assert json.loads(json.dumps(errors, allow_nan=False)) == errors


def test_moments_are_predicted_compared_and_written(tmp_path):
    model = tiny.Magnetic()
    items = tiny.structures(3)
    variables = model.init(jax.random.key(1), make_graph(items[0], tiny.CUTOFF))
    potential = Potential(model, variables, {14: 0.0})
    predictions = inference.predict(potential, items)
    moments = [prediction.magmoms for prediction in predictions]
    assert [len(m) for m in moments] == [2, 3, 4]
    assert min(m.min() for m in moments) > 1e-4
    # Labels with signs, and an error of 0.2 for every atom.
    labelled = [
        dataclasses.replace(
            s, labels=StructureLabels(magmoms=(m + 0.2) * (-1.0) ** np.arange(len(m)))
        )
        for s, m in zip(items, moments, strict=True)
    ]
    errors = inference.evaluate(potential, labelled)
    assert errors["total"].keys() == {"magmoms"}
    assert errors["total"]["magmoms"]["mae"] == pytest.approx(0.2, abs=1e-6)
    assert errors["per_element"]["Si"]["magmoms"]["count"] == 9
    assert errors["units"] == {"magmoms": "μ_B"}
    inference.write_npz(tmp_path / "out.npz", predictions)
    with np.load(tmp_path / "out.npz") as file:
        np.testing.assert_array_equal(file["magmoms"], np.concatenate(moments))
        assert str(file["units_magmoms"]) == "μ_B"
    formats.write(tmp_path / "out.extxyz", list(map(with_labels, items, predictions)))
    for structure, moment in zip(formats.read(tmp_path / "out.extxyz"), moments, strict=True):
        np.testing.assert_allclose(structure.labels.magmoms, moment, atol=1e-12)


def test_energies_of_mixed_sources_are_compared_at_their_own_reference(potential):
    structure = dataclasses.replace(tiny.structures(1)[0], source="hse")
    (prediction,) = inference.predict(potential, [structure])
    shifted = dataclasses.replace(
        structure,
        labels=StructureLabels(energy=prediction.energy + 2 * (-7.0 - tiny.REFERENCE[14])),
    )
    pairs = inference.compare([shifted], [prediction], potential, {"hse": {14: -7.0}})
    np.testing.assert_allclose(pairs["energy"].predicted, pairs["energy"].label, atol=1e-12)


def test_the_card_keeps_reference_energies_of_sources(potential):
    structure = tiny.structures(1)[0]
    (prediction,) = inference.predict(potential, [structure])
    labels = StructureLabels(energy=prediction.energy + 2 * (-7.0 - tiny.REFERENCE[14]))
    shifted = dataclasses.replace(structure, source="hse", labels=labels)
    # Keys of a mapping may be text, as in a card from the disk.
    card = {"statistics": {"source_reference_energies": {"hse": {"14": -7.0}, "pbe": {"14": -5.0}}}}
    mixed = dataclasses.replace(potential, card=card)
    errors = inference.evaluate(mixed, [shifted])
    assert errors["total"]["energy"]["mae"] < 1e-5  # float32
    with pytest.raises(UserError, match=r"tiny:0: its source is ''.*'hse', 'pbe'.*--source"):
        inference.evaluate(mixed, [dataclasses.replace(shifted, source="")])


def test_unlabelled_structures_cannot_be_evaluated(potential):
    bare = dataclasses.replace(tiny.structures(1)[0], labels=StructureLabels())
    with pytest.raises(UserError, match="label keys"):
        inference.evaluate(potential, [bare])


def test_the_file_of_predictions_holds_everything_in_order(potential, tmp_path):
    items = tiny.structures(4)
    items[2] = slab(items[2])
    predictions = inference.predict(potential, items)
    inference.write_npz(tmp_path / "p.npz", predictions)
    stored = np.load(tmp_path / "p.npz")
    assert int(stored["schema_version"]) == inference.SCHEMA_VERSION
    np.testing.assert_array_equal(stored["n_atoms"], [s.num_atoms for s in items])
    np.testing.assert_array_equal(stored["energy"], [p.energy for p in predictions])
    np.testing.assert_array_equal(stored["forces"], np.concatenate([p.forces for p in predictions]))
    assert np.isnan(stored["stress"][2]).all()
    assert np.isfinite(stored["stress"][[0, 1, 3]]).all()
    assert stored["atom_energies"].shape == (sum(s.num_atoms for s in items),)
    assert str(stored["units_forces"]) == "eV/Å"
    assert "charges" not in stored
