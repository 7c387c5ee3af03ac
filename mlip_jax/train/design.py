"""The rows of a least-squares problem: derivatives of predictions by the parameters.

Nothing is known of the model but that its predictions are affine in its parameters: the rows are
its Jacobian, some parameters at a time, from the same `predict_fn` as everything else.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.data.batching import Batch
from mlip_jax.graph import atoms_per_graph
from mlip_jax.potential import PredictFn, Variables
from mlip_jax.train.loss import PROPERTIES, LossConfig, PropertyLoss

CHUNK = 64
"""Parameters whose rows are computed together."""


class Design(NamedTuple):
    """Weighted rows of a batch: `matrix @ parameters = target`.

    Attributes:
        matrix: derivatives by the parameters, flattened as `ravel_pytree` does.
        target: labels less the predictions of vanishing parameters.
        composition: of energies, the number of atoms of each element over the number of atoms;
            zero for other rows.
    """

    matrix: Float[np.ndarray, "rows parameters"]
    target: Float[np.ndarray, " rows"]
    composition: Float[np.ndarray, "rows elements"]


def weights(config: LossConfig) -> dict[str, float]:
    """The weight of every property in the loss.

    Raises:
        UserError: for a loss that is not a sum of squares with fixed weights.
    """
    found = {}
    for name in PROPERTIES:
        term: PropertyLoss | None = getattr(config, name)
        if term is None:
            continue
        if term.kind != "mse" or not isinstance(term.weight, int | float):
            raise UserError(
                f"loss.{name}: an exact solver minimises squares with fixed weights; expected "
                "kind: mse and a number as weight."
            )
        found[name] = float(term.weight)
    return found


def count_labels(batches: Iterator[Batch], names: Sequence[str]) -> dict[str, int]:
    """Number of labelled components of each property."""
    counts = dict.fromkeys(names, 0)
    for batch in batches:
        for name in names:
            label = getattr(batch.labels, name)
            if label is not None:
                components = int(np.prod(label.value.shape[label.mask.ndim :]))
                counts[name] += int(np.sum(label.mask)) * components
    return counts


def check_linear(predict: PredictFn, variables: Variables, batch: Batch) -> None:
    """Refuses a model whose energies are not affine in its parameters.

    Raises:
        UserError: where the energy at twice the parameters is not what a straight line gives.
    """
    constants = {name: tree for name, tree in variables.items() if name != "params"}

    @jax.jit
    def energies(factor: Array) -> Array:
        params = jax.tree.map(lambda leaf: factor * leaf, variables["params"])
        return predict({"params": params, **constants}, batch.graph).energy

    dtype = batch.graph.positions.dtype
    none, one, two = (np.asarray(energies(jnp.asarray(f, dtype))) for f in (0.0, 1.0, 2.0))
    if not np.allclose(two - one, one - none, rtol=1e-3, atol=1e-6 * np.abs(one).max()):
        raise UserError(
            "solver: the energies of this model are not linear in its parameters. Use `optimizer`, "
            "or a regressor such as linear or quadratic."
        )


def design_fn(
    predict: PredictFn,
    variables: Variables,
    scales: dict[str, float],
    species: Sequence[int],
) -> Callable[[Batch], Design]:
    """Makes `batch -> Design`, compiled once for every shape.

    Args:
        predict: of a model that is affine in its parameters.
        variables: of the model; only constants and shapes of parameters count.
        scales: of the squared error of each property in the loss, over its number of labels.
        species: atomic numbers in the order of the columns of the composition.
    """
    zeros = jax.tree.map(lambda leaf: np.zeros(np.shape(leaf)), variables["params"])
    constants = {name: tree for name, tree in variables.items() if name != "params"}
    flat, unravel = ravel_pytree(zeros)
    size = flat.size

    @jax.jit
    def evaluate(batch: Batch) -> tuple[Array, Array, Array]:
        dtype = batch.graph.positions.dtype

        def rows(parameters: Array) -> Array:
            params = jax.tree.map(lambda leaf: leaf.astype(dtype), unravel(parameters))
            return _rows(predict({"params": params, **constants}, batch.graph), batch, scales)

        start = jnp.zeros(size, flat.dtype)
        values, derivative = jax.linearize(rows, start)
        padded = -(-size // CHUNK) * CHUNK
        units = jnp.eye(padded, size, dtype=flat.dtype).reshape(-1, CHUNK, size)
        matrix = jax.lax.map(jax.vmap(derivative), units).reshape(padded, -1)[:size]
        target, mask = _targets(batch, scales)
        return matrix, target - values, mask

    def design(batch: Batch) -> Design:
        matrix, target, mask = (np.asarray(x) for x in evaluate(batch))
        composition = _composition(batch, scales, species)
        keep = mask.astype(bool)
        return Design(
            matrix.T[keep].astype(np.float64), target[keep].astype(np.float64), composition[keep]
        )

    return design


def _rows(prediction: Any, batch: Batch, scales: dict[str, float]) -> Array:
    parts = [
        (getattr(prediction, name) * _factor(batch, name, scale)).reshape(-1)
        for name, scale in scales.items()
    ]
    return jnp.concatenate(parts)


def _targets(batch: Batch, scales: dict[str, float]) -> tuple[Array, Array]:
    values, masks = [], []
    for name, scale in scales.items():
        label = getattr(batch.labels, name)
        factor = _factor(batch, name, scale)
        extra = (1,) * (label.value.ndim - label.mask.ndim)
        mask = jnp.broadcast_to(label.mask.reshape(label.mask.shape + extra), label.value.shape)
        values.append(jnp.where(mask, label.value * factor, 0.0).reshape(-1))
        masks.append(mask.reshape(-1))
    return jnp.concatenate(values), jnp.concatenate(masks)


def _factor(batch: Batch, name: str, scale: float) -> Array:
    """Factor of a component of a property whose square is its part of the loss."""
    graph, weight = batch.graph, jnp.asarray(batch.labels.weight)
    label = getattr(batch.labels, name)
    factor = jnp.sqrt(scale * weight)
    if name == "energy":
        factor = factor / jnp.maximum(atoms_per_graph(graph), 1).astype(weight.dtype)
    elif name != "stress":
        factor = factor[graph.graph_index]
    return factor.reshape((-1,) + (1,) * (label.value.ndim - 1))


def _composition(
    batch: Batch, scales: dict[str, float], species: Sequence[int]
) -> Float[np.ndarray, "rows elements"]:
    """Rows of the reference energies: only energies have any."""
    graph = batch.graph
    mask = np.asarray(graph.atom_mask)
    counts = np.zeros((graph.num_graphs, len(species)))
    for column, z in enumerate(species):
        chosen = mask & (np.asarray(graph.atomic_numbers) == z)
        np.add.at(counts[:, column], np.asarray(graph.graph_index)[chosen], 1.0)
    parts = []
    for name, scale in scales.items():
        label = getattr(batch.labels, name)
        size = int(np.prod(label.value.shape))
        part = np.zeros((size, len(species)))
        if name == "energy":
            part = counts * np.asarray(_factor(batch, name, scale))[:, None]
        parts.append(part)
    return np.concatenate(parts)
