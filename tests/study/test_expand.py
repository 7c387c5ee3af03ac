"""Expansion of a study, and what a study file may not say."""

from pathlib import Path

import pytest

from mlip_jax import config, study
from mlip_jax.config import UserError
from mlip_jax.study import expand
from tests.study import studies

BASE = {
    "data": {"train": "a.extxyz"},
    "model": {"lennard_jones": {}},
    "optimizer": {"name": "adam", "learning_rate": 1e-3},
    "training": {"epochs": 5},
}


def variants(section, files=None, directory=Path("/studies")):
    files = {directory / name: value for name, value in (files or {}).items()}
    return expand.expand(study.parse(section, directory), lambda path: files[path])


def test_the_last_axis_varies_fastest_and_short_names_set_their_keys():
    axes = {"training.epochs": [5, 10], "train_size": [20, 50], "seed": [0, 1]}
    found = variants({"base": BASE, "axes": axes})
    assert [v.name for v in found[:3]] == [
        "training.epochs=5,train_size=20,seed=0",
        "training.epochs=5,train_size=20,seed=1",
        "training.epochs=5,train_size=50,seed=0",
    ]
    assert len(found) == 8
    assert found[-1].config == {
        **BASE,
        "data": {"train": "a.extxyz", "train_size": 50, "seed": 1},
        "training": {"epochs": 10, "seed": 1},
    }
    assert BASE["data"] == {"train": "a.extxyz"}
    assert BASE["training"] == {"epochs": 5}


def test_named_choices_replace_sections_and_then_keys():
    other = {"model": {"morse": {}}, "solver": {"name": "ridge"}}
    axes = {
        "model": {
            "base": None,
            "file": "other.yaml",
            "changed": {"config": "other.yaml", "model.morse.cutoff": 4.0},
            "keys": {"model": {"snap": {}}, "optimizer.name": "sgd", "training.epochs": 7},
        }
    }
    found = {
        v.values["model"]: v.config
        for v in variants({"base": BASE, "axes": axes}, {"other.yaml": other})
    }
    assert found["base"] == BASE
    # An exact solver takes the place of the optimiser.
    assert found["file"] == {"data": BASE["data"], "training": BASE["training"], **other}
    assert found["changed"]["model"] == {"morse": {"cutoff": 4.0}}
    assert other["model"] == {"morse": {}}
    assert found["keys"]["model"] == {"snap": {}}
    assert found["keys"]["optimizer"] == {"name": "sgd", "learning_rate": 1e-3}
    assert found["keys"]["training"] == {"epochs": 7}


def test_axes_fill_the_path_of_the_base_and_data_lie_beside_it():
    section = {
        "base": "configs/{element}_{method}.yaml",
        "axes": {"element": ["si", "ge"], "method": ["snap", "nnp"], "seed": [3]},
        "exclude": [{"element": "ge", "method": ["nnp", "snap"]}],
    }
    files = {f"configs/si_{m}.yaml": {**BASE, "training": {"name": m}} for m in ("snap", "nnp")}
    files |= {f"configs/ge_{m}.yaml": BASE for m in ("snap", "nnp")}
    found = variants(section, files)
    assert [v.name for v in found] == [
        "element=si,method=snap,seed=3",
        "element=si,method=nnp,seed=3",
    ]
    assert found[1].config["training"] == {"name": "nnp", "seed": 3}
    assert found[0].base == Path("/studies/configs")


def test_exclusion_takes_out_exactly_what_it_names():
    section = {
        "base": BASE,
        "axes": {"train_size": [1, 2, 3], "seed": [0, 1]},
        "exclude": [{"train_size": [1, 3], "seed": 1}, {"train_size": 2}],
    }
    assert [v.name for v in variants(section)] == ["train_size=1,seed=0", "train_size=3,seed=0"]
    with pytest.raises(UserError, match="leaves no run"):
        variants({**section, "exclude": [{"seed": [0, 1]}]})


def test_the_identity_of_a_run_leaves_out_what_no_number_depends_on(tmp_path):
    loaded = studies.load(tmp_path)
    first = study.plan(loaded)[0]
    renamed = study.plan(studies.load(tmp_path, studies.LINES, "base.training.name=x"))[0]
    longer = study.plan(studies.load(tmp_path, studies.LINES, "base.training.epochs=3"))[0]
    identity = expand.identity(first, {})
    assert expand.digest(identity) == expand.digest(expand.identity(renamed, {}))
    assert expand.digest(identity) != expand.digest(expand.identity(longer, {}))
    before = identity["files"]["tiny.extxyz"]
    with (tmp_path / "tiny.extxyz").open("a") as stream:
        stream.write((tmp_path / "tiny.extxyz").read_text())
    assert expand.identity(first, {})["files"]["tiny.extxyz"] != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axis": {}}, "unknown key 'axis'; did you mean 'axes'"),
        ({"axes": {}}, "study.axes: got none"),
        ({"axes": {"sed": [0]}}, "unknown axis 'sed'; did you mean 'seed'"),
        ({"axes": {"seed": []}}, "study.axes.seed: got []"),
        ({"axes": {"seed": [0, 0]}}, "got 0 twice"),
        ({"axes": {"model": [{"snap": {}}]}}, "unknown axis 'model'"),
        ({"axes": {"m": {"a": {"modle.x": 1}}}}, "unknown section 'modle'; did you mean 'model'"),
        ({"axes": {"m": {"a": 3}}}, "study.axes.m.a: got 3"),
        ({"axes": {"training.epochs": [{"a": 1}]}}, "Give each a name"),
        ({"base": "{elemnt}.yaml", "axes": {"element": ["si"]}}, "did you mean 'element'"),
        ({"base": 3}, "study.base"),
        ({"exclude": [{"sed": 1}]}, "unknown axis 'sed'"),
        ({"exclude": [{"seed": 7}]}, "study.exclude.0.seed: unknown value 7"),
        ({"runs": {"worker": 2}}, "study.runs: unknown key 'worker'; did you mean 'workers'"),
        ({"runs": {"workers": 0}}, "study.runs.workers: got 0"),
        ({"cost": {"repeat": 2}}, "did you mean 'repeats'"),
        ({"report": {"panels": "elements"}}, "study.report.panels: unknown axis 'elements'"),
        ({"report": {"properties": ["force"]}}, "did you mean 'forces'"),
        ({"axes": {"m": {"a": {}}, "seed": [0]}, "report": {"x": "m"}}, "are not numbers"),
        ({"axes": {"m": {"a b": {}, "a-b": {}}}}, "two runs have the directory name 'm=a-b'"),
    ],
)
def test_faults_of_a_study_stop_it(changes, message):
    section = {"base": BASE, "axes": {"seed": [0, 1]}, **changes}
    with pytest.raises(UserError) as caught:
        variants(section)
    assert message in str(caught.value)


def test_every_config_is_checked_before_anything_runs(tmp_path):
    stub = studies.Stub()
    text = studies.LINES.replace("cutoff: 3.5", "cutof: 3.5")
    with pytest.raises(UserError) as caught:
        study.conduct(studies.load(tmp_path, text), tmp_path, perform=stub)
    message = str(caught.value)
    assert "run model=long,train_size=2,seed=0: model.lennard_jones: unknown field" in message
    assert message.count("\n") == 0  # once, not for each of the four runs
    with pytest.raises(UserError, match=r"'gone\.extxyz' was found nowhere"):
        study.plan(studies.load(tmp_path, studies.LINES, "base.data.train=gone.extxyz"))
    assert not stub.performed
    assert not (tmp_path / "runs").exists()


def test_a_key_is_set_in_a_copy():
    before = {"a": {"b": 1}}
    assert config.with_key(before, "a.c.d", 2, "here") == {"a": {"b": 1, "c": {"d": 2}}}
    assert before == {"a": {"b": 1}}
    with pytest.raises(UserError, match=r"here: a\.b is a integer"):
        config.with_key(before, "a.b.c", 2, "here")
