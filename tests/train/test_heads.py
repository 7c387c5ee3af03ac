"""Training of several heads at once: data, weights, errors of each, refusals."""

import copy
import dataclasses
import json

import jax
import numpy as np
import pytest

import mlip_jax as mj
from mlip_jax import inference, train
from mlip_jax.config import UserError
from mlip_jax.data import formats
from mlip_jax.data.structure import Structure, StructureLabels

DEPTHS = {"coarse": 0.4, "fine": 0.7}
ATOMS = {"coarse": -100.5, "fine": -200.125}


def molecules(source: str, count: int = 6) -> list[Structure]:
    """Trimers of a Morse pair energy whose depth is the source's; the last is a single atom."""
    rng = np.random.default_rng(0)
    result = []
    for number in range(count):
        atoms = 3 if number < count - 1 else 1
        positions = np.array([[0.0, 0, 0], [2.2, 0, 0], [0.9, 2.0, 0]])[:atoms]
        positions = positions + 0.1 * rng.normal(size=(atoms, 3))
        energy, forces = morse(positions, DEPTHS[source])
        labels = StructureLabels(energy=energy + atoms * ATOMS[source], forces=forces)
        none = np.zeros((3, 3)), np.zeros(3, bool)
        result.append(Structure(np.full(atoms, 14), positions, *none, labels))
    return result


def morse(positions, depth):
    energy, forces = 0.0, np.zeros_like(positions)
    for i in range(len(positions)):
        for j in range(i):
            vector = positions[i] - positions[j]
            distance = np.linalg.norm(vector)
            decay = np.exp(-1.5 * (distance - 2.2))
            energy += depth * ((1.0 - decay) ** 2 - 1.0)
            slope = 3.0 * depth * (1.0 - decay) * decay
            forces[i] -= slope * vector / distance
            forces[j] += slope * vector / distance
    return energy, forces


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for source in DEPTHS:
        formats.write(folder / f"{source}.extxyz", molecules(source))
    return {
        "data": {
            "train": [{"path": str(folder / f"{s}.extxyz"), "source": s} for s in DEPTHS],
            "valid": 0.0,
            "labels": {"stress": None},
            "statistics": {"per_source": True},
        },
        "model": {
            "mace": {
                "cutoff": 3.4,
                "hidden_irreps": "2x0e",
                "max_ell": 1,
                "correlation": 1,
                "num_bessels": 4,
                "radial_mlp": [4],
                "readout_width": 3,
                "heads": list(DEPTHS),
            }
        },
        "optimizer": {"name": "adam", "learning_rate": 0.02},
        "training": {
            "epochs": 60,
            "batch_size": 12,
            "devices": 1,
            "workers": 0,
            "ema": None,
            "report": False,
            "precision": "float64",
        },
    }


def changed(config, **changes):
    result = copy.deepcopy(config)
    for path, value in changes.items():
        section, key = path.split("__")
        target = result["model"]["mace"] if section == "mace" else result[section]
        target[key] = value
    return train.parse(result)


@pytest.mark.slow
def test_heads_learn_their_own_data(config, tmp_path):
    sections = changed(config)
    first = train.untrained(sections)
    potential = train.fit(sections, tmp_path / "run", progress=False)
    assert potential.head_energies == {s: {14: pytest.approx(ATOMS[s])} for s in DEPTHS}
    errors = json.loads((tmp_path / "run/errors.json").read_text())["train"]
    for source in DEPTHS:
        before = errors_of(first, source)["total"]["forces"]["rmse"]
        after = errors["per_source"][source]["forces"]["rmse"]
        assert after < 0.5 * before
        assert errors["per_source"][source]["energy"]["mae"] < 0.3
        one = mj.load(tmp_path / "run/potential", head=source)
        assert errors_of(one, source)["total"]["forces"]["rmse"] == pytest.approx(after, rel=1e-9)
    assert errors_of(potential, *DEPTHS)["per_source"].keys() == set(DEPTHS)


def errors_of(potential, *names: str):
    labelled = [dataclasses.replace(s, source=name) for name in names for s in molecules(name)]
    return inference.evaluate(potential, labelled, precision="float64")


@pytest.mark.slow
def test_a_head_of_weight_zero_stays(config, tmp_path):
    """Only the other head's readouts, and what is shared, learn."""
    sections = changed(config, data__source_weights={"fine": 0.0}, training__max_steps=2)
    first = train.untrained(sections)
    potential = train.fit(sections, tmp_path / "run", progress=False)
    for name in ("readout_0", "readout_1"):
        before, after = (p.variables["params"][name] for p in (first, potential))
        for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            np.testing.assert_array_equal(new[1], old[1])
            assert np.abs(new[0] - old[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__statistics": {}}, r"data\.statistics\.per_source: got false with heads"),
        ({"mace__heads": ["fine", "fine"]}, "expected names, each of them once"),
        ({"mace__heads": ["coarse", "fine", "best"]}, "model: heads: got 'best', of which there"),
        ({"mace__heads": ["coarse"]}, "got the head 'fine'; the model has the heads coarse"),
        ({"data__source_weights": {"fien": 0.5}}, r"data\.source_weights: got 'fien'"),
        ({"mace__heads": [], "data__source_weights": {"fien": 0.5}}, "got 'fien'"),
    ],
)
def test_heads_and_data_that_do_not_agree(config, changes, message):
    with pytest.raises(UserError, match=message):
        train.untrained(changed(config, **changes))


def test_structures_without_a_head_stop_training(config):
    files = [file["path"] for file in config["data"]["train"]]
    with pytest.raises(UserError, match=r"coarse\.extxyz:0: got the head ''"):
        train.untrained(changed(config, data__train=files))
