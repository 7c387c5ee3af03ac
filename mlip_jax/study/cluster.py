"""Runs sent to a cluster of `dask.distributed`: a local one, or any by its address."""

import asyncio
import contextlib
import importlib.util
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mlip_jax.config import UserError
from mlip_jax.interrupt import StopRequest
from mlip_jax.study import launch
from mlip_jax.study.sections import RunsConfig

STOP = "stop"
"""File beside the runs whose presence asks the workers to stop."""

_POLL_SECONDS = 0.5
_CONNECT_SECONDS = 30


def require() -> None:
    """Refuses to go on without the library.

    Raises:
        UserError: saying how to install it.
    """
    if importlib.util.find_spec("distributed") is None:
        raise UserError(
            "runs.workers, runs.address: several runs at a time need dask.distributed: "
            "pip install 'mlip_jax[cluster]'. Or set runs.workers: 1."
        )


def run(
    directories: Sequence[Path],
    settings: RunsConfig,
    request: StopRequest,
    ended: Callable[[Path], None],
) -> None:
    """Performs runs, some at a time, each in a process of its own on a worker.

    On a request to stop, runs that work leave a checkpoint and others are not begun; workers on
    other machines learn of it through a file.

    Args:
        directories: of the runs, in the order in which they are begun.
        settings: how many at a time, or where the cluster is.
        request: to stop.
        ended: called in this process for each run that ended.

    Raises:
        UserError: without the library, or where no cluster answers.
    """
    require()
    flags = {path.parent / STOP for path in directories}
    for flag in flags:
        flag.unlink(missing_ok=True)
    with _client(settings) as client:
        futures = {
            client.submit(_perform, path.absolute(), pure=False, retries=0): path
            for path in directories
        }
        try:
            while futures:
                for future in [future for future in futures if future.done()]:
                    _take(future, futures[future])
                    ended(futures.pop(future))
                if request.signal is not None:
                    for flag in flags:
                        flag.touch()
                # distributed waits with its own loop; signals arrive between these naps.
                threading.Event().wait(_POLL_SECONDS if futures else 0.0)
        except BaseException:
            # A second Ctrl-C: no checkpoint is waited for.
            launch.end(list(futures.values()))
            raise


def _take(future: Any, directory: Path) -> None:
    """Marks a run as failed whose worker was lost; what the run itself says is in its state."""
    try:
        future.result()
    except (Exception, asyncio.CancelledError) as error:
        launch.fail(directory, f"its worker was lost: {type(error).__name__}: {error}")


def _perform(directory: Path) -> None:
    """On a worker: performs a run, unless the study was asked to stop."""
    flag = directory.parent / STOP
    if not flag.exists():
        launch.apart(directory, flag.exists, quiet=True)


@contextlib.contextmanager
def _client(settings: RunsConfig) -> Iterator[Any]:
    import distributed  # pyright: ignore[reportMissingImports] (optional)

    if settings.address is not None:
        try:
            client = distributed.Client(settings.address, timeout=_CONNECT_SECONDS)
        except (OSError, ValueError, TimeoutError) as error:
            raise UserError(
                f"runs.address: no cluster answers at {settings.address!r} ({error}). Start one "
                "(`dask scheduler`, `dask worker`), correct the address, or leave it out."
            ) from None
        with client:
            yield client
        return
    with _without_interrupts():  # the workers inherit it: Ctrl-C is ours to pass on
        cluster = distributed.LocalCluster(
            n_workers=settings.workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,  # pyright: ignore[reportArgumentType]
            silence_logs="ERROR",  # pyright: ignore[reportArgumentType]
        )
    with cluster, distributed.Client(cluster) as client:
        yield client


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
