"""The end of a training that was asked to stop."""

from mlip_jax.config import UserError


class TrainingInterrupted(UserError):
    """Training was asked to stop and left a checkpoint.

    Attributes:
        exit_code: for the shell, 128 + number of the signal.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number
