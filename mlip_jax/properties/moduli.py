"""Moduli of polycrystals and directions, and mechanical stability, from elastic constants."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.graph import pytree


@pytree
class Moduli:
    """Averages over orientations (Hill 1952): bounds of Voigt and Reuss, and their means.

    Attributes:
        bulk_voigt, bulk_reuss, bulk: in the unit of the elastic constants.
        shear_voigt, shear_reuss, shear: likewise.
        young: of the means, likewise.
        poisson: of the means.
        anisotropy: universal index, 0 where isotropic (Ranganathan and Ostoja-Starzewski 2008).
    """

    bulk_voigt: Float[Array, ""]
    bulk_reuss: Float[Array, ""]
    bulk: Float[Array, ""]
    shear_voigt: Float[Array, ""]
    shear_reuss: Float[Array, ""]
    shear: Float[Array, ""]
    young: Float[Array, ""]
    poisson: Float[Array, ""]
    anisotropy: Float[Array, ""]


def moduli(stiffness: Float[Array | np.ndarray, "6 6"]) -> Moduli:
    """Moduli of a polycrystal without texture.

    Args:
        stiffness: C in Voigt's order (see `elastic`), in any unit.
    """
    stiffness = jnp.asarray(stiffness)
    compliance = jnp.linalg.inv(stiffness)
    diagonal, others, shears = _sums(stiffness)
    bulk_voigt = (diagonal + 2.0 * others) / 9.0
    shear_voigt = (diagonal - others + 3.0 * shears) / 15.0
    diagonal, others, shears = _sums(compliance)
    bulk_reuss = 1.0 / (diagonal + 2.0 * others)
    shear_reuss = 15.0 / (4.0 * diagonal - 4.0 * others + 3.0 * shears)
    bulk, shear = 0.5 * (bulk_voigt + bulk_reuss), 0.5 * (shear_voigt + shear_reuss)
    return Moduli(
        bulk_voigt=bulk_voigt,
        bulk_reuss=bulk_reuss,
        bulk=bulk,
        shear_voigt=shear_voigt,
        shear_reuss=shear_reuss,
        shear=shear,
        young=9.0 * bulk * shear / (3.0 * bulk + shear),
        poisson=(3.0 * bulk - 2.0 * shear) / (6.0 * bulk + 2.0 * shear),
        anisotropy=5.0 * shear_voigt / shear_reuss + bulk_voigt / bulk_reuss - 6.0,
    )


def stability(stiffness: Float[Array | np.ndarray, "6 6"]) -> Float[Array, " 6"]:
    """Eigenvalues of C, increasing: a crystal is stable where all are positive.

    Born's condition for any crystal class (Mouhat and Coudert 2014, eq. 3).
    """
    return jnp.linalg.eigvalsh(jnp.asarray(stiffness))


def directional_young(
    stiffness: Float[Array | np.ndarray, "6 6"],
    directions: Float[Array | np.ndarray, "directions 3"],
) -> Float[Array, " directions"]:
    """Young's modulus along directions: `1 / E = S_ijkl n_i n_j n_k n_l`.

    Args:
        stiffness: C in Voigt's order, in any unit.
        directions: unit vectors.
    """
    x, y, z = jnp.asarray(directions).T
    strains = jnp.stack([x * x, y * y, z * z, y * z, x * z, x * y], axis=-1)
    compliance = jnp.linalg.inv(jnp.asarray(stiffness))
    return 1.0 / jnp.einsum("ni,ij,nj->n", strains, compliance, strains)


def _sums(matrix: Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sums over the normal diagonal, the normal pairs, the shear diagonal."""
    diagonal = matrix[0, 0] + matrix[1, 1] + matrix[2, 2]
    others = matrix[0, 1] + matrix[1, 2] + matrix[0, 2]
    return diagonal, others, matrix[3, 3] + matrix[4, 4] + matrix[5, 5]
