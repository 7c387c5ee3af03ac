"""Table, Pareto fronts and comparison of potentials that were fitted one by one.

    MLIP_JAX_DATA=DATA python experiments/mlearn/assemble.py [RUNS]

`errors.json` records the errors of single fits of the configs, `ELEMENT_METHOD`, on the test files
or, where these are held out, on the validation part. `RUNS`, a directory of outputs of `mlip-jax
train`, adds to it: errors on the test files are computed here, once. Times of energy, forces and
stress do not depend on what the parameters are, so that they are taken of untrained potentials, and
kept in `costs.json`; delete it to take them anew, on an idle machine. The study (`study.yaml`) does
all this and the fits, too.
"""

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import jax

from mlip_jax import config, inference, storage, train
from mlip_jax.data import formats
from mlip_jax.study import cost, plots, table
from mlip_jax.study.sections import CostConfig, ReportConfig
from mlip_jax.train.page import png

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parents[1] / "configs/mlearn"
DATA = Path(os.environ.get("MLIP_JAX_DATA", HERE.parents[2] / "shared/data")) / "mlearn"
ELEMENTS = ("si", "ge", "li", "mo", "ni", "cu")
COST = CostConfig(atoms=100, block=16, repeats=20)
STRUCTURES = 16
"""Enough to calibrate an untrained potential; its cost depends on them through sparse points."""


def fitted(directory: Path) -> dict[str, Any]:
    """Errors of a run: on the test file, where there is one, else on the validation part."""
    element = directory.name.partition("_")[0].capitalize()
    path = DATA / f"{element}_test.extxyz.gz"
    if path.exists():
        potential = storage.load(directory / "potential")
        precision = potential.card["config"]["training"]["precision"]
        found = inference.evaluate(potential, formats.read(path), precision=precision)["total"]
        where = "test"
    else:
        found = json.loads((directory / "errors.json").read_text(encoding="utf-8"))["valid"][
            "total"
        ]
        where = "valid"
    return {"set": where} | {key: found[key]["mae"] for key in ("energy", "forces")}


def timed(name: str) -> dict[str, Any]:
    """Size of an untrained potential of a config, and its time for an atom."""
    mapping = config.apply_overrides(
        config.load_yaml(CONFIGS / f"{name}.yaml"), [f"data.train_size={STRUCTURES}"]
    )
    mapping["data"].pop("test", None)
    potential = train.untrained(train.parse(mapping), CONFIGS)
    element = name.partition("_")[0].capitalize()
    structures = formats.read(DATA / f"{element}_train.extxyz.gz")
    largest = max(structures, key=lambda structure: structure.num_atoms)
    measured = cost.measure(potential, cost.repeat(largest, COST.atoms), COST)
    size = sum(leaf.size for leaf in jax.tree.leaves(potential.variables["params"]))
    return measured | {"parameters": size}


def row(name: str, errors: dict[str, Any], time: dict[str, Any]) -> dict[str, Any]:
    """What a config contributes to the table of a study."""
    element, _, method = name.partition("_")
    result: dict[str, Any] = {"run": name, "element": element, "method": method}
    result |= {"status": "finished", "message": "", "parameters": time["parameters"]}
    for key in ("energy", "forces"):
        result[table.error_column(errors["set"], key, "mae")] = errors[key]
    return result | {
        table.COST: 1e6 * time["fastest"],
        "cost_compile": time["compile_seconds"],
        "cost_atoms": time["atoms"],
        "cost_device": f"{time['device']} of {platform.machine()}",
    }


def main() -> None:
    """Writes `errors.json`, `costs.json` and `results/`."""
    jax.config.update("jax_enable_x64", True)
    errors = _kept(HERE / "errors.json")
    if len(sys.argv) > 1:
        directories = [
            path for path in Path(sys.argv[1]).iterdir() if (path / "potential").is_dir()
        ]
        errors |= {path.name: fitted(path) for path in sorted(directories)}
        _keep(HERE / "errors.json", errors)
    costs = _kept(HERE / "costs.json")
    for name in errors:
        if name not in costs:
            costs[name] = timed(name)
            _keep(HERE / "costs.json", costs)
            print(f"{name}: {1e6 * costs[name]['fastest']:.3g} µs/atom", flush=True)
            jax.clear_caches()
    order = sorted(errors, key=lambda name: ELEMENTS.index(name.partition("_")[0]))
    rows = [row(name, errors[name], costs[name]) for name in order]
    table.write(rows, ("element", "method"), HERE / "results")
    for where in ("test", "valid"):
        chosen = [r for r in rows if r.get(table.error_column(where, "energy", "mae")) is not None]
        report = ReportConfig(properties=("energy", "forces"), panels="element", errors_on=where)
        drawing = plots.pareto(chosen, ("element", "method"), report)
        if drawing is not None:
            (HERE / "results" / f"pareto_{where}.png").write_bytes(png(drawing))


def _kept(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _keep(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
