"""Cutoff functions of symmetry functions: 1 at r = 0, 0 from the cutoff on."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from mlip_jax.config import UserError

EnvelopeName = Literal["cosine", "tanh_cubed", "polynomial"]
Envelope = Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]]


def cosine(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`(cos(πx) + 1) / 2` of x = r / cutoff, C1 at x = 1; Behler & Parrinello (2007), eq. 4.

    Written as a square of what vanishes at the cutoff: neither a difference, nor the rounding of π,
    is large compared to it there.
    """
    return jnp.where(x < 1.0, jnp.sin(0.5 * jnp.pi * (1.0 - x)) ** 2, 0.0)


def tanh_cubed(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`tanh³(1 - x)` of x = r / cutoff, C2 at x = 1; Behler (2011), eq. 6."""
    return jnp.where(x < 1.0, jnp.tanh(1.0 - x) ** 3, 0.0)


def polynomial(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`1 - 10 x³ + 15 x⁴ - 6 x⁵` of x = r / cutoff, C2 at x = 1; Singraber et al. (2019), eq. 9."""
    inside = x < 1.0
    x = jnp.where(inside, x, 1.0)
    return jnp.where(inside, ((15.0 - 6.0 * x) * x - 10.0) * x**3 + 1.0, 0.0)


def transition(r: Float[Array, "*shape"], cutoff: float, width: float) -> Float[Array, "*shape"]:
    """Half a cosine: 1 below `cutoff - width` [Å], 0 from `cutoff` on, C1; as in QUIP."""
    falling = jnp.clip((r - (cutoff - width)) / width, 0.0, 1.0)
    return jnp.where(r < cutoff, 0.5 * (1.0 + jnp.cos(jnp.pi * falling)), 0.0)


def switch(onset: float | None, cutoff: float) -> Envelope:
    """S(r): 1 below the onset, 0 from the cutoff on, C2.

    Args:
        onset: Å; `None`: 0.8 cutoff.
        cutoff: Å.

    Raises:
        UserError: for an onset that does not lie below the cutoff.
    """
    start = 0.8 * cutoff if onset is None else onset
    if not 0.0 <= start < cutoff:
        raise UserError(
            f"onset: got {start} Å; expected a value from 0 to below the cutoff {cutoff} Å."
        )
    return lambda r: polynomial(jnp.maximum(r - start, 0.0) / (cutoff - start))


ENVELOPES: dict[str, Envelope] = {
    "cosine": cosine,
    "tanh_cubed": tanh_cubed,
    "polynomial": polynomial,
}


def named(name: EnvelopeName, plateau: float = 0.0) -> Envelope:
    """The envelope of a name; with a plateau it is 1 up to that share of the cutoff.

    Beyond the plateau α it is a function of `(x - α) / (1 - α)`; Singraber et al. (2019), eq. 7.
    """
    function = ENVELOPES[name]
    if plateau == 0.0:
        return function
    return lambda x: function(jnp.where(x > plateau, (x - plateau) / (1.0 - plateau), 0.0))
