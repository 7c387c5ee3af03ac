"""The state of a run on disk: `state.json`, replaced as a whole, and the config it was made for."""

import contextlib
import dataclasses
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from mlip_jax import config
from mlip_jax.config import UserError

Status = Literal["waiting", "running", "interrupted", "failed", "finished"]

STATE, CONFIG, LOCK = "state.json", "expanded.yaml", "lock"


@dataclasses.dataclass(frozen=True)
class RunState:
    """Where a run stands.

    Attributes:
        status: a run that says `running` and whose process is gone was interrupted.
        digest: of its config and data, see `expand.identity`.
        identity: the same in full, to name what differs.
        base: directory beside which its data are looked up.
        message: why it failed.
        seconds: wall time, over all attempts at it that ended by themselves or were asked to.
        parameters: number of trained parameters of the potential.
        stopped: why training ended.
        host: name of the machine that runs it.
        pid: of the process there.
    """

    status: Status
    digest: str
    identity: Mapping[str, Any]
    base: str
    message: str = ""
    seconds: float = 0.0
    parameters: int | None = None
    stopped: str | None = None
    host: str | None = None
    pid: int | None = None


def read(directory: Path) -> RunState | None:
    """The state of the run in a directory; `None` where none was begun.

    Raises:
        UserError: for a damaged file.
    """
    path = directory / STATE
    if not path.exists():
        return None
    try:
        return RunState(**json.loads(config.read_text(path)))
    except (json.JSONDecodeError, TypeError) as error:
        raise UserError(
            f"{path}: damaged ({error}); expected the state of a run. Remove {directory}; the run "
            "starts anew."
        ) from None


def write(directory: Path, state: RunState) -> None:
    """Replaces the state of a run; a crash leaves the old one."""
    replace_text(directory / STATE, json.dumps(dataclasses.asdict(state), indent=1) + "\n")


def begin(directory: Path, mapping: Mapping[str, Any], state: RunState) -> None:
    """Makes the directory of a run, with its config; the state comes last."""
    directory.mkdir(parents=True, exist_ok=True)
    replace_text(directory / CONFIG, config.format_yaml(mapping))
    write(directory, state)


def is_alive(state: RunState) -> bool:
    """Whether the process of a run still works at it, on this machine."""
    if state.status != "running" or state.pid is None or state.host != platform.node():
        return False
    try:
        os.kill(state.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keeps a second study from running in the same directory, where the system has such locks.

    The lock ends with the process, however that ends.

    Raises:
        UserError: where another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{directory}: another process runs a study here. Wait for it, or choose another "
                "--output."
            ) from None
        yield


def replace_text(path: Path, text: str) -> None:
    """Writes a file under another name and renames it when it is complete."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
