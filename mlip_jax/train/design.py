"""The rows of a least-squares problem: derivatives of predictions by the parameters.

Energies of atoms are linear in the parameters, and so are their derivatives: what a term of the
model says of one atom (`models.linear_terms`) gives the rows of energies, forces and stresses.
"""

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.data.batching import Batch
from mlip_jax.graph import atoms_per_graph, edge_vectors, volumes
from mlip_jax.models.linear_terms import (
    EnergyRows,
    energy_rows,
    fixed_part,
    linear_terms,
    submodule,
)
from mlip_jax.potential import Prediction, Variables, predict_fn
from mlip_jax.train.loss import PROPERTIES, LossConfig, PropertyLoss


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


def design_fn(
    model: nn.Module,
    variables: Variables,
    scales: dict[str, float],
    species: Sequence[int],
) -> Callable[[Batch], Design]:
    """Makes `batch -> Design`, compiled once for every shape.

    Args:
        model: see `linear_terms`.
        variables: of the model; of parameters only the shapes count.
        scales: of the squared error of each property in the loss, over its number of labels.
        species: atomic numbers in the order of the columns of the composition.

    Raises:
        UserError: for a model that is not linear in its parameters.
    """
    terms = linear_terms(model, variables)
    fixed = fixed_part(model, variables)
    columns = _columns(variables["params"], [path for path, _ in terms])

    @jax.jit
    def evaluate(batch: Batch) -> tuple[Array, Array, Array]:
        parts = []
        for path, local in terms:
            found = energy_rows(local, submodule(variables, path[:-1]), batch.graph)
            parts.append(_rows(found, batch, scales))
        matrix = jnp.concatenate(parts, axis=1)[:, columns]
        target, mask = _targets(batch, scales)
        if fixed is not None:
            target = target - _predicted(predict_fn(fixed)(variables, batch.graph), batch, scales)
        return matrix, target, mask

    def design(batch: Batch) -> Design:
        matrix, target, mask = (np.asarray(x) for x in evaluate(batch))
        composition = _composition(batch, scales, species)
        keep = mask.astype(bool)
        return Design(
            matrix[keep].astype(np.float64), target[keep].astype(np.float64), composition[keep]
        )

    return design


def _columns(params: Any, paths: Sequence[tuple[str, ...]]) -> np.ndarray:
    """For each parameter, as `ravel_pytree` orders them, its column in the rows of the terms."""
    flat, unravel = ravel_pytree(jax.tree.map(np.asarray, params))
    places = unravel(jnp.arange(flat.size, dtype=flat.dtype))
    leaves = [jax.tree.leaves(functools.reduce(operator.getitem, path, places)) for path in paths]
    order = np.concatenate([np.ravel(leaf) for group in leaves for leaf in group])
    return np.argsort(order)


def _rows(found: EnergyRows, batch: Batch, scales: dict[str, float]) -> Float[Array, "rows _"]:
    """Weighted derivatives of all properties by the parameters of one term.

    Atom by atom: an atom adds to its own forces and to those of its neighbours.
    """
    graph = batch.graph
    number, size = graph.num_atoms, found.values.shape[1]
    dtype = found.values.dtype
    vectors = edge_vectors(graph)
    counted = graph.energy_mask.astype(dtype)

    def add(totals: Any, atom: Any) -> tuple[Any, None]:
        energies, forces, strains = totals
        i, structure, neighbors, around, share, values, slopes, pairs = atom
        slope = share * jnp.einsum("kdf,pf->kdp", pairs, slopes)
        forces = forces.at[i].add(jnp.sum(slope, axis=0)).at[neighbors].add(-slope)
        strains = strains.at[structure].add(jnp.einsum("kc,kdp->cdp", around, slope))
        return (energies.at[structure].add(share * values), forces, strains), None

    start = (
        jnp.zeros((graph.num_graphs, size), dtype),
        jnp.zeros((number, 3, size), dtype),
        jnp.zeros((graph.num_graphs, 3, 3, size), dtype),
    )
    atoms = (jnp.arange(number), graph.graph_index, graph.neighbors, vectors, counted)
    (energies, forces, strains), _ = jax.lax.scan(add, start, (*atoms, *jax.tree.leaves(found)))
    symmetric = 0.5 * (strains + jnp.swapaxes(strains, 1, 2))
    stress = symmetric / volumes(graph.cell)[:, None, None, None]
    derivatives = {"energy": energies, "forces": forces, "stress": stress}
    parts = []
    for name, scale in scales.items():
        factor = _factor(batch, name, scale)[..., None].astype(dtype)
        parts.append((derivatives[name] * factor).reshape(-1, size))
    return jnp.concatenate(parts)


def _predicted(prediction: Prediction, batch: Batch, scales: dict[str, float]) -> Array:
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
