"""What a run tells: `metrics.jsonl`, TensorBoard, and lines with a progress bar on the terminal."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rich.console
import rich.progress

from mlip_jax.config import UserError

QUIET_SECONDS = 2.0
"""Shortest time between two lines on the terminal, unless one is the best or the last so far."""


_HEADERS = {
    "energy_mae": "E meV/atom",
    "forces_mae": "F meV/Å",
    "stress_mae": "S meV/Å^3",
    "charges_mae": "q 1e-3 e",
    "magmoms_mae": "m 1e-3 μ_B",
}


class MetricsFile:
    """`metrics.jsonl`, one line for every epoch; only whole lines are ever written.

    Args:
        path: of the file.
        length: bytes to keep, from the checkpoint that training continues from; 0 to start anew.
    """

    def __init__(self, path: Path, length: int = 0):
        path.parent.mkdir(parents=True, exist_ok=True)
        if length and (not path.exists() or path.stat().st_size < length):
            raise UserError(
                f"{path}: shorter than the checkpoint says ({length} bytes); it was changed. "
                "Restore it, or train anew in another directory."
            )
        self._stream = path.open("ab")
        self._stream.truncate(length)

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends a line."""
        self._stream.write(json.dumps(record, allow_nan=False).encode() + b"\n")

    def sync(self) -> int:
        """Forces what was written to the disk; the length of the file in bytes."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return self._stream.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Writes what remains and closes the file."""
        self._stream.close()


class TensorBoard:
    """Scalars for TensorBoard.

    Args:
        directory: of its files.
        step: lines of later steps, from before a resume, are hidden.
    """

    def __init__(self, directory: Path, step: int):
        try:
            import tensorboardX
        except ImportError:
            raise UserError(
                "training.tensorboard: needs tensorboardX; pip install 'mlip_jax[report]'."
            ) from None
        self._writer = tensorboardX.SummaryWriter(str(directory), purge_step=step if step else None)

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds the numbers of a line of `metrics.jsonl`."""
        for group in ("train", "valid"):
            for name, value in (record.get(group) or {}).items():
                self._writer.add_scalar(f"{name}/{group}", value, record["step"])
        for name, entry in (record.get("observables") or {"values": {}})["values"].items():
            self._writer.add_scalar(f"observables/{name}", entry["value"], record["step"])
        self._writer.add_scalar("learning_rate", record["learning_rate"], record["step"])

    def close(self) -> None:
        """Writes what remains."""
        self._writer.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; none where there is no such file (an exact solver)."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


class Terminal:
    """Progress on the terminal, or silence.

    Args:
        epochs: of the run.
        enabled: False prints nothing.
        console: another than standard output.
    """

    def __init__(self, epochs: int, enabled: bool, console: rich.console.Console | None = None):
        self._epochs = epochs
        self._console = console or rich.console.Console(highlight=False, quiet=not enabled)
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not (enabled and self._console.is_terminal),
        )
        self._task: rich.progress.TaskID | None = None
        self._last_line = -QUIET_SECONDS
        self._header: tuple[str, ...] = ()

    def __enter__(self) -> "Terminal":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def say(self, message: str) -> None:
        """Prints a line."""
        self._console.print(message, markup=False, soft_wrap=True)

    def epoch(self, epoch: int, steps: int, done: int = 0) -> None:
        """Starts the bar of an epoch."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        description = f"epoch {epoch + 1}/{self._epochs}"
        self._task = self._bar.add_task(description, total=steps, completed=done)

    def step(self) -> None:
        """Moves the bar."""
        if self._task is not None:
            self._bar.advance(self._task)

    def metrics(self, record: Mapping[str, Any], last: bool = False) -> None:
        """Prints the metrics of an epoch, not too often."""
        now = time.monotonic()
        if now - self._last_line < QUIET_SECONDS and not last:
            return
        self._last_line = now
        measured = "valid" if record.get("valid") else "train"
        shown = record[measured]
        names = tuple(key for key in shown if key == "loss" or key.endswith("_mae"))
        if names != self._header:
            self._header = names
            columns = "".join(f"{_HEADERS.get(name, name):>14}" for name in names)
            self.say("mean absolute errors of the set named in each line")
            self.say(f"{'epoch':>7}{'rate':>10}{'set':>7}{columns}{'s':>8}")
        scaled = {name: shown[name] * (1e3 if name in _HEADERS else 1.0) for name in names}
        values = "".join(f"{scaled[name]:>14.4g}" for name in names)
        self.say(
            f"{record['epoch']:>7}{record['learning_rate']:>10.1e}"
            f"{measured:>7}{values}"
            f"{record['time']['epoch_seconds']:>8.1f}{' *' if record['best'] else ''}"
        )
