"""The rows of a least-squares problem: derivatives of predictions by the parameters.

Energies of atoms are linear in the parameters, and so are their derivatives: what a term of the
model says of one atom (`models.linear_rows`) gives the rows of energies, forces and stresses.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.data.batching import Batch
from mlip_jax.graph import atoms_per_graph
from mlip_jax.models.linear_rows import PredictionRows, compiled_rows
from mlip_jax.models.linear_terms import fixed_part, linear_terms
from mlip_jax.potential import Prediction, Variables, predict_fn
from mlip_jax.train.loss import PROPERTIES, LossConfig, PropertyLoss


class Design(NamedTuple):
    """Weighted rows of a batch: `matrix @ parameters = target`.

    Attributes:
        matrix: derivatives by the parameters, in the order of `linear_terms.parameters`.
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


def scales_of(config: LossConfig, batches: Iterable[Batch]) -> dict[str, float]:
    """Factors of the squared errors in the loss: weights over numbers of labels.

    Raises:
        UserError: see `weights`.
    """
    found = weights(config)
    counts = count_labels(iter(batches), list(found))
    return {name: w / counts[name] for name, w in found.items() if counts[name] and w > 0}


def design_fn(
    model: nn.Module,
    variables: Variables,
    scales: Mapping[str, float],
    species: Sequence[int],
) -> Callable[[Variables, Batch], Design]:
    """Makes `(variables, batch) -> Design`, compiled once for every shape.

    Args:
        model: see `linear_terms`.
        variables: of the model, for the shapes of its parameters and its terms without any.
        scales: of the squared error of each property in the loss, over its number of labels.
        species: atomic numbers in the order of the columns of the composition.

    Raises:
        UserError: for a model that is not linear in its parameters.
    """
    linear_terms(model, variables)
    fixed = fixed_part(model, variables)

    @jax.jit
    def weigh(rows: PredictionRows, batch: Batch) -> tuple[Array, Array, Array]:
        size = rows.energy.shape[-1]
        matrix = jnp.concatenate(
            [part.reshape(-1, size) for part in _weighted(rows, batch, scales)]
        )
        target, mask = _targets(batch, scales)
        if fixed is not None:
            others, own = fixed
            parts = _weighted(predict_fn(others)(own, batch.graph), batch, scales)
            target = target - jnp.concatenate([part.reshape(-1) for part in parts])
        return matrix, target, mask

    def design(variables: Variables, batch: Batch) -> Design:
        batch = jax.tree.map(jnp.asarray, batch)
        rows = compiled_rows(model, variables, batch.graph)
        matrix, target, mask = (np.asarray(x) for x in weigh(rows, batch))
        composition = _composition(batch, scales, species)
        keep = mask.astype(bool)
        return Design(
            matrix[keep].astype(np.float64), target[keep].astype(np.float64), composition[keep]
        )

    return design


def weighted_rows(
    prediction: Prediction, batch: Batch, scales: Mapping[str, float]
) -> Float[Array, " rows"]:
    """Predictions with the factors of the loss; their squared errors add to it.

    Components without a label are zero.

    Args:
        prediction: of the batch.
        batch: with labels.
        scales: of the squared error of each property, over its number of labels.
    """
    _, mask = _targets(batch, scales)
    parts = [part.reshape(-1) for part in _weighted(prediction, batch, scales)]
    return jnp.where(mask, jnp.concatenate(parts), 0.0)


def forward_slopes(
    rows: Callable[[Array], Array], flat: Float[Array, " parameters"]
) -> Float[Array, "parameters rows"]:
    """Derivatives of rows by few parameters, forward, one parameter after the other."""

    def column(direction: Array) -> Array:
        return jax.jvp(rows, (flat,), (direction,))[1]

    return jax.lax.map(column, jnp.eye(flat.size, dtype=flat.dtype))


def labelled(batch: Batch, scales: Mapping[str, float]) -> Array:
    """Of the rows of `weighted_rows`, those with a label."""
    return _targets(batch, scales)[1].astype(bool)


def _weighted(found: Any, batch: Batch, scales: Mapping[str, float]) -> list[Array]:
    """Properties of predictions, or of rows of them, times the factors of the loss."""
    parts = []
    for name, scale in scales.items():
        values, factor = getattr(found, name), _factor(batch, name, scale)
        extra = (1,) * (values.ndim - factor.ndim)
        parts.append(values * factor.reshape(factor.shape + extra))
    return parts


def _targets(batch: Batch, scales: Mapping[str, float]) -> tuple[Array, Array]:
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
    batch: Batch, scales: Mapping[str, float], species: Sequence[int]
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
