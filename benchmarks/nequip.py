"""NequIP side by side: mlip_jax against nequip, nequix and mlip with the same hyper-parameters.

    python benchmarks/nequip.py --venvs DIR [--threads 2] [--hugepages] [--data Si_train.extxyz.gz]

README.md beside this file says what is measured, and under which rules.
"""

import argparse
from pathlib import Path

import systems
from compare import Benchmark, install, parser
from report import BATCH

PROGRAMS = ("mlip_jax", "nequip", "nequix", "mlip")
SETTINGS = {
    "layers": 4,
    "l_max": 2,
    "channels": [64, 32, 32],  # 64x0e + 32x1o + 32x2e
    "cutoff": 5.0,  # Å
    "radial_basis": 8,
    "radial_mlp": [64, 64],
    "envelope_exponent": 6,
    "learning_rate": 1e-3,
    "loss_weights": [1.0, 25.0],  # energy per atom, forces
}
# Sizes of a model that compiles in seconds, to see whether everything runs.
SMOKE = {"layers": 2, "channels": [4, 4, 4], "radial_mlp": [8, 8]}
MD = {"timestep_fs": 1.0, "temperature_K": 300.0}
# Parameters are random: small energies keep the dynamics close to free flight, alike for all.
ENERGY_SCALE = 1e-3
INFERENCE = {
    "si64": (lambda: systems.silicon(2), 50),
    "si512": (lambda: systems.silicon(4), 10),
    "water192": (lambda: systems.water(4), 20),
}
CASES = (*INFERENCE, "train")


def make_case(name: str, options: argparse.Namespace) -> tuple[dict, dict]:
    """The case of a request and the settings that go with its structures."""
    if name == "train":
        structures, source = systems.training_set(options.data, BATCH * options.batches)
        entries = [systems.to_request(atoms, labels=True) for atoms in structures]
        case = {"structures": entries, "batch_size": BATCH, "source": source}
    else:
        make, steps = INFERENCE[name]
        steps = options.md_steps or steps
        structures = [make()]
        entries = [systems.to_request(atoms, MD["temperature_K"]) for atoms in structures]
        case = {"structures": entries, "md_steps": steps, **MD}
    numbers, symbols = systems.species(structures)
    atoms = sum(len(structure) for structure in structures)
    pairs = systems.count_pairs(structures, SETTINGS["cutoff"])
    settings = (SETTINGS | SMOKE if options.smoke else SETTINGS) | {
        "atomic_numbers": numbers,
        "species": symbols,
        "average_neighbors": pairs / atoms,
        "energy_scale": 1.0 if name == "train" else ENERGY_SCALE,
    }
    return case | {"name": name, "atoms": atoms, "pairs": pairs}, settings


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    options = parser(__doc__.splitlines()[0], PROGRAMS, CASES)
    options.add_argument("--batches", type=int, default=4, help="training batches of 8 structures")
    options.add_argument("--data", type=Path, help="labelled extended XYZ (mlearn's Si_train)")
    options.add_argument("--smoke", action="store_true", help="a tiny model: does it run at all?")
    return options.parse_args(arguments)


def main() -> None:
    """Run what the command line asks for and write the results."""
    options = parse()
    if not options.no_install:
        install(options)
    benchmark = Benchmark(options, make_case)
    for name in options.cases:
        benchmark.run(name)
    settings = SETTINGS | (SMOKE if options.smoke else {})
    print(benchmark.finish("NequIP", "nequip", settings=settings, md=MD))


if __name__ == "__main__":
    main()
