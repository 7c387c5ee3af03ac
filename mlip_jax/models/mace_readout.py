"""Readouts of MACE: energies from the scalar features of a layer, for one head or several."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.graph import AtomicGraph
from mlip_jax.nn.equivariant import silu


class Readout(nn.Module):
    """Energies of each row of scalar features, linear or with one hidden layer.

    Attributes:
        width: of the hidden layer; `None`: none.
        heads: with weights of their own; 0: one, whose weights have no axis for it.
    """

    width: int | None
    heads: int = 0

    @nn.compact
    def __call__(self, features: Float[Array, "rows channels"]) -> Float[Array, "rows heads"]:
        """Energies of every head, in units of the scale."""
        widths = [features.shape[-1], *([] if self.width is None else [self.width]), 1]
        x = features[None]
        for i, shape in enumerate(itertools.pairwise(widths)):
            shape = (self.heads, *shape) if self.heads else shape
            weight = self.param(f"weight_{i}", nn.initializers.normal(1.0), shape, x.dtype)
            weight = weight.reshape(-1, *weight.shape[-2:]) / math.sqrt(weight.shape[-2])
            x = (silu(x) if i else x) @ weight
        return x[..., 0].T


def of_head(
    values: Float[Array, "atoms heads"], graph: AtomicGraph, heads: Sequence[str]
) -> Float[Array, " atoms"]:
    """The value of each atom that belongs to the head of its structure.

    Args:
        values: of every head.
        graph: its `fidelity` says which head counts.
        heads: of the model; with none there is one value an atom.

    Raises:
        UserError: for a graph that does not say which head counts.
    """
    if not heads:
        return values[:, 0]
    if graph.fidelity is None:
        raise UserError(
            f"mace.heads: got a structure that belongs to none of the heads {', '.join(heads)}. "
            "Choose one: mj.load(path, head=...), the key `head` of a simulation's config, or "
            "`mlip-jax head POTENTIAL HEAD -o DIR` for every other command."
        )
    chosen = graph.fidelity[graph.graph_index][:, None] == jnp.arange(len(heads))[None, :]
    return jnp.sum(jnp.where(chosen, values, 0.0), axis=1)


def take_head(params: dict[str, Any], index: int) -> dict[str, Any]:
    """Parameters of a model with one head, from those of a model with several.

    Args:
        params: of the model, by module.
        index: of the head.
    """
    return {
        name: {key: weight[index] for key, weight in value.items()}
        if name.startswith("readout_")
        else value
        for name, value in params.items()
    }
