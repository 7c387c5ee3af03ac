"""The weights of CHGNet, and its gated networks.

B. Deng et al., "CHGNet as a pretrained universal neural network potential for charge-informed
atomistic modelling", Nature Machine Intelligence 5, 1031 (2023), methods.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlip_jax.nn import dense
from mlip_jax.nn.dense import Dense, DenseKernels, Norm, NormKernels


class Gated(NamedTuple):
    """Weights of a gated network, `silu(core(x)) * sigmoid(gate(x))`.

    Attributes:
        first: first layer of both networks, core and gate side by side.
        core: second layer, where there is one.
        gate: likewise.
        norms: of the outputs of both, before they meet.
    """

    first: Dense
    core: tuple[Dense, ...]
    gate: tuple[Dense, ...]
    norms: tuple[Norm, Norm] | None


class Convolution(NamedTuple):
    """Weights of a convolution: of messages, and of the map behind their sum."""

    message: Gated
    output: Dense


class Parameters(NamedTuple):
    """All weights of the model.

    Attributes:
        embedding: features of elements.
        frequencies: of the radial bases of the atom graph and of the bond graph, and of angles.
        maps: of these bases to the features of bonds, to the factors of messages of atoms and of
            bonds, and to the features of angles.
        atom_layers, bond_layers, angle_layers: in order.
        moment: of features of atoms to their magnetic moments.
        norm: of features before the readout.
        readout: network of the energy.
    """

    embedding: Float[Array, "species features"]
    frequencies: tuple[Array, Array, Array]
    maps: tuple[Dense, Dense, Dense, Dense]
    atom_layers: tuple[Convolution, ...]
    bond_layers: tuple[Convolution, ...]
    angle_layers: tuple[Gated, ...]
    moment: Dense | None
    norm: Norm | None
    readout: tuple[Dense, ...]


class GatedKernels(nn.Module):
    """Weights of a gated network.

    Attributes:
        inputs: their number.
        size: number of hidden units, and of outputs.
        deep: with a hidden layer.
        layer_norm: outputs of core and gate are normalised.
    """

    inputs: int
    size: int
    deep: bool
    layer_norm: bool

    @nn.compact
    def __call__(self, dtype: jnp.dtype) -> Gated:
        """The weights."""
        (first,) = DenseKernels((self.inputs, 2 * self.size), name="first")(dtype)
        second = (self.size,) * 2 if self.deep else (self.size,)
        core = DenseKernels(second, name="core")(dtype)
        gate = DenseKernels(second, name="gate")(dtype)
        norms = None
        if self.layer_norm:
            norms = (
                NormKernels(self.size, name="core_norm")(dtype),
                NormKernels(self.size, name="gate_norm")(dtype),
            )
        return Gated(first, core, gate, norms)


class ConvolutionKernels(nn.Module):
    """Weights of a convolution; attributes see `GatedKernels`.

    Attributes:
        bias: the map behind the sum of messages has one.
    """

    inputs: int
    size: int
    layer_norm: bool
    bias: bool

    @nn.compact
    def __call__(self, dtype: jnp.dtype) -> Convolution:
        """The weights."""
        message = GatedKernels(self.inputs, self.size, True, self.layer_norm, name="message")(dtype)
        (output,) = DenseKernels((self.size, self.size), self.bias, name="output")(dtype)
        return Convolution(message, output)


def gated(network: Gated, inputs: Float[Array, "*batch twice"]) -> Float[Array, "*batch features"]:
    """Output of a gated network behind its first layer.

    Args:
        network: weights.
        inputs: outputs of the first layer.
    """
    core, gate = jnp.split(inputs, 2, axis=-1)
    if network.core:
        core = dense.network(network.core, jax.nn.silu(core), jax.nn.silu)
        gate = dense.network(network.gate, jax.nn.silu(gate), jax.nn.silu)
    if network.norms is not None:
        core = dense.layer_norm(network.norms[0], core)
        gate = dense.layer_norm(network.norms[1], gate)
    return jax.nn.silu(core) * jax.nn.sigmoid(gate)
