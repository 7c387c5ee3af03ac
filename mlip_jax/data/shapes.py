"""The few lengths that rows and numbers of atoms are padded to."""

import itertools
import math

import numpy as np

from mlip_jax.data.collate import Bucket
from mlip_jax.data.lists import Sizes

SLOTS_PER_COMPILATION = 1e6
"""Slots that are evaluated with derivatives in about the time of a compilation (measured on a CPU
with bispectrum and network: 5 to 30 µs a slot, 5 to 20 s a compilation)."""


def row_ladder(length: int) -> int:
    """The smallest of 8, 16, 24, 32, 40, 48, 64, 80, 96, 128, … that holds `length`.

    >>> [row_ladder(k) for k in (0, 9, 25, 49, 97, 129)]
    [8, 16, 32, 64, 128, 160]
    """
    if length <= 32:
        return max(8, -(-length // 8) * 8)
    step = 2 ** ((length - 1).bit_length() - 3)
    rounded = -(-length // step) * step
    return rounded if rounded != 7 * step else 8 * step


def atom_ladder(atoms: int, block: int = 0) -> int:
    """Rounds up to a multiple of an eighth of the power of two below, and of `block`.

    >>> [atom_ladder(n) for n in (1, 9, 65, 512, 520)]
    [1, 9, 72, 512, 576]
    """
    step = max(1, 2 ** (max(atoms, 1).bit_length() - 4))
    rounded = -(-max(atoms, 1) // step) * step
    return -(-rounded // block) * block if block else rounded


def single_buckets(sizes: Sizes, room: Bucket | None = None) -> list[Bucket]:
    """Shapes of structures that are taken one at a time.

    Where all fit into `room`, a shape that is compiled already, and that is not four times what
    they need, they get it.

    Rows are all alike; atoms go in steps of four down from the largest. A step has to save
    `SLOTS_PER_COMPILATION`; else its structures move up to the next.
    """
    row = row_ladder(int(sizes.max_neighbors.max()))
    lengths = [min(row_ladder(int(k)), row) for k in sizes.prefixes.max(axis=0)]
    largest = atom_ladder(int(sizes.num_atoms.max()))
    exponents = np.floor(np.log(largest / np.maximum(sizes.num_atoms, 8)) / math.log(4.0))
    steps = np.ceil(largest / 4.0 ** np.maximum(exponents, 0.0)).astype(int)
    for low, high in itertools.pairwise(np.unique(steps)):
        if np.sum(steps == low) * (high - low) * row < SLOTS_PER_COMPILATION:
            steps[steps == low] = high
    if room is not None and sizes.k_ranges is None and largest <= room.atoms < 4 * largest:
        slots = [
            (row, room.max_neighbors),
            *zip(lengths, (k for _, k in room.prefixes), strict=True),
        ]
        if all(needed <= there for needed, there in slots):
            return [room] * len(steps)
    prefixes = tuple(zip(sizes.prefix_cutoffs, lengths, strict=True))
    k_range = sizes.k_range(np.arange(len(steps)))
    return [Bucket(1, int(atoms), row, prefixes, k_range=k_range) for atoms in steps]
