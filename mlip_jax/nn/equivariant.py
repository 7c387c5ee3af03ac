"""Layers that act on every atom by itself: linear maps, self-connection, norm and gate."""

import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mlip_jax.nn.irreps import SCALAR, Channels, Features, Irrep, Layout

# 1 / rms of the activation of a normal variable, as e3nn 0.6 estimates it from 10^6 draws: kept to
# the digit, so that published weights mean the same here (the integrals give 1.67653, 1.59254).
SILU_NORM = 1.6791767923989418
TANH_NORM = 1.5937334472592695

LAYER_NORM_EPSILON = 1e-12
"""Added to the sum of squares, for rows of zeros."""

Kernels = Mapping[Irrep, Float[Array, "..."]]


def silu(x: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """SiLU with unit second moment, for even scalars."""
    return SILU_NORM * jax.nn.silu(x)


def tanh(x: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Hyperbolic tangent with unit second moment: odd, as odd scalars need it."""
    return TANH_NORM * jnp.tanh(x)


class LinearKernels(nn.Module):
    """Normal weights between the channels of equal irreps, over the root of the fan-in.

    They come as arrays, so that a linear map can be merged with others or run inside a loop over
    blocks of atoms; `linear` applies them.

    Attributes:
        inputs: layout of the inputs; irreps that `outputs` lacks are ignored.
        outputs: layout of the outputs.
    """

    inputs: Layout
    outputs: Layout

    @nn.compact
    def __call__(self, dtype: jnp.dtype) -> dict[Irrep, Float[Array, "_ _"]]:
        """Kernel `[in, out]` of each irrep."""
        fan_in = {irrep: channels for irrep, channels in self.inputs}
        kernels = {}
        for irrep, channels in self.outputs:
            if irrep in fan_in:
                shape = (fan_in[irrep], channels)
                weight = self.param(f"weight_{irrep}", nn.initializers.normal(1.0), shape, dtype)
                kernels[irrep] = weight / math.sqrt(shape[0])
        return kernels


def linear(kernels: Kernels, inputs: Layout, features: Features) -> dict[Irrep, Array]:
    """Mixes the channels of each irrep that has a kernel."""
    return {
        irrep: x @ kernels[irrep]
        for (irrep, _), x in zip(inputs, features, strict=True)
        if irrep in kernels
    }


class SelfConnection(nn.Module):
    """Linear map of an atom's own features, with weights that depend on its element.

    `y_w = Σ_uv W_uvw x_u a_v / sqrt(fan-in)` with the element's embedding a; Batzner et al. (2022),
    fig. 1. The embedding is contracted with the weights first where there are fewer elements than
    embedding channels.

    Attributes:
        inputs: layout of the features.
        outputs: layout of the result.
    """

    inputs: Layout
    outputs: Layout

    @nn.compact
    def __call__(
        self,
        features: Features,
        embedding: Float[Array, "species attributes"],
        species: Int[Array, " atoms"],
    ) -> dict[Irrep, Float[Array, "atoms _ _"]]:
        """Result for each irrep that inputs and outputs share.

        Args:
            features: of every atom.
            embedding: of every element.
            species: element of every atom.
        """
        num_species, attributes = embedding.shape
        wanted = {irrep: channels for irrep, channels in self.outputs}
        result = {}
        for (irrep, channels), x in zip(self.inputs, features, strict=True):
            if irrep not in wanted:
                continue
            shape = (channels, attributes, wanted[irrep])
            normal = nn.initializers.normal(1.0)
            weight = self.param(f"weight_{irrep}", normal, shape, embedding.dtype)
            weight = weight / math.sqrt(channels * attributes)
            if num_species == 1:
                result[irrep] = x @ jnp.einsum("uvw,v->uw", weight, embedding[0])
            elif num_species <= attributes:
                element_weight = jnp.einsum("uvw,sv->suw", weight, embedding)
                chosen = jax.nn.one_hot(species, num_species, dtype=x.dtype)
                result[irrep] = _bilinear(element_weight, x, chosen)
            else:
                result[irrep] = _bilinear(jnp.swapaxes(weight, 0, 1), x, embedding[species])
        return result


def _bilinear(
    weight: Float[Array, "v u w"], x: Float[Array, "atoms m u"], a: Float[Array, "atoms v"]
) -> Float[Array, "atoms m w"]:
    """`Σ_vu W_vuw a_v x_u` as one matrix product."""
    products = a[:, None, :, None] * x[:, :, None, :]
    return products.reshape(*x.shape[:2], -1) @ weight.reshape(-1, weight.shape[-1])


class LayerNorm(nn.Module):
    """Features over the root of a weighted sum of their squares, times a weight for each channel.

    `s² = Σ_irreps Σ_cm x_cm² / ((2l + 1)² irreps)`: the norm of the program nequix 0.4 (T. Koker et
    al., arXiv:2508.16067, 2025), which sums over channels and averages over components.

    Attributes:
        layout: of the features.
    """

    layout: Layout

    @nn.compact
    def __call__(self, features: Kernels) -> dict[Irrep, Array]:
        """Features of each irrep, normalised row by row."""
        squares = [
            jnp.sum(features[irrep] ** 2, axis=(1, 2)) / irrep.dim**2 for irrep, _ in self.layout
        ]
        total = sum(squares[1:], start=squares[0]) / len(squares)
        factor = jax.lax.rsqrt(total + LAYER_NORM_EPSILON)[:, None, None]
        result = {}
        for irrep, channels in self.layout:
            x = features[irrep]
            weight = self.param(f"weight_{irrep}", nn.initializers.ones, (channels,), x.dtype)
            result[irrep] = x * factor * weight[None, None, :]
        return result


def gate_inputs(hidden: Layout) -> Layout:
    """Layout that `gate` turns into `hidden`: one more even scalar for each channel with l > 0."""
    gates = sum(channels for irrep, channels in hidden if irrep.degree > 0)
    scalars = {irrep: channels for irrep, channels in hidden if irrep.degree == 0}
    scalars[SCALAR] = scalars.get(SCALAR, 0) + gates
    even_first = sorted(scalars.items(), key=lambda item: -item[0].parity)
    rest = tuple(c for c in hidden if c.irrep.degree > 0)
    return tuple(Channels(irrep, channels) for irrep, channels in even_first) + rest


def gate(hidden: Layout, inputs: Mapping[Irrep, Float[Array, "atoms _ _"]]) -> Features:
    """Non-linearity: scalars through an activation, the rest times activated even scalars.

    Even scalars take SiLU, odd ones tanh; the even scalars of the inputs hold first those of
    `hidden`, then the gates of each irrep with l > 0 in order (Batzner et al. 2022, methods).
    """
    even = dict(hidden).get(SCALAR, 0)
    activated = silu(inputs[SCALAR])
    features, used = [], even
    for irrep, channels in hidden:
        if irrep == SCALAR:
            features.append(activated[:, :, :even])
        elif irrep.degree == 0:
            features.append(tanh(inputs[irrep]))
        else:
            features.append(activated[:, :, used : used + channels] * inputs[irrep])
            used += channels
    return tuple(features)
