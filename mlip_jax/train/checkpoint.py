"""Checkpoints: the state of training and the best parameters, replaced as one whole.

A checkpoint is a directory `checkpoints/<step>` with the arrays (orbax) and `position.json`. It is
written under another name and renamed when it is complete, and the previous one is removed
afterwards: whenever the process is killed or the disk is full, one complete checkpoint remains.
"""

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mlip_jax.config import UserError

_WRITING = ".writing"


@dataclasses.dataclass(frozen=True)
class Position:
    """Where training stands. The step alone determines the epoch and the next batch.

    Attributes:
        step: number of steps taken.
        sums: sums of errors over the steps of the unfinished epoch, see `loss.Sums`.
        gradient_norm: of the last step.
        best: smallest value of the monitored metric so far.
        best_epoch: the epoch that reached it.
        failures: validations since.
        stopped: why training ended (`epochs`, `max_steps` or `patience`), if it did.
        metrics_bytes: length of `metrics.jsonl`; what a resumed run finds beyond it is cut off.
        seconds: wall time spent so far.
        compile_seconds: of it, on compiling.
    """

    step: int = 0
    sums: list[list[float]] | None = None
    gradient_norm: float | None = None
    best: float | None = None
    best_epoch: int | None = None
    failures: int = 0
    stopped: str | None = None
    metrics_bytes: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0


def save(directory: Path, position: Position, trees: Mapping[str, Any]) -> Path:
    """Writes a checkpoint and then removes the older ones.

    Args:
        directory: `checkpoints` of the run.
        position: where training stands.
        trees: named trees of arrays (the state, the best parameters); `None` is left out.

    Raises:
        UserError: where it cannot be written; the previous checkpoint is intact.
    """
    target = directory / f"{position.step:09d}"
    temporary = directory / f"{target.name}{_WRITING}"
    arrays = _flatten(trees)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _write_arrays(temporary / "arrays", arrays)
        text = json.dumps(dataclasses.asdict(position) | {"keys": sorted(arrays)}, indent=1)
        _write_text(temporary / "position.json", text)
        if target.exists():
            os.replace(target, directory / f"{target.name}.old")
        os.replace(temporary, target)
    except (OSError, ValueError) as error:
        # Orbax reports a full disk as a ValueError of its storage layer.
        shutil.rmtree(temporary, ignore_errors=True)
        raise _cannot_write(directory, arrays, error) from error
    for path in directory.iterdir():
        if path.is_dir() and path != target and path.name[:9].isdigit():
            shutil.rmtree(path, ignore_errors=True)
    return target


def latest(directory: Path) -> Path | None:
    """The newest complete checkpoint, or None."""
    if not directory.is_dir():
        return None
    complete = [p for p in directory.iterdir() if p.name.removesuffix(".old").isdigit()]
    return max(complete, key=lambda p: (int(p.name[:9]), not p.name.endswith(".old")), default=None)


def load_position(checkpoint: Path) -> Position:
    """Reads where training stood.

    Raises:
        UserError: for a damaged checkpoint.
    """
    fields = [f.name for f in dataclasses.fields(Position)]
    values = _read_position(checkpoint)
    return Position(**{name: values[name] for name in fields if name in values})


def load_tree(checkpoint: Path, name: str, like: Any) -> Any:
    """Reads one tree into the structure of `like`; leaves are numpy arrays.

    Raises:
        UserError: where the checkpoint holds other arrays than `like`, or is damaged.
    """
    stored = _read_arrays(checkpoint / "arrays", _read_position(checkpoint)["keys"])
    expected = _flatten({name: like})
    prefix = name + "/"
    found = {key: value for key, value in stored.items() if key.startswith(prefix)}
    shapes = {key: (np.shape(value), np.dtype(value.dtype)) for key, value in expected.items()}
    if {key: (value.shape, value.dtype) for key, value in found.items()} != shapes:
        different = sorted(set(found) ^ set(expected)) or sorted(expected)
        raise UserError(
            f"{checkpoint}: holds other arrays than this run's ({', '.join(different[:5])} …); "
            "it was written for another model or optimiser. Train anew in another directory."
        )
    return jax.tree.unflatten(jax.tree.structure(like), [found[key] for key in expected])


def _flatten(trees: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by their path; the names are free of orbax's separators."""
    arrays = {}
    for name, tree in trees.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            key = jax.tree_util.keystr(path, simple=True, separator="/")
            arrays[f"{name}/{key}"] = np.asarray(leaf)
    return arrays


def _orbax_names(keys) -> dict[str, str]:
    return {key: f"{index:05d}" for index, key in enumerate(sorted(keys))}


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    import orbax.checkpoint as ocp  # takes seconds to import

    names = _orbax_names(arrays)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.resolve(), {names[key]: value for key, value in arrays.items()})
        checkpointer.wait_until_finished()


def _read_arrays(path: Path, keys) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp

    names = _orbax_names(keys)
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            arguments = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names.values()}
            stored = checkpointer.restore(path.resolve(), restore_args=arguments)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: damaged checkpoint ({error}); remove it and start anew."
        ) from error
    return {key: np.asarray(stored[name]) for key, name in names.items()}


def _read_position(checkpoint: Path) -> dict[str, Any]:
    try:
        return json.loads((checkpoint / "position.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{checkpoint}: damaged checkpoint ({error}); start anew.") from error


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _cannot_write(directory: Path, arrays, error: Exception) -> UserError:
    size = sum(value.nbytes for value in arrays.values()) / 1e6
    previous = latest(directory)
    kept = f"the last one, {previous}, is intact" if previous else "there is none before it"
    full = getattr(error, "errno", None) == errno.ENOSPC or "space" in str(error).lower()
    reason = "the disk is full" if full else str(error)
    advice = "Make room" if full else "See that the directory stays and may be written"
    return UserError(
        f"{directory}: a checkpoint of {size:.1f} MB cannot be written: {reason}; {kept}. "
        f"{advice}, then continue with --resume."
    )
