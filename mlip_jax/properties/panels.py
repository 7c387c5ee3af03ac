"""Panels of figures in one style, made without pyplot: no global state of matplotlib is touched."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure


def grid(count: int, height: float = 3.2) -> tuple[Figure, Any]:
    """A figure of so many panels, three in a row; `height` [inches] of each."""
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(4.2 * columns, height * rows), layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for panel in panels[count:]:
        panel.set_visible(False)
    return figure, panels[:count]


def finish(panel: Any, x: str, y: str, log: str = "", legend: bool = True) -> None:
    """Labels, logarithmic axes (letters in `log`), grid and legend of a panel."""
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    if "x" in log:
        panel.set_xscale("log")
    if "y" in log:
        panel.set_yscale("log")
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    if legend and panel.get_legend_handles_labels()[0]:
        panel.legend(frameon=False)
