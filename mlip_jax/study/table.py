"""The table of a study: one row for each run, as CSV and JSON."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlip_jax import config
from mlip_jax.inference import ERROR_UNITS
from mlip_jax.study import cost, state
from mlip_jax.study.expand import Variant, decisive

Row = Mapping[str, Any]

SETS, ERRORS = ("train", "valid", "test", "replay"), ("mae", "rmse")
COST = "cost"
UNITS = {"seconds": "s", COST: "µs/atom", "cost_compile": "s"}
"""Of columns other than errors, which have those of `inference.ERROR_UNITS`."""


def collect(variants: Sequence[Variant], runs: Path) -> list[dict[str, Any]]:
    """Rows of all runs, in order, from what their directories hold.

    A row has `run`, the axes, `status` (of `RunState`, or `stale`: its directory holds a run of
    another config), `message`, the errors `{set}_{property}_{mae|rmse}`,
    `seconds` of wall time, `parameters`, `stopped` (why training ended), and, where it was
    measured, `cost` with the time of compilation, the atoms, and where.

    Args:
        variants: of the study.
        runs: directory of the directories of the runs.
    """
    return [_row(variant, runs / variant.name) for variant in variants]


def error_column(errors_on: str, name: str, error: str) -> str:
    """Name of a column of errors."""
    return f"{errors_on}_{name}_{error}"


def columns(rows: Sequence[Row]) -> list[str]:
    """All columns, in the order in which rows have them; those that no row fills are left out."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if any(row.get(name) not in (None, "") for row in rows)]


def unit(column: str) -> str:
    """Unit of a column; nothing where it has none."""
    parts = column.split("_")
    if len(parts) == 3 and parts[0] in SETS and parts[2] in ERRORS:
        return ERROR_UNITS[parts[1]]
    return UNITS.get(column, "")


def write(rows: Sequence[Row], axes: Iterable[str], directory: Path) -> None:
    """Writes `table.csv` and `table.json`, each as a whole.

    Args:
        rows: of `collect`.
        axes: names of the axes.
        directory: to write to.
    """
    directory.mkdir(parents=True, exist_ok=True)
    names = columns(rows)
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(row.get(name)) for name in names} for row in rows)
    state.replace_text(directory / "table.csv", stream.getvalue())
    units = {name: unit(name) for name in names if unit(name)}
    content = {"axes": list(axes), "units": units, "rows": rows}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    state.replace_text(directory / "table.json", text + "\n")


def _row(variant: Variant, directory: Path) -> dict[str, Any]:
    found = state.read(directory)
    row: dict[str, Any] = {"run": variant.name, **variant.values, "status": "waiting"}
    if found is None:
        return row
    status = found.status
    if status == "running" and not state.is_alive(found):
        status = "interrupted"
    if found.identity["config"] != decisive(variant):
        return row | {"status": "stale", "message": "its directory holds a run of another config"}
    row |= {"status": status, "message": found.message}
    if status != "finished":
        return row | {"seconds": found.seconds}
    errors = json.loads(config.read_text(directory / "errors.json"))
    for name in SETS:
        for key, values in errors.get(name, {}).get("total", {}).items():
            row |= {error_column(name, key, error): values[error] for error in ERRORS}
    row |= {
        "train_structures": errors.get("train", {}).get("num_structures"),
        "seconds": found.seconds,
        "parameters": found.parameters,
        "stopped": found.stopped,
    }
    measured = cost.read(directory)
    if measured is not None:
        row |= {
            COST: 1e6 * measured["seconds_per_atom"],
            "cost_compile": measured["compile_seconds"],
            "cost_atoms": measured["atoms"],
            "cost_device": f"{measured['device']} of {measured['host']}",
        }
    return row


def _cell(value: Any) -> Any:
    """One line of text; numbers with the digits that tell them apart from their neighbours."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return json.dumps(value)
    return " ".join(value.split()) if isinstance(value, str) else value
