"""Gauss-Newton curvature of the loss as a scale of parameters for L-BFGS.

Near the minimum of a sum of squares `|r(p)|²` the Hessian is about `2 JᵀJ` with `J = dr/dp`. In the
coordinates `p = W q` with `Wᵀ 2 JᵀJ W = 1` it is the identity, from which L-BFGS starts: J. Nocedal
& S. J. Wright, "Numerical Optimization" (2006), section 10.3.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.data.batching import Batch
from mlip_jax.potential import predict_fn
from mlip_jax.train import design
from mlip_jax.train.loss import LossConfig

_DAMPING = 1e-7
"""Of the eigenvalues of the matrix scaled to ones on its diagonal, relative to the mean of 1."""

_MOST = 5000


def whitening(
    model: nn.Module, variables: Mapping[str, Any], loss: LossConfig, batches: Iterable[Batch]
) -> Float[np.ndarray, "parameters parameters"]:
    """W for the loss of some batches, at the given parameters.

    Args:
        model: any with few parameters.
        variables: of it.
        loss: a sum of squares with fixed weights.
        batches: of training data, with labels for every property of the loss.

    Raises:
        UserError: for another loss, or thousands of parameters.
    """
    params = variables["params"]
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    if size > _MOST:
        raise UserError(
            f"optimizer.curvature_batches: got a model of {size} parameters; expected {_MOST} at "
            "most. Remove the key."
        )
    kept = list(batches)
    scales = design.scales_of(loss, kept)
    constants = {name: tree for name, tree in variables.items() if name != "params"}
    predict = predict_fn(model)
    flat, unravel = ravel_pytree(params)

    @jax.jit
    def jacobian(flat: Array, constants: Any, batch: Batch) -> Array:
        def rows(flat: Array) -> Array:
            prediction = predict({"params": unravel(flat), **constants}, batch.graph)
            return design.weighted_rows(prediction, batch, scales)

        return design.forward_slopes(rows, flat)

    square = np.zeros((size, size))
    for batch in kept:
        columns = np.asarray(jacobian(flat, constants, batch), np.float64)
        square += columns @ columns.T
    return _inverse_root(square)


def lbfgs(
    arguments: Mapping[str, Any], whitening: Float[np.ndarray, "_ _"] | None
) -> optax.GradientTransformation:
    """Directions of L-BFGS, downhill, in the whitened coordinates where there are any.

    Args:
        arguments: of `optax.scale_by_lbfgs`.
        whitening: W, see above.
    """
    if whitening is None:
        return optax.chain(optax.scale_by_lbfgs(**arguments), optax.scale(-1.0))
    inner = optax.scale_by_lbfgs(**{"scale_init_precond": False, **arguments})
    inverse = np.linalg.inv(whitening)

    def init(params: Any) -> Any:
        flat, _ = ravel_pytree(params)
        return inner.init(jnp.asarray(inverse, flat.dtype) @ flat)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        slope, unravel = ravel_pytree(updates)
        flat, _ = ravel_pytree(params)
        matrix = jnp.asarray(whitening, flat.dtype)
        place = jnp.asarray(inverse, flat.dtype) @ flat
        direction, state = inner.update(matrix.T @ slope, state, place)
        return unravel(-matrix @ jnp.asarray(direction)), state

    return optax.GradientTransformation(init, update)


def _inverse_root(square: np.ndarray) -> np.ndarray:
    """W of `JᵀJ`, damped where parameters hardly count."""
    lengths = np.sqrt(np.diag(square))
    lengths = np.where(lengths > 0.0, lengths, 1.0)
    values, vectors = np.linalg.eigh(square / np.outer(lengths, lengths))
    root = np.sqrt(2.0 * (np.maximum(values, 0.0) + _DAMPING))
    return vectors / root / lengths[:, None]
