"""What a table says: means over seeds, learning curves, and the front of Pareto."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mlip_jax.study import table
from mlip_jax.study.sections import ReportConfig
from mlip_jax.study.table import Row


class Point(NamedTuple):
    """Runs that differ in the averaged axis only.

    Attributes:
        values: of the other axes.
        mean: of an error.
        deviation: its sample standard deviation; 0 for a single run.
        runs: their number.
        cost: mean time [µs/atom], where every run has one.
    """

    values: Mapping[str, Any]
    mean: float
    deviation: float
    runs: int
    cost: float | None


class Curve(NamedTuple):
    """Points along the axis `x`, in the order of its values; what they have in common."""

    label: str
    points: tuple[Point, ...]


def points(rows: Sequence[Row], axes: Sequence[str], average: str, column: str) -> list[Point]:
    """Means of a column over an axis, in the order of the rows.

    Args:
        rows: of the table; those that are not finished, or lack the column, do not count.
        axes: names of all axes.
        average: the axis over which means are taken.
        column: an error.
    """
    kept = [name for name in axes if name != average]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        value = row.get(column)
        if row["status"] == "finished" and value is not None and math.isfinite(value):
            groups.setdefault(str([row[name] for name in kept]), []).append(row)
    result = []
    for members in groups.values():
        errors = [row[column] for row in members]
        costs = [row[table.COST] for row in members if row.get(table.COST) is not None]
        result.append(
            Point(
                {name: members[0][name] for name in kept},
                statistics.fmean(errors),
                statistics.stdev(errors) if len(errors) > 1 else 0.0,
                len(errors),
                statistics.fmean(costs) if len(costs) == len(members) else None,
            )
        )
    return result


def curves(found: Sequence[Point], apart: Sequence[str | None]) -> list[Curve]:
    """Points dealt to curves: one for each combination of the axes that are not set apart.

    Args:
        found: of `points`.
        apart: axes along which a curve runs, or that all its points share anyway.
    """
    groups: dict[str, list[Point]] = {}
    for point in found:
        label = ", ".join(_named(n, v) for n, v in point.values.items() if n not in apart)
        groups.setdefault(label, []).append(point)
    x = apart[0]
    return [
        Curve(label, tuple(sorted(members, key=lambda p: p.values.get(x, 0) if x else 0)))
        for label, members in groups.items()
    ]


def panels(rows: Sequence[Row], settings: ReportConfig) -> list[tuple[str, Any, list[Row]]]:
    """Panels of a figure: property, value of the axis `panels` (or `None`), and their rows."""
    key = settings.panels
    values = [None] if key is None else list(dict.fromkeys(row[key] for row in rows))
    result = []
    for name in settings.properties:
        column = table.error_column(settings.errors_on, name, settings.error)
        for value in values:
            members = [row for row in rows if key is None or row[key] == value]
            if any(row.get(column) is not None for row in members):
                result.append((name, value, members))
    return result


def pareto_front(costs: Sequence[float], errors: Sequence[float]) -> list[int]:
    """Indices of the points that no other point dominates, by rising cost.

    A point dominates another if it is better in cost or error and no worse in the other one. Of
    points that agree in both, all are kept.
    """
    order = sorted(range(len(costs)), key=lambda i: (costs[i], errors[i]))
    front: list[int] = []
    best = math.inf
    for i in order:
        same = front and (costs[front[-1]], errors[front[-1]]) == (costs[i], errors[i])
        if errors[i] < best or same:
            front.append(i)
            best = errors[i]
    return front


def _named(name: str, value: Any) -> str:
    """A value that names itself stands alone; a number comes with its axis."""
    return value if isinstance(value, str) else f"{name} {value}"
