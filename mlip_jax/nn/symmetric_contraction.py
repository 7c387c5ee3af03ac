"""Couplings of products of real harmonics to a total degree, symmetric in equal factors.

A product of ν factors `A_(l1 m1) … A_(lν mν)` contracted with a coupling transforms like a harmonic
of the total degree L: for L = 0 it is invariant. Two factors couple by Clebsch-Gordan coefficients,
the result with the next factor, and so on: one coupling for each sequence of intermediate degrees
(Drautz 2020, section IV; Dusson et al. 2022, section 4). Where factors are equal, only the part
that is symmetric in them counts, and couplings become linearly dependent; a Gram-Schmidt process in
the order of the intermediate degrees leaves an orthonormal basis, the same on every machine.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from mlip_jax.nn.angular import clebsch_gordan

_DEPENDENT = 1e-6
"""A unit vector with less than this left after projection depends on those before it.

Remainders of independent couplings are roots of rational numbers, none of them below 0.01 up to
l = 6 and five factors; rounding leaves some 1e-15.
"""


def couplings(
    degrees: Sequence[int], equal: Sequence[int] | None = None, total: int = 0
) -> Float[np.ndarray, "paths ..."]:
    """Orthonormal couplings of harmonics to a total degree.

    Args:
        degrees: l of each factor.
        equal: a label of each factor; factors with equal labels are the same, and of the same l.
            `None`: all differ.
        total: L.

    Returns:
        Array `[paths, 2 l1 + 1, …, 2 lν + 1]`, with a last axis `2L + 1` where L > 0; no paths
        where the degrees do not couple. Each path has the norm `√(2L + 1)`.

    Raises:
        ValueError: where factors with equal labels differ in their degrees.
    """
    labels = tuple(range(len(degrees))) if equal is None else tuple(equal)
    if len({(label, l) for label, l in zip(labels, degrees, strict=True)}) != len(set(labels)):
        raise ValueError(f"couplings: degrees {degrees} differ where the labels {labels} do not.")
    raw = _coupled(tuple(degrees), total)
    permutations = list(_permutations(labels))
    basis: list[np.ndarray] = []
    for path in raw:
        symmetric = sum(np.transpose(path, (*p, path.ndim - 1)) for p in permutations)
        vector = np.ravel(symmetric) / len(permutations) / math.sqrt(2 * total + 1)
        for _ in range(2):  # the second pass removes the rounding of the first
            for known in basis:
                vector = vector - (known @ vector) * known
        norm = float(np.linalg.norm(vector))
        if norm > _DEPENDENT:
            basis.append(vector / norm)
    shape = (len(basis), *(2 * l + 1 for l in degrees), 2 * total + 1)
    result = np.array(basis).reshape(shape) * math.sqrt(2 * total + 1)
    return result[..., 0] if total == 0 else result


def _coupled(degrees: tuple[int, ...], total: int) -> Float[np.ndarray, "paths ..."]:
    """All couplings, `[paths, 2 l1 + 1, …, 2 L + 1]`, by their intermediate degrees."""
    found = {degrees[0]: np.eye(2 * degrees[0] + 1)[None]}
    for position, l in enumerate(degrees[1:], 2):
        rest = degrees[position:]
        coupled: dict[int, list[np.ndarray]] = {}
        for degree, paths in sorted(found.items()):
            for result in range(abs(degree - l), degree + l + 1):
                if _reaches(result, rest, total):
                    table = math.sqrt(2 * result + 1) * clebsch_gordan(degree, l, result)
                    coupled.setdefault(result, []).append(np.tensordot(paths, table, axes=1))
        found = {degree: np.concatenate(parts) for degree, parts in coupled.items()}
    shape = (0, *(2 * l + 1 for l in degrees), 2 * total + 1)
    return found.get(total, np.zeros(shape))


def _reaches(degree: int, rest: tuple[int, ...], total: int) -> bool:
    """Whether a degree and the remaining ones can couple to the total."""
    lengths = (degree, *rest, total)
    return 2 * max(lengths) <= sum(lengths)


def _permutations(labels: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Permutations of positions that exchange equal labels only."""
    places = [[i for i, x in enumerate(labels) if x == label] for label in dict.fromkeys(labels)]
    for images in itertools.product(*(itertools.permutations(place) for place in places)):
        permutation = list(range(len(labels)))
        for place, image in zip(places, images, strict=True):
            for source, target in zip(place, image, strict=True):
                permutation[source] = target
        yield tuple(permutation)
