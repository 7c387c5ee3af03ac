"""Start a worker per program, all in the same surroundings; only one computes at a time."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

WORKERS = Path(__file__).parent / "workers"
OURS = ("mlip_jax", "mlip_jax_ase")
"""Programs that run in this interpreter, from this working copy."""


class WorkerError(RuntimeError):
    """A worker stopped or answered with an error; the message carries what it said."""


@dataclass(frozen=True)
class Surroundings:
    """What every program gets alike.

    Attributes:
        threads: processor cores that a process may use, and the size of its thread pools.
        hugepages: let glibc's allocator ask for transparent huge pages.
    """

    threads: int = 1
    hugepages: bool = False

    def cores(self) -> set[int]:
        """The cores that workers are bound to: the first ones this process may use."""
        return set(sorted(os.sched_getaffinity(0))[: self.threads])

    def environment(self, scratch: str) -> dict[str, str]:
        """The environment of a worker; `scratch` is its own empty folder, so no cache survives."""
        inherited = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "TMPDIR", "CC", "CXX")
        variables = {name: os.environ[name] for name in inherited if name in os.environ}
        threads = str(self.threads)
        pools = ("OMP", "MKL", "OPENBLAS", "NUMEXPR")
        variables |= {f"{pool}_NUM_THREADS": threads for pool in pools}
        variables |= {
            "JAX_PLATFORMS": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
            "TORCHINDUCTOR_CACHE_DIR": scratch,
            "TORCHINDUCTOR_COMPILE_THREADS": threads,
            "WANDB_MODE": "disabled",
            "PYTHONWARNINGS": "ignore",
        }
        if self.hugepages:
            variables["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        return variables


class Worker:
    """A running worker; use as a context manager."""

    def __init__(self, name: str, python: Path, surroundings: Surroundings, extra: dict) -> None:
        self.name = name
        self._scratch = tempfile.TemporaryDirectory(prefix=f"benchmark-{name}-")
        self._log = open(Path(self._scratch.name) / "stderr", "w+")  # noqa: SIM115 (closed in __exit__)
        environment = surroundings.environment(self._scratch.name) | extra
        cores = surroundings.cores()
        self._process = subprocess.Popen(
            [str(python), str(WORKERS / f"{name}_worker.py")],
            env=environment | {"BENCHMARK_LAUNCHED": repr(time.time())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )

    def ask(self, **request: object) -> dict:
        """Send one request and wait for its reply."""
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        reply = json.loads(line) if line else {"error": f"stopped\n{self._complaints()}"}
        if "error" in reply:
            raise WorkerError(f"{self.name}, {request['do']}: {reply['error']}")
        return reply

    def _complaints(self) -> str:
        self._log.seek(0)
        return "".join(self._log.readlines()[-30:])

    def __enter__(self) -> "Worker":
        return self

    def stop(self) -> None:
        """End the process; its memory is free for the next one."""
        self._process.kill()
        self._process.wait()

    def __exit__(self, *exception: object) -> None:
        self.stop()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            stream.close()
        self._scratch.cleanup()


def interpreter(name: str, venvs: Path) -> Path:
    """The Python of a program: a peer's own environment, this one for our own."""
    return Path(sys.executable) if name in OURS else venvs / name / "bin" / "python"


def probe(worker: Worker, task: str, modes: list[str], calls: int) -> dict[str, float]:
    """Fastest wall time [s] per unit of work in each mode; a mode that fails is left out."""
    fastest = {}
    for mode in modes:
        try:
            worker.ask(do="first", task=task, mode=mode)
            samples = worker.ask(do="run", task=task, calls=calls)["samples"]
        except WorkerError as error:
            print(f"  {worker.name}: mode {mode} of {task} left out: {error}", file=sys.stderr)
            continue
        fastest[mode] = min(sample["wall"] for sample in samples)
    return fastest


def alternate(
    tasks: dict[str, tuple[Worker, str]], rounds: int, calls: int
) -> dict[str, list[dict]]:
    """Measure in turns: in each round every worker repeats its task `calls` times.

    The order turns round from one round to the next: no task always follows the same other.

    Args:
        tasks: what is measured, by name: a worker and a task that it has prepared.
        rounds: turns of every task.
        calls: repetitions in a turn.
    """
    samples: dict[str, list[dict]] = {name: [] for name in tasks}
    for turn in range(rounds):
        for name in list(tasks)[:: 1 if turn % 2 == 0 else -1]:
            worker, task = tasks[name]
            reply = worker.ask(do="run", task=task, calls=calls)
            samples[name] += [sample | {"round": turn} for sample in reply["samples"]]
    return samples
