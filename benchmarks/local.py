"""Published local potentials of silicon side by side with their own programs.

    python benchmarks/local.py snap --files X.snapcoeff X.snapparam [--threads 1]
    python benchmarks/local.py gap --files X.xml X.xml.sparseX.*

mlip_jax imports the files. SNAP runs against LAMMPS, GAP against QUIP (quippy). README.md beside
this file says how programs are measured. The peers compute in double precision, as their wheels do;
mlip_jax in single precision, as it does by default in molecular dynamics.
"""

import argparse
from pathlib import Path

import systems
from compare import Benchmark, install, parser

from mlip_jax.interop import weights

PEERS = {"snap": "lammps", "gap": "quippy"}
MD = {"timestep_fs": 1.0, "temperature_K": 300.0}
CASES = {"si512": (4, 20), "si4096": (8, 5)}


def make_case(name: str, options: argparse.Namespace) -> tuple[dict, dict]:
    """The case of a request and the settings that go with its structure."""
    repeats, steps = CASES[name]
    structure = systems.silicon(repeats)
    settings, cutoff = published(options.format, options.files)
    pairs = systems.count_pairs([structure], cutoff)
    case = {
        "name": name,
        "structures": [systems.to_request(structure, MD["temperature_K"])],
        "md_steps": options.md_steps or steps,
        "atoms": len(structure),
        "pairs": pairs,
        **MD,
    }
    return case, settings


def published(kind: str, paths: list[Path]) -> tuple[dict, float]:
    """What workers read a potential of silicon from, and its cutoff [Å]."""
    cutoff = weights.read(kind, paths).model.cutoff
    files = sorted(str(path.resolve()) for path in paths)
    return {"format": kind, "files": files, "species": ["Si"]}, cutoff


def main() -> None:
    """Run what the command line asks for and write the results."""
    programs = ("mlip_jax", *PEERS.values())
    options = parser(__doc__.splitlines()[0], programs, tuple(CASES))
    options.add_argument("format", choices=sorted(PEERS), help="of the potential")
    options.add_argument("--files", nargs="+", type=Path, required=True, help="of the potential")
    chosen = options.parse_args()
    if tuple(chosen.programs) == programs:
        chosen.programs = ("mlip_jax", PEERS[chosen.format])
    if not chosen.no_install:
        install(chosen)
    benchmark = Benchmark(chosen, make_case)
    benchmark.run_all()
    title = f"{chosen.format.upper()} of silicon"
    print(benchmark.finish(title, f"local-{chosen.format}", md=MD))


if __name__ == "__main__":
    main()
