"""Double precision for the few sums that need it, inside programs of single precision."""

import contextlib
import functools
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def allowed(where: bool = True) -> contextlib.AbstractContextManager:
    """A context in which arrays of float64 may be made and differentiated, even with x64 off.

    Args:
        where: otherwise the context does nothing.
    """
    return jax.enable_x64(True) if where else contextlib.nullcontext()


def einsum(
    subscripts: str, first: Float[Array, "..."], second: Float[Array, "..."]
) -> Float[Array, "..."]:
    """`jnp.einsum` of two arrays with products and sums in float64, in their precision again.

    Derivatives are sums of the same kind, so that x64 may be off; those of float32 are of reverse
    mode only.

    Args:
        subscripts: explicit, without a repeated index in one array; an index that is summed is in
            both arrays.
        first: float32 or float64.
        second: likewise.
    """
    if first.dtype == jnp.float64:
        return jnp.einsum(subscripts, first, second, precision="highest")
    return cast(Array, _einsum(subscripts, first, second))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _einsum(subscripts: str, first: Array, second: Array) -> Array:
    with allowed():
        wide = first.astype(jnp.float64), second.astype(jnp.float64)
        return jnp.einsum(subscripts, *wide, precision="highest").astype(first.dtype)


def _forward(subscripts: str, first: Array, second: Array) -> tuple[Array, tuple[Array, Array]]:
    return einsum(subscripts, first, second), (first, second)


def _backward(subscripts: str, saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    first, second = saved
    inputs, result = subscripts.split("->")
    a, b = inputs.split(",")
    return (
        einsum(f"{result},{b}->{a}", cotangent, second),
        einsum(f"{result},{a}->{b}", cotangent, first),
    )


_einsum.defvjp(_forward, _backward)


def low_part(values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """What rounding to float32 leaves of values in float64: with it they have 48 bits."""
    values = np.asarray(values, np.float64)
    return values - values.astype(np.float32).astype(np.float64)
