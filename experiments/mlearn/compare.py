"""Errors of the study beside those of the published potentials, as a table in Markdown.

    python experiments/mlearn/compare.py [../shared/data/mlearn/published.json]

Reads `results/table.json`, which the study wrote, and writes `results/comparison.md`. Without the
file of published errors the table holds our own alone.
"""

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PUBLISHED = HERE.parents[2] / "shared/data/mlearn/published.json"
NAMES = {"snap": "SNAP", "qsnap": "qSNAP", "nnp": "NNP", "mtp": "MTP", "gap": "GAP"}
"""Of our methods in the file of published errors."""


def lines(rows: list[dict[str, Any]], published: dict[str, Any]) -> list[str]:
    """The table: MAE of energies [meV/atom] and forces [eV/Å] on the test files.

    Errors with a star are those on the validation part, where there is no test file.

    Args:
        rows: of the study's table.
        published: errors by element and method.
    """
    result = [
        "| element | method | energy, ours | published | forces, ours | published | µs/atom |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        theirs = published.get(row["element"].capitalize(), {}).get(NAMES.get(row["method"]), {})
        theirs = theirs.get("test", {})
        where = "test" if row.get("test_energy_mae") is not None else "valid"
        energy, forces = (row.get(f"{where}_{name}_mae") for name in ("energy", "forces"))
        star = "" if where == "test" else "*"
        cells = [
            row["element"].capitalize(),
            row["method"],
            row["status"] if energy is None else f"{1e3 * energy:.2f}{star}",
            _text(theirs.get("energy_mae"), ".2f"),
            _text(forces, ".4f") + (star if forces is not None else ""),
            _text(theirs.get("force_mae"), ".4f"),
            _text(row.get("cost"), ".3g"),
        ]
        result.append(f"| {' | '.join(cells)} |")
    return result


def main() -> None:
    """Writes and prints the table."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PUBLISHED
    published = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows = json.loads((HERE / "results/table.json").read_text(encoding="utf-8"))["rows"]
    text = "\n".join(lines(rows, published)) + "\n"
    (HERE / "results/comparison.md").write_text(text, encoding="utf-8")
    print(text)


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


if __name__ == "__main__":
    main()
