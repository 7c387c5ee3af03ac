"""One run of a study, in the process of its own: `python -m mlip_jax.study.perform DIRECTORY`.

The directory holds all that it needs (`state`), and afterwards all that came of it.
"""

import argparse
import dataclasses
import os
import platform
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType

import jax

from mlip_jax import config, train
from mlip_jax.config import UserError
from mlip_jax.potential import Potential
from mlip_jax.study import state
from mlip_jax.study.state import RunState
from mlip_jax.train.interrupt import TrainingInterrupted

ERROR = "error.txt"
"""Traceback of a run that failed."""


def perform(directory: Path, progress: bool = True) -> RunState:
    """Trains what the directory says, from its last checkpoint if it has one.

    Whatever happens is written to its state; nothing but a second Ctrl-C is raised.

    Args:
        directory: of the run, with its config and state.
        progress: whether to print.

    Raises:
        UserError: where the directory holds no run.
    """
    before = state.read(directory)
    if before is None:
        raise UserError(f"{directory}: holds no run of a study; expected {state.STATE}.")
    (directory / ERROR).unlink(missing_ok=True)
    running = dataclasses.replace(
        before, status="running", message="", host=platform.node(), pid=os.getpid()
    )
    state.write(directory, running)
    started = time.perf_counter()
    after = _attempt(directory, running, progress)
    seconds = before.seconds + time.perf_counter() - started
    after = dataclasses.replace(after, seconds=seconds, pid=None)
    state.write(directory, after)
    return after


def _attempt(directory: Path, running: RunState, progress: bool) -> RunState:
    try:
        sections = train.parse(config.load_yaml(directory / state.CONFIG))
        potential = train.fit(
            sections, directory, base=Path(running.base), resume=True, progress=progress
        )
    except (TrainingInterrupted, KeyboardInterrupt):
        return dataclasses.replace(running, status="interrupted")
    except Exception as error:
        (directory / ERROR).write_text(traceback.format_exc(), encoding="utf-8")
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return dataclasses.replace(running, status="failed", message=message)
    return dataclasses.replace(
        running,
        status="finished",
        parameters=count_parameters(potential),
        stopped=potential.card["training"].get("stopped", "solved"),
    )


def count_parameters(potential: Potential) -> int:
    """Number of trained parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(dict(potential.variables).get("params", {})))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Performs the run of the command line; 0 finished, 1 failed, 130 interrupted."""
    parser = argparse.ArgumentParser(description="one run of a study")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a cluster's workers may ignore them
        signal.signal(number, _interrupt)
    mapping = config.load_yaml(arguments.directory / state.CONFIG)
    if (mapping.get("training") or {}).get("precision") == "float64":
        jax.config.update("jax_enable_x64", True)
    after = perform(arguments.directory, progress=not arguments.quiet)
    return {"finished": 0, "failed": 1}.get(after.status, 130)


if __name__ == "__main__":
    sys.exit(main())
