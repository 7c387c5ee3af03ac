"""Training that begins with a potential: its model, its reference energies, what moved."""

import dataclasses

import jax
import numpy as np
import pytest

from mlip_jax import inference, storage, train
from mlip_jax.config import UserError
from mlip_jax.data import formats, statistics
from mlip_jax.data.structure import StructureLabels
from mlip_jax.models.pair import LennardJones
from mlip_jax.potential import Potential
from mlip_jax.train import start
from tests.simulate import argon

SHIFTS = {18: 0.7, 36: -0.2}


def potential() -> Potential:
    model = LennardJones((10, 18, 36), argon.CUTOFF, 0.01, 3.4, trainable=True)
    graph = argon.fcc((1, 1, 1), rattle=0.05)
    params = {
        "epsilon": np.full(6, argon.EPSILON, np.float32),
        "sigma": np.full(6, argon.SIGMA, np.float32),
    }
    assert graph.num_atoms == 4
    return Potential(model, {"params": params}, {10: -1.0, 18: -2.0, 36: -3.0})


def labelled(found: Potential, compositions=((4, 0), (1, 3), (2, 2), (3, 1))):
    """Crystals of argon and krypton with the potential's forces, and its energies shifted."""
    items = []
    for seed, (argons, _) in enumerate(compositions):
        crystal = argon.fcc((1, 1, 1), rattle=0.05 * (seed + 1))
        numbers = np.where(np.arange(4) < argons, 18, 36)
        crystal = dataclasses.replace(crystal, atomic_numbers=numbers)
        (one,) = inference.predict(found, crystal)
        energy = one.energy + sum(SHIFTS[int(z)] for z in numbers)
        labels = StructureLabels(energy=energy, forces=one.forces)
        items.append(dataclasses.replace(crystal, labels=labels))
    return items


def found_in(items):
    return statistics.compute(items, argon.CUTOFF)


def test_training_starts_with_a_potential_of_the_same_model(tmp_path):
    saved = potential()
    storage.save(saved, tmp_path / "potential")
    unknown = dataclasses.replace(saved.model, species=None)
    first = start.of_potential("potential", tmp_path, unknown, np.dtype("float32"))
    assert first.model == saved.model
    for leaf, own in zip(*map(jax.tree.leaves, (first.variables, saved.variables)), strict=True):
        assert leaf.dtype == np.float32
        np.testing.assert_allclose(leaf, own, rtol=1e-6)
    other = dataclasses.replace(saved.model, cutoff=saved.cutoff + 1.0)
    with pytest.raises(UserError, match=r"another model:\n.*cutoff"):
        start.of_potential("potential", tmp_path, other, np.dtype("float32"))
    with pytest.raises(UserError, match=r"training\.start: .*nowhere"):
        start.of_potential("nothing", tmp_path, other, np.dtype("float32"))


def test_reference_energies_are_shifted_to_the_labels():
    first = potential()
    items = labelled(first)
    found, done = start.reference_energies(first, items, "refit", found_in(items))
    expected = {10: -1.0, 18: -1.3, 36: -3.2}
    assert found.reference_energies == pytest.approx(expected, abs=1e-5)  # float32
    assert "Ar +0.700, Kr -0.200" in done
    found, _ = start.reference_energies(first, items, "keep", found_in(items))
    assert found.reference_energies == first.reference_energies
    found, _ = start.reference_energies(first, items, "data", found_in(items))
    assert set(found.reference_energies) == {18, 36}


def test_shifts_that_compositions_leave_open_are_the_smallest():
    first = potential()
    items = labelled(first, ((2, 2), (2, 2)))
    found, _ = start.reference_energies(first, items, "refit", found_in(items))
    # 0.7 - 0.2 for both together, a half of it for each.
    expected = {10: -1.0, 18: -1.75, 36: -2.75}
    assert found.reference_energies == pytest.approx(expected, abs=1e-5)


def test_reference_energies_that_cannot_be_fitted_are_refused():
    first = potential()
    items = labelled(first)
    bare = [dataclasses.replace(s, labels=StructureLabels(forces=s.labels.forces)) for s in items]
    with pytest.raises(UserError, match="without energies"):
        start.reference_energies(first, bare, "refit", found_in(items))
    by_source = dataclasses.replace(found_in(items), source_reference_energies={"a": {18: 0.0}})
    with pytest.raises(UserError, match="by source; expected data"):
        start.reference_energies(first, items, "keep", by_source)


def test_what_moved_is_said_and_what_did_not(tmp_path):
    before = {"params": {"a": {"x": np.array([3.0, 4.0])}, "b": np.zeros(2)}}
    after = {"params": {"a": {"x": np.array([3.0, 3.0])}, "b": np.zeros(2)}}
    assert start.changes(before, after) == {"a": pytest.approx(0.2), "b": 0.0}
    assert "a 0.2; not at all: b" in start.describe_changes(start.changes(before, after))
    assert "no parameter has moved" in start.describe_changes(start.changes(before, before))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_run_that_begins_with_a_potential(tmp_path, capsys, frozen):
    first = potential()
    storage.save(first, tmp_path / "first")
    formats.write(tmp_path / "train.extxyz", labelled(first))
    sections = train.parse(
        {
            "data": {"train": "train.extxyz", "valid": 0},
            "model": {"lennard_jones": {"cutoff": argon.CUTOFF, "epsilon": 0.01, "sigma": 3.4}},
            "optimizer": {"learning_rate": 1e-3, "groups": [{"match": ".", "frozen": frozen}]},
            "training": {"epochs": 1, "batch_size": 2, "start": "first", "report": False},
        }
    )
    fitted = train.fit(sections, tmp_path / "run", base=tmp_path)
    said = capsys.readouterr().out
    assert "reference energies re-fitted (Ar +0.700, Kr -0.200 eV)" in said
    assert ("no parameter has moved" in said) == frozen
    assert (max(fitted.card["moved"].values()) == 0.0) == frozen
    # All elements of the potential are still known.
    assert fitted.reference_energies[10] == -1.0
