"""What happens to cotangents on their way back through a trajectory: stopped, or kept short.

A trajectory of atoms is chaotic: derivatives with respect to its past grow exponentially, at the
rate of the largest Lyapunov exponent, and soon say nothing (Metz et al. 2021). A gate stands in the
middle of certain steps, between the drift and the force evaluation, so that the forces of the step
still depend on the parameters in full.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mlip_jax.config import UserError
from mlip_jax.simulate import floats

Gate = Callable[[Int[Array, ""], Any], Any]
"""`(step from the start of the trajectory, tree) -> the same tree`, of other derivatives."""


def truncated(every: int) -> Gate:
    """No derivative passes the gate of every n-th step (truncated backpropagation, Werbos 1990).

    Args:
        every: steps between gates.
    """
    _check_every(every)

    def gate(index, tree):
        closed = _stands(index, every)
        smooth, others = floats.split(tree)
        stopped = jax.lax.stop_gradient(smooth)
        smooth = jax.tree.map(lambda a, b: jnp.where(closed, a, b), stopped, smooth)
        return floats.join(smooth, others)

    return gate


def clipped(every: int, max_norm: float) -> Gate:
    """Scales cotangents at every n-th step where their norm is too large.

    The norm is that over all positions, momenta and variables of the thermostat together, in the
    unit of the loss per unit of each (Å, sqrt(amu eV)). Cotangents that are not finite stay so.

    Args:
        every: steps between gates.
        max_norm: largest norm that passes.
    """
    _check_every(every)
    if not 0.0 < max_norm < np.inf:
        raise UserError(
            f"max_norm: got {max_norm}; expected a positive number. Leave the gate out where "
            "nothing is to be clipped."
        )

    def gate(index, tree):
        smooth, others = floats.split(tree)
        return floats.join(_limited(float(max_norm), smooth, _stands(index, every)), others)

    return gate


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _limited(max_norm: float, values: Any, stands: Array) -> Any:
    del max_norm, stands
    return values


def _limited_forward(max_norm, values, stands):
    del max_norm
    return values, stands


def _limited_backward(max_norm, stands, cotangents):
    squares = [jnp.sum(c.astype(float) ** 2) for c in jax.tree.leaves(cotangents)]
    norm = jnp.sqrt(sum(squares))
    scale = jnp.where(stands, max_norm / jnp.maximum(norm, max_norm), 1.0)
    return jax.tree.map(lambda c: scale.astype(c.dtype) * c, cotangents), None


_limited.defvjp(_limited_forward, _limited_backward)


def _stands(index, every: int):
    return (index > 0) & (index % every == 0)


def _check_every(every: int) -> None:
    if every < 1:
        raise UserError(f"every: got {every} steps between gates; expected 1 at least.")
