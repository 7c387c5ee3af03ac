"""Linear maps, such as products of a Hessian with a vector, as matrices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float


def apply_to_basis(
    linear: Callable[..., Any],
    like: tuple[Any, ...],
    chunk: int,
    rows: Float[Array, "rows size"] | None = None,
) -> Float[Array, "rows results"]:
    """The results, flattened, of a linear map for unit vectors, some at a time.

    Args:
        linear: takes arrays like those of `like`, such as the second result of `jax.linearize`.
        like: arrays whose shapes and dtype its arguments have.
        chunk: vectors that it is applied to at a time.
        rows: vectors, flattened; all unit vectors where not given.
    """
    flat, restore = ravel_pytree(like)
    vectors = jnp.eye(flat.size, dtype=flat.dtype) if rows is None else rows

    def one(vector: Array) -> Array:
        return ravel_pytree(linear(*restore(vector)))[0]

    count = len(vectors)
    # Whole chunks, so that the map is compiled once.
    chunks = -(-count // chunk)
    chunk = -(-count // chunks)
    padded = jnp.pad(vectors, ((0, chunk * chunks - count), (0, 0)))
    results = jax.lax.map(jax.vmap(one), padded.reshape(chunks, chunk, -1))
    return results.reshape(chunk * chunks, -1)[:count]
