"""A training run that a test kills: `python killed_run.py OUTPUT [--kill N] [--resume]`."""

import argparse
import os
import signal
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main():
    """Trains; kills its own process before the step that is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("--kill", type=int)
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()

    import numpy as np

    from mlip_jax.train import loop
    from tests.train import tiny

    take_step, count = loop.engine.take_step, 0

    def step(*values):
        nonlocal count
        count += 1
        if count == arguments.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return take_step(*values)

    loop.engine.take_step = step
    task = tiny.task(epochs=3, checkpoint_steps=2, checkpoint_minutes=0.0)
    outcome = loop.train(task, arguments.output, resume=arguments.resume, progress=False)
    params = outcome.variables["params"]
    np.savez(
        arguments.output / "params.npz",
        hidden=params["hidden"]["kernel"],
        readout=params["readout"]["kernel"],
    )


if __name__ == "__main__":
    main()
