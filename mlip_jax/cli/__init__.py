"""The command line. `python -m mlip_jax` is the same."""

from mlip_jax.cli.entry import main

__all__ = ["main"]
