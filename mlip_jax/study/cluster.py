"""Runs sent to a cluster of `dask.distributed`: a local one, or any by its address."""

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

    On a request to stop, runs that work leave a checkpoint and others are not begun.

    Args:
        directories: of the runs, in the order in which they are begun.
        settings: how many at a time, or where the cluster is.
        request: to stop.
        ended: called in this process for each run that ended.

    Raises:
        UserError: without the library, or where no cluster answers.
    """
    require()
    with _client(settings) as client:
        futures = {
            client.submit(launch.apart, path.absolute(), quiet=True, pure=False, retries=0): path
            for path in directories
        }
        asked = False
        while futures:
            for future in [future for future in futures if future.done()]:
                path = futures.pop(future)
                if not future.cancelled():
                    future.result()
                    ended(path)
            if request.signal is not None and not asked:
                asked = True
                _stop(client, futures)
            # distributed waits with its own loop; signals arrive between these naps.
            threading.Event().wait(_POLL_SECONDS if futures else 0.0)


def _stop(client: Any, futures: dict[Any, Path]) -> None:
    """Cancels what waits, and interrupts what runs, through one worker of each machine."""
    busy = {key for keys in client.processing().values() for key in keys}
    client.cancel([future for future in futures if future.key not in busy])
    directories = [path.absolute() for path in futures.values()]
    workers = client.scheduler_info(n_workers=-1)["workers"]
    one_of_each = {facts["host"]: address for address, facts in workers.items()}
    client.run(launch.interrupt, directories, workers=list(one_of_each.values()))


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
