"""Functions of distances measured in covalent radii: distance transforms and a repulsion.

The forms are those of mace-torch, so that published weights mean the same here.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.elements import COVALENT_RADII
from mlip_jax.nn import radial

Transform = Literal["agnesi", "soft"]

_AGNESI = (1.0805, 0.9183, 4.5791)
"""a, q and p of the Agnesi transform; I. Batatia et al., arXiv:2401.00096, appendix."""

_SOFT = (0.75, 4.0 / 3.0, 4.0)
"""Lower and upper end of the soft transform's step in units of r0, and its steepness."""

_COULOMB = 14.3996
"""k e² [eV Å], with the digits of mace-torch."""

_BOHR = 0.529
_AMPLITUDES = (0.1818, 0.5099, 0.2802, 0.02817)
_DECAYS = (3.2, 0.9423, 0.4028, 0.2016)
_LENGTH, _POWER = 0.4543, 0.300


def covalent_radii(species: tuple[int, ...]) -> Float[np.ndarray, " species"]:
    """Covalent radii [Å] of elements.

    Raises:
        UserError: for an element beyond curium.
    """
    unknown = [z for z in species if z > len(COVALENT_RADII)]
    if unknown:
        raise UserError(
            f"covalent radii: got {', '.join(elements.symbols(unknown))}; known are those of H to "
            "Cm. Leave these elements, the distance transform or the repulsion out."
        )
    return np.array([COVALENT_RADII[z - 1] for z in species])


def transform(
    kind: Transform,
    distances: Float[Array, "*edges"],
    sums: Float[Array, "*edges"],
) -> Float[Array, "*edges"]:
    """A distance that tells short bonds apart better.

    Args:
        kind: `agnesi`: `1 / (1 + a x^q / (1 + x^(q - p)))` with x = r / (s / 2), without unit;
            `soft`: r, turning into 3/4 s below 3/4 s by a hyperbolic tangent.
        distances: r, Å; positive where the result is used.
        sums: s, sum of the covalent radii of each pair, Å.
    """
    if kind == "agnesi":
        a, q, p = _AGNESI
        x = jnp.where(distances > 0.0, distances, 1.0) / (0.5 * sums)
        value = 1.0 / (1.0 + a * x**p / (1.0 + x ** (p - q)))
        return jnp.where(distances > 0.0, value, 1.0)
    low, high, steepness = (_SOFT[0] * sums, _SOFT[1] * sums, _SOFT[2])
    step = jnp.tanh(steepness / (high - low) * (distances - 0.5 * (low + high)))
    return low + (distances - low) * 0.5 * (1.0 + step)


def repulsion(
    distances: Float[Array, "*edges"],
    first: Int[Array, "*edges"],
    second: Int[Array, "*edges"],
    species: tuple[int, ...],
    exponent: int,
) -> Float[Array, "*edges"]:
    """Screened repulsion of nuclei, cut off smoothly where covalent radii touch.

    J. F. Ziegler, J. P. Biersack & U. Littmark, "The Stopping and Range of Ions in Solids" (1985).

    Args:
        distances: Å.
        first: element of one atom of each pair, as an index into `species`.
        second: of the other.
        species: atomic numbers.
        exponent: of the envelope, see `radial.polynomial_envelope`.

    Returns:
        Energy [eV] of each pair.
    """
    z = np.asarray(species, dtype=np.float64)
    radii = covalent_radii(species)
    powers = z**_POWER
    lengths = _LENGTH * _BOHR / (powers[:, None] + powers[None, :])

    def of_pair(matrix: np.ndarray) -> Array:
        return jnp.asarray(matrix, distances.dtype)[first, second]

    reach = of_pair(radii[:, None] + radii[None, :])
    inside = (distances < reach) & (distances > 0.0)
    r = jnp.where(inside, distances, reach)
    x = r / of_pair(lengths)
    terms = zip(_AMPLITUDES, _DECAYS, strict=True)
    screening = sum((c * jnp.exp(-d * x) for c, d in terms), start=jnp.zeros_like(x))
    energy = _COULOMB * of_pair(z[:, None] * z[None, :]) * screening / r
    smooth = radial.polynomial_envelope(r / reach, 1.0, exponent)
    return jnp.where(inside, energy * smooth, 0.0)
