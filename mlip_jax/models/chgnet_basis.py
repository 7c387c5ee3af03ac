"""The functions of distances and angles that CHGNet begins with.

B. Deng et al., "CHGNet as a pretrained universal neural network potential for charge-informed
atomistic modelling", Nature Machine Intelligence 5, 1031 (2023), methods.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from mlip_jax.nn import radial

COSINE_FACTOR = 1.0 - 1e-6
"""F, by which cosines are multiplied before their angle is taken."""


def radial_basis(
    distances: Float[Array, "*edges"],
    frequencies: Float[Array, " basis"],
    cutoff: float,
    exponent: int,
) -> Float[Array, "*edges basis"]:
    """`sqrt(2 / c) sin(n π r / c) / r` times the polynomial envelope, zero from the cutoff on.

    Args:
        distances: Å.
        frequencies: n.
        cutoff: c, Å.
        exponent: of the envelope.
    """
    envelope = radial.polynomial_envelope(distances, cutoff, exponent)
    scaled = envelope * (math.sqrt(2.0 / cutoff) * math.pi / cutoff)
    return radial.bessel(distances, frequencies, cutoff) * scaled[..., None]


def angular_basis(
    here: Float[Array, "angles 3"],
    there: Float[Array, "angles 3"],
    frequencies: Float[Array, " half"],
) -> Float[Array, "angles basis"]:
    """`[1/√2, sin f θ, cos f θ] / √π` of the angles between directions; Deng et al., eq. 1.

    The published angle is `θ = arccos(F cos)` with `F = COSINE_FACTOR`, so that 0 and π are never
    reached. Its sine, `sqrt(sin² + (1 - F²) cos²)` with the sine of a cross product, keeps its
    digits where directions are parallel: in float32 the arc cosine loses half of them. Frequencies
    are trained, not integers, so that there is no recurrence without θ.

    Args:
        here: unit vectors.
        there: likewise.
        frequencies: f.
    """
    cosines = jnp.sum(here * there, axis=-1)
    crossed = jnp.cross(here, there)
    squares = jnp.sum(crossed * crossed, axis=-1)
    rest = 1.0 - COSINE_FACTOR**2
    angles = jnp.arctan2(jnp.sqrt(squares + rest * cosines * cosines), COSINE_FACTOR * cosines)
    phases = angles[:, None] * frequencies[None, :]
    constant = jnp.full((*cosines.shape, 1), math.sqrt(0.5), cosines.dtype)
    functions = [constant, jnp.sin(phases), jnp.cos(phases)]
    return jnp.concatenate(functions, axis=-1) / math.sqrt(math.pi)
