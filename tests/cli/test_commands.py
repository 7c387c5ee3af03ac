"""What every command does, from its arguments to its files."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mlip_jax import config, models, storage
from mlip_jax.cli import simulate
from mlip_jax.data import formats
from tests.cli.springs import SILICON, refused, run, train_config


def test_predictions_are_written_and_read(potential, data):
    assert run("predict", potential, data, "-o", "out.npz", "--precision", "float64") == 0
    with np.load("out.npz", allow_pickle=False) as file:
        written = dict(file)
    assert written["energy"].shape == (6,)
    assert written["forces"].shape == (48, 3)
    assert written["stress"].shape == (6, 3, 3)
    assert int(written["schema_version"]) == 1
    assert str(written["units_forces"]) == "eV/Å"
    assert run("predict", potential, data, "-o", "out.extxyz", "--precision", "float64") == 0
    read = formats.read("out.extxyz")
    forces = np.concatenate([s.labels.forces for s in read])
    np.testing.assert_allclose(forces, written["forces"], atol=1e-7)  # printed with 8 digits
    assert run("evaluate", potential, "out.extxyz", "-o", "errors.json") == 0
    errors = json.loads(Path("errors.json").read_text())
    assert errors["total"]["forces"]["mae"] < 1e-5  # float32 against float64
    assert run("evaluate", potential, data, "--plots", "plots") == 0
    names = {path.name for path in Path("plots").iterdir()}
    assert names == {f"{k}_{n}.png" for k in ("parity", "errors") for n in ("energy", "forces")}


@pytest.mark.slow
def test_relax_and_md_run(potential, data):
    loose = ("--set", "max_force=0.05")
    assert run("relax", potential, data, "-o", "relaxed.extxyz", *loose) == 0
    relaxed = formats.read("relaxed.extxyz")[0]
    assert np.abs(relaxed.labels.forces).max() < 0.05
    mapping = {
        "potential": "potential",
        "structure": {"file": "relaxed.extxyz"},
        "simulation": {"steps": 20, "chunk": 10, "trajectory_interval": 10},
    }
    config.dump_yaml(mapping, "nve.yaml")
    assert run("md", "nve.yaml", "ensemble.temperature=100", "-o", "nve") == 0
    assert len(formats.read("nve/trajectory.extxyz")) == 3
    assert config.load_yaml("nve/config.yaml")["ensemble"]["temperature"] == 100


def test_a_speed_is_told_where_there_is_one():
    short = SimpleNamespace(nanoseconds_per_day=math.nan, compile_seconds=3.0)
    assert simulate._speed(short) == "too few to tell the speed from the 3 s of compiling"
    long = SimpleNamespace(nanoseconds_per_day=2.5, microseconds_per_atom_step=10.0)
    assert simulate._speed(long) == "10.0 µs per atom and step, 2.50 ns a day"


@pytest.mark.slow
def test_many_structures_relax_and_those_that_fail_are_named(potential, data, capsys):
    loose = ("--set", "max_force=0.05", "--set", "batch_graphs=2")
    assert run("relax", potential, data, "--all", "-o", "relaxed.extxyz", *loose) == 0
    assert "6 of 6 structures relaxed" in capsys.readouterr().out
    for before, after in zip(formats.read(data), formats.read("relaxed.extxyz"), strict=True):
        assert np.abs(after.labels.forces).max() < 0.05
        np.testing.assert_array_equal(after.cell, before.cell)
    few = ("--set", "max_steps=1", "--set", "chunk=1", "--set", "max_force=1e-6")
    message = refused(capsys, "relax", potential, data, "--all", "-o", "few.extxyz", *few)
    assert "not relaxed: 6" in message
    assert "frame 0, after 1 steps: not converged" in message
    assert len(formats.read("few.extxyz")) == 6
    assert "--index 0 and --all" in refused(
        capsys, "relax", potential, data, "--all", "--index", "0", "-o", "few.extxyz"
    )
    block = ("--all", "-o", "blocks.extxyz", "--set", "block=8", *loose)
    assert run("relax", potential, data, *block) == 0
    for whole, blocks in zip(
        formats.read("relaxed.extxyz"), formats.read("blocks.extxyz"), strict=True
    ):
        np.testing.assert_allclose(blocks.labels.energy, whole.labels.energy, atol=1e-5)


def test_training_leaves_a_potential(data, capsys):
    assert run("train", train_config(), "--output", "run") == 0
    assert run("info", "run/potential") == 0
    assert "springs:" in capsys.readouterr().out
    assert storage.load("run/potential").species == (SILICON,)
    resolved = config.load_yaml("run/config.yaml")
    assert resolved["model"]["springs"]["species"] == ["Si"]
    assert "holds a run" in refused(capsys, "train", train_config(), "--output", "run")


def test_a_study_is_checked_listed_and_refused(data, capsys):
    train_config()
    Path("study.yaml").write_text("base: train.yaml\naxes: {train_size: [2, 3], seed: [0, 1]}\n")
    assert run("study", "study.yaml", "--dry-run") == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0] == "begin   train_size=2,seed=0"
    assert listed[-1] == "4 runs: 4 to run"
    assert not Path("runs").exists()
    assert run("study", "study.yaml", "report.properties=[]", "--collect", "-o", "out") == 0
    assert Path("out/results/table.csv").read_text().splitlines()[1].endswith("waiting")
    message = refused(capsys, "study", "study.yaml", "axes.train_sise=[3]", "--dry-run")
    assert "unknown axis 'train_sise'; did you mean 'train_size'" in message
    message = refused(capsys, "study", "study.yaml", "axes.training.epoks=[3]", "--dry-run")
    assert "study.axes" in message


def test_converted_structures_are_the_same(data):
    assert run("data", "convert", data, "data.h5", "--index", "1:") == 0
    before, after = formats.read(data, index="1:"), formats.read("data.h5")
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old.positions, new.positions)
        np.testing.assert_array_equal(old.labels.forces, new.labels.forces)


def test_the_data_doctor_reports_and_plots(data, capsys):
    assert run("data", "inspect", data, "--cutoff", 3, "--batch-size", 2, "-o", "doctor") == 0
    output = capsys.readouterr().out
    for title in ("Content", "Checks", "Findings", "Neighbours and batches"):
        assert title in output
    assert "Si 48" in output
    assert {path.name for path in Path("doctor").iterdir()} == {"energies.png", "forces.png"}


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_templates_are_valid_configs(name, capsys):
    from mlip_jax.train import run as training

    assert run("template", name) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 110
    sections = training.parse(config.parse_yaml(text, "template"))
    assert sections.data.labels.energy == "REF_energy"
    sections.model  # noqa: B018 (built)


@pytest.mark.parametrize("kind", ["train", "md"])
def test_schemas_are_json(kind, capsys):
    assert run("schema", kind) == 0
    schema = json.loads(capsys.readouterr().out)
    text = json.dumps(schema)
    assert schema["additionalProperties"] is False
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#/$defs/')[1:]}:
        assert reference in schema["$defs"]


def test_help_shows_examples(capsys):
    names = ("train", "evaluate", "predict", "md", "relax", "study", "potentials", "info", "schema")
    nested = (("template",), ("data", "inspect"), ("data", "convert"))
    for command in (*((name,) for name in names), *nested):
        assert run(*command, "--help") == 0
        assert "For example" in capsys.readouterr().out
    assert run("--version") == 0
    assert run("trian") == 2
    assert "train" in capsys.readouterr().err


def test_an_imported_potential_is_one_of_ours(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("si.snapcoeff").write_text("1 2\nSi 0.5 1\n-3.5\n0.02\n")
    Path("si.snapparam").write_text("rcutfac 3.0\ntwojmax 0\n")
    assert run("import", "snap", "si.snapcoeff", "si.snapparam", "-o", "si") == 0
    assert "Si: si" in capsys.readouterr().out
    assert storage.load("si").reference_energies == {SILICON: -3.5}
    Path("si.snapcoeff").write_text("1 2\nSi 0.5 1\n-3.5\n")
    message = refused(capsys, "import", "snap", "si.snapcoeff", "si.snapparam", "-o", "si")
    assert "line 4: got 'the end of the file'" in message
    assert "did you mean" in refused(capsys, "import", "snapp", "x", "-o", "si").lower()
