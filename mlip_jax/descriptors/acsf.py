"""Symmetry functions as descriptors: a list of them, or a grid from a cutoff and a resolution."""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.descriptors import envelopes
from mlip_jax.descriptors.envelopes import EnvelopeName
from mlip_jax.descriptors.symmetry_functions import Angular, Radial, evaluate
from mlip_jax.graph import AtomicGraph


class SymmetryFunctions(nn.Module):
    """An explicit list of symmetry functions, the same for every central element.

    Attributes:
        radial: G2 functions.
        angular: G4 and G5 functions.
        species: atomic numbers.
        envelope: cutoff function.
        plateau: share of the cutoff below which the cutoff function is 1.
        double_sums: sums over neighbours are taken in float64 in programs of float32, too, for
            networks that magnify the rounding of their inputs.
    """

    radial: tuple[Radial, ...]
    angular: tuple[Angular, ...] = ()
    species: tuple[int, ...] | None = None
    envelope: EnvelopeName = "cosine"
    plateau: float = 0.0
    double_sums: bool = False

    @property
    def cutoff(self) -> float:
        """The longest cutoff of a function [Å]."""
        return max(f.cutoff for f in (*self.radial, *self.angular))

    @property
    def prefix_cutoffs(self) -> tuple[float, ...]:
        """Cutoffs [Å] for which prefixes of the rows save time."""
        return _prefix_cutoffs(self.angular, self.cutoff)

    def __call__(self, graph: AtomicGraph) -> Float[Array, "atoms features"]:
        """Symmetry functions of every atom, in the order of the list."""
        envelope = envelopes.named(self.envelope, self.plateau)
        return evaluate(graph, self.radial, self.angular, self.species, envelope, self.double_sums)


class ACSF(nn.Module):
    """Symmetry functions on an automatic grid: shifted G2, and wide G5 of integer ζ.

    Radial functions are Gaussians at equal distances from `min_distance` to the cutoff, as wide as
    their spacing; Gastegger et al. (2018), section II. Half of the radial weights of the angular
    functions are centred on the atom, with widths in geometric progression, and half are shifted:
    the former see neighbours of different shells together, the latter resolve shells; after
    Imbalzano et al. (2018), section II.

    Attributes:
        species: atomic numbers.
        cutoff: Å.
        num_radial: radial functions per neighbour element.
        num_angular: radial weights of the angular functions.
        zetas: exponents ζ, each with λ = -1 and λ = +1.
        angular_cutoff: Å; `None` stands for `cutoff`.
        min_distance: Å, where radial functions begin; `None` takes the shortest distance of the
            training data (1 Å where there are none).
        envelope: cutoff function.
        weighted: all neighbours count in one function, with their atomic numbers as factors, in
            place of one function for each element and pair of elements; Gastegger et al. (2018),
            section II B.
    """

    species: tuple[int, ...] | None = None
    cutoff: float = 6.0
    num_radial: int = 20
    num_angular: int = 8
    zetas: tuple[int, ...] = (1, 2, 4, 8)
    angular_cutoff: float | None = None
    min_distance: float | None = 1.0
    envelope: EnvelopeName = "polynomial"
    weighted: bool = False

    @property
    def _inner(self) -> float:
        return 1.0 if self.min_distance is None else self.min_distance

    @property
    def radial(self) -> tuple[Radial, ...]:
        """The G2 functions of the grid."""
        grid = radial_grid(self.num_radial, self._inner, self.cutoff)
        return tuple(dataclasses.replace(f, weighted=self.weighted) for f in grid)

    @property
    def angular(self) -> tuple[Angular, ...]:
        """The G5 functions of the grid."""
        cutoff = self.cutoff if self.angular_cutoff is None else self.angular_cutoff
        grid = angular_grid(self.num_angular, self.zetas, self._inner, cutoff)
        return tuple(dataclasses.replace(f, weighted=self.weighted) for f in grid)

    @property
    def prefix_cutoffs(self) -> tuple[float, ...]:
        """Cutoffs [Å] for which prefixes of the rows save time."""
        return _prefix_cutoffs(self.angular, self.cutoff)

    def __call__(self, graph: AtomicGraph) -> Float[Array, "atoms features"]:
        """Symmetry functions of every atom, radial before angular."""
        envelope = envelopes.named(self.envelope)
        return evaluate(graph, self.radial, self.angular, self.species, envelope)


def radial_grid(number: int, inner: float, cutoff: float) -> tuple[Radial, ...]:
    """Gaussians at equal distances from `inner` to below `cutoff` [Å], with η = 1/(2 spacing²)."""
    spacing = (cutoff - inner) / max(number, 1)
    eta = 0.5 / spacing**2
    return tuple(Radial(eta, inner + n * spacing, cutoff) for n in range(number))


def angular_grid(
    number: int, zetas: Sequence[int], inner: float, cutoff: float
) -> tuple[Angular, ...]:
    """Wide functions with `number` radial weights, each with every ζ and λ = ±1 (see `ACSF`)."""
    shifted = number // 2
    widths = np.geomspace(cutoff, 0.2 * cutoff, number - shifted)
    weights = [(0.5 / float(width) ** 2, 0.0) for width in widths]
    spacing = (cutoff - inner) / (shifted + 1)
    weights += [(0.5 / spacing**2, inner + (n + 1) * spacing) for n in range(shifted)]
    return tuple(
        Angular(eta, shift, lam, float(zeta), cutoff)
        for eta, shift in weights
        for zeta in zetas
        for lam in (-1.0, 1.0)
    )


def _prefix_cutoffs(angular: tuple[Angular, ...], cutoff: float) -> tuple[float, ...]:
    longest = max((f.cutoff for f in angular), default=cutoff)
    return (longest,) if longest < cutoff else ()
