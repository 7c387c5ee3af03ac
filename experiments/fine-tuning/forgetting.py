"""What fine-tuned potentials still know of crystals that they were not fine-tuned on.

    python experiments/fine-tuning/forgetting.py FILE.extxyz.gz runs/chgnet-0.3.0 runs/*/potential

Prints mean absolute errors of forces and stresses against the labels of the file, of the first
potential and of the others: energies are left out, since reference energies were re-fitted.
"""

import argparse
from pathlib import Path

import numpy as np

from mlip_jax import compilation, inference, storage, units
from mlip_jax.cli import process
from mlip_jax.data import formats


def main() -> None:
    """Evaluates the potentials of the command line on some structures of a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("potentials", type=Path, nargs="+")
    parser.add_argument("--limit", type=int, default=100, help="every k-th, at most so many")
    options = parser.parse_args()
    process.quiet_xla()
    compilation.use_older_emitters()
    process.prepare_jax("float32")
    everything = formats.read(options.file)
    structures = everything[:: -(-len(everything) // options.limit)]
    forces = np.concatenate([s.labels.forces for s in structures])
    stresses = np.array([s.labels.stress for s in structures])
    print(f"{len(structures)} structures\nforces [eV/Å]  stress [GPa]")
    for path in options.potentials:
        found = inference.predict(storage.load(path), structures)
        of_forces = np.abs(np.concatenate([p.forces for p in found]) - forces).mean()
        of_stress = np.abs(np.array([p.stress for p in found]) - stresses).mean() / units.GPA
        print(f"{of_forces:13.4f}  {of_stress:12.3f}  {path}", flush=True)


if __name__ == "__main__":
    main()
