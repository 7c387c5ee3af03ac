"""Training as a whole: learning, resuming, stopping, several devices."""

import json
import os
import signal

import jax
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.train import checkpoint, engine, log, loop
from mlip_jax.train.interrupt import TrainingInterrupted
from mlip_jax.train.nonfinite import NonFiniteError
from mlip_jax.train.optimizer import OptimizerConfig
from mlip_jax.train.parameter_groups import ParameterGroup
from tests.train import tiny


def metrics_of(output):
    """Lines of metrics.jsonl without wall times."""
    lines = log.read_metrics(output / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k != "time"} for line in lines]


def assert_same(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def stop_at(monkeypatch, step):
    """Asks training to stop in one of its steps."""
    take, count = engine.take_step, 0

    def counting(*arguments):
        nonlocal count
        count += 1
        if count == step:
            signal_self()
        return take(*arguments)

    monkeypatch.setattr(engine, "take_step", counting)


def signal_self():
    os.kill(os.getpid(), signal.SIGTERM)


def test_training_lowers_the_loss_and_writes_its_files(tmp_path):
    outcome = loop.train(tiny.task(epochs=15), tmp_path, progress=False)
    lines = metrics_of(tmp_path)
    assert [line["epoch"] for line in lines] == list(range(1, 16))
    assert lines[-1]["train"]["loss"] < lines[0]["train"]["loss"]
    assert outcome.stopped == "epochs"
    assert outcome.position.best == min(line["valid"]["loss"] for line in lines)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


@pytest.mark.parametrize("interrupted_at", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_an_interrupted_run_continues_bit_for_bit(tmp_path, monkeypatch, interrupted_at):
    settings = {"epochs": 4, "ema": 0.9}
    optimizer = OptimizerConfig(
        name="amsgrad", learning_rate=1e-2, reduce_on_plateau={"factor": 0.5, "patience": 1}
    )
    whole = loop.train(tiny.task(optimizer=optimizer, **settings), tmp_path / "a", progress=False)

    stop_at(monkeypatch, interrupted_at)
    with pytest.raises(TrainingInterrupted, match="--resume"):
        loop.train(tiny.task(optimizer=optimizer, **settings), tmp_path / "b", progress=False)
    monkeypatch.undo()
    task = tiny.task(optimizer=optimizer, **settings)
    resumed = loop.train(task, tmp_path / "b", resume=True, progress=False)

    assert metrics_of(tmp_path / "a") == metrics_of(tmp_path / "b")
    assert_same(whole.variables, resumed.variables)
    assert_same(whole.position.best, resumed.position.best)


@pytest.mark.slow
def test_two_devices_give_the_result_of_one(tmp_path):
    one, two = (
        loop.train(
            tiny.task(devices=devices, epochs=2, precision="float64"),
            tmp_path / str(devices),
            progress=False,
        )
        for devices in (1, 2)
    )
    for a, b in zip(jax.tree.leaves(one.variables), jax.tree.leaves(two.variables), strict=True):
        # Only the order of sums differs. In float64, because Adam's first steps divide small
        # gradients by themselves, which enlarges rounding errors.
        np.testing.assert_allclose(a, b, atol=1e-9)
    first, second = metrics_of(tmp_path / "1"), metrics_of(tmp_path / "2")
    for a, b in zip(first, second, strict=True):
        for name, value in a["valid"].items():
            assert b["valid"][name] == pytest.approx(value, rel=1e-7)


def test_training_stops_when_validation_no_longer_improves(tmp_path):
    frozen = OptimizerConfig(groups=(ParameterGroup(match="", frozen=True),))
    task = tiny.task(optimizer=frozen, epochs=50, patience=3)
    outcome = loop.train(task, tmp_path, progress=False)
    assert outcome.stopped == "patience"
    assert len(metrics_of(tmp_path)) == 4  # the first is the best, then three without a better


def test_frozen_groups_do_not_move_and_others_do(tmp_path):
    groups = (ParameterGroup(match="hidden", frozen=True),)
    optimizer = OptimizerConfig(name="adamw", groups=groups)
    task = tiny.task(optimizer=optimizer, epochs=1, ema=None)
    outcome = loop.train(task, tmp_path, progress=False)
    before, after = task.variables["params"], outcome.variables["params"]
    np.testing.assert_array_equal(before["hidden"]["kernel"], after["hidden"]["kernel"])
    assert np.all(before["readout"]["kernel"] != after["readout"]["kernel"])


def test_a_loss_that_is_not_finite_stops_and_saves_its_batch(tmp_path):
    items = tiny.structures()
    items[5].labels.forces[0, 0] = np.inf
    task = tiny.task(items=items)
    with jax.debug_nans(False), pytest.raises(NonFiniteError, match="nonfinite_") as raised:
        loop.train(task, tmp_path, progress=False)
    assert "loss is not finite" in str(raised.value)
    (saved,) = tmp_path.glob("nonfinite_*.npz")
    forces = np.load(saved)["labels.forces.value"]
    assert np.isinf(forces).any()
    assert saved.with_suffix(".extxyz").exists()


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    task = tiny.task(epochs=3, checkpoint_minutes=0.0)
    write, calls = checkpoint._write_arrays, []

    def fail_second(path, arrays):
        calls.append(path)
        write(path, arrays)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write_arrays", fail_second)
    with pytest.raises(UserError, match=r"disk is full.*is intact.*--resume"):
        loop.train(task, tmp_path, progress=False)
    monkeypatch.undo()
    last = checkpoint.latest(tmp_path / "checkpoints")
    assert last is not None
    assert checkpoint.load_position(last).step == task.train.num_batches()
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    resumed = loop.train(task, tmp_path, resume=True, progress=False)
    assert resumed.stopped == "epochs"
    assert [line["epoch"] for line in metrics_of(tmp_path)] == [1, 2, 3]


def test_max_steps_ends_within_an_epoch(tmp_path):
    outcome = loop.train(tiny.task(epochs=9, max_steps=5), tmp_path, progress=False)
    assert outcome.stopped == "max_steps"
    assert outcome.position.step == 5
    assert metrics_of(tmp_path)[-1]["valid"] is not None


def test_a_time_limit_stops_resumably(tmp_path):
    whole = loop.train(tiny.task(epochs=2), tmp_path / "a", progress=False)
    limited = loop.train(tiny.task(epochs=2, time_limit=1e-6), tmp_path / "b", progress=False)
    assert limited.stopped == "time_limit"
    resumed = loop.train(tiny.task(epochs=2), tmp_path / "b", resume=True, progress=False)
    assert metrics_of(tmp_path / "a") == metrics_of(tmp_path / "b")
    assert_same(whole.variables, resumed.variables)


def test_a_monitor_without_labels_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"training\.monitor"):
        loop.train(tiny.task(monitor="charges_mae"), tmp_path, progress=False)


def test_metrics_are_json_lines(tmp_path):
    loop.train(tiny.task(epochs=1, valid=False), tmp_path, progress=False)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["valid"] is None
    assert record["best"] is True
