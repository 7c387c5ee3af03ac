"""The loop over epochs, steps, validations and checkpoints.

The batches of an epoch are a pure function of the seed and the epoch, so that a checkpoint needs
one integer beside the state: the number of steps taken.
"""

import collections
import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mlip_jax.config import UserError
from mlip_jax.interrupt import StopRequest
from mlip_jax.potential import Variables
from mlip_jax.train import checkpoint, engine, interrupt, loss, nonfinite, session, stream
from mlip_jax.train import step as steps
from mlip_jax.train.checkpoint import Position
from mlip_jax.train.engine import Engine, Task
from mlip_jax.train.full_batch import Iteration
from mlip_jax.train.interrupt import TrainingInterrupted
from mlip_jax.train.loss import Sums
from mlip_jax.train.session import Run, Sinks
from mlip_jax.train.step import StepReport, TrainState

LAG = 2
"""Steps whose reports the host lets wait, so that the device never waits for the host."""


class Outcome(NamedTuple):
    """What came of training.

    Attributes:
        variables: the model's, with the best parameters.
        position: where it ended.
        stopped: why: `epochs`, `max_steps`, `patience`, `time_limit` or `converged`.
        programs: compiled steps.
        memory: bytes that the largest step needs on a device.
    """

    variables: Variables
    position: Position
    stopped: str
    programs: int
    memory: int


def train(task: Task, output: Path, *, resume: bool = False, progress: bool = True) -> Outcome:
    """Trains until the epochs, the steps, the patience or the time are over.

    Args:
        task: what to train.
        output: directory for `metrics.jsonl` and `checkpoints/`.
        resume: continue from the last checkpoint, bit for bit as if nothing had happened.
        progress: whether to print.

    Raises:
        TrainingInterrupted: on Ctrl-C or SIGTERM, after a checkpoint.
        NonFiniteError: where a loss or gradient is not finite; the batch is saved.
        UserError: where the largest batch does not fit into memory, or the disk is full.
    """
    found = checkpoint.latest(output / "checkpoints") if resume else None
    if found is not None:
        task = session.with_constants(task, found)
    ready = engine.build(task)
    run = session.begin(ready, found)
    needed = 0 if run.position.stopped else engine.check_memory(ready, run.state)
    stopped = run.position.stopped
    sinks = session.open_sinks(task, output, run.position, progress)
    if task.optimizer.full_batch:
        epoch = partial(_iterate, ready, engine.iterate_fn(ready))
    else:
        epoch = partial(_train_epoch, ready)
    try:
        with sinks.terminal, StopRequest() as request:
            if found:
                sinks.terminal.say(f"continuing from step {run.position.step} ({found})")
            while stopped is None:
                whole = epoch(run, sinks, request)
                _close_epoch(ready, run, sinks, whole)
                stopped = run.position.stopped
                if stopped is None and _time_is_over(ready, run):
                    stopped = "time_limit"
                if whole:
                    session.save_if_due(ready, run, sinks, at_once=bool(stopped or request.signal))
                if stopped is None and request.signal is not None:
                    raise _interrupted(run, sinks, request.signal)
    finally:
        sinks.metrics.close()
        if sinks.board is not None:
            sinks.board.close()
    best = {**steps.copy_to_host(ready.constants), "params": run.best}
    variables = steps.copy_to_host(task.merge(best))
    return Outcome(variables, run.position, stopped, len(ready.step), needed)


def _train_epoch(ready: Engine, run: Run, sinks: Sinks, request: StopRequest) -> bool:
    """The steps of an epoch, from where the run stands; False where it was left before its end."""
    task, config = ready.task, ready.task.training
    epoch, first = divmod(run.position.step, task.train.num_batches())
    last = min(task.train.num_batches(), first + ready.total_steps - run.position.step)
    task.train.plan(epoch)
    started, compiled = time.perf_counter(), ready.step.seconds
    sinks.terminal.epoch(epoch, last, first)
    weights = jax.device_put(task.loss.weights(epoch), steps.replicated(ready.mesh))
    batches = stream.prefetch(partial(task.train.batch, epoch), first, last, config.workers)
    batches = stream.one_ahead(batches, lambda batch: steps.put_batch(batch, ready.mesh))
    reports = collections.deque()
    for index, batch in enumerate(batches, first):
        run.state, report = engine.take_step(
            ready, run.state, batch, weights, epoch * task.train.num_batches() + index
        )
        reports.append(report)
        sinks.terminal.step()
        if len(reports) > LAG:
            _absorb(ready, run, sinks, reports.popleft())
        leave = request.signal is not None or _time_is_over(ready, run)
        every = config.checkpoint_steps
        if index + 1 < last and (leave or (every is not None and (index + 1) % every == 0)):
            while reports:
                _absorb(ready, run, sinks, reports.popleft())
            session.save(ready, run, sinks)
            if request.signal is not None:
                raise _interrupted(run, sinks, request.signal)
            if leave:
                return False
    while reports:
        _absorb(ready, run, sinks, reports.popleft())
    run.epoch_seconds = time.perf_counter() - started - (ready.step.seconds - compiled)
    return True


def _iterate(
    ready: Engine,
    iterate: Callable[[TrainState], Iteration],
    run: Run,
    sinks: Sinks,
    request: StopRequest,
) -> bool:
    """The only step of an epoch that takes all data at once; it is never left before its end."""
    del request
    count = ready.task.train.num_batches()
    started, compiled = time.perf_counter(), ready.step.seconds
    sinks.terminal.epoch(run.position.step // count, 1)
    run.state, here, run.converged = iterate(run.state)
    norm = float(optax.tree.norm(here.gradient))
    if not (np.isfinite(here.loss) and np.isfinite(norm)):
        raise _nonfinite(ready, run, sinks, "loss or its gradient")
    run.sums = here.sums
    step = run.position.step + count
    run.position = dataclasses.replace(run.position, step=step, gradient_norm=norm)
    run.epoch_seconds = time.perf_counter() - started - (ready.step.seconds - compiled)
    return True


def _absorb(ready: Engine, run: Run, sinks: Sinks, report: StepReport) -> None:
    """Takes the report of the next step into the sums of the epoch."""
    norm = float(report.gradient_norm)
    if not (np.isfinite(report.loss) and np.isfinite(norm)):
        what = "gradient of the loss" if np.isfinite(report.loss) else "loss"
        raise _nonfinite(ready, run, sinks, what)
    run.sums = run.sums.plus(report.sums)
    run.position = dataclasses.replace(run.position, step=run.position.step + 1, gradient_norm=norm)


def _close_epoch(ready: Engine, run: Run, sinks: Sinks, whole: bool) -> None:
    """Validates, keeps the best parameters, decides whether to stop, writes the metrics."""
    task, config = ready.task, ready.task.training
    step = run.position.step
    done = -(-step // task.train.num_batches())
    final = step >= ready.total_steps or not whole or run.converged
    trained = time.perf_counter()
    record: dict[str, Any] = {
        "epoch": done,
        "step": step,
        "learning_rate": _learning_rate(ready, run),
        "gradient_norm": run.position.gradient_norm,
        "train": loss.metrics(run.sums, task.loss.weights(done - 1)),
        "valid": None,
        "best": False,
    }
    if done % config.valid_interval == 0 or final:
        if task.valid is not None:
            record["valid"] = loss.metrics(engine.validate(ready, run.state), ready.final_weights)
        compared = dict(record["valid"] or record["train"])
        if task.observables is not None:
            record["observables"] = session.observe(ready, run.state)
            compared["loss"] += record["observables"]["loss"]
        record["best"] = _compare(ready, run, compared, done)
    if whole:
        run.position = dataclasses.replace(run.position, sums=None, stopped=_verdict(ready, run))
    run.sums = Sums.zeros()
    record["time"] = {
        "epoch_seconds": run.epoch_seconds,
        "valid_seconds": time.perf_counter() - trained,
        "total_seconds": run.seconds(),
        "compile_seconds": run.position.compile_seconds + session.compiling(ready),
    }
    sinks.metrics.write(record)
    if sinks.board is not None:
        sinks.board.write(record)
    sinks.terminal.metrics(record, last=final or run.position.stopped is not None)


def _compare(ready: Engine, run: Run, metrics: dict[str, float], epoch: int) -> bool:
    """Keeps the parameters where the monitored metric is the best so far."""
    name = ready.task.training.monitor
    if name not in metrics:
        raise UserError(
            f"training.monitor: got {name!r}; the data have labels for {', '.join(metrics)}."
        )
    value = metrics[name]
    if not np.isfinite(value):
        raise UserError(
            f"validation after epoch {epoch}: {name} is {value}. Look at the validation data "
            "(mlip-jax data inspect) or lower optimizer.learning_rate."
        )
    _show_plateau(ready, run, value)
    if run.position.best is not None and value >= run.position.best:
        run.position = dataclasses.replace(run.position, failures=run.position.failures + 1)
        return False
    run.position = dataclasses.replace(run.position, best=value, best_epoch=epoch, failures=0)
    run.best = steps.copy_to_host(steps.eval_params(ready.optimizer, run.state))
    return True


def _show_plateau(ready: Engine, run: Run, value: float) -> None:
    """Lets `reduce_on_plateau` see the monitored metric."""
    if ready.task.optimizer.reduce_on_plateau is None:
        return
    old = run.state.plateau
    _, new = ready.optimizer.plateau.update({}, old, value=jnp.asarray(value, old.best_value.dtype))
    new = jax.tree.map(lambda a, b: np.asarray(a, b.dtype), new, old)
    new = jax.device_put(new, steps.replicated(ready.mesh))
    run.state = dataclasses.replace(run.state, plateau=new)


def _verdict(ready: Engine, run: Run) -> str | None:
    config = ready.task.training
    if run.converged:
        return "converged"
    if run.position.step >= ready.total_steps:
        whole = config.epochs * ready.task.train.num_batches()
        return "epochs" if ready.total_steps == whole else "max_steps"
    if config.patience is not None and run.position.failures >= config.patience:
        return "patience"
    return None


def _learning_rate(ready: Engine, run: Run) -> float:
    rate = float(ready.optimizer.learning_rate(max(run.position.step - 1, 0)))
    return rate * float(getattr(run.state.plateau, "scale", 1.0))


def _time_is_over(ready: Engine, run: Run) -> bool:
    limit = ready.task.training.time_limit
    return limit is not None and run.seconds() > 60.0 * limit


def _interrupted(run: Run, sinks: Sinks, signal: int) -> TrainingInterrupted:
    return interrupt.TrainingInterrupted(
        f"training was interrupted after step {run.position.step}; its state is in "
        f"{sinks.checkpoints}. Continue with --resume.",
        signal,
    )


def _nonfinite(ready: Engine, run: Run, sinks: Sinks, what: str) -> nonfinite.NonFiniteError:
    source = ready.task.train
    epoch, index = divmod(run.position.step, source.num_batches())
    members = np.concatenate(source.plan(epoch)[index].members)
    structures = [ready.task.structures[int(i)] for i in members]
    batch = source.batch(epoch, index)
    return nonfinite.stop(sinks.output, run.position.step, structures, batch, what)
