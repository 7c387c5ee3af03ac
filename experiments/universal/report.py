"""The tables of all records below a folder of results.

python experiments/universal/report.py [RESULTS]
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Writes a record whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def records(folder: Path) -> list[dict[str, Any]]:
    """All records of a folder, by set and then by potential."""
    found = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/*.json"))
    ]
    return sorted(found, key=lambda one: (one["set"], one["potential"]))


def line(record: dict[str, Any]) -> str:
    """A record as a row of its table."""
    energy, forces, stress = record["energy"], record["forces"], record["stress"]
    ways = (energy[way] for way in ("as_is", "shifted", "by_element"))
    pairs = [f"{one['mae']:.0f} / {one['rmse']:.0f}" for one in ways]
    pairs += [f"{one['mae']:.3g} / {one['rmse']:.3g}" for one in (forces, stress)]
    failed = f" ({len(record['failed'])} failed)" if record["failed"] else ""
    counts = f"{record['evaluated']} of {record['in_file']}{failed}"
    cells = [record["potential"], counts, *pairs, f"{energy['shift']:+.0f}"]
    return f"| {' | '.join(cells)} |"


def tables(found: list[dict[str, Any]]) -> str:
    """One table for each set: MAE / RMSE."""
    heads = ["potential", "structures", "energy as is [meV/atom]", "shifted", "shifted by element"]
    heads += ["forces [eV/Å]", "stress [GPa]", "shift [meV/atom]"]
    lines: list[str] = []
    for name in dict.fromkeys(record["set"] for record in found):
        lines += [f"**{name}**", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        lines += [line(record) for record in found if record["set"] == name]
        lines += [""]
    return "\n".join(lines)


def write(results: Path) -> None:
    """Writes `<folder>.md` beside each folder of records: `all`, `limit-40`."""
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        found = records(folder)
        if found:
            folder.with_suffix(".md").write_text(tables(found), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results")
