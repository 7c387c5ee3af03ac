"""Pair potentials: Lennard-Jones, Morse, and the screened nuclear repulsion of ZBL.

Half of each pair's energy belongs to either atom. Parameters of pairs of elements are matrices
`[elements, elements]`, symmetric by construction.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.descriptors import envelopes
from mlip_jax.descriptors.angles import element_pairs
from mlip_jax.elements import species_index
from mlip_jax.graph import AtomicGraph, AtomOutputs, edge_vectors, prefix_length, safe_norm

PairValues = float | tuple[float, ...]
"""One value for all pairs of elements, or one for each pair e ≤ f in the order of the species."""


class LennardJones(nn.Module):
    """`4 ε ((σ/r)^12 - (σ/r)^6) S(r)`; Lennard-Jones (1924).

    Attributes:
        species: atomic numbers.
        cutoff: Å.
        epsilon: eV.
        sigma: Å.
        onset: Å, where S starts to fall from 1 to 0 (C2 at both ends); `None`: 0.8 cutoff.
        trainable: parameters are fitted (`params`) or fixed (`constants`).
    """

    species: tuple[int, ...] | None = None
    cutoff: float = 6.0
    epsilon: PairValues = 0.1
    sigma: PairValues = 2.5
    onset: float | None = None
    trainable: bool = True

    hops = 1

    @nn.compact
    def __call__(self, graph: AtomicGraph) -> AtomOutputs:
        """Atom energies [eV]."""
        species = _known(self.species, "lennard_jones")
        epsilon = _pair_parameter(self, "epsilon", self.epsilon, len(species))
        sigma = _pair_parameter(self, "sigma", self.sigma, len(species))
        smooth = envelopes.switch(self.onset, self.cutoff)

        def energy(r: Array, i: Array, j: Array) -> Array:
            sixth = (sigma[i, j].astype(r.dtype) / r) ** 6
            return 4.0 * epsilon[i, j].astype(r.dtype) * (sixth * sixth - sixth) * smooth(r)

        return _sum_pairs(graph, species, self.cutoff, energy)


class Morse(nn.Module):
    """`D (exp(-2 a (r - r0)) - 2 exp(-a (r - r0))) S(r)`; Morse (1929), eq. 4.

    Attributes:
        species: atomic numbers.
        cutoff: Å.
        depth: D, eV.
        steepness: a, 1/Å.
        distance: r0, Å.
        onset: Å, where S starts to fall from 1 to 0 (C2 at both ends); `None`: 0.8 cutoff.
        trainable: parameters are fitted (`params`) or fixed (`constants`).
    """

    species: tuple[int, ...] | None = None
    cutoff: float = 6.0
    depth: PairValues = 0.5
    steepness: PairValues = 1.5
    distance: PairValues = 2.5
    onset: float | None = None
    trainable: bool = True

    hops = 1

    @nn.compact
    def __call__(self, graph: AtomicGraph) -> AtomOutputs:
        """Atom energies [eV]."""
        species = _known(self.species, "morse")
        depth = _pair_parameter(self, "depth", self.depth, len(species))
        steepness = _pair_parameter(self, "steepness", self.steepness, len(species))
        distance = _pair_parameter(self, "distance", self.distance, len(species))
        smooth = envelopes.switch(self.onset, self.cutoff)

        def energy(r: Array, i: Array, j: Array) -> Array:
            stretch = r - distance[i, j].astype(r.dtype)
            decay = jnp.exp(-steepness[i, j].astype(r.dtype) * stretch)
            return depth[i, j].astype(r.dtype) * (decay * decay - 2.0 * decay) * smooth(r)

        return _sum_pairs(graph, species, self.cutoff, energy)


# Ziegler, Biersack & Littmark (1985): the universal screening function and length.
_ZBL_AMPLITUDES = (0.02817, 0.28022, 0.50986, 0.18175)
_ZBL_DECAYS = (0.20162, 0.40290, 0.94229, 3.19980)
_ZBL_LENGTH = 0.46850  # Å
_ZBL_POWER = 0.23
_ZBL_COULOMB = (
    14.399645  # eV Å; as LAMMPS has it, so that potentials fitted there keep their values
)


class ZBL(nn.Module):
    """Screened nuclear repulsion, switched as by LAMMPS; Ziegler, Biersack & Littmark (1985).

    `k Z_i Z_j / r φ(r / a) + S(r)`, where the polynomial S makes energy, force and curvature vanish
    at the cutoff (LAMMPS, `pair_style zbl`). No parameters.

    Attributes:
        species: atomic numbers.
        cutoff: Å, LAMMPS's outer cutoff.
        inner: Å, from where S varies; below it is constant.
    """

    species: tuple[int, ...] | None = None
    cutoff: float = 2.0
    inner: float = 1.0

    hops = 1

    @nn.compact
    def __call__(self, graph: AtomicGraph) -> AtomOutputs:
        """Atom energies [eV]."""
        species = _known(self.species, "zbl")
        if not 0.0 <= self.inner < self.cutoff:
            raise UserError(
                f"zbl.inner: got {self.inner} Å; expected a value from 0 to below the cutoff "
                f"{self.cutoff} Å."
            )
        z = np.asarray(species, dtype=np.float64)
        strength = _ZBL_COULOMB * z[:, None] * z[None, :]
        rates = (z[:, None] ** _ZBL_POWER + z[None, :] ** _ZBL_POWER) / _ZBL_LENGTH
        cubic, quartic, constant = _zbl_switch(strength, rates, self.inner, self.cutoff)

        def energy(r: Array, i: Array, j: Array) -> Array:
            def of_pair(matrix: np.ndarray) -> Array:
                return jnp.asarray(matrix, r.dtype)[i, j]

            x = r * of_pair(rates)
            terms = zip(_ZBL_AMPLITUDES, _ZBL_DECAYS, strict=True)
            screening = sum((c * jnp.exp(-d * x) for c, d in terms), start=jnp.zeros_like(x))
            t = jnp.maximum(r - self.inner, 0.0)
            switch = (of_pair(cubic) + of_pair(quartic) * t) * t**3 + of_pair(constant)
            return of_pair(strength) * screening / r + switch

        return _sum_pairs(graph, species, self.cutoff, energy)


def _zbl_switch(
    strength: np.ndarray, rates: np.ndarray, inner: float, outer: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients A/3, B/4 and C of the switching polynomial; LAMMPS manual, `pair_style zbl`."""
    moments = [
        sum(
            c * (-d * rates) ** n * np.exp(-d * rates * outer)
            for c, d in zip(_ZBL_AMPLITUDES, _ZBL_DECAYS, strict=True)
        )
        for n in range(3)
    ]
    energy = strength * moments[0] / outer
    slope = strength * (moments[1] / outer - moments[0] / outer**2)
    curvature = strength * (
        moments[2] / outer - 2.0 * moments[1] / outer**2 + 2.0 * moments[0] / outer**3
    )
    width = outer - inner
    cubic = (-3.0 * slope + width * curvature) / width**2
    quartic = (2.0 * slope - width * curvature) / width**3
    constant = -energy + 0.5 * width * slope - width**2 / 12.0 * curvature
    return cubic / 3.0, quartic / 4.0, constant


def _sum_pairs(
    graph: AtomicGraph,
    species: tuple[int, ...],
    cutoff: float,
    energy: Callable[[Array, Array, Array], Array],
) -> AtomOutputs:
    """Half of `energy(r, element i, element j)` of all pairs within the cutoff, for each atom."""
    k = prefix_length(graph, cutoff)
    r = safe_norm(edge_vectors(graph)[:, :k])
    inside = r < cutoff
    r = jnp.where(inside, r, cutoff)
    element = species_index(graph.atomic_numbers, species)
    first = jnp.broadcast_to(element[:, None], r.shape)
    values = energy(r, first, element[graph.neighbors[:, :k]])
    return AtomOutputs(energies=0.5 * jnp.sum(jnp.where(inside, values, 0.0), axis=1))


def _pair_parameter(
    module: nn.Module, name: str, value: PairValues, elements: int
) -> Float[Array, "elements elements"]:
    """Symmetric matrix of a parameter, of which the pairs e ≤ f are the variable."""
    pairs = element_pairs(elements)
    values = (float(value),) * len(pairs) if isinstance(value, int | float) else value
    if len(values) != len(pairs) or not all(math.isfinite(v) for v in values):
        raise UserError(
            f"{name}: got {len(values)} values; expected one number, or {len(pairs)} for the pairs "
            f"{list(pairs)} of element indices."
        )
    index = np.zeros((elements, elements), dtype=np.int32)
    for number, (e, f) in enumerate(pairs):
        index[e, f] = index[f, e] = number
    if module.trainable:  # pyright: ignore[reportAttributeAccessIssue]
        variable = module.param(name, lambda _: jnp.asarray(values, jnp.float32))
    else:
        variable = module.variable("constants", name, lambda: jnp.asarray(values)).value
    return variable[index]


def _known(species: tuple[int, ...] | None, name: str) -> tuple[int, ...]:
    if species is None:
        raise UserError(
            f"{name}: got no species; expected atomic numbers. Give species, or let training take "
            "them from the data."
        )
    return species
