"""The worker's side of the conversation: JSON lines in, JSON lines out, one program per process.

A worker describes its program as tasks ("evaluate", "md", "train", "screen"), each of which can be
run in one or more modes (say eager and compiled). The requests are

    {"do": "setup", "case": {...}, "settings": {...}}     build the model
    {"do": "first", "task": "evaluate", "mode": "eager"}  everything up to the first result
    {"do": "run", "task": "evaluate", "calls": 5}         repeat in steady state, timed one by one
    {"do": "stop"}

and every reply carries the peak resident memory of the process so far. Only the standard library is
imported here, since this file runs in the Python environment of every peer.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any


def _nothing() -> None:
    """Reset nothing."""


@dataclass(frozen=True)
class Task:
    """Something to repeat: `reset` is not timed, `run` is, and one run is `units` units of work.

    `facts` is what there is to know of it once it is prepared. What `run` returns goes into the
    record: an energy [eV] that programs can be compared by, or nothing.
    """

    run: Callable[[], Any]
    reset: Callable[[], Any] = _nothing
    units: int = 1
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """One program, ready for one case.

    Attributes:
        modes: task -> mode -> function that prepares the task in that mode.
        info: what the program reports about its model (parameters, pairs, …).
    """

    modes: dict[str, dict[str, Callable[[], Task]]]
    info: dict[str, Any] = field(default_factory=dict)


def versions(*packages: str) -> dict[str, str]:
    """The installed versions of distributions, those that are there."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_mib() -> float:
    """Peak resident memory of this process [MiB], `VmHWM` of Linux."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def timed(task: Task) -> dict[str, float]:
    """Run a task once: wall and processor time [s] per unit of work."""
    task.reset()
    wall, cpu = time.perf_counter(), time.process_time()
    task.run()
    return {
        "wall": (time.perf_counter() - wall) / task.units,
        "cpu": (time.process_time() - cpu) / task.units,
    }


class _Session:
    """The state between requests: the program and the tasks that are prepared."""

    def __init__(self, build: Callable[[dict, dict], Program]) -> None:
        self.build = build
        self.tasks: dict[str, Task] = {}
        self.program = Program({})

    def setup(self, request: dict) -> dict:
        """Build the program; seconds are counted from the launch of the process."""
        self.program = self.build(request["case"], request["settings"])
        modes = {task: list(modes) for task, modes in self.program.modes.items()}
        launched = float(os.environ["BENCHMARK_LAUNCHED"])
        return {"seconds": time.time() - launched, "modes": modes, **self.program.info}

    def first(self, request: dict) -> dict:
        """Prepare a task in a mode and run it once, compilation included."""
        start = time.perf_counter()
        task = self.program.modes[request["task"]][request["mode"]]()
        task.reset()
        result = task.run()
        self.tasks[request["task"]] = task
        return {
            "seconds": time.perf_counter() - start,
            "facts": task.facts,
            "result": result,
        }

    def run(self, request: dict) -> dict:
        """Repeat a prepared task."""
        task = self.tasks[request["task"]]
        return {"samples": [timed(task) for _ in range(request["calls"])]}


def serve(build: Callable[[dict, dict], Program]) -> None:
    """Answer requests until told to stop; what the program prints goes to standard error."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    session = _Session(build)
    actions = {"setup": session.setup, "first": session.first, "run": session.run}
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "stop":
            break
        try:
            reply = actions[request["do"]](request)
        except Exception:  # hides nothing: the traceback is the reply, and the other side raises it
            reply = {"error": traceback.format_exc()}
        print(json.dumps(reply | {"peak_mib": peak_mib()}), file=replies)
