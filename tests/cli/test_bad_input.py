"""What a wrong input gets: one message, exit code 1, nothing computed."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mlip_jax import config, storage
from mlip_jax.data import formats
from mlip_jax.data.structure import StructureLabels
from tests.cli.springs import crystal, refused, train_config


def test_md_refuses_unknown_keys_and_earlier_runs(potential, data, capsys):
    mapping = {"potential": "potential", "structure": {"file": "data.extxyz"}}
    config.dump_yaml({**mapping, "simulation": {"steps": 20}}, "nve.yaml")
    message = refused(capsys, "md", "nve.yaml", "simulation.step=3")
    assert "simulation: unknown key 'step'; did you mean 'steps'" in message
    Path("runs/nve").mkdir(parents=True)
    Path("runs/nve/thermo.jsonl").touch()
    assert "--overwrite" in refused(capsys, "md", "nve.yaml")
    message = refused(capsys, "md", "nve.yaml", "structure.file=gone.extxyz")
    assert "structure.file: gone.extxyz is neither in" in message
    message = refused(capsys, "md", "nve.yaml", "potential=gone")
    assert "potential: gone" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training__epoch": 3}, "training: unknown key 'epoch'; did you mean 'epochs'"),
        ({"trainin__epochs": 3}, "unknown section 'trainin'; did you mean 'training'"),
        ({"model": {"spring": {}}}, "unknown model 'spring'; did you mean 'springs'"),
        ({"model__springs__cutof": 3}, "model.springs: unknown field 'cutof'"),
        ({"model__springs__cutoff": 0}, "model.springs.cutoff: got 0"),
        ({"model__springs__cutoff": -2.5}, "model.springs.cutoff: got -2.5"),
        ({"model__springs__species": ["O"]}, "['Si']"),
        ({"data__train": "nowhere.extxyz"}, "nowhere.extxyz"),
        ({"data__labels__energy": "DFT_energy"}, "DFT_energy"),
        ({"training__batch_size": 50}, "batch"),
        ({"training__epochs": "10"}, 'training.epochs: got "10" (text)'),
        ({"optimizer__name": "adamv"}, "adamv"),
        ({"loss__stress__weight": 1.0}, "stress"),
    ],
)
def test_wrong_training_configs_stop(data, capsys, changes, message):
    path = train_config(**changes)
    assert message in refused(capsys, "train", path, "--output", "run")
    assert not Path("run/checkpoints").exists()


def test_files_that_are_missing_are_named(potential, data, capsys):
    assert "none.yaml" in refused(capsys, "train", "none.yaml")
    assert "none.extxyz" in refused(capsys, "predict", potential, "none.extxyz", "-o", "x.npz")
    assert "none" in refused(capsys, "predict", "none", data, "-o", "x.npz")
    message = refused(capsys, "predict", potential, data, "-o", "no/where/x.npz")
    assert "no/where" in message


def test_a_format_that_cannot_be_written_is_refused_first(potential, data, capsys, monkeypatch):
    def computed(*_: Any, **__: Any):
        raise AssertionError("computed before the output was checked")

    monkeypatch.setattr("mlip_jax.inference.predict", computed)
    monkeypatch.setattr("mlip_jax.simulate.relax.fire", computed)
    for command in (("predict", potential, data), ("relax", potential, data)):
        assert "no writer for 'xyzz'" in refused(capsys, *command, "-o", "out.xyzz")
    assert "no writer" in refused(capsys, "data", "convert", data, "out.cif")


def test_truncated_files_are_named(potential, data, capsys):
    text = data.read_text()
    data.write_text(text[: len(text) - 200])
    message = refused(capsys, "predict", potential, data, "-o", "x.npz")
    assert "data.extxyz" in message
    assert "frame 5" in message
    formats.write("data.h5", [crystal()])
    content = Path("data.h5").read_bytes()
    Path("data.h5").write_bytes(content[: len(content) // 2])
    assert "data.h5" in refused(capsys, "predict", potential, "data.h5", "-o", "x.npz")
    with h5py.File("other.h5", "w") as file:
        file["x"] = 1
    assert "other.h5" in refused(capsys, "predict", potential, "other.h5", "-o", "x.npz")
    Path("empty.extxyz").write_text("")
    assert "empty.extxyz" in refused(capsys, "predict", potential, "empty.extxyz", "-o", "x.npz")


def test_labels_that_are_not_numbers_are_named(potential, capsys):
    bad = crystal()
    assert bad.labels.forces is not None
    bad.labels.forces[3, 1] = np.nan
    formats.write("data.extxyz", [crystal(1), bad])
    message = refused(capsys, "train", train_config(), "--output", "run")
    assert "frame 1" in message
    assert "atom 3" in message


def test_unlabelled_data_cannot_be_evaluated(potential, capsys):
    formats.write("bare.extxyz", [dataclasses.replace(crystal(), labels=StructureLabels())])
    assert "label" in refused(capsys, "evaluate", potential, "bare.extxyz")


def test_a_label_that_the_command_line_names_must_be_there(potential, data, capsys):
    message = refused(capsys, "evaluate", potential, data, "--labels", "energy=dft_energy")
    assert "'dft_energy', which no structure has; the file has energy" in message


def test_elements_that_the_potential_lacks_are_named(potential, capsys):
    formats.write("oxide.extxyz", [crystal(), crystal(numbers=8)])
    message = refused(capsys, "predict", potential, "oxide.extxyz", "-o", "x.npz")
    assert "['O']" in message
    assert "oxide.extxyz:1" in message


@pytest.mark.parametrize("cell", [np.zeros((3, 3)), np.outer([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])])
def test_impossible_cells_are_refused(potential, capsys, cell):
    text = " ".join(f"{x:.3f}" for x in cell.ravel())
    Path("cell.extxyz").write_text(
        f'1\nLattice="{text}" Properties=species:S:1:pos:R:3 pbc="T T T"\nSi 0 0 0\n'
    )
    message = refused(capsys, "predict", potential, "cell.extxyz", "-o", "x.npz")
    assert "cell.extxyz" in message
    assert "cell" in message.replace("cell.extxyz", "")


def test_atoms_at_one_place_are_named(potential, capsys):
    twice = crystal()
    twice.positions[5] = twice.positions[2]
    formats.write("twice.extxyz", [twice])
    message = refused(capsys, "predict", potential, "twice.extxyz", "-o", "x.npz")
    assert "2" in message
    assert "5" in message


def test_damaged_and_newer_potentials_are_refused(potential, data, capsys):
    manifest = potential / storage.MANIFEST
    newer = json.loads(manifest.read_text())
    newer["version"] += 1
    manifest.write_text(json.dumps(newer))
    assert "newer mlip_jax" in refused(capsys, "predict", potential, data, "-o", "x.npz")
    newer["version"] -= 1
    manifest.write_text(json.dumps(newer))
    parameters = potential / storage.PARAMETERS
    parameters.write_bytes(parameters.read_bytes()[:-1] + b"\x00")
    message = refused(capsys, "predict", potential, data, "-o", "x.npz")
    assert "parameters.safetensors: damaged" in message


def test_a_full_disk_is_explained(potential, data, capsys, monkeypatch):
    def full(*_: Any, **__: Any):
        raise OSError(28, "No space left on device", "errors.json")

    monkeypatch.setattr(Path, "write_text", full)
    message = refused(capsys, "evaluate", potential, data, "-o", "errors.json")
    assert "no space left" in message
    assert not Path("errors.json").exists()
