"""What a run holds while it trains: its state, the best parameters, its files."""

import dataclasses
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlip_jax.train import checkpoint, engine, log
from mlip_jax.train import step as steps
from mlip_jax.train.checkpoint import Position
from mlip_jax.train.engine import Engine, Task
from mlip_jax.train.loss import Sums
from mlip_jax.train.step import TrainState


@dataclasses.dataclass
class Run:
    """What changes while training runs; `position.step` counts the steps whose reports came."""

    state: TrainState
    best: Any
    position: Position
    sums: Sums
    clock: float
    saved: float
    epoch_seconds: float = 0.0
    converged: bool = False

    def seconds(self) -> float:
        """Wall time, that of earlier processes included."""
        return self.position.seconds + time.perf_counter() - self.clock


class Sinks(NamedTuple):
    """Where a run writes to."""

    output: Path
    metrics: log.MetricsFile
    board: log.TensorBoard | None
    terminal: log.Terminal

    @property
    def checkpoints(self) -> Path:
        """Their directory."""
        return self.output / "checkpoints"


def with_constants(task: Task, found: Path) -> Task:
    """The task with the untrained variables that the checkpoint was written with."""
    constants = steps.constants_of(task.variables)
    stored = checkpoint.load_tree(found, "constants", constants)
    return task._replace(variables={**task.variables, **stored})


def begin(ready: Engine, found: Path | None) -> Run:
    """The run at its start, or as a checkpoint holds it."""
    state = engine.initial_state(ready)
    best = steps.copy_to_host(steps.eval_params(ready.optimizer, state))
    position = Position()
    if found is not None:
        position = checkpoint.load_position(found)
        state = checkpoint.load_tree(found, "state", state)
        best = checkpoint.load_tree(found, "best", best)
        restore_samples(ready, found, state.params)
    sums = Sums.zeros() if position.sums is None else Sums(*map(np.array, position.sums))
    now = time.perf_counter()
    return Run(engine.place(ready, state), best, position, sums, clock=now, saved=now)


def open_sinks(task: Task, output: Path, position: Position, progress: bool) -> Sinks:
    """Opens the files of a run; lines that a resumed run will write again are cut off."""
    terminal = log.Terminal(task.training.epochs, progress)
    metrics = log.MetricsFile(output / "metrics.jsonl", position.metrics_bytes)
    board = None
    if task.training.tensorboard:
        board = log.TensorBoard(output / "tensorboard", position.step)
    return Sinks(output, metrics, board, terminal)


def compiling(ready: Engine) -> float:
    """Seconds that this process has spent on compiling."""
    return ready.step.seconds + ready.evaluate.seconds


def save_if_due(ready: Engine, run: Run, sinks: Sinks, at_once: bool) -> None:
    """Writes a checkpoint where the last one is old enough, or at once."""
    waited = time.perf_counter() - run.saved
    if at_once or waited >= 60.0 * ready.task.training.checkpoint_minutes:
        save(ready, run, sinks)


def save(ready: Engine, run: Run, sinks: Sinks) -> None:
    """Writes a checkpoint of the run as it stands."""
    position = dataclasses.replace(
        run.position,
        sums=[np.asarray(values).tolist() for values in run.sums],
        metrics_bytes=sinks.metrics.sync(),
        seconds=run.seconds(),
        compile_seconds=run.position.compile_seconds + compiling(ready),
    )
    trees = {"state": run.state, "best": run.best, "constants": ready.constants}
    if ready.task.observables is not None:
        trees["anchors"] = ready.task.observables.anchors(run.state.params)
    checkpoint.save(sinks.checkpoints, position, trees)
    run.saved = time.perf_counter()


def restore_samples(ready: Engine, found: Path, params: Any) -> None:
    """Draws the samples of observables as they were when a checkpoint was written."""
    observables = ready.task.observables
    if observables is not None and observables.sampled:
        anchors = checkpoint.load_tree(found, "anchors", observables.anchors(params))
        observables.restore(anchors, ready.constants)


def observe(ready: Engine, state: TrainState) -> dict[str, Any]:
    """Observables of the parameters that would be saved, for the metrics.

    Raises:
        UserError: where they have no values.
    """
    observables = ready.task.observables
    assert observables is not None
    params = steps.eval_params(ready.optimizer, state)
    return observables.record(observables.measure(params, ready.constants).require())
