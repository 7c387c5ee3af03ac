"""NequIP side by side: mlip_jax against nequip, nequix and mlip with the same hyper-parameters.

    python benchmarks/nequip.py --venvs DIR [--threads 2] [--hugepages] [--data Si_train.extxyz.gz]

README.md beside this file says what is measured, and under which rules.
"""

import argparse
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import systems
from orchestrate import Surroundings, Worker, WorkerError, alternate, interpreter, probe
from report import BATCH, write

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


class Benchmark:
    """One run over the chosen programs and cases."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.surroundings = Surroundings(options.threads, options.hugepages)
        self.chosen: dict[tuple[str, str], str] = dict(options.mode)
        self.results: dict[str, dict] = {}
        self.probes: dict[str, dict] = {}

    def start(self, name: str) -> Worker:
        """A fresh worker of a program."""
        python = interpreter(name, self.options.venvs)
        extra = {}
        if name == "mlip_jax":
            extra["PYTHONPATH"] = str(Path(__file__).parents[1])
        return Worker(name, python, self.surroundings, extra)

    def choose_modes(self, name: str, case: dict, settings: dict) -> None:
        """Try the modes of a program in a worker of its own and keep the fastest of each task."""
        with self.start(name) as worker:
            for task, modes in worker.ask(do="setup", case=case, settings=settings)[
                "modes"
            ].items():
                if (name, task) in self.chosen:
                    continue
                if len(modes) > 1:
                    calls = 1 if task == "md" else self.options.probe_calls
                    times = probe(worker, task, modes, calls)
                    self.probes[f"{name} {task} ({case['name']})"] = times
                    self.chosen[name, task] = min(times, key=times.get)
                else:
                    self.chosen[name, task] = modes[0]

    def run(self, name: str) -> None:
        """Measure one case; a program that fails is reported and left out."""
        case, settings = make_case(name, self.options)
        settings["threads"] = self.options.threads
        self.results[name] = {"atoms": case["atoms"], "pairs": case["pairs"], "programs": {}}
        tasks = ("train",) if name == "train" else ("evaluate", "md")
        with ExitStack() as stack:
            workers = {}
            for program in self.options.programs:
                try:
                    if any((program, task) not in self.chosen for task in tasks):
                        self.choose_modes(program, case, settings)
                    worker = stack.enter_context(self.start(program))
                    setup = worker.ask(do="setup", case=case, settings=settings)
                except (WorkerError, OSError) as error:
                    print(f"{program} left out of {name}: {error}", file=sys.stderr)
                    continue
                print(f"{name}: {program} is set up", file=sys.stderr)
                if setup["edges"] != case["pairs"]:
                    message = f"{program}: {setup['edges']} pairs in {name}, not {case['pairs']}"
                    raise ValueError(message)
                workers[program] = worker
                self.results[name]["programs"][program] = {"setup": setup, "tasks": {}}
            for task in tasks:
                self.measure(name, task, workers)

    def measure(self, name: str, task: str, workers: dict[str, Worker]) -> None:
        """First results one after the other, then the steady state in turns."""
        records = self.results[name]["programs"]
        for program, worker in list(workers.items()):
            mode = self.chosen[program, task]
            try:
                first = worker.ask(do="first", task=task, mode=mode)
            except WorkerError as error:
                print(f"{program} left out of {name} {task}: {error}", file=sys.stderr)
                del workers[program]
                continue
            records[program]["tasks"][task] = {
                "mode": mode,
                "first_s": records[program]["setup"]["seconds"] + first["seconds"],
            }
        calls = self.options.calls if task != "md" else 1
        for program, samples in alternate(workers, task, self.options.rounds, calls).items():
            peak = workers[program].ask(do="run", task=task, calls=0)["peak_mib"]
            records[program]["tasks"][task] |= {"samples": samples, "peak_mib": peak}
        print(f"{name} {task}: done", file=sys.stderr)


def install(options: argparse.Namespace) -> None:
    """Make the environments of the chosen peers that are missing, with this interpreter."""
    peers = [name for name in options.programs if not interpreter(name, options.venvs).exists()]
    if peers:
        script = Path(__file__).with_name("install_peers.sh")
        environment = {"PYTHON": sys.executable} | os.environ
        subprocess.run([script, options.venvs, *peers], check=True, env=environment)


def fixed_mode(text: str) -> tuple[tuple[str, str], str]:
    """`nequip.md=eager` as a program, its task and the mode."""
    where, separator, mode = text.partition("=")
    program, dot, task = where.partition(".")
    if not (separator and dot and program in PROGRAMS):
        raise argparse.ArgumentTypeError(f"got {text!r}; expected something like nequip.md=eager")
    return (program, task), mode


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("MLIP_JAX_BENCHMARK_VENVS", "~/.cache/mlip_jax_benchmarks")
    venvs = {"type": lambda text: Path(text).expanduser(), "default": Path(default).expanduser()}
    parser.add_argument("--venvs", **venvs, help="folder of the peers' environments")
    parser.add_argument("--programs", nargs="+", default=PROGRAMS, choices=PROGRAMS)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--threads", type=int, default=1, help="cores for every program")
    parser.add_argument("--hugepages", action="store_true", help="huge pages for every program")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every program")
    parser.add_argument("--calls", type=int, default=5, help="evaluations or steps in a turn")
    parser.add_argument("--probe-calls", type=int, default=3, help="repetitions to choose a mode")
    parser.add_argument(
        "--mode",
        type=fixed_mode,
        action="append",
        default=[],
        metavar="PROGRAM.TASK=MODE",
        help="do not try the modes of a task (nequip's aotinductor compiles for many minutes)",
    )
    parser.add_argument("--md-steps", type=int, help="steps of an MD slice, all systems")
    parser.add_argument("--batches", type=int, default=4, help="training batches of 8 structures")
    parser.add_argument("--data", type=Path, help="labelled extended XYZ (mlearn's Si_train)")
    parser.add_argument("--smoke", action="store_true", help="a tiny model: does it run at all?")
    parser.add_argument("--no-install", action="store_true", help="leave missing peers out")
    results = Path(__file__).parent / "results"
    parser.add_argument("--output", type=Path, default=results, help="folder of the results")
    return parser.parse_args(arguments)


def main() -> None:
    """Run what the command line asks for and write the results."""
    options = parse()
    if not options.no_install:
        install(options)
    benchmark = Benchmark(options)
    for name in options.cases:
        benchmark.run(name)
    run = {
        "settings": SETTINGS | (SMOKE if options.smoke else {}),
        "md": MD,
        "threads": options.threads,
        "hugepages": options.hugepages,
        "rounds": options.rounds,
        "calls": options.calls,
        "probes": benchmark.probes,
        "cases": benchmark.results,
    }
    print(write(run, "nequip", options.output))


if __name__ == "__main__":
    main()
