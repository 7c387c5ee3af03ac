"""Functions of a distance, such as a network that weights messages, as Chebyshev series.

Where parameters are fixed, a network of radial functions is a function of the distance alone: one
matrix product of polynomials and coefficients takes its place, at a fraction of its cost. The
variable is `exp(-2 r / c)`, mapped to [-1, 1], since such functions vary most at short distances.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.nn import chebyshev, double, radial

PRECISION = 1e-7
"""Of the functions where they are series, relative to the largest of them."""

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
    try:
        return chebyshev.series(lambda y: np.asarray(function(_distances(y, cutoff))), precision)
    except ValueError:
        return None


def series_of_networks(
    networks: Mapping[str, Mapping[str, Any]],
    basis: Callable[[Array], tuple[Array, Array]],
    cutoff: float,
) -> dict[str, Float[np.ndarray, "terms weights"]]:
    """Series of networks without biases over their envelope, sampled by one program in float64.

    Networks that vary too quickly for a series are left out.

    Args:
        networks: parameters of `radial.ScalarKernels` by name.
        basis: of distances `[points]` [Å]: radial basis `[points, basis]`, and its envelope.
        cutoff: Å.
    """

    def functions(distances: Array) -> dict[str, Array]:
        inputs, envelope = basis(distances)
        values = {}
        for name, params in networks.items():
            shapes = [params[f"weight_{i}"].shape for i in range(len(params))]
            widths = (shapes[0][0], *(shape[1] for shape in shapes))
            module = radial.ScalarKernels(widths, parent=None)
            kernels: Any = module.apply({"params": params}, inputs.dtype)
            hidden = radial.hidden_network(kernels[:-1], inputs)
            values[name] = (hidden @ kernels[-1]) / envelope[:, None]
        return values

    with double.allowed():
        values = jax.jit(functions)(_distances(chebyshev.nodes(), cutoff))
    found = {
        name: radial_series(lambda _, value=value: np.asarray(value), cutoff, PRECISION)
        for name, value in values.items()
    }
    return {name: series for name, series in found.items() if series is not None}


def _distances(y: np.ndarray, cutoff: float) -> np.ndarray:
    """Distances [Å] at which the variable is y."""
    return -np.log1p(-0.5 * (y + 1.0) * _SPAN) * (cutoff / _DECAY)


def variable(distances: Float[Array, "..."], cutoff: float) -> Float[Array, "..."]:
    """The variable y of the polynomials, 1 from the cutoff on."""
    x = jnp.where(distances < cutoff, distances / cutoff, 1.0)
    return (1.0 - jnp.exp(-_DECAY * x)) * (2.0 / _SPAN) - 1.0


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
    terms = chebyshev.polynomials(variable(distances, cutoff), series.shape[0], envelope)
    return jnp.einsum("kij,kc->ijc", terms, series)
