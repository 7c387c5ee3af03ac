"""One step of training: gradient of the loss, update, moving average; on one or several devices.

A batch is never split: for several devices it is a stack `[devices, ...]` of sub-batches of one
bucket, and numerators, counts of labels and gradients are summed over devices.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from mlip_jax.data.batching import Batch
from mlip_jax.graph import pytree
from mlip_jax.potential import PredictFn
from mlip_jax.train import loss as losses
from mlip_jax.train.loss import LossConfig, Sums
from mlip_jax.train.observed import Added
from mlip_jax.train.optimizer import Optimizer

AXIS = "devices"


@pytree
class TrainState:
    """All that a step changes.

    Attributes:
        params: the trained parameters.
        opt_state: of the optimiser.
        ema: exponential moving average of the parameters, where one is kept.
        plateau: state of `reduce_on_plateau`, changed by validation only.
        step: number of steps taken.
    """

    params: Any
    opt_state: Any
    ema: Any
    plateau: Any
    step: Int[Array, ""]


class StepReport(NamedTuple):
    """What a step says: the loss of its batch, the norm of its gradient, sums of errors."""

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    sums: Sums


StepFn = Callable[[TrainState, Any, Batch, Array, Added | None], tuple[TrainState, StepReport]]
GradientFn = Callable[[Any, Any, Batch, Array], tuple[tuple[Array, Sums], Any]]
EvaluateFn = Callable[[Any, Any, Batch], Sums]


def init_state(optimizer: Optimizer, params: Any, ema: float | None) -> TrainState:
    """The state before the first step."""
    return TrainState(
        params=params,
        opt_state=optimizer.transformation.init(params),
        ema=params if ema is not None else None,
        plateau=optimizer.plateau.init(params),
        step=jnp.zeros((), jnp.int32),
    )


def eval_params(optimizer: Optimizer, state: TrainState) -> Any:
    """The parameters to evaluate and to save: the average where there is one."""
    if state.ema is not None:
        return state.ema
    return optimizer.eval_params(state.opt_state, state.params)


def step_fn(
    predict: PredictFn, config: LossConfig, optimizer: Optimizer, ema: float | None, mesh: Mesh
) -> StepFn:
    """Makes `(state, constants, batch, weights, added) -> (state, report)`.

    `added` is what observables add to the loss and its gradient, or `None`.

    Args:
        predict: of the model.
        config: the loss.
        optimizer: gives updates from gradients.
        ema: decay d of `average = d average + (1 - d) params`; early on `(1 + t) / (10 + t)` where
            that is smaller, so that the average forgets where it started.
        mesh: the devices.
    """
    gradient = _gradient(predict, config, mesh)

    def step(
        state: TrainState, constants: Any, batch: Batch, weights: Array, added: Added | None = None
    ):
        batch = _own_part(batch, mesh)
        counts = _psum(losses.label_counts(batch), mesh)
        factors = weights / jnp.maximum(counts, 1)
        (value, sums), slope = gradient(state.params, constants, batch, factors)
        if added is not None:
            value = value + added.loss.astype(value.dtype)
            slope = jax.tree.map(jnp.add, slope, added.gradient)
        updates, opt_state = optimizer.transformation.update(
            slope, state.opt_state, state.params, value=value
        )
        scale = getattr(state.plateau, "scale", None)
        if scale is not None:
            updates = jax.tree.map(lambda u: u * scale.astype(u.dtype), updates)
        params = optax.apply_updates(state.params, updates)
        average = None if ema is None else _average(state.ema, params, ema, state.step)
        report = StepReport(value, _norm(slope), sums)
        return TrainState(params, opt_state, average, state.plateau, state.step + 1), report

    return _over_devices(step, mesh, batch_argument=2, arguments=5)


def gradient_fn(predict: PredictFn, config: LossConfig, mesh: Mesh) -> GradientFn:
    """Makes `(params, constants, batch, factors) -> ((loss, sums), gradient)`, over all devices.

    `factors` are the weights of the loss over the numbers of labels of the data that the batch is
    a part of, so that losses and gradients of the parts add.
    """
    gradient = _gradient(predict, config, mesh)

    def evaluate(params: Any, constants: Any, batch: Batch, factors: Array):
        return gradient(params, constants, _own_part(batch, mesh), factors)

    return _over_devices(evaluate, mesh, batch_argument=2, arguments=4)


def evaluate_fn(predict: PredictFn, config: LossConfig, mesh: Mesh) -> EvaluateFn:
    """Makes `(params, constants, batch) -> Sums`, over all devices."""

    def evaluate(params: Any, constants: Any, batch: Batch) -> Sums:
        batch = _own_part(batch, mesh)
        prediction = predict({"params": params, **constants}, batch.graph)
        return _psum(losses.batch_sums(config, prediction, batch), mesh)

    return _over_devices(evaluate, mesh, batch_argument=2, arguments=3)


def replicated(mesh: Mesh) -> NamedSharding:
    """Placement of what every device holds."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Sends a batch (a stack of sub-batches where there are several devices) to the devices."""
    spec = PartitionSpec(AXIS) if mesh.size > 1 else PartitionSpec()
    return jax.device_put(batch, NamedSharding(mesh, spec))


class Programs:
    """Compiled programs of one function, one for every shape of its arguments.

    Compiling ahead of the first call tells its time and its memory apart from running.

    Attributes:
        seconds: spent on compiling so far.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        donate: tuple[int, ...] = (),
        options: dict[str, bool | str] | None = None,
    ):
        self._jitted = jax.jit(function, donate_argnums=donate, compiler_options=options)
        self._compiled: dict[Any, jax.stages.Compiled] = {}
        self.seconds = 0.0

    def __len__(self) -> int:
        return len(self._compiled)

    def get(self, *arguments: Any, shape_of: Any) -> jax.stages.Compiled:
        """The program for arguments; those besides `shape_of` always have the same shapes."""
        leaves, structure = jax.tree.flatten(shape_of)
        key = (structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))
        if key not in self._compiled:
            start = time.perf_counter()
            self._compiled[key] = self._jitted.lower(*arguments).compile()
            self.seconds += time.perf_counter() - start
        return self._compiled[key]


def copy_to_host(tree: Any) -> Any:
    """Numpy copies of arrays; copies, since a buffer on a CPU may be donated later."""
    return jax.tree.map(lambda x: np.array(x, copy=True), tree)


def constants_of(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The collections of a model's variables that are not trained."""
    return {name: tree for name, tree in variables.items() if name != "params"}


def _gradient(predict: PredictFn, config: LossConfig, mesh: Mesh) -> GradientFn:
    """Loss, sums of errors and gradient of a device's part of a batch, summed over devices."""

    def evaluate(params: Any, constants: Any, batch: Batch, factors: Array):
        def objective(params):
            prediction = predict({"params": params, **constants}, batch.graph)
            sums = losses.batch_sums(config, prediction, batch)
            return losses.loss(sums, factors), sums

        return _psum(jax.value_and_grad(objective, has_aux=True)(params), mesh)

    return evaluate


def _norm(tree):
    squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares))


def _average(average, params, decay: float, step):
    count = step.astype(jnp.float32)
    now = jnp.minimum(decay, (1.0 + count) / (10.0 + count))
    return jax.tree.map(lambda a, p: a + (p - a) * (1.0 - now).astype(p.dtype), average, params)


def _own_part(batch: Batch, mesh: Mesh) -> Batch:
    return batch if mesh.size == 1 else jax.tree.map(lambda x: x[0], batch)


def _psum(tree, mesh: Mesh):
    return tree if mesh.size == 1 else jax.lax.psum(tree, AXIS)


def _over_devices(function, mesh: Mesh, batch_argument: int, arguments: int):
    if mesh.size == 1:
        return function
    specs = [PartitionSpec()] * arguments
    specs[batch_argument] = PartitionSpec(AXIS)
    # The loss holds no collective, so the gradients of the parts are summed by hand: replication
    # need not be tracked through the models.
    return jax.shard_map(
        function, mesh=mesh, in_specs=tuple(specs), out_specs=PartitionSpec(), check_vma=False
    )
