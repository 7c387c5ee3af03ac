"""How many reciprocal lattice vectors a sum over them needs: a static fact of a batch."""

import math

import numpy as np
from jaxtyping import Bool, Float

from mlip_jax.config import UserError

KRange = tuple[int, int, int]
"""Largest multiple of each reciprocal lattice vector."""

NO_VECTORS: KRange = (0, 0, 0)
"""The range of an open structure."""


def reciprocal_range(
    cell: Float[np.ndarray, "3 3"], pbc: Bool[np.ndarray, " 3"], cutoff: float
) -> KRange:
    """Multiples of the reciprocal lattice vectors that reach every k with |k| ≤ cutoff.

    As `k · a_i = 2π n_i`, no such k has |n_i| above `cutoff |a_i| / 2π`.

    Args:
        cell: Å, vectors in rows.
        pbc: all three directions, or none.
        cutoff: 1/Å.

    Raises:
        UserError: for a structure that is periodic in one or two directions.
    """
    if not np.any(pbc):
        return NO_VECTORS
    if not np.all(pbc):
        raise UserError(
            f"pbc: got {np.asarray(pbc).tolist()}; expected all three directions or none. This "
            "model sums over reciprocal lattice vectors, which needs three periodic directions: "
            "for a slab, make the third one periodic, too, with enough vacuum."
        )
    lengths = np.linalg.norm(np.asarray(cell, np.float64), axis=1)
    a, b, c = (math.floor(cutoff * length / (2.0 * math.pi)) for length in lengths)
    return a, b, c


def reciprocal_ladder(multiple: int) -> int:
    """Rounds a range up, so that cells of like size share a compiled shape.

    >>> [reciprocal_ladder(n) for n in (0, 3, 5, 9, 17, 33)]
    [0, 3, 6, 10, 18, 36]
    """
    step = 1 if multiple <= 4 else max(2, 2 ** (multiple.bit_length() - 4))
    return -(-multiple // step) * step
