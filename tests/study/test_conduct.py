"""A study from beginning to end, with a stand-in for training."""

import csv
import dataclasses
import json
import os
import platform
import shutil

import numpy as np
import pytest

from mlip_jax import study, train
from mlip_jax.config import UserError
from mlip_jax.models.pair import LennardJones
from mlip_jax.neighbors.host import neighbor_list
from mlip_jax.potential import Potential
from mlip_jax.study import cost, perform, state, table
from mlip_jax.study.sections import CostConfig
from mlip_jax.train.interrupt import TrainingInterrupted
from tests.study import studies
from tests.study.studies import Stub
from tests.train import tiny


def quiet(line):
    del line


def conduct(loaded, directory, stub, **options):
    return study.conduct(loaded, directory, perform=stub, say=quiet, **options)


def test_a_failed_run_stops_no_other_and_is_retried_on_request(tmp_path):
    loaded = studies.load(tmp_path)
    stub = Stub(**{"long,train_size=2": "failed"})
    rows = conduct(loaded, tmp_path, stub)
    assert len(stub.performed) == 8
    statuses = [row["status"] for row in rows]
    assert statuses == ["finished"] * 4 + ["failed"] * 2 + ["finished"] * 2
    again = Stub()
    assert conduct(loaded, tmp_path, again) == rows
    assert again.performed == []
    rows = conduct(loaded, tmp_path, again, retry=True)
    assert again.performed == ["model=long,train_size=2,seed=0", "model=long,train_size=2,seed=1"]
    assert {row["status"] for row in rows} == {"finished"}


def test_an_interrupted_study_writes_its_table_and_goes_on(tmp_path):
    loaded = studies.load(tmp_path)
    stub = Stub(**{"short,train_size=4,seed=0": "interrupted"})
    with pytest.raises(study.StudyInterrupted) as caught:
        conduct(loaded, tmp_path, stub)
    assert caught.value.exit_code == 130
    assert len(stub.performed) == 3
    written = json.loads((tmp_path / "results/table.json").read_text())["rows"]
    assert [r["status"] for r in written] == ["finished"] * 2 + ["interrupted"] + ["waiting"] * 5
    again = Stub()
    conduct(loaded, tmp_path, again)
    assert again.performed[0] == "model=short,train_size=4,seed=0"
    assert len(again.performed) == 6


def test_a_run_whose_process_is_gone_was_interrupted(tmp_path):
    loaded = studies.load(tmp_path)
    stub = Stub(long="failed")
    conduct(loaded, tmp_path, stub)
    directory = tmp_path / "runs/model=short,train_size=2,seed=0"
    found = state.read(directory)
    gone = dataclasses.replace(found, status="running", pid=2**22 + 1, host=platform.node())
    state.write(directory, gone)
    (step,) = [s for s in study.survey(loaded, tmp_path / "runs") if s.due == "resume"]
    assert step.variant.name == directory.name
    state.write(directory, dataclasses.replace(gone, pid=os.getpid()))
    with pytest.raises(UserError, match=f"process {os.getpid()} is running it"):
        conduct(loaded, tmp_path, Stub())


def test_runs_of_another_config_or_other_data_are_not_mixed_in(tmp_path):
    stub = Stub(**{"long,train_size=2": "failed"})
    conduct(studies.load(tmp_path), tmp_path, stub)
    changed = studies.load(tmp_path, studies.LINES, "base.training.epochs=9")
    with pytest.raises(UserError, match=r"config\.training\.epochs: 2 before, 9 now") as caught:
        conduct(changed, tmp_path, Stub())
    assert str(caught.value).count("holds a run of another config") == 6  # the finished ones
    rows = study.collect(changed, study.plan(changed), tmp_path, quiet)
    assert {row["status"] for row in rows} == {"stale"}
    for name in ("short", "long"):
        for path in (tmp_path / "runs").glob(f"model={name}*"):
            if state.read(path).status == "finished":
                shutil.rmtree(path)
    again = Stub()
    conduct(changed, tmp_path, again)
    assert len(again.performed) == 8  # a failure of another config is not this one's
    assert (tmp_path / "runs/model=long,train_size=2,seed=0.failed").exists()
    with (tmp_path / "tiny.extxyz").open("a") as stream:
        stream.write((tmp_path / "tiny.extxyz").read_text())
    with pytest.raises(UserError, match=r"files\.tiny\.extxyz"):
        conduct(changed, tmp_path, Stub())


def test_the_table_holds_errors_times_and_costs(tmp_path):
    loaded = studies.load(tmp_path)
    conduct(loaded, tmp_path, Stub(**{"seed=1": "failed"}))
    directory = tmp_path / "runs/model=long,train_size=4,seed=0"
    measured = {"seconds_per_atom": 2.5e-6, "compile_seconds": 1.0, "atoms": 64}
    place = {"device": "cpu", "host": "here"}
    (directory / cost.FILE).write_text(json.dumps(measured | place))
    rows = study.collect(loaded, study.plan(loaded), tmp_path, quiet)
    with (tmp_path / "results/table.csv").open(newline="") as stream:
        written = list(csv.DictReader(stream))
    assert len(written) == len(rows) == 8
    assert list(written[0])[:5] == ["run", "model", "train_size", "seed", "status"]
    last = written[6]
    assert (last["model"], last["train_size"], last["status"]) == ("long", "4", "finished")
    assert float(last["test_energy_mae"]) == pytest.approx(3.5 / 4, rel=1e-5)
    assert float(last["test_forces_mae"]) == pytest.approx(3.5 / 2, rel=1e-5)
    assert float(last["train_energy_rmse"]) == 1.5
    assert (last["parameters"], float(last["seconds"])) == ("2", 3.0)
    assert float(last["cost"]) == 2.5
    assert last["cost_device"] == "cpu of here"
    assert written[0]["cost"] == ""
    assert written[1]["message"] == "the loss is not finite, says the test"
    assert written[1]["test_energy_mae"] == ""
    content = json.loads((tmp_path / "results/table.json").read_text())
    assert content["axes"] == ["model", "train_size", "seed"]
    assert content["units"]["test_forces_mae"] == "eV/Å"
    assert content["units"]["cost"] == "µs/atom"
    assert content["rows"] == rows
    assert table.unit("seed") == ""


def test_the_report_is_one_file_with_figures(tmp_path):
    drawn = "report.properties=[energy, forces]"
    loaded = studies.load(tmp_path, studies.LINES, "title='a < b'", drawn)
    conduct(loaded, tmp_path, Stub(**{"long,train_size=4": "failed"}))
    measured = {"seconds_per_atom": 2.5e-6, "compile_seconds": 1.0, "atoms": 64}
    for path in (tmp_path / "runs").glob("model=short*"):
        text = json.dumps({**measured, "device": "cpu", "host": "here"})
        (path / cost.FILE).write_text(text)
    study.collect(loaded, study.plan(loaded), tmp_path, quiet)
    results = tmp_path / "results"
    assert {p.name for p in results.iterdir()} == {
        "table.csv",
        "table.json",
        "report.html",
        "learning_curves.png",
        "pareto.png",
    }
    text = (results / "report.html").read_text()
    assert "a &lt; b" in text
    assert text.count("data:image/png;base64,") == 2
    assert "8 runs: 6 finished, 2 failed" in text
    assert 'src="http' not in text


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        (UserError("no label"), "failed", "no label"),
        (MemoryError("too large"), "failed", "MemoryError: too large"),
        (TrainingInterrupted("stopped", 2), "interrupted", ""),
        (KeyboardInterrupt(), "interrupted", ""),
        (None, "finished", ""),
    ],
)
def test_however_a_run_ends_its_state_says_so(tmp_path, monkeypatch, raised, status, message):
    loaded = studies.load(tmp_path)
    waiting = Stub(model="interrupted")  # leaves directories as a study prepares them
    with pytest.raises(study.StudyInterrupted):
        conduct(loaded, tmp_path, waiting)
    directory = tmp_path / "runs/model=short,train_size=2,seed=0"

    def fit(sections, output, *, base, resume, progress):
        assert (output, base, resume) == (directory, tmp_path, True)
        assert sections.data.train_size == 2
        assert state.read(output).status == "running"
        if raised is not None:
            raise raised
        variables = {"params": {"a": np.zeros((2, 3)), "b": np.zeros(1)}, "constants": {}}
        return Potential(LennardJones(), variables, {}, {"training": {"stopped": "epochs"}})

    monkeypatch.setattr(train, "fit", fit)
    before = state.read(directory)
    after = perform.perform(directory, progress=False)
    assert (after.status, after.message, after.pid) == (status, message, None)
    assert after == state.read(directory)
    assert after.seconds > before.seconds
    assert after.parameters == (7 if status == "finished" else None)
    assert (directory / perform.ERROR).exists() == (status == "failed")


def test_a_supercell_is_the_same_crystal():
    structure = tiny.structures(1)[0]
    repeated = cost.repeat(structure, 20)
    assert repeated.num_atoms >= 20
    lengths = np.linalg.norm(repeated.cell, axis=1)
    assert lengths.max() / lengths.min() < 2  # no needle: the cell is 5 by 3.1 by 3.2 Å
    copies = repeated.num_atoms // structure.num_atoms
    for cutoff in (2.6, 3.3, 5.0):
        before, after = (
            neighbor_list(s.positions, s.cell, s.pbc, cutoff).counts for s in (structure, repeated)
        )
        assert before.sum() > 0
        np.testing.assert_array_equal(after, np.tile(before, copies))
    assert repeated.labels.energy is None
    alone = dataclasses.replace(structure, pbc=np.array([False] * 3))
    assert cost.repeat(alone, 20).num_atoms == structure.num_atoms


def test_the_cost_is_measured_once(tmp_path):
    text = studies.LINES.replace("cost: null", "cost: {atoms: 8, repeats: 2}")
    text = text.replace("[2, 4]", "[2]").replace("[0, 1]", "[0]")
    loaded = studies.load(tmp_path, text)
    rows = conduct(loaded, tmp_path, Stub(long="failed"))
    assert rows[0]["cost"] > 0
    assert rows[0]["cost_atoms"] >= 8
    assert "cost" not in rows[1]
    assert conduct(loaded, tmp_path, Stub()) == rows
    variant = study.plan(loaded)[0]
    directory = tmp_path / "runs" / variant.name
    other = CostConfig(atoms=8, repeats=1)
    assert cost.ensure(directory, variant, other, tmp_path)
    assert not cost.ensure(directory, variant, other, tmp_path)


def test_a_second_study_in_the_same_directory_is_refused(tmp_path):
    loaded = studies.load(tmp_path)
    with state.locked(tmp_path / "runs"), pytest.raises(UserError, match="another process"):
        conduct(loaded, tmp_path, Stub())
    assert len(conduct(loaded, tmp_path, Stub())) == 8


def test_a_damaged_state_is_named(tmp_path):
    loaded = studies.load(tmp_path)
    conduct(loaded, tmp_path, Stub())
    path = tmp_path / "runs/model=short,train_size=2,seed=0" / state.STATE
    path.write_text("{")
    with pytest.raises(UserError, match=r"state\.json: damaged"):
        conduct(loaded, tmp_path, Stub())
