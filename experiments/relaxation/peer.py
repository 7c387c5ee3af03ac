"""The same relaxations by the chgnet package: FIRE of ASE on positions and strain.

    PYTHON_WITH_CHGNET experiments/relaxation/peer.py runs/relaxation

Reads `start.extxyz`, writes a line to `chgnet.jsonl` after each crystal and goes on where it
stopped. It stops a descent by the limits of `relax.py`.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.optimize import FIRE
from chgnet.model import CHGNet
from chgnet.model.dynamics import CHGNetCalculator

MAX_FORCE, MAX_STRESS, MAX_STEPS = 0.05, 1e-4, 1000


def converged(atoms) -> bool:
    """Whether forces and stress are below the limits."""
    force = np.linalg.norm(atoms.get_forces(), axis=1).max()
    return force < MAX_FORCE and np.abs(atoms.get_stress()).max() < MAX_STRESS


def main() -> None:
    """Relaxes all crystals that are not in the file yet."""
    folder = Path(sys.argv[1])
    output = folder / "chgnet.jsonl"
    done = len(output.read_text().splitlines()) if output.exists() else 0
    torch.set_num_threads(1)
    model = CHGNet.load(use_device="cpu", check_cuda_mem=False, verbose=False)
    for place, atoms in enumerate(read(folder / "start.extxyz", ":")):
        if place < done:
            continue
        started, used = time.perf_counter(), time.process_time()
        atoms.calc = CHGNetCalculator(model, use_device="cpu", check_cuda_mem=False)
        status, steps = "not converged in max_steps", 0
        try:
            descent = FIRE(FrechetCellFilter(atoms), logfile=None)
            for _ in descent.irun(fmax=0.0, steps=MAX_STEPS):
                steps = descent.nsteps
                if converged(atoms):
                    status = "converged"
                    break
        except (ValueError, RuntimeError) as error:  # of this crystal, reported; the others go on
            status = f"{type(error).__name__}: {error}"
        line = {
            "status": status,
            "steps": steps,
            "atoms": len(atoms),
            "volume": float(atoms.get_volume()),
            "energy": float(atoms.get_potential_energy()) if status == "converged" else None,
            "wall_s": time.perf_counter() - started,
            "processor_s": time.process_time() - used,
        }
        with output.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(place, line, flush=True)


if __name__ == "__main__":
    main()
