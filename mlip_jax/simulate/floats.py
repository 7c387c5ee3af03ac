"""Trees in two parts: floating point, which has derivatives, and all else, which has none."""

from typing import Any

import jax
import jax.numpy as jnp


def is_float(leaf: Any) -> bool:
    """Whether a leaf is an array of floating point."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def split(tree: Any) -> tuple[Any, Any]:
    """The tree with `None` in place of what is not floating point, and the other way round."""
    floats = jax.tree.map(lambda a: a if is_float(a) else None, tree)
    return floats, jax.tree.map(lambda a: None if is_float(a) else a, tree)


def join(floats: Any, others: Any) -> Any:
    """The whole tree of two parts."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, floats, others, is_leaf=lambda a: a is None
    )


def cotangents_of_floats(cotangents: Any) -> Any:
    """Cotangents as of the first part of `split`: without jax's placeholders for integers."""
    return jax.tree.map(lambda c: None if c.dtype == jax.dtypes.float0 else c, cotangents)


def spoiled(tree: Any, wrong: Any) -> Any:
    """The tree, with NaN for all floating-point numbers and their derivatives where it is wrong."""
    factor = jnp.where(wrong, jnp.nan, 1.0)
    return jax.tree.map(lambda a: a * factor.astype(a.dtype) if is_float(a) else a, tree)
