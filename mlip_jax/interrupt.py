"""A request to stop: Ctrl-C or SIGTERM end a long process at its next safe point."""

import contextlib
import signal
import threading
from types import FrameType


class StopRequest:
    """While it is entered, the first SIGINT or SIGTERM is remembered; a second one acts at once.

    Outside the main thread, which alone receives signals, it does nothing.

    Attributes:
        signal: number of the signal that came, or `None`.
    """

    def __init__(self):
        self.signal: int | None = None
        self._restore = contextlib.ExitStack()

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                previous = signal.signal(number, self._remember)
                self._restore.callback(signal.signal, number, previous)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore.close()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore.close()
