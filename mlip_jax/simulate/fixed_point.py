"""Fixed-point numbers: 64-bit integers that are added and taken off without rounding."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

UNIT = 2.0**-40
"""What the integer 1 stands for."""

_RANGE = 2.0**62
"""Integers beyond (numbers of 4 million) are not trusted: no sum of two may overflow."""


def to_integers(values: Float[Array, "..."]) -> Int[Array, "..."]:
    """The nearest integers; meaningful where `fits`."""
    return jnp.round(values / UNIT).astype(jnp.int64)


def to_numbers(integers: Int[Array, "..."]) -> Float[Array, "..."]:
    """What integers stand for, in float64."""
    return UNIT * integers.astype(jnp.float64)


def fits(values: Float[Array, "..."]) -> Bool[Array, ""]:
    """Whether all numbers are finite and far from the ends of the range."""
    return jnp.all(jnp.abs(values) < UNIT * _RANGE)
