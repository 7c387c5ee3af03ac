"""The loss and the errors of a batch, as sums of numerators and counts of labels.

A mean is taken once, at the end, as the sum of numerators over the number of labels, so that it
does not depend on how structures were dealt to batches or devices: never a mean of means.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.data.batching import Batch, Label
from mlip_jax.graph import atoms_per_graph
from mlip_jax.potential import Prediction

PROPERTIES = ("energy", "forces", "stress", "charges", "magmoms")
"""Order of the axis `properties` of every array here. Energies count per atom."""

UNITS = {
    "energy": "eV/atom",
    "forces": "eV/Å",
    "stress": "eV/Å^3",
    "charges": "e",
    "magmoms": "μ_B",
}


@dataclasses.dataclass(frozen=True)
class WeightSchedule:
    """A weight that changes with the epoch.

    Attributes:
        values: weight from the epoch that is its key on; before the first key, the first weight.
        interpolation: `piecewise` (constant between keys) or `linear`.
    """

    values: dict[int, float]
    interpolation: Literal["piecewise", "linear"] = "piecewise"

    def __post_init__(self):
        if not self.values or min(self.values) < 0 or min(self.values.values()) < 0:
            raise UserError(
                f"loss weight: got values {self.values}; expected at least one `epoch: weight` "
                "with neither of them negative."
            )

    def __call__(self, epoch: int) -> float:
        """The weight in an epoch (counted from 0)."""
        epochs = sorted(self.values)
        weights = [self.values[e] for e in epochs]
        if self.interpolation == "linear":
            return float(np.interp(epoch, epochs, weights))
        return float(weights[max(sum(e <= epoch for e in epochs) - 1, 0)])


@dataclasses.dataclass(frozen=True)
class PropertyLoss:
    """The loss of one property: `weight * sum_i w_i ρ(e_i) / number of labels`.

    Errors e are taken per component (energies per atom); w_i is the weight of the structure.

    Attributes:
        weight: a number, or a schedule over epochs.
        kind: ρ(e) = e² (`mse`), |e| (`mae`), or e²/2 up to δ and linear beyond (`huber`).
        delta: δ of `huber`, in the unit of the property (eV/atom, eV/Å, eV/Å^3, e, μ_B).
    """

    weight: float | WeightSchedule = 1.0
    kind: Literal["mse", "mae", "huber"] = "mse"
    delta: float = 0.01

    def __post_init__(self):
        if isinstance(self.weight, int | float) and self.weight < 0:
            raise UserError(f"loss weight: got {self.weight}; expected a number that is not < 0.")
        if self.delta <= 0:
            raise UserError(f"loss delta: got {self.delta}; expected a positive number.")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The section `loss`: which properties count, and how; an absent one is only reported.

    The absolute values of magnetic moments are what counts (Deng et al. 2023).
    """

    energy: PropertyLoss | None = PropertyLoss(weight=1.0)
    forces: PropertyLoss | None = PropertyLoss(weight=10.0)
    stress: PropertyLoss | None = None
    charges: PropertyLoss | None = None
    magmoms: PropertyLoss | None = None

    def weights(self, epoch: int) -> Float[np.ndarray, " properties"]:
        """Weight of every property in an epoch; 0 for absent ones."""
        return np.array([_weight(getattr(self, name), epoch) for name in PROPERTIES])


class Sums(NamedTuple):
    """Sums over the labels of one or several batches; they add.

    Attributes:
        loss: sum of `w ρ(e)`.
        absolute: sum of |e|, in the unit of the property.
        squared: sum of e².
        labels: number of labels (components).
    """

    loss: Float[Array | np.ndarray, " properties"]
    absolute: Float[Array | np.ndarray, " properties"]
    squared: Float[Array | np.ndarray, " properties"]
    labels: Float[Array | np.ndarray, " properties"]

    @staticmethod
    def zeros() -> "Sums":
        """Sums over nothing, float64, on the host."""
        return Sums(*(np.zeros(len(PROPERTIES)) for _ in Sums._fields))

    def plus(self, other: "Sums") -> "Sums":
        """Adds the sums of another batch on the host, in float64."""
        return Sums(
            *(a + np.asarray(b, dtype=np.float64) for a, b in zip(self, other, strict=True))
        )


def label_counts(batch: Batch) -> Float[Array, " properties"]:
    """Number of labelled components of each property in a batch."""
    dtype = batch.graph.positions.dtype
    counts = []
    for name in PROPERTIES:
        label = getattr(batch.labels, name)
        mask = None if label is None else _component_mask(label)
        counts.append(jnp.zeros((), dtype) if mask is None else jnp.sum(mask, dtype=dtype))
    return jnp.stack(counts)


def batch_sums(config: LossConfig, prediction: Prediction, batch: Batch) -> Sums:
    """Sums of the errors of a prediction over the labels of a batch.

    Properties without labels, or that the model does not predict, give zeros.
    """
    terms = []
    for name in PROPERTIES:
        label, value = getattr(batch.labels, name), getattr(prediction, name)
        if label is None or value is None:
            terms.append([jnp.zeros((), batch.graph.positions.dtype)] * len(Sums._fields))
        else:
            terms.append(_property_sums(name, getattr(config, name), value, label, batch))
    return Sums(*(jnp.stack(column) for column in zip(*terms, strict=True)))


def loss(sums: Sums, factors: Float[Array | np.ndarray, " properties"]) -> Float[Array, ""]:
    """The loss: `sum_p factors_p * sums.loss_p`.

    Args:
        sums: of a batch, or of one device's part of it.
        factors: weights over the numbers of labels of the *whole* (1 where there are none), so that
            the losses of the parts add.
    """
    return jnp.sum(jnp.asarray(factors, sums.loss.dtype) * sums.loss)


def metrics(sums: Sums, weights: Float[np.ndarray, " properties"]) -> dict[str, float]:
    """Loss, MAE and RMSE (as `forces_mae` …) of sums on the host, for properties with labels."""
    count = np.maximum(sums.labels, 1)
    result = {"loss": float(np.sum(np.asarray(weights, np.float64) * sums.loss / count))}
    for index, name in enumerate(PROPERTIES):
        if sums.labels[index] > 0:
            result[f"{name}_mae"] = float(sums.absolute[index] / count[index])
            result[f"{name}_rmse"] = float(np.sqrt(sums.squared[index] / count[index]))
    return result


def _weight(term: PropertyLoss | None, epoch: int) -> float:
    if term is None:
        return 0.0
    return term.weight(epoch) if isinstance(term.weight, WeightSchedule) else float(term.weight)


def _component_mask(label: Label):
    extra = label.value.ndim - label.mask.ndim
    mask = label.mask.reshape(label.mask.shape + (1,) * extra)
    return jnp.broadcast_to(mask, label.value.shape)


def _penalty(term: PropertyLoss | None) -> Callable[[Any], Any]:
    if term is None or term.kind == "mse":
        return jnp.square
    if term.kind == "mae":
        return jnp.abs
    return lambda error: optax.huber_loss(error, delta=term.delta)


def _property_sums(name, term, value, label, batch: Batch):
    graph = batch.graph
    weight = batch.labels.weight
    if value.shape[0] == graph.num_atoms and name not in ("energy", "stress"):
        weight = weight[graph.graph_index]
    mask = _component_mask(label)
    error = jnp.where(mask, value - label.value, 0.0)
    if name == "energy":
        error = error / jnp.maximum(atoms_per_graph(graph), 1).astype(error.dtype)
    weight = weight.reshape((-1,) + (1,) * (error.ndim - 1))
    penalty = jnp.where(mask, _penalty(term)(error), 0.0)
    constant = jax.lax.stop_gradient(error)
    return [
        jnp.sum(weight * penalty),
        jnp.sum(jnp.abs(constant)),
        jnp.sum(jnp.square(constant)),
        jnp.sum(mask, dtype=error.dtype),
    ]
