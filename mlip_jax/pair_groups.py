"""How atoms are dealt to groups whose lists of pairs of neighbours are about as long.

One rule for the host, which knows how much room the lists need before anything is compiled, and
for the device, which makes them (`nn.slot_pairs`).
"""

from typing import Any

import numpy as np
from jaxtyping import Array, Int

GROUP = 16
"""Atoms whose pairs stand in one list."""


def padded(atoms: int) -> int:
    """Atoms, filled up to whole groups."""
    return -(-atoms // GROUP) * GROUP


def room(counts: Int[Array | np.ndarray, " real"], atoms: int, xp: Any = np) -> Any:
    """Places that the longest list needs.

    Atoms are dealt in the order of their neighbours, the most first, one to each group in turn. The
    k-th of fewer neighbours has no more than the k-th of more: this room holds what is left where
    atoms have fewer neighbours than `counts`.

    Args:
        counts: neighbours of each atom that is not padding.
        atoms: of the graph, padding included.
        xp: `numpy` or `jax.numpy`.

    >>> int(room(np.array([4, 4, 3, 2, 0]), 32))  # 12 + 6 in the one group, 12 + 2 in the other
    18
    """
    pairs = xp.sort(counts * (counts - 1))[::-1]
    pairs = xp.pad(pairs, (0, padded(atoms) - len(pairs)))
    return pairs.reshape(GROUP, -1).sum(axis=0).max(initial=0)


def room_of_sums(most: int, total: int, atoms: int) -> int:
    """Places that suffice for any graph of so many pairs: no less than `room`, hardly more.

    In the group with the most pairs the first atom has at most `most`, and each further one no
    more than any atom that was dealt before it, one in each group.

    Args:
        most: pairs of one atom.
        total: pairs of all atoms.
        atoms: of the graph, padding included.

    >>> room_of_sums(12, 12 + 12 + 6 + 2, 32)  # `room` is 18
    28
    """
    return most + total // (padded(atoms) // GROUP)
