"""The usual path through a Brillouin zone: named lines (Setyawan and Curtarolo 2010)."""

import itertools
from typing import NamedTuple

import numpy as np
from ase.cell import Cell
from ase.dft.kpoints import parse_path_string
from jaxtyping import Float


class Line(NamedTuple):
    """A straight line between two named corners.

    Attributes:
        start, end: names.
        points: wave vectors, multiples of the reciprocal vectors.
    """

    start: str
    end: str
    points: Float[np.ndarray, "points 3"]


class BandPath(NamedTuple):
    """Lines from corner to corner, and the corners, of a primitive cell."""

    lines: tuple[Line, ...]
    corners: dict[str, Float[np.ndarray, "3"]]


def band_path(cell: Float[np.ndarray, "3 3"], points: int = 51) -> BandPath:
    """The path of the cell's Bravais lattice, for the cell's own vectors.

    Args:
        cell: of the primitive cell, Å, vectors in rows.
        points: on each line, both corners included.
    """
    found = Cell(cell).bandpath()
    corners = {name: np.asarray(k, dtype=np.float64) for name, k in found.special_points.items()}
    lines = []
    for part in parse_path_string(found.path):
        for start, end in itertools.pairwise(part):
            share = np.linspace(0.0, 1.0, points)[:, None]
            between = (1.0 - share) * corners[start] + share * corners[end]
            lines.append(Line(start, end, between))
    return BandPath(tuple(lines), corners)
