"""Table, Pareto fronts and comparison of potentials that were fitted one by one.

    MLIP_JAX_DATA=DATA python experiments/mlearn/assemble.py RUNS

`RUNS` holds an output directory of `mlip-jax train` for each config, `ELEMENT_METHOD`. Errors of
training and validation are those that the fits wrote down; those on the test files are computed
here, once, and kept in `test.json` beside the potential, as are the times in `cost.json`. Run it on
an idle machine, since it takes times. The study (`study.yaml`) does all this and the fits, too.
"""

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mlip_jax import inference, storage
from mlip_jax.data import formats
from mlip_jax.data.structure import Structure
from mlip_jax.potential import Potential
from mlip_jax.study import cost, plots, table
from mlip_jax.study.sections import CostConfig, ReportConfig
from mlip_jax.train.page import png

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("MLIP_JAX_DATA", HERE.parents[2] / "shared/data")) / "mlearn"
ELEMENTS = ("si", "ge", "li", "mo", "ni", "cu")
COST = CostConfig(atoms=100, block=16)


def row(directory: Path) -> dict[str, Any]:
    """What a run contributes to the table of a study."""
    element, _, method = directory.name.partition("_")
    errors = json.loads((directory / "errors.json").read_text(encoding="utf-8"))
    potential = storage.load(directory / "potential")
    train = formats.read(DATA / f"{element.capitalize()}_train.extxyz.gz")
    path = DATA / f"{element.capitalize()}_test.extxyz.gz"
    if path.exists():
        errors["test"] = {"total": _kept(directory / "test.json", lambda: _test(potential, path))}
    result: dict[str, Any] = {"run": directory.name, "element": element, "method": method}
    result |= {"status": "finished", "message": ""}
    for name in table.SETS:
        for key, values in errors.get(name, {}).get("total", {}).items():
            for error in table.ERRORS:
                result[table.error_column(name, key, error)] = values[error]
    leaves = jax.tree.leaves(potential.variables["params"])
    result["parameters"] = sum(int(np.size(leaf)) for leaf in leaves)
    time = _kept(directory / "cost.json", lambda: _cost(potential, train))
    result |= {
        table.COST: 1e6 * time["seconds_per_atom"],
        "cost_compile": time["compile_seconds"],
        "cost_atoms": time["atoms"],
        "cost_device": f"{time['device']} of {platform.machine()}",
    }
    return result


def main() -> None:
    """Writes `results/`."""
    jax.config.update("jax_enable_x64", True)
    runs = Path(sys.argv[1])
    directories = [path for path in sorted(runs.iterdir()) if (path / "potential").is_dir()]
    rows = [row(path) for path in directories]
    rows.sort(key=lambda r: ELEMENTS.index(r["element"]))
    for line in rows:
        shown = {k: v for k, v in line.items() if k.startswith(("valid", "test")) or k == "cost"}
        print(
            line["run"],
            {k: float(f"{v:.4g}") for k, v in shown.items() if "mae" in k or k == "cost"},
        )
    table.write(rows, ("element", "method"), HERE / "results")
    report = ReportConfig(properties=("energy", "forces"), panels="element", errors_on="test")
    tested = [r for r in rows if r.get("test_energy_mae") is not None]
    drawing = plots.pareto(tested, ("element", "method"), report)
    if drawing is not None:
        (HERE / "results" / "pareto.png").write_bytes(png(drawing))


def _test(potential: Potential, path: Path) -> dict[str, Any]:
    precision = potential.card["config"]["training"]["precision"]
    return inference.evaluate(potential, formats.read(path), precision=precision)["total"]


def _cost(potential: Potential, structures: list[Structure]) -> dict[str, Any]:
    largest = max(structures, key=lambda structure: structure.num_atoms)
    return cost.measure(potential, cost.repeat(largest, COST.atoms), COST)


def _kept(path: Path, compute: Any) -> dict[str, Any]:
    if not path.exists():
        path.write_text(json.dumps(compute(), indent=1) + "\n", encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
