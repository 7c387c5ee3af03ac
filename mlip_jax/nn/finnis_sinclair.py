"""Energies as powers of densities, after Finnis & Sinclair, smooth where a density vanishes.

`E = Σ_p w_p F(ρ_p)` with `F ≈ sign(ρ) |ρ|^m`; Bochkarev et al. (2022), eq. 26 to 30.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mlip_jax.config import UserError

Form = Literal["shifted_scaled", "smoothed"]

_SHARPNESS = 1e6
"""1 / the density below which the smoothed power is linear."""
_GONE = 30.0
"""exp(-x) is taken as zero from here on."""


def power(density: Float[Array, "*batch"], exponent: float, form: Form) -> Float[Array, "*batch"]:
    """An odd function close to `sign(ρ) |ρ|^m` and linear at ρ = 0; ρ itself for m = 1 (shifted).

    Args:
        density: ρ.
        exponent: m.
        form: `shifted_scaled` (FinnisSinclairShiftedScaled) is linear below |ρ| of about 1,
            `smoothed` (FinnisSinclair) below 1e-6.
    """
    sign = jnp.where(density < 0.0, -1.0, 1.0)
    size = sign * density
    if form == "shifted_scaled":
        return sign * _shifted_scaled(size, exponent)
    return sign * _smoothed(size, exponent)


def _shifted_scaled(size: Array, exponent: float) -> Array:
    """`(s x e^-ρ + ρ)^m - s e^-ρ` with constants that make value and curvature vanish at 0."""
    if abs(exponent - 1.0) < 1e-10:
        return size
    inverse = 1.0 / exponent
    decay = jnp.exp(-size)
    offset = inverse ** (inverse / (1.0 - inverse)) * decay
    height = inverse ** (1.0 / (1.0 - inverse)) * decay
    return (offset + size) ** exponent - height


def _smoothed(size: Array, exponent: float) -> Array:
    """`(1 - g) ρ^m + w^(1-m) g ρ` with `g = exp(-(w ρ)³)`."""
    scaled = jnp.minimum(size * _SHARPNESS, 2.0 * _GONE ** (1.0 / 3.0))
    cube = scaled**3
    weight = jnp.where(cube > _GONE, 0.0, jnp.exp(-cube))
    positive = size > 1e-10
    powered = jnp.where(positive, size, 1.0) ** exponent
    linear = _SHARPNESS ** (1.0 - exponent) * size
    return jnp.where(positive, (1.0 - weight) * powered + weight * linear, linear)


def energy(
    densities: Float[Array, "atoms densities"],
    weights: tuple[float, ...],
    exponents: tuple[float, ...],
    form: Form,
) -> Float[Array, " atoms"]:
    """`Σ_p w_p F(ρ_p)`."""
    terms = [
        weight * power(densities[:, p], exponent, form)
        for p, (weight, exponent) in enumerate(zip(weights, exponents, strict=True))
    ]
    return jnp.sum(jnp.stack(terms), axis=0)


class FinnisSinclair(nn.Module):
    """A regressor `Σ_p w_p F(ρ_p)`, the densities ρ linear in the features.

    Attributes:
        exponents: m of each density.
        weights: w of each density; `None`: all 1.
        form: of F, see `power`.
    """

    exponents: tuple[float, ...] = (1.0, 0.5)
    weights: tuple[float, ...] | None = None
    form: Form = "shifted_scaled"

    @nn.compact
    def __call__(
        self, features: Float[Array, "atoms features"], element: Int[Array, " atoms"], elements: int
    ) -> Float[Array, " atoms"]:
        """Output of each atom, see `Linear`."""
        number, size = len(self.exponents), features.shape[-1]
        weights = (1.0,) * number if self.weights is None else self.weights
        if len(weights) != number:
            raise UserError(
                f"finnis_sinclair.weights: got {len(weights)}; expected one for each of the "
                f"{number} exponents."
            )
        normal = nn.initializers.normal(1.0 / max(size, 1) ** 0.5)
        coefficients = self.param("coefficients", normal, (elements, number, size))
        densities = jnp.einsum("if,epf->iep", features, coefficients.astype(features.dtype))
        picked = jax.nn.one_hot(element, elements, dtype=features.dtype)
        own = jnp.einsum("iep,ie->ip", densities, picked)
        return energy(own, weights, self.exponents, self.form)
