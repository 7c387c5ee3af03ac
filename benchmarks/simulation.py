"""Molecular dynamics by our engine, by ASE and, for SNAP, by LAMMPS; and many replicas at once.

    python benchmarks/simulation.py snap --files X.snapcoeff X.snapparam [--threads 1]
    python benchmarks/simulation.py nequip

The same potential drives all: a published SNAP, or a small NequIP with random parameters. Every
task is measured in turns with the evaluation of energy and forces alone, so that the overhead of an
engine is a ratio of neighbours in time. README.md beside this file says how programs are measured.
"""

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import equivariant
import local
import systems
from compare import Benchmark, install, parser
from orchestrate import alternate
from report import heading, quartiles, ratios

PROGRAMS = {"snap": ("mlip_jax", "mlip_jax_ase", "lammps"), "nequip": ("mlip_jax", "mlip_jax_ase")}
SMALL = {"layers": 2, "l_max": 1, "channels": [16, 16], "radial_mlp": [32]}
"""NequIP that costs about as much as SNAP."""
BARE = "mlip_jax evaluate"
CASES = {"si512": (4, 20), "si64": (2, 50)}
"""Cubic cells along an edge, and steps of a run."""
SKINS = {"md, lists renewed": 0.1}  # Å
REPLICAS = (8, 64)
FS_PER_DAY = 86400.0


def make_case(name: str, options: argparse.Namespace) -> tuple[dict, dict]:
    """The case of a request and the settings that go with its structure."""
    repeats, steps = CASES[name]
    structure = systems.silicon(repeats)
    case = {
        "name": name,
        "structures": [systems.to_request(structure, equivariant.MD["temperature_K"])],
        "md_steps": options.md_steps or steps,
        "evaluations": options.md_steps or steps,  # as many in a turn as steps of an engine
        "atoms": len(structure),
        **equivariant.MD,
    }
    if name == "si64":
        case["replicas"] = [count for count in REPLICAS if count <= options.most_replicas]
    else:
        case["skins"] = SKINS
    settings, cutoff = make_settings(structure, options)
    return case | {"pairs": systems.count_pairs([structure], cutoff)}, settings


def make_settings(structure, options: argparse.Namespace) -> tuple[dict, float]:
    """What workers make the potential of, and its cutoff [Å]."""
    if options.model == "snap":
        return local.published("snap", options.files)
    settings = {"model": "nequip"} | equivariant.SETTINGS["nequip"] | SMALL
    numbers, symbols = systems.species([structure])
    settings |= {
        "atomic_numbers": numbers,
        "species": symbols,
        "average_neighbors": systems.count_pairs([structure], settings["cutoff"]) / len(structure),
        "energy_scale": equivariant.ENERGY_SCALE,
    }
    return settings, settings["cutoff"]


def measure(benchmark: Benchmark, name: str) -> None:
    """All tasks of all programs of one case, in turns."""
    options = benchmark.options
    case, settings = make_case(name, options)
    result = benchmark.results[name] = {"atoms": case["atoms"], "tasks": {}}
    with ExitStack() as stack:
        cache = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-jax-")))
        prepared = {}
        for program in options.programs:
            worker = stack.enter_context(benchmark.start(program, cache))
            setup = worker.ask(do="setup", case=case, settings=settings)
            if setup["edges"] != case["pairs"]:
                raise ValueError(f"{program}: {setup['edges']} pairs, not {case['pairs']}")
            for task, modes in setup["modes"].items():
                mode = options.block if options.block in modes else modes[0]
                first = worker.ask(do="first", task=task, mode=mode)
                label = f"{program} {task}"
                prepared[label] = (worker, task)
                result["tasks"][label] = {"mode": mode, "facts": first["facts"]}
                print(f"{name}: {label} is ready ({mode})", file=sys.stderr)
        samples = alternate(prepared, options.rounds, options.calls)
    for label, taken in samples.items():
        result["tasks"][label]["samples"] = taken


def summary(run: dict) -> list[dict]:
    """One row per case and task, with ratios to the bare evaluation in the same rounds."""
    rows = []
    for case, result in run["cases"].items():
        measured = {label: record["samples"] for label, record in result["tasks"].items()}
        clocks = {clock: ratios(measured, BARE, clock) for clock in ("wall", "cpu")}
        for label, record in result["tasks"].items():
            row = {"case": case, "task": label, "mode": record["mode"], **record["facts"]}
            for clock, slower in clocks.items():
                low, median, high = quartiles([sample[clock] for sample in record["samples"]])
                row |= {
                    f"{clock}_s": median,
                    f"{clock}_spread": [low, high],
                    f"{clock}_least": min(sample[clock] for sample in record["samples"]),
                    f"{clock}_times_bare": slower.get(label),
                    f"{clock}_atom_steps_per_s": result["atoms"] / median,
                }
                if not label.endswith("evaluate"):
                    fs = run["md"]["timestep_fs"]
                    row[f"{clock}_ns_per_day"] = 1e-6 * fs * FS_PER_DAY / median
            rows.append(row)
    return rows


def markdown(run: dict, rows: list[dict]) -> str:
    """The table with its heading; of replicas, a step is that of one of them."""
    lines = heading(run)
    for case in run["cases"]:
        lines += [f"## {case}", "", *_table([row for row in rows if row["case"] == case]), ""]
    return "\n".join(lines)


def _table(rows: list[dict]) -> list[str]:
    header = ("task", "mode", "ms a step: wall (quartiles)", "processor: median, least")
    header += ("× bare: wall, processor", "ns/day: wall, processor", "10³ atom steps/s", "facts")
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for row in rows:
        low, high = (1e3 * time for time in row["wall_spread"])
        pairs = {
            name: ", ".join(f"{row[f'{clock}_{name}']:.3g}" for clock in ("wall", "cpu"))
            if row.get(f"wall_{name}") is not None
            else ""
            for name in ("times_bare", "ns_per_day")
        }
        facts = {key: row[key] for key in ("slots", "skin", "renewals") if key in row}
        cells = (
            row["task"],
            row["mode"],
            f"{1e3 * row['wall_s']:.3g} ({low:.3g} to {high:.3g})",
            f"{1e3 * row['cpu_s']:.3g}, {1e3 * row['cpu_least']:.3g}",
            pairs["times_bare"],
            pairs["ns_per_day"],
            f"{1e-3 * row['wall_atom_steps_per_s']:.3g}, {1e-3 * row['cpu_atom_steps_per_s']:.3g}",
            ", ".join(f"{key} {value}" for key, value in facts.items()),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Run what the command line asks for and write the results."""
    options = parser(__doc__.splitlines()[0], PROGRAMS["snap"], tuple(CASES))
    options.add_argument("model", choices=PROGRAMS)
    options.add_argument("--files", nargs="+", type=Path, default=(), help="of a SNAP")
    options.add_argument("--block", default="jit, blocks of 16", help="mode of our own programs")
    options.add_argument("--most-replicas", type=int, default=max(REPLICAS), help="leave out more")
    chosen = options.parse_args()
    if chosen.model == "snap" and not chosen.files:
        options.error("snap: --files is missing; give a .snapcoeff and a .snapparam file")
    chosen.programs = [name for name in chosen.programs if name in PROGRAMS[chosen.model]]
    if not chosen.no_install:
        install(chosen)
    benchmark = Benchmark(chosen, make_case)
    for name in chosen.cases:
        measure(benchmark, name)
    title = {"snap": "SNAP", "nequip": "A small NequIP"}[chosen.model]
    print(
        benchmark.finish(
            f"Molecular dynamics of silicon, {title}",
            f"simulation-{chosen.model}",
            summary=summary,
            markdown=markdown,
            md=equivariant.MD,
        )
    )


if __name__ == "__main__":
    main()
