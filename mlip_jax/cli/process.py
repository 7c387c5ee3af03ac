"""Settings of the process that a command runs in, and how errors end it.

Exit codes: 0 done; 1 a mistake of the user's or a fault of the data; 2 a wrong command line; 130
Ctrl-C; 143 SIGTERM. Anything else is a fault of ours, and its traceback is shown.
"""

import enum
import errno
import functools
import hashlib
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mlip_jax.config import UserError

USER_ERROR, INTERRUPTED = 1, 130

COMPUTING = ("train", "evaluate", "predict", "md", "relax", "study", "properties")
"""Commands that run large compiled programs."""


class Precision(enum.StrEnum):
    """Of the arithmetic."""

    float32 = "float32"
    float64 = "float64"


PrecisionOption = Annotated[
    Precision, typer.Option(help="Arithmetic; float64 costs about twice the time.")
]


def prepare_jax(precision: str) -> None:
    """Sets what JAX reads once: 64-bit arithmetic, and where compiled programs are kept.

    Programs are cached in `MLIP_JAX_CACHE` (`off` turns it off), else below the user's cache
    directory, apart for each kind of CPU. `JAX_COMPILATION_CACHE_DIR` goes before both.
    """
    import jax  # late, so that help appears at once

    if precision == "float64":
        jax.config.update("jax_enable_x64", True)
    directory = cache_directory(os.environ)
    if directory is not None and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(directory))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def share_cache() -> None:
    """Tells processes that this one starts where compiled programs are kept."""
    directory = cache_directory(os.environ)
    if directory is not None:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(directory))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def cache_directory(environment: Mapping[str, str]) -> Path | None:
    """Where compiled programs are kept; `None` where they are not."""
    chosen = environment.get("MLIP_JAX_CACHE")
    if chosen == "off":
        return None
    home = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(chosen) if chosen else Path(home) / "mlip_jax"
    return root / hashlib.sha256(_cpu().encode()).hexdigest()[:16]


def quiet_xla() -> None:
    """Hides messages of XLA's runtime; what matters in them is raised as an exception, too.

    A program that comes from the cache on a CPU is announced by a page of alleged differences
    between this machine and itself.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def tuned_environment(
    environment: Mapping[str, str], arguments: Sequence[str]
) -> dict[str, str] | None:
    """The environment with huge pages for large buffers, or `None` where it stays as it is.

    On a CPU, XLA's large temporaries are fresh memory at every call, and page faults cost more than
    arithmetic: energy and forces of NequIP on 512 silicon atoms take 0.82 s with huge pages and
    1.45 s without (two cores). glibc reads the setting only when a process starts. An environment
    that sets `GLIBC_TUNABLES`, or `MLIP_JAX_TUNE=0`, is left alone.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return None
    if not arguments or arguments[0] not in COMPUTING:
        return None
    if "GLIBC_TUNABLES" in environment or environment.get("MLIP_JAX_TUNE") == "0":
        return None
    return {**environment, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def restart_tuned() -> None:
    """Replaces the process by the same one in the tuned environment, once."""
    environment = tuned_environment(os.environ, sys.argv[1:])
    if environment is not None:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def guarded(command: Callable[..., Any]) -> Callable[..., None]:
    """Turns the errors that a user can cause into a message and an exit code."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            raise _stop(str(error), getattr(error, "exit_code", USER_ERROR)) from None
        except KeyboardInterrupt:
            raise _stop("interrupted.", INTERRUPTED) from None
        except OSError as error:
            if error.errno not in _OS_ADVICE:
                raise
            advice = _OS_ADVICE[error.errno]
            raise _stop(f"{error.filename or ''}: {advice}".lstrip(": "), USER_ERROR) from None

    return run


_OS_ADVICE = {
    errno.ENOSPC: "no space left on the device. Free space; what was complete on disk is intact.",
    errno.EDQUOT: "disk quota exceeded. Free space; what was complete on disk is intact.",
    errno.ENOENT: "no such file or directory.",
    errno.EACCES: "permission denied. Choose a path that you may write.",
    errno.EROFS: "read-only file system. Choose a path that you may write.",
    errno.EISDIR: "is a directory; expected a file.",
    errno.ENOTDIR: "has a file where a directory is expected.",
}


def _stop(message: str, code: int) -> typer.Exit:
    typer.secho(f"error: {message}", fg=typer.colors.RED, err=True)
    return typer.Exit(code)


def _cpu() -> str:
    """What the compiler may use of this CPU: programs for one kind do not run on every other."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return f"{platform.machine()} {line}"
    return f"{platform.machine()} {platform.processor()}"
