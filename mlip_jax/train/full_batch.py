"""L-BFGS: an epoch is one iteration with the gradient of the loss of all training data.

J. Nocedal & S. J. Wright, "Numerical Optimization" (2006), algorithm 7.5, with optax's two-loop
recursion. The length of a step meets the weak Wolfe conditions, found by bisection: A. S. Lewis &
M. L. Overton, Math. Program. 141, 135 (2013).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.graph import pytree
from mlip_jax.train import loss as losses
from mlip_jax.train import step as steps
from mlip_jax.train import stream
from mlip_jax.train.loss import LossConfig, Sums, WeightSchedule
from mlip_jax.train.observed import Found, Observables
from mlip_jax.train.optimizer import Optimizer, OptimizerConfig
from mlip_jax.train.settings import TrainingConfig
from mlip_jax.train.step import TrainState

_DECREASE, _FLATTENING = 1e-4, 0.9
"""Constants of the Wolfe conditions (Nocedal & Wright, eq. 3.6)."""

_MAX_TRIALS = 25

Make = Callable[[int], Any]


@pytree
class FullBatchState:
    """What an iteration leaves to the next.

    Attributes:
        history: of `optax.scale_by_lbfgs`.
        gradient: of the loss, at the parameters of the state.
        loss: there; infinite before the first iteration.
    """

    history: Any
    gradient: Any
    loss: Float[Array, ""]


class Evaluation(NamedTuple):
    """The loss of all data at one place, its gradient, and the sums of errors."""

    loss: float
    gradient: Any
    sums: Sums


Evaluate = Callable[[Any], Evaluation]


class Iteration(NamedTuple):
    """What came of an iteration.

    Attributes:
        state: at the new parameters.
        here: loss, gradient and sums of errors there.
        converged: no step makes the loss smaller by more than its rounding errors.
    """

    state: TrainState
    here: Evaluation
    converged: bool


def check(optimizer: OptimizerConfig, loss: LossConfig, training: TrainingConfig) -> None:
    """Refuses what has no meaning for a loss that has to stay the same.

    Raises:
        UserError: naming the key.
    """
    names = ("clip", "clip_by_global_norm", "adaptive_grad_clip", "reduce_on_plateau")
    given = [f"optimizer.{name}" for name in names if getattr(optimizer, name) is not None]
    if training.ema is not None:
        given.append("training.ema")
    if any(not g.frozen and g.learning_rate_factor != 1.0 for g in optimizer.groups):
        given.append("optimizer.groups with a learning_rate_factor")
    for name in losses.PROPERTIES:
        term = getattr(loss, name)
        if term is not None and isinstance(term.weight, WeightSchedule):
            given.append(f"a schedule of loss.{name}.weight")
    if given:
        raise UserError(
            f"optimizer: got lbfgs with {', '.join(given)}; it follows one loss with steps of its "
            "own. Set them to null, or choose another optimiser."
        )


def evaluate_fn(
    gradient: steps.Programs,
    constants: Any,
    batches: Make,
    count: int,
    weights: Float[np.ndarray, " properties"],
    mesh: jax.sharding.Mesh,
) -> Evaluate:
    """Makes `params -> Evaluation` over the batches of a set.

    Args:
        gradient: programs of `step.gradient_fn`.
        constants: variables that are not trained.
        batches: batch by index, on the host.
        count: number of them.
        weights: of the loss.
        mesh: the devices.
    """
    labels = np.zeros(len(losses.PROPERTIES))
    for index in range(count):
        labels += np.asarray(losses.label_counts(batches(index)))
    factors = jax.device_put(weights / np.maximum(labels, 1), steps.replicated(mesh))

    def evaluate(params: Any) -> Evaluation:
        total, sums, slope = 0.0, Sums.zeros(), None
        place = partial(steps.put_batch, mesh=mesh)
        for batch in stream.one_ahead(map(batches, range(count)), place):
            program = gradient.get(params, constants, batch, factors, shape_of=batch)
            (value, part), own = program(params, constants, batch, factors)
            slope = own if slope is None else jax.tree.map(jnp.add, slope, own)
            total, sums = total + float(value), sums.plus(part)
        return Evaluation(total, slope, sums)

    return evaluate


def with_observables(
    evaluate: Evaluate, observables: Observables, constants: Any
) -> tuple[Evaluate, Evaluate]:
    """Adds the loss of observables and its gradient: for the start of a search, and along it.

    At the start of an iteration samples are drawn anew where less than the part half-way between
    `sampling.smallest` and all still counts. Along the direction they stay, so that the search sees
    one function; where less than `smallest` counts, or a system has no values, its loss is NaN:
    such a place is too far.
    """

    def begin(params: Any) -> Evaluation:
        found = observables.evaluate(params, constants, early=True).require()
        return _sum(evaluate(params), found)

    def follow(params: Any) -> Evaluation:
        found = observables.reweighted(params, constants)
        if found.fault is not None:
            return Evaluation(math.nan, None, Sums.zeros())
        return _sum(evaluate(params), found)

    return begin, follow


def _sum(labels: Evaluation, found: Found) -> Evaluation:
    slope = jax.tree.map(jnp.add, labels.gradient, found.gradient)
    return Evaluation(labels.loss + found.loss, slope, labels.sums)


def iterate(
    update: Callable[..., tuple[Any, Any]],
    state: TrainState,
    evaluate: Evaluate,
    begin: Evaluate | None = None,
    *,
    changing: bool = False,
) -> Iteration:
    """One iteration: a direction, and a step along it.

    Args:
        update: of the optimiser's transformation, compiled.
        state: where to begin.
        evaluate: loss and gradient of all data.
        begin: the same at the beginning, where that is another function.
        changing: whether the loss is another one from iteration to iteration, as where samples are
            drawn anew: the beginning is then evaluated again.
    """
    own: FullBatchState = state.opt_state
    old = Evaluation(float(own.loss), own.gradient, Sums.zeros())
    if changing or not math.isfinite(old.loss):
        old = (begin or evaluate)(state.params)
    direction, history = update(old.gradient, own.history, state.params)
    if not _dot(old.gradient, direction) < 0.0:
        return Iteration(state, old, converged=True)
    found = _search(state.params, direction, old, evaluate)
    if found is None:
        return Iteration(state, old, converged=True)
    params, here = found
    value = jnp.asarray(here.loss, own.loss.dtype)
    noise = 10.0 * float(jnp.finfo(value.dtype).eps) * abs(old.loss)
    new = TrainState(
        params, FullBatchState(history, here.gradient, value), None, state.plateau, state.step + 1
    )
    return Iteration(new, here, converged=old.loss - here.loss <= noise)


def init_state(optimizer: Optimizer, params: Any) -> TrainState:
    """The state before the first iteration."""
    dtype = jnp.result_type(*jax.tree.leaves(params))
    own = FullBatchState(
        history=optimizer.transformation.init(params),
        gradient=jax.tree.map(jnp.zeros_like, params),
        loss=jnp.asarray(jnp.inf, dtype),
    )
    return TrainState(params, own, None, optimizer.plateau.init(params), jnp.zeros((), jnp.int32))


def _search(
    params: Any, direction: Any, old: Evaluation, evaluate: Evaluate
) -> tuple[Any, Evaluation] | None:
    """The place and the evaluation that meet the weak Wolfe conditions; None where none does.

    Where they cannot be met within the trials, the best place that lowers the loss is taken.
    """
    slope = _dot(old.gradient, direction)
    low, high, length, best = 0.0, math.inf, 1.0, None
    for _ in range(_MAX_TRIALS):
        place = _along(params, direction, length)
        here = evaluate(place)
        if not here.loss <= old.loss + _DECREASE * length * slope:
            high = length
        else:
            best = (place, here) if best is None or here.loss < best[1].loss else best
            if _dot(here.gradient, direction) >= _FLATTENING * slope:
                return place, here
            low = length
        length = 2.0 * low if math.isinf(high) else 0.5 * (low + high)
    return best if best is not None and best[1].loss < old.loss else None


@jax.jit
def _along(params: Any, direction: Any, length: Any) -> Any:
    return jax.tree.map(lambda p, d: p + jnp.asarray(length, p.dtype) * d, params, direction)


def _dot(first: Any, second: Any) -> float:
    return float(np.asarray(optax.tree.vdot(first, second)))
