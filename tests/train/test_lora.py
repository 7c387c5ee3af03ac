"""Low-rank adaptation: it begins at a potential, keeps what is frozen, and ends as a potential."""

import dataclasses
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from mlip_jax import models
from mlip_jax.config import UserError
from mlip_jax.potential import predict_fn
from mlip_jax.train import engine, loop, lora
from mlip_jax.train import step as steps
from mlip_jax.train.interrupt import TrainingInterrupted
from mlip_jax.train.lora import LoraConfig
from mlip_jax.train.optimizer import OptimizerConfig
from mlip_jax.train.parameter_groups import ParameterGroup
from tests.models.presets import PRESETS
from tests.train import tiny
from tests.train.test_loop import assert_same, metrics_of, stop_at

HIDDEN = LoraConfig(match="hidden/kernel", rank=1, alpha=2.0)
BOTH = dataclasses.replace(HIDDEN, trained="readout")


def adapted(config=HIDDEN, **settings):
    """A tiny task whose parameters are split, and the variables of its model."""
    settings.setdefault("precision", "float64")
    task = tiny.task(**settings)
    variables = lora.split(task.variables, config, seed=3)
    return task._replace(variables=variables, merge=lora.merge_fn(config)), task.variables


def moved(task):
    """The task with factors B that are not zero."""
    generator = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: x + generator.normal(0, 0.3, x.shape), dict(task.variables["params"])
    )
    return task._replace(variables={**task.variables, "params": params})


def test_what_is_trained_and_what_is_kept():
    task, before = adapted(BOTH)
    trained: dict[Any, Any] = traverse_util.flatten_dict(task.variables["params"], sep="/")
    assert {path: leaf.shape for path, leaf in trained.items()} == {
        "hidden/kernel/lora_a": (2, 1),
        "hidden/kernel/lora_b": (1, 4),
        "readout/kernel": (4, 1),
    }
    assert task.variables["frozen"].keys() == {"hidden"}
    assert_same(task.merge(task.variables), before)
    assert lora.counts(task.variables) == (2 + 4 + 4, 8 + 4)
    assert lora.counts(before) == (12, 12)


def test_the_size_of_a_is_that_of_the_kernel():
    variables = {"params": {"w": np.full((200, 100), 0.3), "zero": np.zeros((200, 100))}}
    params = lora.split(variables, LoraConfig(match="."), seed=0)["params"]
    assert np.std(params["w"]["lora_a"]) == pytest.approx(0.3, rel=0.1)
    assert np.std(params["zero"]["lora_a"]) == pytest.approx(200**-0.5, rel=0.1)
    assert not np.array_equal(params["w"]["lora_a"], params["zero"]["lora_a"])


def test_training_begins_at_the_potential_to_the_bit():
    task, before = adapted(precision="float32")
    graph = task.train.batch(0, 0).graph
    wrapped, plain = jax.jit(task.predict), jax.jit(predict_fn(task.model))
    assert_same(task.merge(task.variables), before)
    for a, b in zip(
        jax.tree.leaves(wrapped(task.variables, graph)),
        jax.tree.leaves(plain(before, graph)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)  # float32, two programs


def test_the_merged_potential_predicts_what_was_trained():
    task, _ = adapted(BOTH)
    task = moved(task)
    graph = task.train.batch(0, 0).graph
    kernel = task.variables["params"]["hidden"]["kernel"]
    expected = task.variables["frozen"]["hidden"]["kernel"] + 2.0 * (
        kernel["lora_a"] @ kernel["lora_b"]
    )
    merged = task.merge(task.variables)
    np.testing.assert_allclose(merged["params"]["hidden"]["kernel"], expected, rtol=1e-14)
    wrapped = jax.jit(task.predict)(task.variables, graph)
    plain = predict_fn(task.model)(merged, graph)
    for a, b in zip(jax.tree.leaves(wrapped), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_gradients_by_the_factors_are_those_of_finite_differences():
    task, _ = adapted()
    task = moved(task)
    constants = steps.constants_of(task.variables)
    ready = engine.build(task)
    batch = task.train.batch(0, 0)
    evaluate = jax.jit(steps.gradient_fn(task.predict, task.loss, ready.mesh))
    factors = np.asarray(task.loss.weights(0)) / 4.0

    def loss(params):
        return float(evaluate(params, constants, batch, factors)[0][0])

    params = task.variables["params"]
    slope = evaluate(params, constants, batch, factors)[1]
    for name in ("lora_a", "lora_b"):
        direction = jax.tree.map(jnp.zeros_like, params)
        direction["hidden"]["kernel"][name] = direction["hidden"]["kernel"][name].at[0, 0].set(1.0)
        plus, minus = (
            loss(jax.tree.map(lambda p, d, step=step: p + step * d, params, direction))
            for step in (1e-5, -1e-5)
        )
        found = float(slope["hidden"]["kernel"][name][0, 0])
        assert found == pytest.approx((plus - minus) / 2e-5, rel=1e-6, abs=1e-9)
        assert abs(found) > 1e-6


def test_frozen_parameters_do_not_move_and_have_no_state(tmp_path):
    task, before = adapted(epochs=2, ema=0.9)
    ready = engine.build(task)
    state = engine.initial_state(ready)
    shapes = {leaf.shape for leaf in jax.tree.leaves((state.params, state.ema, state.opt_state))}
    assert shapes == {(2, 1), (1, 4), ()}
    outcome = loop.train(task, tmp_path, progress=False)
    after = outcome.variables["params"]
    assert outcome.variables.keys() == before.keys()
    np.testing.assert_array_equal(after["readout"]["kernel"], before["params"]["readout"]["kernel"])
    change = np.asarray(after["hidden"]["kernel"]) - before["params"]["hidden"]["kernel"]
    assert np.linalg.matrix_rank(change, tol=1e-12) == 1


@pytest.mark.parametrize("ema", [None, 0.9])
def test_validation_sees_the_merged_parameters(tmp_path, ema):
    task, _ = adapted(BOTH, epochs=3, ema=ema)
    outcome = loop.train(task, tmp_path, progress=False)
    plain = tiny.task(precision="float64", epochs=3, ema=None)._replace(variables=outcome.variables)
    ready = engine.build(plain)
    state = engine.place(ready, engine.initial_state(ready))
    metrics = loop.loss.metrics(engine.validate(ready, state), ready.final_weights)
    assert metrics["loss"] == pytest.approx(outcome.position.best, rel=1e-10)


def test_an_interrupted_run_continues_bit_for_bit(tmp_path, monkeypatch):
    settings = {"epochs": 3, "ema": 0.9, "precision": "float32"}
    task, _ = adapted(BOTH, **settings)
    whole = loop.train(task, tmp_path / "a", progress=False)
    stop_at(monkeypatch, 4)
    with pytest.raises(TrainingInterrupted):
        loop.train(task, tmp_path / "b", progress=False)
    monkeypatch.undo()
    # Frozen parameters are those of the checkpoint, as all that is not trained.
    other = jax.tree.map(lambda x: 2 * x, task.variables)
    resumed = loop.train(
        task._replace(variables=other), tmp_path / "b", resume=True, progress=False
    )
    assert metrics_of(tmp_path / "a") == metrics_of(tmp_path / "b")
    assert_same(whole.variables, resumed.variables)


def test_lbfgs_lowers_the_loss_with_factors(tmp_path):
    optimizer = OptimizerConfig(name="lbfgs")
    task, _ = adapted(BOTH, epochs=4, ema=None, optimizer=optimizer)
    loop.train(task, tmp_path, progress=False)
    losses = [line["train"]["loss"] for line in metrics_of(tmp_path)]
    assert losses[-1] < losses[0]


def test_groups_see_the_paths_of_the_factors(tmp_path):
    frozen = ParameterGroup(match="hidden/kernel/lora_a", frozen=True)
    optimizer = OptimizerConfig(name="adam", learning_rate=1e-2, groups=(frozen,))
    task, _ = adapted(epochs=1, ema=None, optimizer=optimizer)
    ready = engine.build(task)
    run = engine.place(ready, engine.initial_state(ready))
    batch = steps.put_batch(task.train.batch(0, 0), ready.mesh)
    old = steps.copy_to_host(run.params["hidden"]["kernel"])
    state, _ = engine.take_step(ready, run, batch, ready.final_weights, 0)
    new = steps.copy_to_host(state.params["hidden"]["kernel"])
    np.testing.assert_array_equal(old["lora_a"], new["lora_a"])
    assert np.all(old["lora_b"] != new["lora_b"])
    unknown = OptimizerConfig(groups=(ParameterGroup(match="readout"),))
    with pytest.raises(UserError, match=r"matches no parameter; .*hidden/kernel/lora_a"):
        engine.build(task._replace(optimizer=unknown))


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("behler_parrinello", "chgnet")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in sorted(PRESETS)
    ],
)
def test_kernels_of_every_model_can_be_adapted(name):
    module = models.build_model({name: PRESETS[name]})
    item = dataclasses.replace(tiny.structures(1)[0], atomic_numbers=np.array([8, 14]))
    shapes = jax.eval_shape(module.init, jax.random.key(0), _graph(module, item))
    params = jax.tree.map(lambda s: np.full(s.shape, 0.5, s.dtype), shapes.get("params", {}))
    leaves: dict[Any, Any] = traverse_util.flatten_dict(params)
    large = ["/".join(p) for p, x in leaves.items() if x.ndim > 1 and min(x.shape[-2:]) > 1]
    if not large:
        with pytest.raises(UserError, match=r"training\.lora\.(match|rank)"):
            lora.split({**shapes, "params": params}, LoraConfig(match=".", rank=1), seed=0)
        return
    pattern = "|".join(f"^{re.escape(path)}$" for path in large)
    config = LoraConfig(match=pattern, rank=1)
    variables = lora.split({**shapes, "params": params}, config, seed=0)
    trained, of = lora.counts(variables)
    assert trained < of == sum(leaf.size for leaf in leaves.values())
    assert_same(
        lora.merged({"params": variables["params"], "frozen": params}, 8.0)["params"], params
    )
    assert all(path.endswith(("lora_a", "lora_b")) for path in _paths(variables["params"]))


def _graph(module: nn.Module, item):
    needs = models.requirements(module)
    single = tiny.BatchSource(
        [dataclasses.replace(item, source="fine")],
        tiny.NeighborLists.of_model([dataclasses.replace(item, source="fine")], needs),
        tiny.BatchConfig(1),
        {8: 0.0, 14: 0.0},
        np.float64,
        needs,
    )
    return single.batch(0, 0).graph


def _paths(tree):
    return traverse_util.flatten_dict(tree, sep="/")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LoraConfig(match="nothing"), r"lora\.match: 'nothing' matches no parameter; .*hidden"),
        (LoraConfig(match="bias"), r"lora\.match: got 'bias'; .* It matches dense/bias \[5\]"),
        (LoraConfig(match="dense/kernel", trained="kernel"), r"It matches no other"),
        (LoraConfig(match="kernel", rank=4), r"lora\.rank: got 4; .*: hidden/kernel \[6, 3\]\."),
        (LoraConfig(match="dense/kernel", trained="none"), r"lora\.trained: 'none' matches no"),
    ],
)
def test_parameters_that_cannot_be_adapted_are_refused(config, message):
    params = {
        "dense": {"kernel": np.ones((6, 5)), "bias": np.ones(5)},
        "hidden": {"kernel": np.ones((6, 3))},
    }
    with pytest.raises(UserError, match=message):
        lora.split({"params": params}, config, seed=0)
