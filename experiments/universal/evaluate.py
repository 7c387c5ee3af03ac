"""Errors of published universal potentials on six sets of structures of 89 elements.

    MLIP_JAX_PATH=FILES MLIP_JAX_DATA=DATA python experiments/universal/evaluate.py --limit 40
    python experiments/universal/evaluate.py --models chgnet-0.3.0 --sets random-TP

Each pair of a potential and a set is one file below `results/`, so that a run that was interrupted
goes on where it stopped; what is there already is left alone. The tables are written anew after
each (`report.py`). README.md says what the sets are and what the errors mean.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import errors
import jax
import report

from mlip_jax import compilation, inference
from mlip_jax.cli import process
from mlip_jax.config import UserError
from mlip_jax.data import formats
from mlip_jax.data.collate import Bucket
from mlip_jax.data.structure import Structure
from mlip_jax.interop import catalogue
from mlip_jax.potential import Potential

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("MLIP_JAX_DATA", HERE.parents[2] / "shared/data"))
SETS = (
    "mpf-alkali-TP",
    "mpf-TP",
    "mptrj-highest-stress-1k",
    "random-TP",
    "mptrj-random-1k",
    "alexandria-random-1k",
)
"""The densest first: their programs serve the others, too."""
UNIVERSAL = 80
"""A potential of so many elements is called universal here."""

programs: list[str] = []
"""Programs that were compiled, or taken from the cache, so far."""


def universal() -> list[str]:
    """Names of the universal potentials of the catalogue."""
    return [name for name, of in catalogue.entries().items() if of.elements >= UNIVERSAL]


def thinned(structures: Sequence[Structure], limit: int | None) -> list[int]:
    """Indices of every k-th structure, at most `limit` of them; of all without a limit."""
    step = 1 if limit is None else -(-len(structures) // limit)
    return list(range(0, len(structures), step))


def evaluate(
    name: str, potential: Potential, path: Path, limit: int | None, shapes: set[Bucket]
) -> dict[str, Any]:
    """The record of one potential on one set; structures that cannot be computed are listed.

    Args:
        name: of the potential.
        potential: itself.
        path: of the set.
        limit: see `thinned`.
        shapes: that were compiled for the potential, see `inference.predict`.
    """
    started, before = time.process_time(), len(programs)
    everything = formats.read(path)
    chosen = thinned(everything, limit)
    reasons = inference.refusals(potential, [everything[i] for i in chosen])
    kept = [i for place, i in enumerate(chosen) if place not in reasons]
    structures = [everything[i] for i in kept]
    predictions = inference.predict(potential, structures, shapes=shapes, progress=tell(name, path))
    broken = errors.not_finite(predictions)
    failed = [
        *({"index": chosen[place], "reason": why} for place, why in reasons.items()),
        *({"index": kept[place], "reason": why} for place, why in broken.items()),
    ]
    sound = [place for place in range(len(kept)) if place not in broken]
    structures = [structures[place] for place in sound]
    measured = errors.measure(structures, [predictions[place] for place in sound], potential)
    entry = catalogue.entry(name)
    return {
        "potential": name,
        "theory": entry.theory,
        "set": set_name(path),
        "in_file": len(everything),
        "asked_for": len(chosen),
        "evaluated": len(structures),
        "atoms": sum(structure.num_atoms for structure in structures),
        "failed": sorted(failed, key=lambda one: one["index"]),
        **measured,
        "precision": "float32",
        "programs": len(programs) - before,
        "processor_time_s": round(time.process_time() - started, 1),
    }


def tell(name: str, path: Path):
    """A line of progress that replaces itself on a terminal, and is silent elsewhere."""

    def progress(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\r{name} on {set_name(path)}: {done}/{total}", end=end, file=sys.stderr)

    return progress


def set_name(path: Path) -> str:
    """The name of a set, from its file."""
    return path.name.partition(".")[0]


def count_programs(event: str, duration_secs: float, **facts: Any) -> None:
    """Notes a compiled program of a potential; small ones that move arrays do not count."""
    if event == "/jax/core/compile/backend_compile_duration" and duration_secs > 0.3:
        programs.append(str(facts.get("fun_name")))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=universal(), choices=universal())
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--limit", type=int, help="every k-th structure, at most so many of a set")
    parser.add_argument("--data", type=Path, default=DATA / "mattersim-benchmarks")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Evaluates what is missing, one set after the other; 1 where a pair could not be evaluated."""
    options = parse(arguments)
    process.quiet_xla()
    compilation.use_older_emitters()
    process.prepare_jax("float32")
    jax.monitoring.register_event_duration_secs_listener(count_programs)
    folder = options.output / ("all" if options.limit is None else f"limit-{options.limit}")
    status = 0
    for name in options.models:
        targets = {chosen: folder / name / f"{chosen}.json" for chosen in options.sets}
        missing = {chosen: path for chosen, path in targets.items() if not path.exists()}
        if not missing:
            continue
        try:
            potential, shapes = catalogue.load(name), set[Bucket]()
        except UserError as error:
            print(error, file=sys.stderr)
            status = 1
            continue
        for chosen, target in missing.items():
            path = options.data / f"{chosen}.extxyz.gz"
            try:
                record = evaluate(name, potential, path, options.limit, shapes)
            except UserError as error:
                print(f"{name} on {chosen}: {error}", file=sys.stderr)
                status = 1
                continue
            report.write_json(target, record)
            report.write(options.output)
            print(report.line(record), flush=True)
    report.write(options.output)
    return status


if __name__ == "__main__":
    sys.exit(main())
