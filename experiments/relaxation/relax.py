"""A hundred crystals relaxed by CHGNet, positions and cells, in batches.

    MLIP_JAX_PATH=FILES MLIP_JAX_DATA=DATA python experiments/relaxation/relax.py runs/relaxation

Writes `start.extxyz` (what both programs begin with) and `mlip_jax.jsonl` (how each ended) into the
folder; `peer.py` does the same work there with the chgnet package, `compare.py` sets them side
by side.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
from ase.io import read, write

from mlip_jax import compilation
from mlip_jax.cli import process
from mlip_jax.data.formats.ase_files import from_atoms
from mlip_jax.interop import catalogue
from mlip_jax.simulate.batch_relax import relax_many
from mlip_jax.simulate.settings import BatchRelaxationConfig

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("MLIP_JAX_DATA", HERE.parents[2] / "shared/data"))
SETS = ("mptrj-random-1k.extxyz.gz", "alexandria-random-1k.extxyz.gz")
STRAIN, RATTLE = 0.05, 0.05
MAX_FORCE, MAX_STRESS, MAX_STEPS = 0.05, 1e-4, 1000  # eV/Å, eV/Å^3 (0.016 GPa)


def crystals(count: int, largest: int) -> list:
    """Every k-th crystal of the sets, strained by up to 5 % in each component and rattled [Å]."""
    rng = np.random.default_rng(0)
    chosen = []
    for name in SETS:
        found = [
            atoms
            for atoms in read(DATA / "mattersim-benchmarks" / name, ":")
            if len(atoms) <= largest
        ]
        chosen += found[:: len(found) // (count // len(SETS))][: count // len(SETS)]
    for atoms in chosen:
        strain = rng.uniform(-STRAIN, STRAIN, (3, 3))
        symmetric = 0.5 * (strain + strain.T)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + symmetric), scale_atoms=True)
        atoms.positions += rng.normal(0.0, RATTLE, atoms.positions.shape)
        atoms.calc, atoms.info = None, {}
    return chosen


def main() -> None:
    """Relaxes what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--largest", type=int, default=40, help="atoms of a crystal, at most")
    parser.add_argument("--batch-atoms", type=int, default=64)
    parser.add_argument("--skin", type=float, default=0.3, help="Å, of the neighbour lists")
    options = parser.parse_args()
    process.quiet_xla()
    compilation.use_older_emitters()
    process.prepare_jax("float32")
    options.output.mkdir(parents=True, exist_ok=True)
    begun = crystals(options.count, options.largest)
    write(options.output / "start.extxyz", begun)
    settings = BatchRelaxationConfig(
        max_force=MAX_FORCE,
        max_steps=MAX_STEPS,
        max_stress=MAX_STRESS,
        precision="float32",
        cell="full",
        batch_atoms=options.batch_atoms,
        skin=options.skin,
    )
    started, used = time.perf_counter(), time.process_time()
    potential = catalogue.load("chgnet-0.3.0")
    structures = [from_atoms(atoms) for atoms in read(options.output / "start.extxyz", ":")]
    results = relax_many(
        potential, structures, settings, lambda done, all_: print(f"{done}/{all_}", flush=True)
    )
    summary = {
        "program": "mlip_jax",
        "wall_s": time.perf_counter() - started,
        "processor_s": time.process_time() - used,
        "batch_atoms": options.batch_atoms,
    }
    lines = [
        {
            "status": one.status,
            "steps": one.steps,
            "atoms": one.structure.num_atoms,
            "formula": atoms.get_chemical_formula(),
            "volume": float(abs(np.linalg.det(one.structure.cell))),
            "energy": None
            if one.structure.labels.energy is None
            else float(one.structure.labels.energy),
        }
        for one, atoms in zip(results, begun, strict=True)
    ]
    text = "".join(json.dumps(line) + "\n" for line in [summary, *lines])
    (options.output / "mlip_jax.jsonl").write_text(text)
    print(json.dumps(summary), sum(one.converged for one in results), "converged")


if __name__ == "__main__":
    main()
