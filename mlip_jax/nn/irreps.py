"""Equivariant features: one array per irrep, and which products of irreps exist.

Features of a layout such as `32x0e + 32x1o` are a tuple of arrays `[atoms, 2l + 1, channels]`, one
for each irrep in the order of the layout. Channels come last: products over channels are matrix
products, and a sum over (neighbour, m) is one too.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jaxtyping import Array, Float

from mlip_jax.config import UserError

Features = tuple[Float[Array, "atoms _ _"], ...]
ElementFeatures = tuple[Float[Array, "species _ _"], ...]
"""Features of one atom of each element."""


class Irrep(NamedTuple):
    """Irreducible representation of O(3): degree l, and parity 1 (even) or -1 (odd)."""

    degree: int
    parity: int

    @property
    def dim(self) -> int:
        """Number of components, 2l + 1."""
        return 2 * self.degree + 1

    def __str__(self) -> str:
        return f"{self.degree}{'e' if self.parity == 1 else 'o'}"


class Channels(NamedTuple):
    """So many channels of one irrep: `32x1o`."""

    irrep: Irrep
    channels: int


Layout = tuple[Channels, ...]


class Path(NamedTuple):
    """One product: irrep `source` of the layout times harmonics of `degree` gives `target`."""

    source: int
    degree: int
    target: Irrep


SCALAR = Irrep(0, 1)


def harmonic(degree: int, reflections: bool = True) -> Irrep:
    """Irrep of the spherical harmonics of a degree: parity (-1)^l, or even in SO(3)."""
    return Irrep(degree, (-1) ** degree if reflections else 1)


def layout_text(layout: Layout) -> str:
    """`64x0e+32x1o` for people."""
    return "+".join(f"{channels}x{irrep}" for irrep, channels in layout)


def parse_layout(text: str) -> Layout:
    """Layout of a text such as `64x0e+32x1o`, as it stands.

    Raises:
        UserError: for anything else.
    """
    layout = []
    for part in text.replace(" ", "").split("+"):
        match = re.fullmatch(r"([1-9]\d*)x(\d+)([eo])", part)
        if match is None:
            raise UserError(
                f"irreps: got {part!r} in {text!r}; expected channels, degree and parity, such as "
                "`32x0e+32x1o`."
            )
        count, degree, parity = match.groups()
        layout.append(Channels(Irrep(int(degree), 1 if parity == "e" else -1), int(count)))
    return tuple(layout)


def product_paths(
    layout: Layout, l_max: int, targets: Iterable[Irrep], reflections: bool = True
) -> tuple[Path, ...]:
    """Products of a layout with harmonics up to `l_max` that give one of `targets`.

    Ordered by source, degree of the harmonic, degree of the target.

    Args:
        layout: of the features.
        l_max: highest degree of the harmonics.
        targets: irreps that are wanted.
        reflections: whether parity counts; without, all irreps are called even.
    """
    wanted = set(targets)
    paths = []
    for source, (irrep, _) in enumerate(layout):
        for degree in range(l_max + 1):
            parity = irrep.parity * harmonic(degree, reflections).parity
            for l in range(abs(irrep.degree - degree), irrep.degree + degree + 1):
                if (target := Irrep(l, parity)) in wanted:
                    paths.append(Path(source, degree, target))
    return tuple(paths)


def hidden_layout(channels: Sequence[int], parity: bool, reflections: bool = True) -> Layout:
    """Layout of hidden features with `channels[l]` channels of each irrep of degree l.

    Args:
        channels: one number per degree.
        parity: both parities of every degree; otherwise only those of the harmonics.
        reflections: whether parity counts; without, all irreps are called even.
    """
    return tuple(
        Channels(Irrep(degree, p), count)
        for degree, count in enumerate(channels)
        for p in ((1, -1) if parity else (harmonic(degree, reflections).parity,))
    )
