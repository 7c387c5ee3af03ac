"""A study from beginning to end: what is due is run, then timed, tabulated, drawn and reported."""

import dataclasses
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mlip_jax.config import UserError
from mlip_jax.interrupt import StopRequest
from mlip_jax.study import cluster, cost, expand, launch, report, state, table
from mlip_jax.study.expand import Variant
from mlip_jax.study.sections import Study
from mlip_jax.study.state import RunState

Perform = Callable[[Path, Callable[[], bool]], None]
"""Performs the run in a directory until it ends or the function says that it is to stop."""

Due = Literal["begin", "resume", "skip", "failed"]

RESULTS, RUNS = "results", "runs"
"""Directories below the output of a study."""


class StudyInterrupted(UserError):
    """A study was asked to stop; its table is written.

    Attributes:
        exit_code: for the shell, 128 + number of the signal.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


class Step(NamedTuple):
    """A run and what is to be done about it."""

    variant: Variant
    identity: Mapping[str, Any]
    due: Due


def conduct(
    study: Study,
    output: Path,
    *,
    retry: bool = False,
    say: Callable[[str], None] = print,
    perform: Perform = launch.apart,
) -> list[dict[str, Any]]:
    """Runs what is due of a study and writes its results.

    Finished runs stay, interrupted ones go on from their checkpoints, and a run that fails stops no
    other.

    Args:
        study: validated.
        output: directory for `runs/` and `results/`.
        retry: whether runs that failed are begun again.
        say: takes lines about the progress.
        perform: performs the run in a directory, where they are run one after another.

    Returns:
        The rows of the table.

    Raises:
        UserError: for faults of any of the configs, and for runs of other configs in `output`.
        StudyInterrupted: on Ctrl-C or SIGTERM; the same call goes on.
    """
    runs = output / RUNS
    if _is_parallel(study):
        cluster.require()
    steps = survey(study, runs, retry)
    waiting = [step for step in steps if step.due in ("begin", "resume")]
    variants = [step.variant for step in steps]
    say(describe(steps))
    with state.locked(runs), StopRequest() as request:
        for step in waiting:
            _prepare(step, runs)
        paths = [runs / step.variant.name for step in waiting]
        _run(study, paths, request, perform, _announcer(len(waiting), say))
        stopped = request.signal or _interrupted(paths)
        if not stopped:
            _measure(study, variants, runs, request, say)
        stopped = stopped or request.signal
    rows = collect(study, variants, output, say)
    if stopped:
        raise StudyInterrupted("stopped; the same command goes on where it was.", stopped)
    return rows


def collect(
    study: Study,
    variants: Sequence[Variant],
    output: Path,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Writes the table, the figures and the report of what is there; returns the rows."""
    rows = table.collect(variants, output / RUNS)
    axes = [axis.name for axis in study.axes]
    table.write(rows, axes, output / RESULTS)
    say(report.write(study, rows, output / RESULTS))
    return rows


def survey(study: Study, runs: Path, retry: bool = False) -> list[Step]:
    """All runs of a study and what is due of each.

    Raises:
        UserError: where a run of the same name is finished or half done with another config or
            other data, or is being run.
    """
    checksums: dict[Path, str] = {}
    steps, faults = [], []
    for variant in expand.plan(study):
        identity = expand.identity(variant, checksums)
        found = state.read(runs / variant.name)
        if found is not None and state.is_alive(found):
            faults.append(f"{runs / variant.name}: process {found.pid} is running it.")
        elif found is not None and found.status not in ("failed", "waiting"):
            faults += _differences(runs / variant.name, found.identity, identity)
        steps.append(Step(variant, identity, _due(found, expand.digest(identity), retry)))
    if faults:
        raise UserError("\n".join(faults))
    return steps


def describe(steps: Sequence[Step]) -> str:
    """How many runs there are, and what is due."""
    words = {"begin": "to run", "resume": "to resume", "skip": "finished", "failed": "failed"}
    counts = {due: sum(step.due == due for step in steps) for due in words}
    parts = [f"{count} {words[due]}" for due, count in counts.items() if count]
    advice = " (--retry begins them again)" if counts["failed"] else ""
    return f"{len(steps)} runs: {', '.join(parts)}{advice}"


def _due(found: RunState | None, digest: str, retry: bool) -> Due:
    if found is None or found.status == "waiting" or found.digest != digest:
        return "begin"
    if found.status == "failed":
        return "resume" if retry else "failed"
    return "skip" if found.status == "finished" else "resume"


def _differences(
    directory: Path, before: Mapping[str, Any], now: Mapping[str, Any], most: int = 5
) -> list[str]:
    """A message about a run of another config; none where it is the same."""
    old, new = _leaves(before), _leaves(now)
    keys = [key for key in sorted(set(old) | set(new)) if old.get(key) != new.get(key)]
    if not keys:
        return []
    shown = "; ".join(f"{k}: {old.get(k)!r} before, {new.get(k)!r} now" for k in keys[:most])
    return [
        f"{directory}: holds a run of another config or other data ({shown}). Restore them, choose "
        "another --output, or remove the directory."
    ]


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key, item in value.items():
        leaves |= _leaves(item, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def _prepare(step: Step, runs: Path) -> None:
    """Writes what a run needs; what a failed run of another config left goes."""
    directory = runs / step.variant.name
    found = state.read(directory)
    if step.due == "resume" and found is not None:
        state.write(directory, dataclasses.replace(found, base=str(step.variant.base)))
        return
    if found is not None and found.status == "failed":
        _set_aside(directory)
    base = str(step.variant.base.absolute())
    digest = expand.digest(step.identity)
    state.begin(
        directory, step.variant.config, RunState("waiting", digest, step.identity, base=base)
    )


def _set_aside(directory: Path) -> None:
    """Renames the directory of a failed run; an older one of the same name is replaced."""
    target = directory.with_name(f"{directory.name}.failed")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(directory, target)


def _is_parallel(study: Study) -> bool:
    return study.runs.workers > 1 or study.runs.address is not None


def _run(
    study: Study,
    paths: Sequence[Path],
    request: StopRequest,
    perform: Perform,
    ended: Callable[[Path], None],
) -> None:
    """Performs runs, one after another or on a cluster, until one was interrupted."""
    if _is_parallel(study) and paths:
        cluster.run(paths, study.runs, request, ended)
        return
    for path in paths:
        if request.signal is not None:
            return
        perform(path, lambda: request.signal is not None)
        ended(path)
        if _interrupted([path]):
            return


def _interrupted(paths: Sequence[Path]) -> int:
    """SIGINT where one of the runs was interrupted, else 0."""
    found = [state.read(path) for path in paths]
    interrupted = any(f is not None and f.status == "interrupted" for f in found)
    return int(signal.SIGINT) if interrupted else 0


def _announcer(total: int, say: Callable[[str], None]) -> Callable[[Path], None]:
    count = 0

    def ended(path: Path) -> None:
        nonlocal count
        count += 1
        found = state.read(path)
        if found is not None:
            words = f": {found.message.splitlines()[0]}" if found.message else ""
            time = f"{found.seconds:.1f} s"
            say(f"[{count}/{total}] {path.name}: {found.status} after {time}{words}")

    return ended


def _measure(
    study: Study,
    variants: Sequence[Variant],
    runs: Path,
    request: StopRequest,
    say: Callable[[str], None],
) -> None:
    """Measures the cost of the finished runs that lack it; a failure is told and stops nothing."""
    if study.cost is None:
        return
    for variant in variants:
        found = state.read(runs / variant.name)
        if request.signal is not None or found is None or found.status != "finished":
            continue
        try:
            cost.ensure(runs / variant.name, variant, study.cost, study.directory)
        except Exception as error:  # lack of memory, too: the other runs have their costs
            reason = f"{type(error).__name__}: {error}"
            say(f"{variant.name}: the cost was not measured: {reason}")
