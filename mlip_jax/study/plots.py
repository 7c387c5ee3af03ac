"""Figures of a study: learning curves, and error against cost with the front of Pareto."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from mlip_jax.properties.panels import finish, grid
from mlip_jax.study import summary, table
from mlip_jax.study.sections import ReportConfig
from mlip_jax.study.summary import Curve, Point
from mlip_jax.study.table import Row
from mlip_jax.train.plots import scale

_MARKERS = "osD^v<>P"


def learning_curves(
    rows: Sequence[Row], axes: Sequence[str], settings: ReportConfig
) -> Figure | None:
    """Mean error against the axis `x`, with bands of one standard deviation over the seeds.

    Args:
        rows: of the table.
        axes: names of the axes.
        settings: what is drawn.

    Returns:
        `None` where there is no such axis, or no finished run.
    """
    chosen = summary.panels(rows, settings)
    if settings.x not in axes or not chosen:
        return None
    styles = _Styles()
    figure, places = grid(len(chosen), height=3.6)
    for panel, (name, value, members) in zip(places, chosen, strict=True):
        factor, label = _error_label(name, value, settings)
        for curve in _curves(members, name, axes, settings):
            x = np.array([point.values[settings.x] for point in curve.points], np.float64)
            mean = factor * np.array([point.mean for point in curve.points])
            spread = factor * np.array([point.deviation for point in curve.points])
            style = styles.of(curve.label)
            panel.plot(x, mean, label=curve.label, markersize=4, **style)
            panel.fill_between(x, mean - spread, mean + spread, color=style["color"], alpha=0.2)
        finish(panel, settings.x.replace("_", " "), label, log="xy")
        panel.set_yscale("log", nonpositive="clip")  # a band may reach zero
        _plain_numbers(panel)
        sizes = sorted({row[settings.x] for row in members})
        panel.set_xticks(sizes, [f"{size:g}" for size in sizes])
        panel.xaxis.set_minor_locator(ticker.NullLocator())
    return figure


def pareto(rows: Sequence[Row], axes: Sequence[str], settings: ReportConfig) -> Figure | None:
    """Mean error against measured cost; a line joins the points that no other one dominates.

    Takes the arguments of `learning_curves`. `None` where no cost was measured.
    """
    measured = [row for row in rows if row.get(table.COST) is not None]
    chosen = summary.panels(measured, settings)
    if not chosen:
        return None
    styles = _Styles()
    figure, places = grid(len(chosen), height=3.6)
    for panel, (name, value, members) in zip(places, chosen, strict=True):
        factor, label = _error_label(name, value, settings)
        drawn: list[Point] = []
        for curve in _curves(members, name, axes, settings):
            drawn += [point for point in curve.points if point.cost is not None]
            _draw_points(panel, curve, factor, styles.of(curve.label))
        costs, errors = [p.cost or 0.0 for p in drawn], [factor * p.mean for p in drawn]
        front = summary.pareto_front(costs, errors)
        line = ([costs[i] for i in front], [errors[i] for i in front])
        panel.plot(*line, color="#333333", linewidth=0.9, linestyle="--", zorder=0, label="front")
        finish(panel, f"cost [{table.UNITS[table.COST]}]", label, log="xy")
        _plain_numbers(panel)
    return figure


def _plain_numbers(panel: Any) -> None:
    """Plain numbers on logarithmic axes of a decade or two, where powers of ten say little."""
    for axis in (panel.xaxis, panel.yaxis):
        for setter in (axis.set_major_formatter, axis.set_minor_formatter):
            setter(ticker.LogFormatter(labelOnlyBase=False, minor_thresholds=(2.0, 0.5)))


class _Styles:
    """Colours and markers by label, the same in all panels of a figure."""

    def __init__(self):
        self._styles: dict[str, dict[str, Any]] = {}
        self._colors = matplotlib.colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]

    def of(self, label: str) -> dict[str, Any]:
        """The next free style, for a label that is new."""
        number = len(self._styles)
        style = {
            "color": self._colors[number % len(self._colors)],
            "marker": _MARKERS[number // len(self._colors) % len(_MARKERS)],
        }
        return self._styles.setdefault(label, style)


def _curves(
    rows: Sequence[Row], name: str, axes: Sequence[str], settings: ReportConfig
) -> list[Curve]:
    column = table.error_column(settings.errors_on, name, settings.error)
    found = summary.points(rows, axes, settings.average, column)
    return summary.curves(found, (settings.x if settings.x in axes else None, settings.panels))


def _draw_points(panel: Any, curve: Curve, factor: float, style: dict[str, Any]) -> None:
    points = [point for point in curve.points if point.cost is not None]
    if points:
        panel.errorbar(
            [point.cost for point in points],
            [factor * point.mean for point in points],
            yerr=[factor * point.deviation for point in points],
            label=curve.label,
            linestyle="none",
            markersize=5,
            elinewidth=0.8,
            **style,
        )


def _error_label(name: str, value: Any, settings: ReportConfig) -> tuple[float, str]:
    factor, unit = scale(name)
    where = "" if value is None else f"{value}: "
    return factor, f"{where}{name} {settings.error.upper()} [{unit}], {settings.errors_on}"
