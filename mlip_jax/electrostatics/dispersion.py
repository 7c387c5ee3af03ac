"""Grimme's D3: dispersion of pairs whose C6 depend on the coordination of their atoms.

S. Grimme, J. Antony, S. Ehrlich, H. Krieg, J. Chem. Phys. 132, 154104 (2010), and for the damping
of Becke and Johnson S. Grimme, S. Ehrlich, L. Goerigk, J. Comput. Chem. 32, 1456 (2011).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_STEEPNESS = 16.0  # k1
_REACH = 4.0 / 3.0  # k2
_SHARPNESS = 4.0  # k3
_ALPHA = 14  # α6; α8 is two more


def counted(r: Float[Array, "*shape"], radii: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """How far a pair counts as bonded, from 1 to 0: a term of eq. 15 of the paper of 2010.

    Args:
        r: distances, Å.
        radii: sums of the covalent radii of the two atoms, Å.
    """
    return jax.nn.sigmoid(_STEEPNESS * (_REACH * radii / r - 1.0))


def reference_weights(
    coordination: Float[Array, " atoms"],
    references: Float[Array, "atoms references"],
) -> Float[Array, "atoms references"]:
    """Share of each reference system in an atom; the sums of eq. 16 of 2010 are products of two.

    A softmax, so that an atom with a coordination far from all references takes the nearest
    instead of 0/0.

    Args:
        coordination: numbers of neighbours.
        references: those in the reference systems of the atom's element, one at least; -1 in the
            places that hold none.
    """
    exponents = -_SHARPNESS * (coordination[:, None] - references) ** 2
    lowest = jnp.finfo(exponents.dtype).min
    return jax.nn.softmax(jnp.where(references > -0.5, exponents, lowest), axis=-1)


def c6_of_pairs(
    own: Float[Array, "rows elements references"],
    weights: Float[Array, "atoms references"],
    element: Int[Array, " atoms"],
    neighbors: Int[Array, "rows max_neighbors"],
) -> Float[Array, "rows max_neighbors"]:
    """C6 of pairs, eq. 16 of the paper of 2010, in the unit of `own`.

    The coefficients of all pairs of atoms are one product of matrices, from which those of
    neighbours are taken: 3 to 5 times faster on a CPU than to take the weights of each neighbour,
    which is done where the matrix would need more memory than that.

    Args:
        own: C6 of atoms with each reference system of each element, their own weights summed over.
        weights: of reference systems, of all atoms.
        element: index of the element of each atom.
        neighbors: rows of indices of atoms.
    """
    rows, elements, references = own.shape
    if len(weights) > 2 * references * neighbors.shape[1]:
        of_element = jnp.take_along_axis(own, element[neighbors][..., None], axis=1)
        return jnp.sum(of_element * weights[neighbors], axis=-1)
    places = jax.nn.one_hot(element, elements, dtype=weights.dtype)
    spread = (places[:, :, None] * weights[:, None, :]).reshape(len(weights), -1)
    all_pairs = jnp.matmul(own.reshape(rows, -1), spread.T, precision="highest")
    return jnp.take_along_axis(all_pairs, neighbors, axis=1)


def becke_johnson(
    r: Float[Array, "*shape"],
    ratio: Float[Array, "*shape"],
    s6: float,
    s8: float,
    a1: float,
    a2: float,
) -> Float[Array, "*shape"]:
    """Energy of a pair divided by -C6, 1/Å^6: finite at r = 0; the paper of 2011.

    `s6 / (r^6 + f^6) + s8 (C8/C6) / (r^8 + f^8)` with `f = a1 √(C8/C6) + a2`.

    Args:
        r: distances, Å.
        ratio: C8/C6, Å^2.
        s6: scale of the first term.
        s8: of the second.
        a1: share of the radius √(C8/C6) in the damping.
        a2: Å.
    """
    damping = (a1 * jnp.sqrt(ratio) + a2) ** 2
    square = r * r
    return s6 / (square**3 + damping**3) + s8 * ratio / (square**4 + damping**4)


def zero_damped(
    r: Float[Array, "*shape"],
    ratio: Float[Array, "*shape"],
    radius: Float[Array, "*shape"],
    s6: float,
    s8: float,
    rs6: float,
    rs8: float,
) -> Float[Array, "*shape"]:
    """Energy of a pair divided by -C6, 1/Å^6: 0 at r = 0; eqs. 3 and 4 of the paper of 2010.

    `s_n / r^n / (1 + 6 (r / (rs_n R))^-α_n)` for n = 6 with α = 14, and, times C8/C6, for n = 8
    with α = 16; written in powers of `r / (rs_n R)` that vanish at r = 0.

    Args:
        r: distances, Å.
        ratio: C8/C6, Å^2.
        radius: R, the cutoff radius of the pair of elements, Å.
        s6: scale of the first term.
        s8: of the second.
        rs6: scale of the radius in the first term.
        rs8: in the second.
    """

    def term(scale: float, order: int, alpha: int) -> Array:
        length = scale * radius
        t = r / length
        return t ** (alpha - order) / (t**alpha + 6.0) / length**order

    return s6 * term(rs6, 6, _ALPHA) + s8 * ratio * term(rs8, 8, _ALPHA + 2)
