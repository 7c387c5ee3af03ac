"""Features of local models at a common scale: shift and factor of each element, from data."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

Scaling = Literal["standard", "spread", "minmax", "none"]

_SMALLEST_SPREAD = 1e-3
"""Features that vary less than this, relative to the widest one, are not blown up to unit size."""


def scaled(raw: Array, element: Array, scaling: tuple[Array, Array] | None) -> Array:
    """`(G - shift) * factor`, with the constants of each atom's element.

    Args:
        raw: features of one or several atoms.
        element: index of the element of each.
        scaling: shift and factor, `[elements, features]`; `None` leaves features as they are.
    """
    if scaling is None:
        return raw
    shift, factor = (jnp.asarray(values, raw.dtype) for values in scaling)
    # Published potentials have factors up to 1e134, of functions that vanish in float32; the
    # gradient multiplies by them, too.
    factor = jnp.minimum(factor, 1e-8 * float(jnp.finfo(raw.dtype).max))
    if len(shift) == 1 and raw.ndim == 2:
        return (raw - shift) * factor
    return (raw - shift[element]) * factor[element]


@dataclasses.dataclass
class Moments:
    """Streaming statistics of features: count, mean, sum of squared deviations, extremes."""

    count: int = 0
    mean: Any = 0.0
    deviations: Any = 0.0
    lowest: Any = np.inf
    highest: Any = -np.inf

    def add(self, values: np.ndarray) -> None:
        """Merges rows `[atoms, features]`; Chan, Golub & LeVeque (1983), eq. 2.1."""
        if not len(values):
            return
        count = self.count + len(values)
        mean = values.mean(axis=0)
        difference = mean - self.mean
        self.deviations = (
            self.deviations
            + ((values - mean) ** 2).sum(axis=0)
            + difference**2 * self.count * len(values) / count
        )
        self.mean = self.mean + difference * len(values) / count
        self.count = count
        self.lowest = np.minimum(self.lowest, values.min(axis=0))
        self.highest = np.maximum(self.highest, values.max(axis=0))

    def scaling(self, kind: Scaling) -> tuple[np.ndarray, np.ndarray]:
        """Shift and factor of each feature."""
        if kind == "minmax":
            shift, spread = self.lowest, self.highest - self.lowest
        else:
            shift, spread = self.mean, np.sqrt(self.deviations / self.count)
        if kind == "spread":
            shift = np.zeros_like(shift)
        widest = spread.max()
        floor = _SMALLEST_SPREAD * widest if widest > 0.0 else 1.0
        return shift, 1.0 / np.maximum(spread, floor)
