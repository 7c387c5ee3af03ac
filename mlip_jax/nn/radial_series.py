"""Functions of a distance, such as a network that weights messages, as Chebyshev series.

Where parameters are fixed, a network of radial functions is a function of the distance alone: one
matrix product of polynomials and coefficients takes its place, at a fraction of its cost. The
variable is `exp(-2 r / c)`, mapped to [-1, 1], since such functions vary most at short distances.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.nn import chebyshev

_DECAY = 2.0
_SPAN = 1.0 - np.exp(-_DECAY)


def radial_series(
    function: Callable[[np.ndarray], Any], cutoff: float, precision: float
) -> Float[np.ndarray, "terms weights"] | None:
    """Coefficients of a function on [0, cutoff], or `None` where it varies too quickly.

    Args:
        function: of distances `[points]` [Å]; its values are `[points, weights]`, of
            numpy or jax in float64.
        cutoff: Å.
        precision: of the sum, relative to the largest value.
    """

    def of_variable(y: np.ndarray) -> np.ndarray:
        distances = -np.log1p(-0.5 * (y + 1.0) * _SPAN) * (cutoff / _DECAY)
        return np.asarray(function(distances))

    try:
        return chebyshev.series(of_variable, precision)
    except ValueError:
        return None


def evaluate(
    series: Float[Array, "terms weights"],
    distances: Float[Array, "atoms max_neighbors"],
    envelope: Float[Array, "atoms max_neighbors"],
    cutoff: float,
) -> Float[Array, "atoms max_neighbors weights"]:
    """The function times an envelope, zero from the cutoff on.

    Args:
        series: see `radial_series`.
        distances: Å.
        envelope: zero from the cutoff on.
        cutoff: Å.
    """
    x = jnp.where(distances < cutoff, distances / cutoff, 1.0)
    y = (1.0 - jnp.exp(-_DECAY * x)) * (2.0 / _SPAN) - 1.0
    terms = chebyshev.polynomials(y, series.shape[0], envelope)
    return jnp.einsum("kij,kc->ijc", terms, series)
