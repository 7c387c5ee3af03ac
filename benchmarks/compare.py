"""A comparison of programs: cases, modes, first results, turns."""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import report
from orchestrate import OURS, Surroundings, Worker, WorkerError, alternate, interpreter, probe

MakeCase = Callable[[str, argparse.Namespace], tuple[dict, dict]]


class Benchmark:
    """One run over the chosen programs and cases.

    Args:
        options: of the command line, see `parser`.
        make_case: `(name, options) ->` the case of a request, and its settings.
    """

    def __init__(self, options: argparse.Namespace, make_case: MakeCase) -> None:
        self.options = options
        self.make_case = make_case
        self.surroundings = Surroundings(options.threads, options.hugepages)
        self.chosen: dict[tuple[str, str], str] = dict(options.mode)
        self.results: dict[str, dict] = {}
        self.probes: dict[str, dict] = {}

    def run_all(self) -> None:
        """Measure the chosen cases; one that is interrupted (Ctrl-C, SIGTERM) is the last."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            for name in self.options.cases:
                self.run(name)
        except KeyboardInterrupt:
            print("interrupted: what has been measured is written", file=sys.stderr)

    def start(self, name: str, cache: Path | None = None) -> Worker:
        """A fresh worker of a program; JAX keeps compiled programs in `cache`."""
        python = interpreter(name, self.options.venvs)
        extra = {}
        if name in OURS:
            extra["PYTHONPATH"] = str(Path(__file__).parents[1])
        else:
            extra["LD_LIBRARY_PATH"] = str(python.parents[1] / "lib")
        if cache is not None:
            extra["JAX_COMPILATION_CACHE_DIR"] = str(cache / name)
            extra["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
        return Worker(name, python, self.surroundings, extra)

    def choose_modes(self, name: str, case: dict, settings: dict) -> None:
        """Try the modes of a program in a worker of its own and keep the fastest of each task."""
        with self.start(name) as worker:
            for task, modes in worker.ask(do="setup", case=case, settings=settings)[
                "modes"
            ].items():
                if (name, task) in self.chosen or task not in self.options.tasks:
                    continue
                if len(modes) > 1:
                    calls = 1 if task in ("md", "screen") else self.options.probe_calls
                    times = probe(worker, task, modes, calls)
                    self.probes[f"{name} {task} ({case['name']})"] = times
                    self.chosen[name, task] = min(times, key=times.get)
                else:
                    self.chosen[name, task] = modes[0]

    def run(self, name: str) -> None:
        """Measure one case; a program that fails is reported and left out."""
        case, settings = self.make_case(name, self.options)
        settings["threads"] = self.options.threads
        self.results[name] = {"atoms": case["atoms"], "pairs": case["pairs"], "programs": {}}
        tasks = case.get("tasks", ("train",) if name == "train" else ("evaluate", "md"))
        tasks = tuple(task for task in tasks if task in self.options.tasks)
        with ExitStack() as stack:
            workers = {}
            cache = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-jax-")))
            for program in self.options.programs:
                try:
                    if any((program, task) not in self.chosen for task in tasks):
                        self.choose_modes(program, case, settings)
                    worker = stack.enter_context(self.start(program, cache))
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
            for worker in workers.values():
                worker.stop()
            for task in () if self.options.no_warm else tasks:
                self.measure_warm(task, cache, case, settings)

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
                "result": first["result"],
            }
        calls = self.options.calls if task not in ("md", "screen") else 1
        prepared = {program: (worker, task) for program, worker in workers.items()}
        try:
            measured = alternate(prepared, self.options.rounds, calls)
        except WorkerError as error:
            print(f"{name} {task} left out: {error}", file=sys.stderr)
            for program in workers:
                del records[program]["tasks"][task]
            return
        for program, samples in measured.items():
            peak = workers[program].ask(do="run", task=task, calls=0)["peak_mib"]
            records[program]["tasks"][task] |= {"samples": samples, "peak_mib": peak}
        print(f"{name} {task}: done", file=sys.stderr)

    def measure_warm(self, task: str, cache: Path, case: dict, settings: dict) -> None:
        """First results of fresh processes that find the programs compiled by those before."""
        for program, records in self.results[case["name"]]["programs"].items():
            record = records["tasks"].get(task)
            if record is None:
                continue
            with self.start(program, cache) as worker:
                setup = worker.ask(do="setup", case=case, settings=settings)
                first = worker.ask(do="first", task=task, mode=record["mode"])
            record["warm_s"] = setup["seconds"] + first["seconds"]

    def finish(
        self, title: str, name: str, summary=report.summary, markdown=report.markdown, **facts
    ) -> str:
        """Write the results; returns the tables.

        Args:
            title: of the tables.
            name: of the files.
            summary: see `report.write`.
            markdown: see `report.write`.
            **facts: written with the samples.
        """
        options = self.options
        run = {
            "title": title,
            "threads": options.threads,
            "hugepages": options.hugepages,
            "rounds": options.rounds,
            "calls": options.calls,
            "probes": self.probes,
            "cases": self.results,
            **facts,
        }
        return report.write(run, name, options.output, summary, markdown)


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
    if not (separator and dot):
        raise argparse.ArgumentTypeError(f"got {text!r}; expected something like nequip.md=eager")
    return (program, task), mode


def parser(description: str, programs: tuple[str, ...], cases: tuple[str, ...]):
    """The options that every comparison has."""
    parser = argparse.ArgumentParser(description=description)
    default = os.environ.get("MLIP_JAX_BENCHMARK_VENVS", "~/.cache/mlip_jax_benchmarks")
    venvs = {"type": lambda text: Path(text).expanduser(), "default": Path(default).expanduser()}
    parser.add_argument("--venvs", **venvs, help="folder of the peers' environments")
    parser.add_argument("--programs", nargs="+", default=programs, choices=programs)
    parser.add_argument("--cases", nargs="+", default=cases, choices=cases)
    tasks = tuple(report.UNITS)
    parser.add_argument("--tasks", nargs="+", default=tasks, choices=tasks)
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
    parser.add_argument("--no-warm", action="store_true", help="no second launches")
    parser.add_argument("--no-install", action="store_true", help="leave missing peers out")
    results = Path(__file__).parent / "results"
    parser.add_argument("--output", type=Path, default=results, help="folder of the results")
    return parser
