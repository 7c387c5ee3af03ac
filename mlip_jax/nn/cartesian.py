"""Tensors of rank two, split in parts that rotations do not mix.

    X = s 1 + [v] + T,    [v]_ab = -Σ_c ε_abc v_c,    T symmetric and traceless

A tensor is stored as nine components, s, v and five coordinates t of T in a basis of orthonormal
matrices: its squared norm is `3 s² + 2 |v|² + |t|²`. A rotation or reflection Q of determinant d
makes `Q (s 1 + d [v] + T) Qᵀ` of it where v is built from distances, since `[Q v] = d Q [v] Qᵀ`.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlip_jax.nn.dense import Dense, DenseKernels

_DIAGONAL = 1.0 / math.sqrt(2.0)
_AXIAL = 1.0 / math.sqrt(6.0)


class Tensors(NamedTuple):
    """Tensors of atoms, channels last.

    Attributes:
        scalar: s.
        vector: v.
        symmetric: t, which is `√2 T_xy`, `√2 T_yz`, `√2 T_zx`, `(T_xx - T_yy) / √2` and
            `(2 T_zz - T_xx - T_yy) / √6`.
    """

    scalar: Float[Array, "*batch 1 channels"]
    vector: Float[Array, "*batch 3 channels"]
    symmetric: Float[Array, "*batch 5 channels"]


class TensorKernels(nn.Module):
    """Kernels of linear maps that mix the channels of each part.

    Attributes:
        channels: of inputs and outputs.
    """

    channels: int

    @nn.compact
    def __call__(self, dtype: jnp.dtype) -> tuple[Dense, ...]:
        """One layer for each part."""
        square = (self.channels, self.channels)
        return tuple(
            DenseKernels(square, bias=False, name=part)(dtype)[0] for part in Tensors._fields
        )


def symmetric_part(vectors: Float[Array, "*batch 3"]) -> Float[Array, "*batch 5"]:
    """Components t of `u uᵀ - |u|² / 3`."""
    x, y, z = (vectors[..., k] for k in range(3))
    return jnp.stack(
        [
            math.sqrt(2.0) * x * y,
            math.sqrt(2.0) * y * z,
            math.sqrt(2.0) * z * x,
            _DIAGONAL * (x * x - y * y),
            _AXIAL * (2.0 * z * z - x * x - y * y),
        ],
        axis=-1,
    )


def to_matrix(x: Tensors) -> Float[Array, "*batch 3 3 channels"]:
    """The tensors as matrices."""
    s = x.scalar[..., 0, :]
    vx, vy, vz = (x.vector[..., k, :] for k in range(3))
    xy, yz, zx, diagonal, axial = (x.symmetric[..., k, :] for k in range(5))
    xy, yz, zx, diagonal = (_DIAGONAL * t for t in (xy, yz, zx, diagonal))
    axial = _AXIAL * axial
    rows = [
        [s + diagonal - axial, xy - vz, zx + vy],
        [xy + vz, s - diagonal - axial, yz - vx],
        [zx - vy, yz + vx, s + 2.0 * axial],
    ]
    return jnp.stack([jnp.stack(row, axis=-2) for row in rows], axis=-3)


def from_matrix(matrix: Float[Array, "*batch 3 3 channels"]) -> Tensors:
    """The parts of matrices."""
    m = [[matrix[..., a, b, :] for b in range(3)] for a in range(3)]
    vector = [0.5 * (m[2][1] - m[1][2]), 0.5 * (m[0][2] - m[2][0]), 0.5 * (m[1][0] - m[0][1])]
    symmetric = [
        _DIAGONAL * (m[0][1] + m[1][0]),
        _DIAGONAL * (m[1][2] + m[2][1]),
        _DIAGONAL * (m[2][0] + m[0][2]),
        _DIAGONAL * (m[0][0] - m[1][1]),
        _AXIAL * (2.0 * m[2][2] - m[0][0] - m[1][1]),
    ]
    scalar = (m[0][0] + m[1][1] + m[2][2]) / 3.0
    return Tensors(scalar[..., None, :], jnp.stack(vector, -2), jnp.stack(symmetric, -2))


def matrix_product(
    x: Float[Array, "*batch 3 3 channels"], y: Float[Array, "*batch 3 3 channels"]
) -> Float[Array, "*batch 3 3 channels"]:
    """Products of matrices, channel by channel."""
    return sum(x[..., :, k, None, :] * y[..., None, k, :, :] for k in range(3))  # pyright: ignore


def square_norms(x: Tensors) -> Tensors:
    """Squared Frobenius norm of each part, `[*batch, channels]`."""
    sums = [jnp.sum(part * part, axis=-2) for part in x]
    return Tensors(3.0 * sums[0], 2.0 * sums[1], sums[2])


def square_norm(x: Tensors) -> Float[Array, "*batch channels"]:
    """Squared Frobenius norm."""
    return sum(square_norms(x))  # pyright: ignore


def normalised(x: Tensors) -> Tensors:
    """`X / (1 + |X|²)`."""
    factor = 1.0 / (1.0 + square_norm(x))[..., None, :]
    return Tensors(*(part * factor for part in x))


def mix(kernels: tuple[Dense, ...], x: Tensors) -> Tensors:
    """Linear combinations of the channels of each part."""
    return Tensors(*(part @ layer.kernel for layer, part in zip(kernels, x, strict=True)))


def scaled(weights: Float[Array, "*batch weights"], x: Tensors) -> Tensors:
    """Each part times weights of its own, `[3 * channels]` side by side in the parts' order."""
    parts = zip(jnp.split(weights, 3, axis=-1), x, strict=True)
    return Tensors(*(weight[..., None, :] * part for weight, part in parts))
