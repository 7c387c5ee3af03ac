"""A whole fit: from a config to the files of a run."""

import dataclasses
import importlib.util
import json
import shutil

import jax
import numpy as np
import pytest

import mlip_jax
from mlip_jax import config, inference, storage, train
from mlip_jax.config import UserError
from mlip_jax.data import formats
from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import StructureLabels
from mlip_jax.potential import Potential
from mlip_jax.train import report
from tests.train import tiny

pytestmark = pytest.mark.slow  # whole fits, with their reports


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A file with the energies, forces and stresses of a tiny potential."""
    items = tiny.structures(20)
    model = tiny.Tiny()
    variables = model.init(jax.random.key(3), make_graph(items[:1], tiny.CUTOFF))
    teacher = Potential(model, variables, tiny.REFERENCE)
    labelled = [
        dataclasses.replace(
            structure,
            labels=StructureLabels(p.energy, p.forces, p.stress),
            config_type=f"type{index % 2}",
        )
        for index, (structure, p) in enumerate(
            zip(items, inference.predict(teacher, items, precision="float64"), strict=True)
        )
    ]
    path = tmp_path_factory.mktemp("data") / "tiny.extxyz"
    formats.write(path, labelled)
    return path


def section(data, **training):
    small = {"cutoff": 3.0, "num_radial": 3, "num_angular": 1, "zetas": [1], "hidden": [4]}
    return {
        "data": {"train": str(data), "valid": 0.2, "test": 0.2},
        "model": {"behler_parrinello": small},
        "loss": {"stress": {"weight": 0.1}},
        "training": {"epochs": 2, "batch_size": 4, "devices": 1, "workers": 0, **training},
    }


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "fit"
    potential = train.fit(train.parse(section(data)), output, progress=False)
    return potential, output


def test_a_fit_writes_all_its_files(finished):
    potential, output = finished
    names = {path.name for path in output.iterdir()}
    assert names >= {"config.yaml", "metrics.jsonl", "checkpoints", "potential", "errors.json"}
    assert names >= {"report.html", "learning_curves.png", "parity_forces.png", "errors_energy.png"}
    loaded = mlip_jax.load(output / "potential")
    jax.tree.map(np.testing.assert_array_equal, dict(loaded.variables), dict(potential.variables))
    assert loaded.card["errors"].keys() == {"train", "valid", "test"}
    errors = json.loads((output / "errors.json").read_text())
    assert errors["test"]["num_structures"] == 4
    page = (output / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(list(output.glob("*.png")))
    assert 'src="http' not in page


def test_the_errors_of_the_report_are_those_of_the_last_validation(finished):
    potential, output = finished
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    best = min((line["valid"] for line in lines), key=lambda valid: valid["loss"])
    total = potential.card["errors"]["valid"]
    for name in ("energy", "forces", "stress"):
        # float32, two programs that sum in different orders.
        assert total[name]["mae"] == pytest.approx(best[f"{name}_mae"], rel=1e-4, abs=1e-6)


def test_the_resolved_config_trains_the_same_model(finished):
    potential, output = finished
    written = config.load_yaml(output / "config.yaml")
    again = train.parse(written)
    assert again.model == potential.model
    assert again.model.species == (14,)


def test_a_directory_with_a_run_is_not_overwritten(finished, data):
    _, output = finished
    with pytest.raises(UserError, match="--resume"):
        train.fit(train.parse(section(data)), output, progress=False)


def test_resuming_with_another_config_names_the_keys(finished, data):
    _, output = finished
    other = train.parse(section(data, batch_size=2))
    with pytest.raises(UserError, match=r"training\.batch_size: 4 before, 2 now"):
        train.fit(other, output, resume=True, progress=False)


def test_resuming_with_other_data_names_the_file(finished, data, tmp_path):
    _, output = finished
    copy = tmp_path / "run"
    shutil.copytree(output, copy)
    files = json.loads((copy / "data.json").read_text())
    files["train"][0]["sha256"] = "0" * 64
    (copy / "data.json").write_text(json.dumps(files))
    with pytest.raises(UserError, match=r"train: .* 00000000 before"):
        train.fit(train.parse(section(data)), copy, resume=True, progress=False)


def test_resuming_a_finished_run_gives_its_potential(finished, data):
    potential, output = finished
    before = (output / "metrics.jsonl").read_bytes()
    again = train.fit(train.parse(section(data)), output, resume=True, progress=False)
    jax.tree.map(np.testing.assert_array_equal, dict(again.variables), dict(potential.variables))
    assert (output / "metrics.jsonl").read_bytes() == before
    assert storage.load(output / "potential").card["training"]["stopped"] == "epochs"


def test_without_matplotlib_the_report_says_what_plots_need(finished, monkeypatch, tmp_path):
    _, output = finished
    find = importlib.util.find_spec

    def without(name, *rest):
        return None if name == "matplotlib" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    (tmp_path / "metrics.jsonl").write_bytes((output / "metrics.jsonl").read_bytes())
    facts = report.RunFacts("epochs", 6, 2, 1, 1000, 0.1, {"atoms": 0.1, "slots": 0.2})
    card = {"config": {"training": {"batch_size": 4}}}
    message = report.write(tmp_path, {}, {}, card, facts)
    assert "mlip_jax[report]" in message
    assert not list(tmp_path.glob("*.png"))
    assert "mlip_jax[report]" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modell": {}}, "did you mean 'model'"),
        ({"loss": {"charges": {"weight": 1.0}}}, "loss.charges: no training structure"),
        ({"training": {"epochs": 0}}, "training.epochs"),
        ({"optimizer": {"name": "schedule_free_sgd"}}, "training.ema: null"),
        ({"training": {"batch_size": 1000, "devices": 1}}, "at most that many"),
        ({"training": {"monitor": "force_mae"}}, "forces_mae"),
    ],
)
def test_faults_of_the_config_are_refused(data, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        train.fit(train.parse({**section(data), **change}), tmp_path / "x", progress=False)


def test_float64_without_x64_is_refused(data, tmp_path):
    sections = train.parse(section(data, precision="float64"))
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(UserError, match="jax_enable_x64"):
            train.fit(sections, tmp_path / "x", progress=False)
    finally:
        jax.config.update("jax_enable_x64", True)
