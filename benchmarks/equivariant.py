"""NequIP, MACE or TensorNet side by side: mlip_jax and peers, the same hyper-parameters.

    python benchmarks/equivariant.py nequip [--threads 2] [--hugepages] [--data Si_train.extxyz.gz]
    python benchmarks/equivariant.py mace [--channels 128]
    python benchmarks/equivariant.py tensornet

README.md beside this file says what is measured, and under which rules.
"""

import argparse
from pathlib import Path

import systems
from compare import Benchmark, install, parser
from report import BATCH

PROGRAMS = {
    "nequip": ("mlip_jax", "nequip", "nequix", "mlip"),
    "mace": ("mlip_jax", "mace", "mlip"),
    "tensornet": ("mlip_jax", "matgl"),
}
_COMMON = {
    "cutoff": 5.0,  # Å
    "radial_basis": 8,
    "learning_rate": 1e-3,
    "loss_weights": [1.0, 25.0],  # energy per atom, forces
}
SETTINGS = {
    "nequip": _COMMON
    | {
        "layers": 4,
        "l_max": 2,
        "channels": [64, 32, 32],  # 64x0e + 32x1o + 32x2e
        "radial_mlp": [64, 64],
        "envelope_exponent": 6,
    },
    "mace": _COMMON
    | {
        "layers": 2,
        "l_max": 3,
        "channels": [32, 32],  # 32x0e + 32x1o
        "correlation": 3,
        "radial_mlp": [64, 64, 64],
        "envelope_exponent": 5,
    },
    "tensornet": _COMMON | {"layers": 2, "channels": [64], "radial_basis": 32},
}
# Sizes of a model that compiles in seconds, to see whether everything runs.
SMOKE = {
    "nequip": {"layers": 2, "channels": [4, 4, 4], "radial_mlp": [8, 8]},
    "mace": {"l_max": 2, "channels": [4, 4], "correlation": 2, "radial_mlp": [8, 8]},
    "tensornet": {"channels": [4], "radial_basis": 8},
}
MD = {"timestep_fs": 1.0, "temperature_K": 300.0}
# Parameters are random: small energies keep the dynamics close to free flight, alike for all.
ENERGY_SCALE = 1e-3
INFERENCE = {
    "si64": (lambda: systems.silicon(2), 50),
    "si512": (lambda: systems.silicon(4), 10),
    "si4096": (lambda: systems.silicon(8), 2),
    "water192": (lambda: systems.water(4), 20),
    "oxide224": (systems.oxide, 20),
}
CASES = (*INFERENCE, "train")


def hyperparameters(options: argparse.Namespace) -> dict:
    """Of the model that the command line names."""
    settings = {"model": options.model} | SETTINGS[options.model]
    if options.smoke:
        settings |= SMOKE[options.model]
    if options.channels:
        settings["channels"] = [options.channels] * len(settings["channels"])
    return settings


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
    pairs = systems.count_pairs(structures, _COMMON["cutoff"])
    settings = hyperparameters(options) | {
        "atomic_numbers": numbers,
        "species": symbols,
        "average_neighbors": pairs / atoms,
        "energy_scale": 1.0 if name == "train" else ENERGY_SCALE,
    }
    return case | {"name": name, "atoms": atoms, "pairs": pairs}, settings


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    known = tuple(dict.fromkeys(name for names in PROGRAMS.values() for name in names))
    options = parser(__doc__.splitlines()[0], known, CASES)
    options.add_argument("model", choices=PROGRAMS)
    options.add_argument("--channels", type=int, help="channels of every degree")
    options.add_argument("--batches", type=int, default=4, help="training batches of 8 structures")
    options.add_argument("--data", type=Path, help="labelled extended XYZ (mlearn's Si_train)")
    options.add_argument("--smoke", action="store_true", help="a tiny model: does it run at all?")
    result = options.parse_args(arguments)
    result.programs = [name for name in result.programs if name in PROGRAMS[result.model]]
    return result


def main() -> None:
    """Run what the command line asks for and write the results."""
    options = parse()
    if not options.no_install:
        install(options)
    benchmark = Benchmark(options, make_case)
    benchmark.run_all()
    settings = hyperparameters(options)
    title = {"nequip": "NequIP", "mace": "MACE", "tensornet": "TensorNet"}[options.model]
    channels = ", ".join(map(str, settings["channels"]))
    name = f"{options.model}-{options.channels}" if options.channels else options.model
    print(benchmark.finish(f"{title}, {channels} channels", name, settings=settings, md=MD))


if __name__ == "__main__":
    main()
