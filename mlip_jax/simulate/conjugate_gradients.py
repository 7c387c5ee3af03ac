"""Conjugate gradients (Hestenes & Stiefel 1952) that notice where a matrix is not positive."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Vector = Float[Array, " n"]


class _Search(NamedTuple):
    solution: Vector
    residual: Vector
    direction: Vector
    square: Array
    steps: Array
    positive: Array


def conjugate_gradients(
    product: Callable[[Vector], Vector], right: Vector, tolerance: float, max_steps: Any
) -> tuple[Vector, Bool[Array, ""]]:
    """Solves `A x = b` for a symmetric matrix A, given by its products with vectors.

    Where a direction of negative curvature is met, the solution so far is returned, or b itself if
    there is none: a direction of descent for `b = -gradient` (Steihaug 1983).

    Args:
        product: `v -> A v`.
        right: b.
        tolerance: largest norm of the residual relative to that of b.
        max_steps: products at most.

    Returns:
        x, and whether it is a solution.
    """
    limit = tolerance**2 * jnp.sum(right**2)

    def going(s: _Search):
        return s.positive & (s.square > limit) & (s.steps < max_steps)

    def body(s: _Search) -> _Search:
        image = product(s.direction)
        curvature = jnp.sum(s.direction * image)
        positive = curvature > 0.0
        length = s.square / jnp.where(positive, curvature, 1.0)
        residual = s.residual - length * image
        square = jnp.sum(residual**2)
        fallback = jnp.where(s.steps == 0, right, s.solution)
        return _Search(
            solution=jnp.where(positive, s.solution + length * s.direction, fallback),
            residual=residual,
            direction=residual + square / s.square * s.direction,
            square=square,
            steps=s.steps + 1,
            positive=positive,
        )

    none, yes = jnp.zeros((), jnp.int32), jnp.ones((), bool)
    first = _Search(jnp.zeros_like(right), right, right, jnp.sum(right**2), none, yes)
    last = jax.lax.while_loop(going, body, first)
    return last.solution, last.positive & (last.square <= limit)
