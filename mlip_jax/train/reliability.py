"""Do errors have the size that was predicted for them?"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from mlip_jax.data.structure import Structure
from mlip_jax.inference import ERROR_UNITS, Comparison
from mlip_jax.inference.uncertainty import PROPERTIES, Uncertainty

_BINS = 10


class Deviations(NamedTuple):
    """Errors of one property and their predicted standard deviations, by component.

    Attributes:
        errors: in the unit of `ERROR_UNITS`; energies per atom.
        expected: likewise.
    """

    errors: Float[np.ndarray, " components"]
    expected: Float[np.ndarray, " components"]

    def inside(self, deviations: float) -> float:
        """Share of the errors within so many standard deviations."""
        return float(np.mean(np.abs(self.errors) <= deviations * self.expected))


def deviations(
    compared: Mapping[str, Comparison],
    structures: Sequence[Structure],
    uncertainties: Sequence[Uncertainty],
) -> dict[str, Deviations]:
    """Errors beside their standard deviations, for every property with labels.

    Args:
        compared: of `inference.compare`.
        structures: that were compared.
        uncertainties: of the same structures.
    """
    result = {}
    for name in (name for name in PROPERTIES if name in compared):
        pair = compared[name]
        sigmas = []
        for index in np.unique(pair.structure):
            sigma = np.ravel(getattr(uncertainties[index], name))
            sigmas.append(sigma / structures[index].num_atoms if name == "energy" else sigma)
        result[name] = Deviations(pair.predicted - pair.label, np.concatenate(sigmas))
    return result


def summary(found: Mapping[str, Deviations]) -> dict[str, Any]:
    """Shares of the errors within one and two standard deviations, for each property."""
    return {
        name: {"inside_1": d.inside(1.0), "inside_2": d.inside(2.0), "count": len(d.errors)}
        for name, d in found.items()
    }


def write(found: Mapping[str, Deviations], output: Path, name: str) -> dict[str, Any]:
    """Writes `reliability_<name>.png` where matplotlib is installed; returns the summary."""
    if found and importlib.util.find_spec("matplotlib") is not None:
        plot(found, name).savefig(output / f"reliability_{name}.png", dpi=110)
    return summary(found)


def plot(found: Mapping[str, Deviations], title: str) -> Any:
    """Reliability: RMS errors of bins of predicted deviations, and shares inside them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(found), 6.4), layout="constrained")
    panels = np.atleast_2d(figure.subplots(2, len(found), squeeze=False))
    for (upper, lower), (name, d) in zip(panels.T, found.items(), strict=True):
        order = np.array_split(np.argsort(d.expected), min(_BINS, len(d.errors)))
        expected = [np.sqrt(np.mean(d.expected[part] ** 2)) for part in order]
        observed = [np.sqrt(np.mean(d.errors[part] ** 2)) for part in order]
        upper.loglog(expected, observed, "o-", color="#d1495b", label="bins of equal size")
        ends = [min(expected), max(expected)]
        upper.loglog(ends, ends, color="#333333", linewidth=0.8, label="ideal")
        upper.set_xlabel(f"predicted deviation of {name} [{ERROR_UNITS[name]}]")
        upper.set_ylabel(f"RMS error [{ERROR_UNITS[name]}]")
        upper.legend(frameon=False)
        widths = np.linspace(0.0, 3.0, 61)
        lower.plot(widths, [d.inside(w) for w in widths], color="#d1495b", label=title)
        lower.plot(widths, [_gaussian(w) for w in widths], color="#333333", lw=0.8, label="normal")
        lower.set_xlabel("deviations")
        lower.set_ylabel("share of errors inside")
        lower.legend(frameon=False)
    return figure


def _gaussian(width: float) -> float:
    """Share of a normal distribution within so many standard deviations."""
    from scipy.special import erf

    return float(erf(width / np.sqrt(2.0)))
