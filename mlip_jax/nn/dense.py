"""Linear layers with biases, networks of them, and the normalisation of features.

Parameters come as arrays, not as layers, so that a network can run inside a loop over blocks of
atoms; functions apply them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlip_jax.nn.mlp import Activation

NORM_EPSILON = 1e-5
"""Added to the variance of features that are normalised."""


class Dense(NamedTuple):
    """A linear layer, `x @ kernel + bias`."""

    kernel: Float[Array, "_ _"]
    bias: Float[Array, " _"] | None


class Gated(NamedTuple):
    """A network and the one whose outputs, between 0 and 1, multiply its own."""

    network: tuple[Dense, ...]
    gate: tuple[Dense, ...]


class Norm(NamedTuple):
    """Scale and shift of normalised features."""

    scale: Float[Array, " _"]
    shift: Float[Array, " _"]


class DenseKernels(nn.Module):
    """Weights of linear layers, `widths[0] -> ... -> widths[-1]`.

    Weights are drawn uniformly with variance `2 / (inputs + outputs)` (Glorot and Bengio 2010),
    biases begin at zero.

    Attributes:
        widths: numbers of inputs, hidden units and outputs.
        bias: layers have biases.
    """

    widths: tuple[int, ...]
    bias: bool = True

    @nn.compact
    def __call__(self, dtype: jnp.dtype) -> tuple[Dense, ...]:
        """The layers in order."""
        layers = []
        for i, shape in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            kernel = self.param(f"kernel_{i}", nn.initializers.glorot_uniform(), shape, dtype)
            bias = None
            if self.bias:
                bias = self.param(f"bias_{i}", nn.initializers.zeros, shape[1:], dtype)
            layers.append(Dense(kernel, bias))
        return tuple(layers)


class GatedKernels(nn.Module):
    """Weights of a gated network, two networks of the same widths.

    Attributes:
        widths: numbers of inputs, hidden units and outputs.
        bias: layers have biases.
    """

    widths: tuple[int, ...]
    bias: bool = True

    @nn.compact
    def __call__(self, dtype: jnp.dtype) -> Gated:
        """Layers of both networks."""
        return Gated(
            DenseKernels(self.widths, self.bias, name="network")(dtype),
            DenseKernels(self.widths, self.bias, name="gate")(dtype),
        )


class NormKernels(nn.Module):
    """Parameters of `layer_norm`, which change nothing at first.

    Attributes:
        size: number of features.
    """

    size: int

    @nn.compact
    def __call__(self, dtype: jnp.dtype) -> Norm:
        """Scale and shift."""
        return Norm(
            self.param("scale", nn.initializers.ones, (self.size,), dtype),
            self.param("shift", nn.initializers.zeros, (self.size,), dtype),
        )


def dense(layer: Dense, x: Float[Array, "*batch _"]) -> Float[Array, "*batch _"]:
    """Applies a linear layer to the last axis."""
    y = x @ layer.kernel
    if layer.bias is None:
        return y
    return y + layer.bias.reshape((1,) * (y.ndim - 1) + (-1,))


def network(
    layers: Sequence[Dense],
    x: Float[Array, "*batch _"],
    activation: Activation,
    activate_last: bool = False,
) -> Float[Array, "*batch _"]:
    """Linear layers with an activation between them.

    Args:
        layers: see `DenseKernels`.
        x: inputs.
        activation: acts on each number.
        activate_last: behind the last layer, too.
    """
    for i, layer in enumerate(layers):
        x = dense(layer, x)
        if activate_last or i < len(layers) - 1:
            x = activation(x)
    return x


def gated_network(
    weights: Gated,
    x: Float[Array, "*batch _"],
    activation: Activation,
    activate_last: bool = False,
) -> Float[Array, "*batch _"]:
    """A network times the sigmoid of another one of the same widths.

    Args:
        weights: see `GatedKernels`.
        x: inputs.
        activation: between the layers of both.
        activate_last: behind the last layer of the first one, too.
    """
    gate = nn.sigmoid(network(weights.gate, x, activation))
    return network(weights.network, x, activation, activate_last) * gate


def layer_norm(norm: Norm, x: Float[Array, "*batch _"]) -> Float[Array, "*batch _"]:
    """Features of mean zero and unit variance over the last axis, scaled and shifted.

    J. L. Ba, J. R. Kiros, G. E. Hinton, arXiv:1607.06450 (2016), eq. 3.
    """
    ones = (1,) * (x.ndim - 1) + (-1,)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    normalised = centred / jnp.sqrt(variance + NORM_EPSILON)
    return normalised * norm.scale.reshape(ones) + norm.shift.reshape(ones)
