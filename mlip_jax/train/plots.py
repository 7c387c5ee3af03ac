"""Figures of a run: learning curves, parity plots, histograms of errors, errors by group.

Figures are made without pyplot, so that no global state of matplotlib is touched.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mlip_jax.inference import ERROR_UNITS, Comparison
from mlip_jax.properties.panels import finish, grid

COLORS = {"train": "#9aa5b1", "valid": "#2f6fb2", "test": "#d1495b", "replay": "#3a9a5c"}
"""Of the sets, wherever they appear."""

_MAX_POINTS = 20000
_SCALES = {"eV/atom": (1e3, "meV/atom"), "eV/Å": (1e3, "meV/Å"), "eV/Å^3": (1e3, "meV/Å$^3$")}

Sets = Mapping[str, Mapping[str, Comparison]]


def learning_curves(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss, MAE of every property and learning rate against the epoch.

    Args:
        records: lines of `metrics.jsonl`.
    """
    names = [n for n in records[-1]["train"] if n == "loss" or n.endswith("_mae")]
    figure, panels = grid(len(names) + 1)
    for panel, name in zip(panels, names, strict=False):
        factor, unit = scale(name.removesuffix("_mae"))
        factor, unit = (1.0, "") if name == "loss" else (factor, f" [{unit}]")
        for group in ("train", "valid"):
            points = [(r["epoch"], r[group][name]) for r in records if name in (r[group] or {})]
            if points:
                epochs, values = np.array(points, dtype=np.float64).T
                marker = "." if len(epochs) < 30 else None
                panel.plot(epochs, factor * values, color=COLORS[group], label=group, marker=marker)
        best = [r["epoch"] for r in records if r["best"]]
        if best:
            panel.axvline(best[-1], color="#333333", linewidth=0.8, linestyle=":", label="best")
        finish(panel, "epoch", name.replace("_", " ").replace("mae", "MAE") + unit, log="y")
    rates = [(r["epoch"], r["learning_rate"]) for r in records]
    panels[len(names)].plot(*np.array(rates, dtype=np.float64).T, color="#333333")
    finish(panels[len(names)], "epoch", "learning rate", legend=False)
    return figure


def parity(sets: Sets, name: str) -> Figure:
    """Predictions against labels of one property, and what they differ by."""
    factor, unit = scale(name)
    figure, (left, right) = grid(2)
    ranges = []
    for group, comparisons in sets.items():
        if name not in comparisons:
            continue
        pair = comparisons[name]
        stride = -(-len(pair.label) // _MAX_POINTS)
        label, predicted = pair.label[::stride], pair.predicted[::stride]
        style = {"color": COLORS[group], "s": 6, "alpha": 0.5, "linewidths": 0}
        left.scatter(label, predicted, label=group, rasterized=True, **style)
        right.scatter(label, factor * (predicted - label), label=group, rasterized=True, **style)
        ranges += [label.min(), label.max()]
    left.plot([min(ranges), max(ranges)], [min(ranges), max(ranges)], color="#333333", lw=0.8)
    right.axhline(0.0, color="#333333", linewidth=0.8)
    finish(left, f"label [{ERROR_UNITS[name]}]", f"{name} predicted [{ERROR_UNITS[name]}]")
    finish(right, f"label [{ERROR_UNITS[name]}]", f"predicted - label [{unit}]")
    return figure


def histogram(sets: Sets, name: str) -> Figure:
    """Distribution of the errors of one property: signed, and its absolute value cumulated."""
    factor, unit = scale(name)
    figure, (left, right) = grid(2)
    errors = {
        group: factor * (c[name].predicted - c[name].label)
        for group, c in sets.items()
        if name in c
    }
    limit = max(float(np.quantile(np.abs(e), 0.99)) for e in errors.values())
    edges = np.linspace(-limit, limit, 61) if limit > 0 else np.linspace(-1.0, 1.0, 61)
    for group, error in errors.items():
        style = {"color": COLORS[group], "label": group}
        weights = np.full(len(error), 1.0 / len(error))
        left.hist(
            np.clip(error, edges[0], edges[-1]), edges, weights=weights, histtype="step", **style
        )
        ordered = np.sort(np.abs(error))
        stride = -(-len(ordered) // _MAX_POINTS)
        share = np.arange(1, len(ordered) + 1) / len(ordered)
        right.plot(ordered[::stride], share[::stride], **style)
    finish(left, f"error of {name} [{unit}]", "share")
    finish(right, f"|error| [{unit}]", "share below", log="x")
    return figure


def by_group(errors: Mapping[str, Any], key: str, names: Sequence[str]) -> Figure | None:
    """MAE of properties for each config type or element; None where there is but one.

    Args:
        errors: of `inference.summarize`, by set.
        key: `per_config_type`, `per_source` or `per_element`.
        names: of properties.
    """
    groups = sorted({group for values in errors.values() for group in values[key]})
    present = {n for v in errors.values() for g in v[key].values() for n in g}
    names = [name for name in names if name in present]
    if len(groups) < 2 or not names:
        return None
    figure, panels = grid(len(names), height=1.2 + 0.28 * len(groups))
    for panel, name in zip(panels, names, strict=True):
        factor, unit = scale(name)
        for offset, (group, values) in enumerate(errors.items()):
            maes = [values[key].get(g, {}).get(name, {}).get("mae", np.nan) for g in groups]
            width = 0.8 / max(len(errors), 3)
            heights = np.arange(len(groups)) + width * (offset - 1)
            panel.barh(
                heights, factor * np.array(maes), 0.9 * width, color=COLORS[group], label=group
            )
        panel.set_yticks(range(len(groups)), [group or "(none)" for group in groups])
        panel.invert_yaxis()
        finish(panel, f"{name} MAE [{unit}]", "")
    return figure


def scale(name: str) -> tuple[float, str]:
    """The factor that takes errors of a property to the unit in which they are shown, and that."""
    unit = ERROR_UNITS.get(name, "")
    return _SCALES.get(unit, (1.0, unit))
