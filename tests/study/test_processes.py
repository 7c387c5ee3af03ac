"""Runs in processes of their own: stopped, killed, resumed, and on a local cluster."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mlip_jax import storage, study
from mlip_jax.config import UserError
from mlip_jax.data import formats
from mlip_jax.study import cluster, launch, state
from tests.train import tiny

slow = pytest.mark.slow  # each run is a process that imports and compiles

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"cutoff": 3.0, "num_radial": 2, "num_angular": 1, "zetas": [1], "hidden": [2]}


def load(directory, epochs=2, sizes=(8,), **runs):
    if not (directory / "tiny.extxyz").exists():
        formats.write(directory / "tiny.extxyz", tiny.structures(12))
    section = {
        "base": {
            "data": {"train": "tiny.extxyz", "checks": {"energy_force_unit": "accept"}},
            "model": {"behler_parrinello": SMALL},
            "training": {"epochs": epochs, "batch_size": 4, "devices": 1, "report": False},
        },
        "axes": {"train_size": list(sizes), "seed": [0]},
        "cost": None,
        "runs": runs,
        "report": {"properties": []},
    }
    return study.parse(section, directory)


def epochs_of(directory):
    path = directory / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


@slow
def test_an_interrupted_run_resumes_as_if_nothing_had_happened(tmp_path):
    (tmp_path / "whole").mkdir()
    study.conduct(load(tmp_path / "whole", 200), tmp_path / "whole")
    loaded = load(tmp_path, epochs=200)
    directory = tmp_path / "runs/train_size=8,seed=0"

    def perform(path, _):
        launch.apart(path, lambda: epochs_of(path) >= 3, quiet=True)

    with pytest.raises(study.StudyInterrupted):
        study.conduct(loaded, tmp_path, perform=perform)
    assert state.read(directory).status == "interrupted"
    assert 3 <= epochs_of(directory) < 200
    before = state.read(directory).seconds
    (row,) = study.conduct(loaded, tmp_path)
    assert row["status"] == "finished"
    assert row["seconds"] > before
    found = [
        storage.load(root / "runs" / directory.name / "potential").variables["params"]
        for root in (tmp_path, tmp_path / "whole")
    ]
    flat = [np.concatenate([np.ravel(a) for a in leaves(tree)]) for tree in found]
    np.testing.assert_array_equal(*flat)  # a resumed run is the same run, bit for bit


def leaves(tree):
    return [a for v in tree.values() for a in (leaves(v) if isinstance(v, dict) else [v])]


@slow
def test_a_run_whose_process_dies_has_failed_and_says_how(tmp_path):
    loaded = load(tmp_path, epochs=100000)

    def perform(path, asked):
        def kill():
            while (found := state.read(path)) is None or found.pid is None:
                time.sleep(0.02)
            os.kill(found.pid, signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()
        launch.apart(path, asked, quiet=True)

    (row,) = study.conduct(loaded, tmp_path, perform=perform)
    assert row["status"] == "failed"
    assert "killed by SIGKILL" in row["message"]
    assert "lack of memory" in row["message"]


@slow
def test_ctrl_c_on_the_command_line_leaves_a_study_that_goes_on(tmp_path):
    load(tmp_path)  # writes the data
    loaded = load(tmp_path, epochs=100000)
    (tmp_path / "study.yaml").write_text(json.dumps(loaded.source))
    command = [sys.executable, "-m", "mlip_jax", "study", str(tmp_path / "study.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLIP_JAX_CACHE": "off"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        directory = tmp_path / "runs/train_size=8,seed=0"
        while epochs_of(directory) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
    (row,) = json.loads((tmp_path / "results/table.json").read_text())["rows"]
    assert row["status"] == "interrupted"
    assert [step.due for step in study.survey(loaded, tmp_path / "runs")] == ["resume"]


@slow
@pytest.mark.filterwarnings("default")  # the cluster's libraries warn of their own matters
def test_a_local_cluster_gives_what_one_process_gives(tmp_path):
    pytest.importorskip("distributed")
    parallel = load(tmp_path, sizes=(4, 8, 12), workers=2)  # 1 of 12 validates
    rows = study.conduct(parallel, tmp_path)
    assert [row["status"] for row in rows] == ["finished", "finished", "failed"]
    assert "got 12; expected 1 to 11" in rows[2]["message"]
    log = (tmp_path / "runs/train_size=4,seed=0" / launch.LOG).read_text()
    assert "structures" in log
    (tmp_path / "serial").mkdir()
    alone = study.conduct(load(tmp_path / "serial", sizes=(4,)), tmp_path / "serial")
    assert alone[0]["train_energy_mae"] == rows[0]["train_energy_mae"]


@slow
@pytest.mark.filterwarnings("default")
def test_a_cluster_that_is_asked_to_stop_leaves_runs_that_go_on(tmp_path):
    pytest.importorskip("distributed")
    loaded = load(tmp_path, epochs=100000, sizes=(4, 6, 8), workers=2)
    names = [step.variant.name for step in study.survey(loaded, tmp_path / "runs")]

    def interrupt():
        while sum(epochs_of(tmp_path / "runs" / name) >= 1 for name in names) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(study.StudyInterrupted):
        study.conduct(loaded, tmp_path)
    content = json.loads((tmp_path / "results/table.json").read_text())
    statuses = sorted(row["status"] for row in content["rows"])
    assert statuses == ["interrupted", "interrupted", "waiting"]


def test_a_run_whose_worker_is_lost_has_failed(tmp_path):
    loaded = load(tmp_path)

    class Lost:
        def result(self):
            raise RuntimeError("killed worker")

    def perform(path, asked):
        del asked
        cluster._take(Lost(), path)

    (row,) = study.conduct(loaded, tmp_path, perform=perform, say=str)
    assert (row["status"], row["message"]) == (
        "failed",
        "its worker was lost: RuntimeError: killed worker",
    )


def test_without_the_library_a_study_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"mlip_jax\[cluster\]"):
        study.conduct(load(tmp_path, workers=2), tmp_path)
    assert not (tmp_path / "runs").exists()
