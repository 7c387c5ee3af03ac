"""A request to stop: Ctrl-C or SIGTERM end training after the step in flight, resumably."""

import signal
import threading
from types import FrameType

from mlip_jax.config import UserError


class TrainingInterrupted(UserError):
    """Training was asked to stop and left a checkpoint.

    Attributes:
        exit_code: for the shell, 128 + number of the signal.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopRequest:
    """While it is entered, the first SIGINT or SIGTERM is remembered; a second one acts at once.

    Attributes:
        signal: number of the signal that came, or None.
    """

    def __init__(self):
        self.signal: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        self._previous.clear()
