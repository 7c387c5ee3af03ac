"""The compiled parts of training: devices, optimiser, step and validation of one task."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from mlip_jax import compilation
from mlip_jax.config import UserError
from mlip_jax.data.batching import Batch, BatchSource
from mlip_jax.data.structure import Structure
from mlip_jax.inference import require_precision
from mlip_jax.potential import PredictFn, Variables, predict_fn
from mlip_jax.train import full_batch, gauss_newton, lora, memory, stream
from mlip_jax.train import optimizer as optimizers
from mlip_jax.train import step as steps
from mlip_jax.train.loss import LossConfig, Sums
from mlip_jax.train.observed import Added, Observables
from mlip_jax.train.optimizer import Optimizer, OptimizerConfig
from mlip_jax.train.settings import TrainingConfig
from mlip_jax.train.step import Programs, StepReport, TrainState


class Task(NamedTuple):
    """What is to be trained, on what.

    Attributes:
        model: complete, with all its fields filled in.
        variables: initial; with `merge`, those that it takes.
        loss: section.
        optimizer: section; the default where only a solver works.
        training: section.
        structures: of the training data, to save those of a batch that fails.
        train: their batches; `devices` of its config is the number of devices.
        valid: batches of the validation data, where there are any.
        observables: what is fitted beside the labels, if anything.
        merge: makes the variables of the model of those of the task, which `training.lora` splits.
    """

    model: nn.Module
    variables: Variables
    loss: LossConfig
    optimizer: OptimizerConfig
    training: TrainingConfig
    structures: Sequence[Structure]
    train: BatchSource
    valid: BatchSource | None
    observables: Observables | None = None
    merge: lora.Merge = lora.merge_fn(None)

    @property
    def predict(self) -> PredictFn:
        """`(variables of the task, graph) -> Prediction`."""
        return lora.merging(predict_fn(self.model), self.merge)


class Engine(NamedTuple):
    """A task made ready.

    Attributes:
        task: what is trained.
        mesh: the devices.
        valid_mesh: those of the validation, fewer where its data are few.
        optimizer: see `optimizer.build`.
        step: programs of the training step; of lbfgs, of the gradient.
        evaluate: programs of the validation.
        constants: variables that are not trained, on the devices.
        total_steps: of the whole run.
        valid_batches: batch of validation by index, kept in memory where they are small.
        final_weights: of the loss in the last epoch, which validation uses throughout.
    """

    task: Task
    mesh: Mesh
    valid_mesh: Mesh
    optimizer: Optimizer
    step: Programs
    evaluate: Programs
    constants: Any
    total_steps: int
    valid_batches: stream.MakeBatch | None
    final_weights: Float[np.ndarray, " properties"]


def build(task: Task) -> Engine:
    """Prepares a task; compiles nothing yet.

    Raises:
        UserError: for devices, precision or groups that do not go with the task.
    """
    require_precision(task.training.precision)
    mesh = _mesh(task.train)
    valid_mesh = mesh if task.valid is None else _mesh(task.valid)
    per_epoch = task.train.num_batches()
    total = task.training.epochs * per_epoch
    full = task.optimizer.full_batch
    if task.training.max_steps is not None:
        total = min(total, task.training.max_steps)
    predict, options = task.predict, compilation.options(task.model)
    optimizer = optimizers.build(
        task.optimizer, task.variables["params"], total, per_epoch, _whitening(task)
    )
    if full:
        step = Programs(steps.gradient_fn(predict, task.loss, mesh), options=options)
    else:
        step = steps.step_fn(predict, task.loss, optimizer, task.training.ema, mesh)
        step = Programs(step, donate=(0,), options=options)
    constants = steps.constants_of(task.variables)
    return Engine(
        task=task,
        mesh=mesh,
        valid_mesh=valid_mesh,
        optimizer=optimizer,
        step=step,
        evaluate=Programs(steps.evaluate_fn(predict, task.loss, valid_mesh), options=options),
        constants=jax.device_put(constants, steps.replicated(mesh)),
        total_steps=total,
        valid_batches=None
        if task.valid is None
        else stream.keep_small(partial(task.valid.batch, 0)),
        final_weights=task.loss.weights(task.training.epochs - 1),
    )


def initial_state(engine: Engine) -> TrainState:
    """The state before the first step, on the host."""
    task = engine.task
    if task.optimizer.full_batch:
        return steps.copy_to_host(full_batch.init_state(engine.optimizer, task.variables["params"]))
    state = steps.init_state(engine.optimizer, task.variables["params"], task.training.ema)
    return steps.copy_to_host(state)


def place(engine: Engine, state: TrainState) -> TrainState:
    """Sends a state to the devices."""
    return jax.device_put(state, steps.replicated(engine.mesh))


def take_step(
    engine: Engine, state: TrainState, batch: Batch, weights: Any, index: int
) -> tuple[TrainState, StepReport]:
    """One step, that of an index; the old state is consumed.

    Raises:
        UserError: for observables that have no values.
    """
    arguments = (state, engine.constants, batch, weights, _added(engine, state, index))
    program = engine.step.get(*arguments, shape_of=(batch, arguments[-1]))
    return program(*arguments)


def iterate_fn(engine: Engine) -> Callable[[TrainState], full_batch.Iteration]:
    """Makes `state -> Iteration` of lbfgs over all training data."""
    train = engine.task.train
    evaluate = full_batch.evaluate_fn(
        engine.step,
        engine.constants,
        stream.keep_small(partial(train.batch, 0)),
        train.num_batches(),
        engine.final_weights,
        engine.mesh,
    )
    begin, observables = None, engine.task.observables
    if observables is not None:
        begin, evaluate = full_batch.with_observables(evaluate, observables, engine.constants)
    changing = observables is not None and observables.sampled
    update = jax.jit(engine.optimizer.transformation.update)
    return lambda state: full_batch.iterate(update, state, evaluate, begin, changing=changing)


def validate(engine: Engine, state: TrainState) -> Sums:
    """Sums of errors over the validation data, with the parameters that would be saved."""
    assert engine.task.valid is not None
    assert engine.valid_batches is not None
    placement = steps.replicated(engine.valid_mesh)
    params, constants = jax.device_put(
        (steps.eval_params(engine.optimizer, state), engine.constants), placement
    )
    count = engine.task.valid.num_batches()
    batches = stream.prefetch(engine.valid_batches, 0, count, engine.task.training.workers)
    sums, waiting = Sums.zeros(), None
    for batch in stream.one_ahead(batches, lambda b: steps.put_batch(b, engine.valid_mesh)):
        program = engine.evaluate.get(params, constants, batch, shape_of=batch)
        following = program(params, constants, batch)
        sums = sums if waiting is None else sums.plus(waiting)
        waiting = following
    return sums if waiting is None else sums.plus(waiting)


def check_memory(engine: Engine, state: TrainState) -> int:
    """Compiles the step of the largest batch and compares what it needs with what there is.

    Returns:
        Bytes that the step needs on a device.

    Raises:
        UserError: where it does not fit.
    """
    batch = steps.put_batch(_largest_batch(engine.task.train), engine.mesh)
    weights = engine.final_weights
    if engine.task.optimizer.full_batch:
        arguments = (state.params, engine.constants, batch, weights)
        program = engine.step.get(*arguments, shape_of=batch)
    else:
        arguments = (state, engine.constants, batch, weights, None)
        program = engine.step.get(*arguments, shape_of=(batch, None))
    device = engine.mesh.devices.flat[0]
    sharing = engine.mesh.size if device.platform == "cpu" else 1
    needed = memory.required_bytes(program)
    available = memory.available_bytes(device)
    memory.check(needed, available, engine.task.training.batch_size, sharing)
    return needed


def _added(engine: Engine, state: TrainState, index: int) -> Added | None:
    """What observables add to a step; nothing in most steps, where they have an interval."""
    observables = engine.task.observables
    if observables is None or index % observables.config.interval:
        return None
    found = observables.evaluate(state.params, engine.constants).require()
    return Added(jnp.asarray(found.loss), found.gradient)


def _whitening(task: Task) -> np.ndarray | None:
    """Of the optimiser that wants one, from batches spread over the training data."""
    wanted = task.optimizer.curvature_batches
    if not wanted:
        return None
    if task.train.config.devices > 1:
        raise UserError("optimizer.curvature_batches: runs on one device. Set training.devices: 1.")
    stride = -(-task.train.num_batches() // wanted)
    batches = (task.train.batch(0, i) for i in range(0, task.train.num_batches(), stride))
    return gauss_newton.whitening(task.model, task.variables, task.loss, batches)


def _mesh(source: BatchSource) -> Mesh:
    return Mesh(np.array(jax.local_devices()[: source.config.devices]), (steps.AXIS,))


def _largest_batch(source: BatchSource) -> Batch:
    largest = source.waste.largest
    buckets = [planned.bucket for planned in source.plan(0)]
    return source.batch(0, buckets.index(largest))
