"""A run in a process of its own, so that whatever ends it ends nothing else."""

import dataclasses
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mlip_jax.study import state

LOG = "log.txt"
"""What a run printed that had no terminal."""

_POLL_SECONDS = 0.2
_LOG_TAIL = 2000


def apart(directory: Path, asked: Callable[[], bool], *, quiet: bool = False) -> None:
    """Performs a run in a new process and waits for it.

    The process is in a session of its own: Ctrl-C on the terminal does not reach it. When it is
    asked to stop it leaves a checkpoint. A process that dies leaves a run that failed.

    Args:
        directory: of the run.
        asked: whether it is to stop; asked again and again, and passed on to the process once.
        quiet: whether what it prints goes to `log.txt` in its directory.
    """
    command = [sys.executable, "-m", "mlip_jax.study.perform", str(directory)]
    with open(directory / LOG if quiet else os.devnull, "w", encoding="utf-8") as log:
        output = log if quiet else None
        process = subprocess.Popen(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if quiet else None,
            start_new_session=True,
        )
        try:
            _wait(process, asked)
        except BaseException:
            # A second Ctrl-C: no checkpoint is waited for.
            process.terminate()
            process.wait()
            raise
    if asked():
        fail(directory, "", "interrupted")
    else:
        fail(directory, f"the process {_end(process.returncode)}.{_tail(directory / LOG)}")


def end(directories: Sequence[Path]) -> None:
    """Ends those of some runs that this machine works at, without a checkpoint."""
    for directory in directories:
        found = state.read(directory)
        if found is not None and found.pid is not None and state.is_alive(found):
            os.kill(found.pid, signal.SIGKILL)


def _wait(process: subprocess.Popen[bytes], asked: Callable[[], bool]) -> None:
    passed_on = False
    while True:
        try:
            process.wait(_POLL_SECONDS)
            return
        except subprocess.TimeoutExpired:
            if not passed_on and asked():
                process.send_signal(signal.SIGINT)
                passed_on = True


def fail(directory: Path, message: str, status: state.Status = "failed") -> None:
    """Writes how a run ended that could not say so itself."""
    found = state.read(directory)
    if found is not None and found.status in ("running", "waiting"):
        after = dataclasses.replace(found, status=status, message=message, pid=None)
        state.write(directory, after)


def _end(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    reason = ", often for lack of memory" if -code == signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name} on {platform.node()}{reason}"


def _tail(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace").strip() if log.exists() else ""
    return f" It printed: {text[-_LOG_TAIL:]}" if text else ""


def _environment() -> dict[str, str]:
    """This process's, with this package importable."""
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
