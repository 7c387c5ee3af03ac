"""Our potentials driven by ASE: velocity Verlet with `MLIPCalculator`."""

import numpy as np
from mlip_jax_worker import BLOCKS, describe, make_potential, to_structure
from protocol import Program, Task, serve
from structures import to_atoms, velocity_verlet

from mlip_jax import compilation
from mlip_jax.interop.ase import MLIPCalculator


def build(case: dict, settings: dict) -> Program:
    """Dynamics of one structure."""
    compilation.use_older_emitters()
    structure = to_structure(case["structures"][0])
    potential = make_potential(settings, structure)

    def dynamics(block: int) -> Task:
        atoms = to_atoms(case["structures"][0])
        atoms.calc = MLIPCalculator(potential, block=block)
        run, reset = velocity_verlet(atoms, case["md_steps"], case["timestep_fs"])
        return Task(run, reset, units=case["md_steps"])

    modes = {mode: lambda block=block: dynamics(block) for mode, block in BLOCKS.items()}
    return Program({"md": modes}, describe(potential.variables_in(np.float32), case["pairs"]))


if __name__ == "__main__":
    serve(build)
