"""L-BFGS: it finds minima, resumes bit for bit, and agrees with the exact solver."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from mlip_jax.config import UserError
from mlip_jax.potential import predict_fn
from mlip_jax.train import engine, full_batch, gauss_newton, loop, optimizer
from mlip_jax.train import loss as losses
from mlip_jax.train.interrupt import TrainingInterrupted
from mlip_jax.train.loss import LossConfig, PropertyLoss, WeightSchedule
from mlip_jax.train.optimizer import OptimizerConfig
from mlip_jax.train.parameter_groups import ParameterGroup
from mlip_jax.train.settings import TrainingConfig
from tests.train import tiny
from tests.train.test_loop import assert_same, metrics_of, signal_self

LBFGS = OptimizerConfig(name="lbfgs", arguments={"memory_size": 20})
LOSS = LossConfig(stress=PropertyLoss(weight=0.1))


def task(config=LBFGS, **settings):
    return tiny.task(
        optimizer=config, loss=LOSS, precision="float64", ema=None, **{"epochs": 8, **settings}
    )


def test_every_iteration_lowers_the_loss_until_the_gradient_vanishes(tmp_path):
    """Of a loss that is quadratic: the hidden layer is frozen, and all data are one batch."""
    config = dataclasses.replace(LBFGS, groups=(ParameterGroup("hidden", frozen=True),))
    ready = task(config, epochs=100, batch_size=12, valid=False)
    outcome = loop.train(ready, tmp_path, progress=False)
    values = [line["train"]["loss"] for line in metrics_of(tmp_path)]
    assert outcome.stopped == "converged"
    assert all(after <= before for before, after in itertools.pairwise(values))

    batch = jax.tree.map(jnp.asarray, ready.train.batch(0, 0))
    hidden = outcome.variables["params"]["hidden"]

    def value(readout):
        variables = {"params": {"hidden": hidden, "readout": readout}}
        sums = losses.batch_sums(LOSS, predict_fn(ready.model)(variables, batch.graph), batch)
        return losses.loss(sums, LOSS.weights(0) / jnp.maximum(sums.labels, 1))

    gradient = jax.jit(jax.grad(value))(outcome.variables["params"]["readout"])
    assert float(jnp.linalg.norm(gradient["kernel"])) < 1e-7


@pytest.mark.slow
def test_an_interrupted_run_continues_bit_for_bit(tmp_path, monkeypatch):
    whole = loop.train(task(), tmp_path / "a", progress=False)
    iterate_fn, count = engine.iterate_fn, 0

    def interrupting(ready):
        iterate = iterate_fn(ready)

        def counting(state):
            nonlocal count
            count += 1
            if count == 4:
                signal_self()
            return iterate(state)

        return counting

    monkeypatch.setattr(loop.engine, "iterate_fn", interrupting)
    with pytest.raises(TrainingInterrupted, match="--resume"):
        loop.train(task(), tmp_path / "b", progress=False)
    monkeypatch.undo()
    resumed = loop.train(task(), tmp_path / "b", resume=True, progress=False)
    assert metrics_of(tmp_path / "a") == metrics_of(tmp_path / "b")
    assert_same(whole.variables, resumed.variables)


@pytest.mark.slow
def test_curvature_and_a_frozen_group_go_together(tmp_path):
    config = OptimizerConfig(
        name="lbfgs", groups=(ParameterGroup("hidden", frozen=True),), curvature_batches=2
    )
    started = task(config)
    outcome = loop.train(started, tmp_path, progress=False)
    before, after = started.variables["params"], outcome.variables["params"]
    np.testing.assert_array_equal(before["hidden"]["kernel"], after["hidden"]["kernel"])
    assert np.abs(before["readout"]["kernel"] - after["readout"]["kernel"]).max() > 1e-6


@pytest.mark.slow
def test_whitened_parameters_have_the_unit_matrix_as_curvature():
    ready = task()
    batch = jax.tree.map(jnp.asarray, ready.train.batch(0, 0))
    matrix = gauss_newton.whitening(ready.model, ready.variables, LOSS, [batch])
    flat, unravel = ravel_pytree(ready.variables["params"])
    real, index = np.asarray(batch.graph.atom_mask), np.asarray(batch.graph.graph_index)
    atoms, index = np.bincount(index[real], minlength=4), index[real]
    weight = np.asarray(batch.labels.weight)[:4]

    def weighted(flat):
        found = predict_fn(ready.model)({"params": unravel(flat)}, batch.graph)
        energy = found.energy[:4] / atoms * np.sqrt(weight / 4)
        forces = found.forces[real] * np.sqrt(10.0 * weight[index] / (3 * len(index)))[:, None]
        stress = found.stress[:4] * np.sqrt(0.1 * weight / 36)[:, None, None]
        return jnp.concatenate([energy, jnp.ravel(forces), jnp.ravel(stress)])

    slopes = np.asarray(jax.jit(jax.jacrev(weighted))(flat))
    curvature = 2.0 * slopes.T @ slopes
    # The matrix is damped by 1e-7 of its diagonal.
    found = np.linalg.inv(matrix @ matrix.T)
    np.testing.assert_allclose(found, curvature, atol=1e-6 * np.abs(curvature).max())


@pytest.mark.parametrize(
    ("config", "loss", "settings", "message"),
    [
        (OptimizerConfig(name="lbfgs", clip=1.0), LOSS, {}, r"optimizer\.clip"),
        (LBFGS, LOSS, {"ema": 0.9}, r"training\.ema"),
        (LBFGS, LossConfig(PropertyLoss(WeightSchedule({0: 1.0}))), {}, r"loss\.energy\.weight"),
    ],
)
def test_what_changes_the_loss_or_the_step_is_refused(config, loss, settings, message):
    with pytest.raises(UserError, match=message):
        full_batch.check(config, loss, TrainingConfig(**{"ema": None, **settings}))


def test_a_learning_rate_is_refused():
    with pytest.raises(UserError, match="lengths of its steps"):
        optimizer.parse({"name": "lbfgs", "learning_rate": 0.1})
    with pytest.raises(UserError, match="is for lbfgs"):
        optimizer.parse({"name": "adam", "curvature_batches": 4})
