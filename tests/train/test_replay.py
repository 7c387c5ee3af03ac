"""Older data in fine-tuning: their targets, what is held out, and that less is forgotten."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest

from mlip_jax import inference, storage, train
from mlip_jax.config import UserError
from mlip_jax.data import formats
from mlip_jax.data.batching import reference_energy
from mlip_jax.data.dataset import DataConfig
from mlip_jax.data.formats import LabelKeys
from mlip_jax.data.structure import StructureLabels
from mlip_jax.train import replay, report, start
from mlip_jax.train.loss import LossConfig, PropertyLoss
from mlip_jax.train.replay import ReplayConfig
from tests.simulate import argon
from tests.train.test_start import found_in, labelled, potential

MIXED = ((4, 0), (1, 3), (2, 2), (3, 1), (0, 4), (2, 2), (1, 3), (3, 1))


def older():
    """Crystals with other positions than those of `labelled`, and no labels."""
    items = [dataclasses.replace(s, labels=StructureLabels()) for s in labelled(potential(), MIXED)]
    return [
        dataclasses.replace(s, positions=s.positions * 1.03, cell=s.cell * 1.03, name=f"old:{i}")
        for i, s in enumerate(items)
    ]


def answered(items, first, shift=0.0):
    """With what a potential says of them as labels."""
    return [
        dataclasses.replace(s, labels=StructureLabels(p.energy + shift, p.forces, p.stress))
        for s, p in zip(items, inference.predict(first, items), strict=True)
    ]


def refitted(first):
    items = labelled(first)
    return start.reference_energies(first, items, "refit", found_in(items))[0]


def taken(config, tmp_path, items=None, **data):
    """Older data as `training.replay` reads them, with their targets."""
    first = potential()
    formats.write(tmp_path / "old.extxyz", older() if items is None else items)
    section = DataConfig(train="new.extxyz", **data)
    read = replay.read(config, section, first, tmp_path)
    return replay.with_targets(read, config, first, refitted(first), "float32")


@pytest.mark.parametrize("labels", ["predicted", LabelKeys()])
def test_what_is_learned_of_older_energies_does_not_depend_on_reference_energies(tmp_path, labels):
    first = potential()
    items = None if labels == "predicted" else answered(older(), first)
    found = taken(ReplayConfig("old.extxyz", labels, weight=0.5), tmp_path, items)
    assert (len(found.train), len(found.held_out)) == (7, 1)
    energies = refitted(first).reference_energies
    assert energies != first.reference_energies
    both = [*found.train, *found.held_out]
    for item, old in zip(both, inference.predict(first, both), strict=True):
        labels = item.labels
        assert not any(x is None for x in (labels.energy, labels.forces, labels.stress))
        target = (labels.energy or 0.0) - reference_energy(item.atomic_numbers, energies)
        interaction = old.energy - first.reference_energy(item.atomic_numbers).sum()
        assert target == pytest.approx(interaction, abs=1e-6)  # of the file, eight digits
        np.testing.assert_allclose(np.asarray(labels.forces), old.forces, atol=1e-6)
        np.testing.assert_allclose(np.asarray(labels.stress), old.stress, atol=1e-8)
        assert item.weight == 0.5
    # With the new reference energies the potential is where training begins: without an error.
    begun = dataclasses.replace(first, reference_energies=energies)
    errors = inference.evaluate(begun, both)["total"]
    assert errors["energy"]["max"] < 1e-6


def test_structures_are_taken_at_random_by_the_seed(tmp_path):
    config = ReplayConfig("old.extxyz", size=5, valid=0.4)
    first, again = (taken(config, tmp_path) for _ in range(2))
    other = taken(config, tmp_path, seed=1)
    names = [
        [s.name for part in (f.train, f.held_out) for s in part] for f in (first, again, other)
    ]
    assert names[0] == names[1] != names[2]
    assert len(set(names[0])) == 5
    assert len(first.held_out) == 2
    assert first.files[0]["structures"] == 8
    said = replay.describe(first, config, potential(), "float32")
    assert said.startswith("replay: 3 older structures, 2 held out")


def test_labels_of_another_level_are_seen_by_the_errors_of_the_potential():
    first = potential()
    items = answered(older(), first, shift=0.8)
    found = replay.Replay(items[2:], items[:2], [])
    said = replay.describe(found, ReplayConfig("x", LabelKeys()), first, "float32")
    assert "energy 0.2 eV/atom, forces " in said


def test_elements_that_the_potential_does_not_know_are_refused(tmp_path):
    items = older()
    items[3] = dataclasses.replace(items[3], atomic_numbers=np.full(4, 54))
    with pytest.raises(UserError, match=r"training\.replay: old\.extxyz:3: got the elements \['Xe"):
        taken(ReplayConfig("old.extxyz"), tmp_path, items)


def test_sets_that_hold_too_little_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"training\.replay: got 9 structures of files that hold 8"):
        taken(ReplayConfig("old.extxyz", size=9), tmp_path)
    with pytest.raises(UserError, match="one to train on and one that is held out"):
        taken(ReplayConfig("old.extxyz"), tmp_path, older()[:1])
    (tmp_path / "empty.extxyz").write_text("")
    with pytest.raises(UserError, match=r"training\.replay"):
        taken(ReplayConfig("empty.extxyz"), tmp_path)
    with pytest.raises(UserError, match=r"training\.replay\.files: .*nowhere"):
        taken(ReplayConfig("nothing.extxyz"), tmp_path)


def test_labels_that_the_loss_asks_for_are_needed(tmp_path):
    items = [
        dataclasses.replace(s, labels=dataclasses.replace(s.labels, stress=None))
        for s in answered(older(), potential())
    ]
    config = ReplayConfig("old.extxyz", LabelKeys())
    found = taken(config, tmp_path, items)
    stress = LossConfig(stress=PropertyLoss())
    replay.check_labels(found, config, LossConfig())
    replay.check_labels(found, dataclasses.replace(config, labels="predicted"), stress)
    with pytest.raises(UserError, match=r"replay\.labels\.stress: got 'stress'"):
        replay.check_labels(found, config, stress)
    without = dataclasses.replace(config, labels=LabelKeys(stress=None))
    replay.check_labels(found, without, stress)
    nothing = dataclasses.replace(config, labels=LabelKeys(energy=None, forces=None))
    with pytest.raises(UserError, match="neither energy nor forces"):
        replay.check_labels(found, nothing, stress)


def test_labels_that_contradict_each_other_are_refused(tmp_path):
    items = [
        dataclasses.replace(s, labels=dataclasses.replace(s.labels, forces=np.zeros((4, 3))))
        for s in answered(older(), potential())
    ]
    with pytest.raises(UserError, match=r"training\.replay\.labels: .*\n- zero_forces"):
        taken(ReplayConfig("old.extxyz", LabelKeys()), tmp_path, items)


@pytest.mark.parametrize("ending", ["extxyz", "h5"])
def test_both_sets_are_one(tmp_path, ending):
    path = tmp_path / f"new.{ending}"
    formats.write(path, labelled(potential()))
    new = formats.open_structures(path)
    both = replay.joined(new, older())
    assert hasattr(both, "num_atoms") == (ending == "h5")  # lazy where the new data are
    assert len(both) == 4 + 8
    np.testing.assert_array_equal(both[1].positions, new[1].positions)
    assert both[4].name == "old:0"


def test_reference_energies_that_do_not_go_with_older_data_are_refused():
    first = potential()
    found = found_in(labelled(first, ((4, 0), (4, 0))))
    empty = replay.Replay(answered(older(), first), [], [])
    with pytest.raises(UserError, match=r"elements \['Kr'\], of which .* refit or keep"):
        replay.with_targets(empty, ReplayConfig("x"), first, found, "float32")
    sources = dataclasses.replace(found, source_reference_energies={"a": {18: 0.0}})
    with pytest.raises(UserError, match="reference energies by source"):
        replay.check_references(first, sources)


def sections(**training):
    return {
        "data": {"train": "new.extxyz", "valid": 0.25},
        "model": {"lennard_jones": {"cutoff": argon.CUTOFF, "epsilon": 0.01, "sigma": 3.4}},
        "optimizer": {"name": "adam", "learning_rate": 1e-3},
        "training": {
            "epochs": 20,
            "batch_size": 4,
            "ema": None,
            "start": "first",
            "report": False,
            **training,
        },
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"replay": {"files": "old"}}}, "replay: got it without start"),
        ({"training": {"start": "x", "replay": {"files": "o", "size": 1}}}, r"replay\.size"),
        ({"training": {"start": "x", "replay": {"files": "o", "labels": "own"}}}, "labels: got"),
        ({"training": {"start": "x", "replay": {"files": "o", "valid": 0}}}, r"replay\.valid"),
        ({"solver": {"name": "ridge"}}, "together with solver"),
    ],
)
def test_configs_without_sense_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        train.parse({**sections(replay={"files": "old"}), **changes})


def test_less_is_forgotten_with_older_data(tmp_path, capsys, monkeypatch):
    first = potential()
    storage.save(first, tmp_path / "first")
    formats.write(tmp_path / "old.extxyz", older())
    # Another level of theory: other depths of the pair energies, other energies of the atoms.
    params = {**first.variables["params"], "epsilon": 1.4 * first.variables["params"]["epsilon"]}
    other = dataclasses.replace(first, variables={"params": params})
    formats.write(tmp_path / "new.extxyz", answered(labelled(first, MIXED), other, shift=0.3))
    fitted = {}
    for name, settings in (
        ("without", {}),
        ("with", {"replay": {"files": "old.extxyz", "valid": 0.25, "weight": 2.0}}),
    ):
        parsed = train.parse(sections(**settings))
        fitted[name] = train.fit(parsed, tmp_path / name, base=tmp_path, progress=True)
    said = capsys.readouterr().out
    assert "replay: 6 older structures, 2 held out, with what the potential predicts" in said
    assert "replay: mean absolute errors before and after: energy" in said
    errors = json.loads((tmp_path / "with" / "errors.json").read_text())
    assert errors.keys() == {"train", "valid", "replay"}
    assert errors["train"]["num_structures"] == 6
    assert errors["replay"]["num_structures"] == 2
    assert errors["replay"]["before"]["forces"]["mae"] < 1e-6
    before, after = (errors["valid"][key]["forces"]["mae"] for key in ("before", "total"))
    assert before > after
    assert fitted["with"].card["replay"] == {"trained": 6, "held_out": 2}
    assert fitted["with"].card["errors"].keys() == errors.keys()
    remembered = {name: _forces_off(found, first, older()) for name, found in fitted.items()}
    assert remembered["with"] < 0.8 * remembered["without"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # no plots
    facts = report.RunFacts("epochs", 60, 20, 1, 1000, 0.1, {"atoms": 0.1, "slots": 0.2})
    report.write(tmp_path / "with", {}, errors, fitted["with"].card, facts)
    page = (tmp_path / "with" / "report.html").read_text()
    assert "Errors before and after fine-tuning" in page
    assert f"<td>{before:.4g}</td><td>{after:.4g}</td>" in page
    # What is replayed is part of the identity of a run.
    formats.write(tmp_path / "old.extxyz", older()[::-1])
    with pytest.raises(UserError, match=r"replay: old\.extxyz .* before"):
        train.fit(parsed, tmp_path / "with", base=tmp_path, resume=True, progress=False)


def _forces_off(fitted, first, items):
    both = zip(inference.predict(fitted, items), inference.predict(first, items), strict=True)
    return float(np.mean([np.abs(a.forces - b.forces) for a, b in both]))
