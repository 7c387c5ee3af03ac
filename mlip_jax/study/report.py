"""`report.html` of a study, one self-contained file, and its figures as PNG."""

import importlib.util
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlip_jax import config
from mlip_jax.study import state, summary, table
from mlip_jax.study.sections import ReportConfig, Study
from mlip_jax.study.table import Row
from mlip_jax.train.page import NEEDS_MATPLOTLIB, details, figure, heading, page, paragraph, png
from mlip_jax.train.page import table as html_table


def write(study: Study, rows: Sequence[Row], directory: Path) -> str:
    """Writes `report.html` and, where matplotlib is installed, the figures.

    Args:
        study: what was studied.
        rows: of its table.
        directory: to write to.

    Returns:
        What was written, for the terminal.
    """
    directory.mkdir(parents=True, exist_ok=True)
    axes = [axis.name for axis in study.axes]
    missing = importlib.util.find_spec("matplotlib") is None
    images = {} if missing else _images(rows, axes, study.report)
    for name, image in images.items():
        (directory / f"{name}.png").write_bytes(image)
    counts = Counter(row["status"] for row in rows)
    finished = ", ".join(f"{count} {status}" for status, count in counts.items())
    sections = [
        paragraph(f"{len(rows)} runs: {finished}."),
        paragraph(NEEDS_MATPLOTLIB) if missing else "",
        *(figure(name, image) + paragraph(_CAPTIONS[name]) for name, image in images.items()),
        heading(f"Means over {study.report.average}"),
        *(_means(rows, axes, study.report, name) for name in study.report.properties),
        heading("Runs") + _runs(rows),
        heading("Study") + details({"study": config.to_plain(study.source)}),
    ]
    path = directory / "report.html"
    state.replace_text(path, page(study.title, sections))
    return f"{directory / 'table.csv'}, {path}" + (f" ({NEEDS_MATPLOTLIB})" if missing else "")


_CAPTIONS = {
    "learning_curves": "Line: mean over the averaged axis. Band: one sample standard deviation.",
    "pareto": "Time for energy, forces and stress of an atom, neighbour list given, median of "
    "several; bars: one sample standard deviation. The dashed line joins the points that no other "
    "one dominates.",
}


def _images(rows: Sequence[Row], axes: Sequence[str], settings: ReportConfig) -> dict[str, bytes]:
    from mlip_jax.study import plots

    figures = {
        "learning_curves": plots.learning_curves(rows, axes, settings),
        "pareto": plots.pareto(rows, axes, settings),
    }
    return {name: png(drawing) for name, drawing in figures.items() if drawing is not None}


def _means(rows: Sequence[Row], axes: Sequence[str], settings: ReportConfig, name: str) -> str:
    column = table.error_column(settings.errors_on, name, settings.error)
    found = summary.points(rows, axes, settings.average, column)
    kept = [axis for axis in axes if axis != settings.average]
    if not found:
        return ""
    header = (
        *kept,
        f"{settings.errors_on} {name} {settings.error.upper()} [{table.unit(column)}]",
        "standard deviation",
        "runs",
        f"cost [{table.UNITS[table.COST]}]",
    )
    cells = [
        (*(p.values[axis] for axis in kept), p.mean, p.deviation, p.runs, _shown(p.cost))
        for p in found
    ]
    return html_table(header, cells)


def _runs(rows: Sequence[Row]) -> str:
    names = [name for name in table.columns(rows) if name != "run"]
    header = [f"{name} [{table.unit(name)}]" if table.unit(name) else name for name in names]
    return html_table(header, [[_shown(row.get(name)) for name in names] for row in rows])


def _shown(value: Any) -> Any:
    return "" if value is None else value
