"""Published universal potentials side by side with their own programs, the same weights in both.

    python benchmarks/universal.py chgnet [--threads 1] [--hugepages] [--data FOLDER]
    python benchmarks/universal.py m3gnet | tensornet | nequix

mlip_jax imports the weights that the catalogue names (`MLIP_JAX_PATH`). README.md beside this file
says what is measured, and under which rules.
"""

import argparse
from pathlib import Path

import numpy as np
import systems
from ase import Atoms
from ase.io import read
from compare import Benchmark, install, parser

from mlip_jax.interop import catalogue

MODELS = {
    "chgnet": ("chgnet-0.3.0", "chgnet"),
    "m3gnet": ("m3gnet-matpes-pbe-2025.1", "matgl"),
    "tensornet": ("tensornet-matpes-pbe-2025.1", "matgl"),
    "nequix": ("nequix-mp-1", "nequix"),
}
MD = {"timestep_fs": 1.0, "temperature_K": 300.0}
INFERENCE = {"si64": (lambda: systems.silicon(2), 50), "oxide224": (systems.oxide, 20)}
CASES = (*INFERENCE, "crystals")
CRYSTALS = ("mptrj-random-1k.extxyz.gz", "alexandria-random-1k.extxyz.gz")
RATTLE = 0.01
"""Å. Perfect crystals have pairs just at a cutoff, which rounding counts or does not."""


def crystals(folder: Path, count: int, known: set[int], cutoff: float) -> list[Atoms]:
    """Different crystals, half from each file, of known elements, every atom with a neighbour."""
    chosen = []
    for name in CRYSTALS:
        everything = [
            atoms for atoms in read(folder / name, ":") if set(atoms.numbers.tolist()) <= known
        ]
        picked = []
        for index in np.linspace(0, len(everything) - 1, 2 * count).astype(int):
            atoms = everything[index]
            atoms.calc = None
            atoms.rattle(RATTLE, seed=int(index))
            if systems.least_neighbors(atoms, cutoff) > 0 and len(picked) < count // 2:
                picked.append(atoms)
        chosen += picked
    return chosen


def make_case(name: str, options: argparse.Namespace) -> tuple[dict, dict]:
    """The case of a request and the settings that go with its structures."""
    published, _ = MODELS[options.model]
    entry, potential = catalogue.entry(published), catalogue.load(published)
    cutoff = potential.model.cutoff
    case = {"name": name}
    if name == "crystals":
        known = {int(z) for z in potential.species}
        structures = crystals(options.data, options.crystals, known, cutoff)
        case |= {"tasks": ["screen"]}
        entries = [systems.to_request(atoms) for atoms in structures]
    else:
        make, steps = INFERENCE[name]
        structures = [make()]
        entries = [systems.to_request(structures[0], MD["temperature_K"])]
        case |= {"tasks": ["evaluate", "md"], "md_steps": options.md_steps or steps, **MD}
    case |= {
        "structures": entries,
        "atoms": sum(map(len, structures)),
        "pairs": systems.count_pairs(structures, cutoff),
    }
    numbers, symbols = systems.species(structures)
    folder = catalogue.find(published)
    settings = {
        "format": entry.format,
        "files": [str(folder / file) for file in entry.files],
        "cutoff": cutoff,
        "atomic_numbers": numbers,
        "species": symbols,
    }
    return case, settings


def main() -> None:
    """Run what the command line asks for and write the results."""
    peers = tuple(dict.fromkeys(peer for _, peer in MODELS.values()))
    options = parser(__doc__.splitlines()[0], ("mlip_jax", *peers), CASES)
    options.add_argument("model", choices=MODELS)
    options.add_argument("--crystals", type=int, default=200, help="length of the list")
    data = Path(__file__).parents[2] / "shared/data/mattersim-benchmarks"
    options.add_argument("--data", type=Path, default=data, help="folder of the crystals' files")
    chosen = options.parse_args()
    published, peer = MODELS[chosen.model]
    chosen.programs = [name for name in chosen.programs if name in ("mlip_jax", peer)]
    if not chosen.no_install:
        install(chosen)
    benchmark = Benchmark(chosen, make_case)
    benchmark.run_all()
    print(benchmark.finish(published, f"universal-{chosen.model}", md=MD))


if __name__ == "__main__":
    main()
