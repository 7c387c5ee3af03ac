"""L-BFGS with observables: it reaches targets at the minimum, and of samples that it draws anew."""

import dataclasses
import itertools
import math

import jax
import numpy as np
import pytest

from mlip_jax import config as configs
from mlip_jax.config import UserError
from mlip_jax.train import engine, full_batch, loop, observed
from mlip_jax.train.interrupt import TrainingInterrupted
from mlip_jax.train.loss import PropertyLoss, Sums
from mlip_jax.train.observables import ObservablesConfig
from mlip_jax.train.observed import Found
from mlip_jax.train.optimizer import OptimizerConfig
from tests.simulate import silicon
from tests.train import stretchable, tiny
from tests.train.test_loop import assert_same, metrics_of, signal_self


def task(directory, targets, sampling=None, epochs=8):
    plain = tiny.task(
        devices=1,
        precision="float64",
        ema=None,
        valid=False,
        epochs=epochs,
        batch_size=12,
        optimizer=OptimizerConfig(name="lbfgs", arguments={"memory_size": 5}),
    )
    system = {"structure": stretchable.write(directory), "targets": targets, "sampling": sampling}
    config = configs.parse(ObservablesConfig, {"systems": {"si": system}}, "observables")
    structures = observed.read_structures(config, directory)
    return plain._replace(
        model=stretchable.Stretchable(),
        variables=jax.tree.map(np.asarray, stretchable.variables()),
        loss=dataclasses.replace(
            plain.loss, energy=None, forces=None, stress=PropertyLoss(weight=0.0)
        ),
        observables=observed.Observables(config, structures, stretchable.potential()),
    )


def values(directory, name):
    return [line["observables"]["values"][f"si.{name}"]["value"] for line in metrics_of(directory)]


def interrupted_in_the_second(iterate_fn):
    def build(ready):
        iterate, counts = iterate_fn(ready), itertools.count(1)

        def counting(state):
            if next(counts) == 2:
                signal_self()
            return iterate(state)

        return counting

    return build


@pytest.mark.slow
def test_a_relaxed_lattice_constant_reaches_its_target(tmp_path):
    targets = {"lattice_constant": {"value": 5.40, "tolerance": 0.01}}
    with jax.debug_nans(False):  # trials that are too long have no minimum
        outcome = loop.train(task(tmp_path, targets), tmp_path / "run", progress=False)
    losses = [line["observables"]["loss"] for line in metrics_of(tmp_path / "run")]
    assert all(after <= before for before, after in itertools.pairwise(losses))
    assert values(tmp_path / "run", "lattice_constant")[-1] == pytest.approx(5.40, abs=1e-5)
    stretch = float(outcome.variables["params"]["stretch"])
    assert stretch == pytest.approx(silicon.LATTICE / 5.40, abs=2e-4)


@pytest.mark.slow
def test_a_sampled_pressure_reaches_its_target_and_resumes(tmp_path, monkeypatch):
    targets = {"pressure": {"value": 3.0, "tolerance": 0.1}}
    sampling = {"temperature": 100.0, "steps": 100, "interval": 10, "discard": 20}
    with jax.debug_nans(False):
        whole = task(tmp_path, targets, sampling, epochs=6)
        outcome = loop.train(whole, tmp_path / "whole", progress=False)
        monkeypatch.setattr(loop.engine, "iterate_fn", interrupted_in_the_second(engine.iterate_fn))
        again = task(tmp_path, targets, sampling, epochs=6)
        with pytest.raises(TrainingInterrupted, match="--resume"):
            loop.train(again, tmp_path / "parts", progress=False)
        monkeypatch.undo()
        again = task(tmp_path, targets, sampling, epochs=6)
        resumed = loop.train(again, tmp_path / "parts", resume=True, progress=False)
    assert values(tmp_path / "whole", "pressure")[-1] == pytest.approx(3.0, abs=0.05)
    assert_same(outcome.variables, resumed.variables)


class Fixed(observed.Observables):
    """Observables that say what they are told."""

    def __init__(self, fault):
        self.fault = fault

    def evaluate(self, params, constants, early=False):
        del params, constants, early
        return Found(1.0, {"x": 2.0}, {}, {}, self.fault)

    def reweighted(self, params, constants):
        return self.evaluate(params, constants)


def test_a_place_without_values_is_too_far_and_a_start_without_is_refused():
    def labels(params):
        return full_batch.Evaluation(params["x"] ** 2, {"x": 2.0 * params["x"]}, Sums.zeros())

    begin, follow = full_batch.with_observables(labels, Fixed(None), {})
    assert follow({"x": 3.0})[:2] == (10.0, {"x": 8.0})
    assert begin({"x": 3.0})[:2] == (10.0, {"x": 8.0})
    begin, follow = full_batch.with_observables(labels, Fixed("si: it does not relax"), {})
    assert math.isnan(follow({"x": 3.0}).loss)
    with pytest.raises(UserError, match="it does not relax"):
        begin({"x": 3.0})
