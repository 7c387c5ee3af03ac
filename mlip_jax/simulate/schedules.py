"""Temperatures and pressures as functions of the step, on the device."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from mlip_jax.simulate.settings import Schedule

AtStep = Callable[[Any], Any]
"""The value at a step, which is the number of steps done."""


def at_step(value: float | Schedule, unit: float, timestep: float, dtype: np.dtype) -> AtStep:
    """A quantity as a function of the step.

    Args:
        value: a constant, or how it changes.
        unit: factor from the unit of the config to that of the integrator.
        timestep: fs.
        dtype: of the result.
    """
    if not isinstance(value, Schedule):
        constant = dtype.type(unit * value)
        return lambda step: constant
    values = (unit * np.array(value.values)).astype(dtype)
    steps = np.array(value.times) / timestep
    if value.interpolation == "linear":
        return lambda step: jnp.interp(step.astype(dtype), steps.astype(dtype), values)
    # Rounding of a quotient must not delay a change by a step.
    starts = jnp.asarray(np.ceil(steps - 1e-6).astype(np.int32))
    return lambda step: jnp.asarray(values)[jnp.maximum(jnp.sum(starts <= step) - 1, 0)]
