"""The static sizes of a list on a device, and how they grow."""

import dataclasses

import numpy as np
from jaxtyping import Int

MARGIN = 1.1
"""Capacities are this much larger than what was needed when they were chosen."""


@dataclasses.dataclass(frozen=True)
class Capacity:
    """Static sizes of a list.

    Attributes:
        row: slots of a row within cutoff + skin.
        active: slots of a row within the cutoff.
        prefixes: `((cutoff, k), ...)`, see `AtomicGraph`.
        bins: bins along each cell vector.
        search: bins to look into on either side.
        occupancy: atoms in a bin.
        pair_rooms: `((cutoff, places), ...)`, see `AtomicGraph`.
    """

    row: int
    active: int
    prefixes: tuple[tuple[float, int], ...]
    bins: tuple[int, int, int]
    search: tuple[int, int, int]
    occupancy: int
    pair_rooms: tuple[tuple[float, int], ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """The capacities in the order of `DeviceNeighbors.needed`."""
        lengths = (k for _, k in self.prefixes + self.pair_rooms)
        return (self.row, self.active, self.occupancy, *lengths)

    @property
    def _divisions(self) -> list[tuple[int, int]]:
        """Bins along each cell vector, and bins to look into."""
        return list(zip(self.bins, self.search, strict=True))

    def at_least(self, other: "Capacity") -> "Capacity":
        """Sizes that hold what those of another hold, too, in all cells that one of both serves.

        Along each cell vector the division is the one that serves the narrower cells: a cell that
        fluctuates, too narrow for either division in turn, ends up with one that serves it.

        Args:
            other: of the same cutoffs; its bins may be others.
        """
        pairs = zip(self._divisions, other._divisions, strict=True)
        chosen = [max(both, key=lambda one: one[1] / one[0]) for both in pairs]
        (a, b, c), (u, v, w) = zip(*chosen, strict=True)
        return dataclasses.replace(
            self,
            row=max(self.row, other.row),
            active=max(self.active, other.active),
            bins=(a, b, c),
            search=(u, v, w),
            occupancy=max(self.occupancy, other.occupancy),
            prefixes=tuple(map(max, self.prefixes, other.prefixes)),
            pair_rooms=tuple(map(max, self.pair_rooms, other.pair_rooms)),
        )

    def grown(self, needed: Int[np.ndarray, " sizes"], extra: int = 0) -> "Capacity":
        """Sizes that hold what was needed, with a margin where that was too much.

        Args:
            needed: in the order of `sizes`.
            extra: slots to add to every size.
        """
        row, active, occupancy, *lengths = (
            (enlarged(int(n), MARGIN) if n > size else size) + extra
            for n, size in zip(needed, self.sizes, strict=True)
        )
        named = zip(self.prefixes + self.pair_rooms, lengths, strict=True)
        found = tuple((cutoff, length) for (cutoff, _), length in named)
        number = len(self.prefixes)
        return dataclasses.replace(
            self,
            row=row,
            active=active,
            occupancy=occupancy,
            prefixes=found[:number],
            pair_rooms=found[number:],
        )


def enlarged(size: int, margin: float, multiple: int = 4) -> int:
    """At least `size * margin` and four, a multiple of a number."""
    return max(4, multiple * int(np.ceil(size * margin / multiple)))
