"""Radial functions: bases, cutoff envelope, and the network that weights messages."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

SMOOTH_GAIN = math.sqrt(2.0)
"""Gain of the linear maps behind a SiLU, which about halves the second moment (He et al. 2015)."""


def bessel(
    distances: Float[Array, "*edges"], frequencies: Float[Array, " basis"], cutoff: float
) -> Float[Array, "*edges basis"]:
    """Spherical Bessel basis `n sinc(n r / c) = sin(n π r / c) / (π r / c)`, without envelope.

    Gasteiger et al. (2020), eq. 7, divided by `sqrt(2 / c) π / c`; frequencies n are 1, 2, … unless
    trained. Finite with all its derivatives at r = 0.

    Args:
        distances: Å.
        frequencies: n.
        cutoff: c, Å.
    """
    n = frequencies.reshape((1,) * distances.ndim + (-1,))
    return n * jnp.sinc(n * (distances[..., None] / cutoff))


def polynomial_envelope(
    distances: Float[Array, "*edges"], cutoff: float, exponent: int
) -> Float[Array, "*edges"]:
    """Smooth step from 1 at r = 0 to exactly 0 from the cutoff on.

    It is twice continuously differentiable at the cutoff; Gasteiger et al. (2020), eq. 8. With x =
    r / c it is written as `(1 - x)³ Σ_(k<p) (k + 1)(k + 2)/2 x^k`, sums of positive numbers: the
    form of the paper, `1 - x^p (…)`, cancels, which costs forces in float32 a digit.

    Args:
        distances: Å.
        cutoff: c, Å.
        exponent: p, at least 2.
    """
    inside = distances < cutoff
    x = jnp.where(inside, distances / cutoff, 1.0)
    series = jnp.zeros_like(x)
    for k in reversed(range(exponent)):
        series = series * x + (k + 1) * (k + 2) / 2
    gap = 1.0 - x
    return jnp.where(inside, gap * gap * gap * series, 0.0)


def xplor_envelope(
    distances: Float[Array, "*edges"], onset: float, cutoff: float
) -> Float[Array, "*edges"]:
    """Step from 1 below the onset to 0 from the cutoff on, once continuously differentiable.

    `(c² - r²)² (c² + 2 r² - 3 a²) / (c² - a²)³`, as in the program X-PLOR (Brünger 1992).

    Args:
        distances: Å.
        onset: a, Å.
        cutoff: c, Å.
    """
    square = jnp.clip(distances, onset, cutoff) ** 2
    first, last = onset**2, cutoff**2
    return (last - square) ** 2 * (last + 2.0 * square - 3.0 * first) / (last - first) ** 3


class BesselBasis(nn.Module):
    """Bessel functions times envelope, scaled by `2π / c²` (as in nequip).

    Attributes:
        cutoff: Å.
        num_bessels: size of the basis.
        polynomial_cutoff_p: exponent of the envelope.
        trainable: frequencies are parameters.
        onset: Å, where an envelope like XPLOR's begins to fall; `None`: the polynomial envelope.
    """

    cutoff: float
    num_bessels: int
    polynomial_cutoff_p: int
    trainable: bool = False
    onset: float | None = None

    @nn.compact
    def __call__(self, distances: Float[Array, "*edges"]) -> Float[Array, "*edges basis"]:
        """Basis at distances [Å]; exactly zero from the cutoff on."""
        frequencies = jnp.arange(1, self.num_bessels + 1, dtype=distances.dtype)
        if self.trainable:
            start = np.arange(1, self.num_bessels + 1)
            frequencies = self.param(
                "frequencies", lambda _: jnp.asarray(start, dtype=distances.dtype)
            )
        scaled = self.envelope(distances) * (2.0 * math.pi / self.cutoff**2)
        return bessel(distances, frequencies, self.cutoff) * scaled[..., None]

    def envelope(self, distances: Float[Array, "*edges"]) -> Float[Array, "*edges"]:
        """The envelope alone."""
        if self.onset is None:
            return polynomial_envelope(distances, self.cutoff, self.polynomial_cutoff_p)
        return xplor_envelope(distances, self.onset, self.cutoff)


class ScalarKernels(nn.Module):
    """Weights of a network without biases, `widths[0] -> ... -> widths[-1]`, normalised for use.

    Weights are uniform with unit variance; each is divided by the root of its fan-in, and from the
    second on multiplied by the gain of the SiLU before it (as in nequip). They come as arrays, not
    as a layer, so that the network can run inside a loop over blocks of atoms.

    Attributes:
        widths: numbers of inputs, hidden units and outputs.
    """

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, dtype: jnp.dtype) -> tuple[Float[Array, "_ _"], ...]:
        """Kernels `[in, out]` of each layer."""
        kernels = []
        for i, shape in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            weight = self.param(f"weight_{i}", uniform_unit_variance, shape, dtype)
            kernels.append(weight * ((SMOOTH_GAIN if i else 1.0) / math.sqrt(shape[0])))
        return tuple(kernels)


def uniform_unit_variance(key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Draws weights uniformly from `[-√3, √3]`."""
    return jax.random.uniform(key, shape, dtype, minval=-math.sqrt(3.0), maxval=math.sqrt(3.0))


def hidden_network(
    kernels: tuple[Float[Array, "_ _"], ...], inputs: Float[Array, "*edges _"]
) -> Float[Array, "*edges _"]:
    """SiLU network without biases; with a zero for input it gives exactly zero."""
    hidden = inputs
    for kernel in kernels:
        hidden = jax.nn.silu(hidden @ kernel)
    return hidden


def cosine_envelope(distances: Float[Array, "*edges"], cutoff: float) -> Float[Array, "*edges"]:
    """`(1 + cos(π r / c)) / 2`, exactly 0 from the cutoff on; its second derivative jumps there.

    Behler and Parrinello (2007), eq. 4.

    Args:
        distances: Å.
        cutoff: c, Å.
    """
    inside = distances < cutoff
    x = jnp.where(inside, distances / cutoff, 1.0)
    return jnp.where(inside, 0.5 * (1.0 + jnp.cos(math.pi * x)), 0.0)


def smooth_bessel(
    distances: Float[Array, "*edges"], number: int, cutoff: float
) -> Float[Array, "*edges basis"]:
    """Orthonormal combinations of spherical Bessel functions; two derivatives vanish at the cutoff.

    E. Kocer, J. K. Mason, H. Erturk, AIP Adv. 10, 015021 (2020). Zero from the cutoff on, and
    finite with all derivatives at r = 0.

    Args:
        distances: Å.
        number: of functions.
        cutoff: c, Å.
    """
    inside = distances < cutoff
    x = jnp.where(inside, distances / cutoff, 0.0)[..., None]
    k = jnp.arange(1, number + 1, dtype=distances.dtype).reshape((1,) * distances.ndim + (-1,))
    pairs = jnp.sinc(k * x) + jnp.sinc((k + 1.0) * x)
    basis = pairs @ jnp.asarray(_smooth_bessel_coefficients(number, cutoff), distances.dtype)
    return jnp.where(inside[..., None], basis, 0.0)


def _smooth_bessel_coefficients(number: int, cutoff: float) -> Float[np.ndarray, "pairs basis"]:
    """Functions in terms of sums of two neighbouring sincs; Gram and Schmidt's recurrence."""
    k = np.arange(1, number + 1)
    norms = k * (k + 1) / np.sqrt(k**2 + (k + 1) ** 2)
    norms = (-1.0) ** (k - 1) * math.sqrt(2.0) * math.pi / cutoff**1.5 * norms
    n = k - 1
    overlap = n**2 * (n + 2) ** 2 / (4.0 * (n + 1) ** 4 + 1.0)
    rest = np.ones(number)
    coefficients = np.diag(norms)
    for i in range(1, number):
        rest[i] = 1.0 - overlap[i] / rest[i - 1]
        own = coefficients[i] + math.sqrt(overlap[i] / rest[i - 1]) * coefficients[i - 1]
        coefficients[i] = own / math.sqrt(rest[i])
    return coefficients.T


def exp_normal(
    distances: Float[Array, "*edges"],
    centres: Float[Array, " basis"],
    widths: Float[Array, " basis"],
    cutoff: float,
) -> Float[Array, "*edges basis"]:
    """Gaussians `exp(-β (exp(-5 r / c) - μ)²)` of an exponential of the distance, without envelope.

    Unke and Meuwly (2019), eq. 7.

    Args:
        distances: Å.
        centres: μ.
        widths: β.
        cutoff: c, Å.
    """
    ones = (1,) * distances.ndim + (-1,)
    x = jnp.exp(distances * (-5.0 / cutoff))[..., None] - centres.reshape(ones)
    return jnp.exp(-widths.reshape(ones) * x * x)


def exp_normal_start(
    number: int, cutoff: float
) -> tuple[Float[np.ndarray, " basis"], Float[np.ndarray, " basis"]]:
    """Centres and widths of `exp_normal` that are evenly spread; Unke and Meuwly (2019), eq. 7."""
    far = math.exp(-cutoff)
    centres = np.linspace(far, 1.0, number)
    return centres, np.full(number, (2.0 / number * (1.0 - far)) ** -2)


def gaussians(
    distances: Float[Array, "*edges"], centres: Float[np.ndarray, " basis"], width: float
) -> Float[Array, "*edges basis"]:
    """`exp(-β (r - μ)²)`, without envelope.

    Args:
        distances: Å.
        centres: μ, Å.
        width: β, 1/Å².
    """
    x = distances[..., None] - jnp.asarray(centres, distances.dtype).reshape(
        (1,) * distances.ndim + (-1,)
    )
    return jnp.exp(-width * x * x)
