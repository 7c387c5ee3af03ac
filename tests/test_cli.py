"""The command line: what works end to end, and what a wrong input gets."""

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import flax.linen as nn
import h5py
import jax.numpy as jnp
import numpy as np
import pytest
import typer

from mlip_jax import config, models, storage
from mlip_jax.cli import main, process
from mlip_jax.config import UserError
from mlip_jax.data import formats
from mlip_jax.data.formats import LabelKeys
from mlip_jax.data.structure import Structure, StructureLabels
from mlip_jax.graph import AtomicGraph, AtomOutputs, edge_vectors, safe_norm
from mlip_jax.potential import Potential

SILICON = 14


class Springs(nn.Module):
    """Pairs with the energy `k (r - c)^2 (r - b)`: smooth at the cutoff c, repelling below b."""

    cutoff: float = 3.0
    species: tuple[int, ...] | None = None

    @nn.compact
    def __call__(self, graph: AtomicGraph) -> AtomOutputs:
        stiffness = self.param("stiffness", nn.initializers.constant(0.3), ())
        distance = safe_norm(edge_vectors(graph))
        energy = stiffness * (distance - self.cutoff) ** 2 * (2.3 - distance)
        return AtomOutputs(jnp.sum(jnp.where(distance < self.cutoff, energy, 0.0), axis=1))


def crystal(seed: int = 0, numbers: int = SILICON) -> Structure:
    """Simple cubic, 8 atoms, rattled, labelled with an energy and forces that agree roughly."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 3)
    positions = 2.4 * grid + rng.normal(scale=0.05, size=(8, 3))
    labels = StructureLabels(energy=-8.0 + rng.normal(), forces=rng.normal(size=(8, 3)))
    return Structure(np.full(8, numbers), positions, 4.8 * np.eye(3), np.array([True] * 3), labels)


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    monkeypatch.setitem(models.MODELS, "springs", f"{__name__}:Springs")
    monkeypatch.setenv("MLIP_JAX_CACHE", "off")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def potential() -> Path:
    variables = {"params": {"stiffness": np.array(0.3)}}
    storage.save(Potential(Springs(species=(SILICON,)), variables, {SILICON: -1.0}), "potential")
    return Path("potential")


@pytest.fixture
def data() -> Path:
    formats.write("data.extxyz", [crystal(seed) for seed in range(6)])
    return Path("data.extxyz")


def train_config(**changes: Any) -> Path:
    mapping = {
        "data": {"train": "data.extxyz", "valid": 0.2, "checks": {"energy_force_unit": "accept"}},
        "model": {"springs": {}},
        "training": {"epochs": 1, "batch_size": 2, "report": False},
    }
    overrides = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in changes.items()]
    config.dump_yaml(config.apply_overrides(mapping, overrides), "train.yaml")
    return Path("train.yaml")


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def refused(capsys, *arguments: object) -> str:
    """The message of a command that stops at a user's mistake: exit code 1, no traceback."""
    code = run(*arguments)
    output = capsys.readouterr()
    assert code == 1, output
    assert output.err.startswith("error: ")
    assert "Traceback" not in output.err
    return output.err


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


def test_training_leaves_a_potential(data, capsys):
    assert run("train", train_config(), "--output", "run") == 0
    assert run("info", "run/potential") == 0
    assert "springs:" in capsys.readouterr().out
    assert storage.load("run/potential").species == (SILICON,)
    resolved = config.load_yaml("run/config.yaml")
    assert resolved["model"]["springs"]["species"] == ["Si"]
    assert "holds a run" in refused(capsys, "train", train_config(), "--output", "run")


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
    names = ("train", "evaluate", "predict", "md", "relax", "info", "schema", "template")
    for command in (*((name,) for name in names), ("data", "inspect"), ("data", "convert")):
        assert run(*command, "--help") == 0
        assert "For example" in capsys.readouterr().out
    assert run("--version") == 0
    assert run("trian") == 2
    assert "train" in capsys.readouterr().err


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


def test_errors_end_a_command_as_documented(capsys):
    def interrupted():
        raise KeyboardInterrupt

    def stopped():
        error = UserError("stopped")
        error.exit_code = 128 + signal.SIGTERM  # pyright: ignore
        raise error

    def broken():
        raise RuntimeError("ours")

    for command, code in ((interrupted, 130), (stopped, 143)):
        with pytest.raises(typer.Exit) as caught:
            process.guarded(command)()
        assert caught.value.exit_code == code
    with pytest.raises(RuntimeError, match="ours"):
        process.guarded(broken)()


def test_the_environment_decides_on_cache_and_restart(monkeypatch):
    assert process.cache_directory({"MLIP_JAX_CACHE": "off"}) is None
    chosen = process.cache_directory({"MLIP_JAX_CACHE": "/x"})
    assert chosen is not None
    assert chosen.parent == Path("/x")
    default = process.cache_directory({"XDG_CACHE_HOME": "/c"})
    assert default is not None
    assert default.parent == Path("/c/mlip_jax")
    monkeypatch.setattr(process.sys, "platform", "linux")
    monkeypatch.setattr(process.platform, "libc_ver", lambda: ("glibc", "2.36"))
    tuned = process.tuned_environment({"A": "b"}, ["train"])
    assert tuned == {"A": "b", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    assert process.tuned_environment(tuned, ["train"]) is None
    assert process.tuned_environment({"MLIP_JAX_TUNE": "0"}, ["train"]) is None
    assert process.tuned_environment({}, ["info"]) is None
    monkeypatch.setattr(process.sys, "platform", "darwin")
    assert process.tuned_environment({}, ["train"]) is None


def test_label_keys_come_from_the_card_and_the_command_line(potential):
    from mlip_jax.cli.use import label_keys

    loaded = storage.load(potential)
    card = {"config": {"data": {"labels": {"energy": "REF_energy"}}}}
    keys = label_keys(dataclasses.replace(loaded, card=card), ["forces=F", "units.energy=meV"])
    assert keys == LabelKeys(
        energy="REF_energy", forces="F", units=formats.LabelUnits(energy="meV")
    )
    assert os.environ["MLIP_JAX_CACHE"] == "off"
