"""Atom-centred symmetry functions of a list; Behler & Parrinello (2007), Behler (2011).

    radial:  G2 = Σ_j w(r_ij)                                                         (2011, eq. 7)
    narrow:  G4 = 2^(1-ζ) Σ_(j<k) (1 + λ cos θ_jik)^ζ w(r_ij) w(r_ik) w(r_jk)         (2011, eq. 9)
    wide:    G5 = 2^(1-ζ) Σ_(j<k) (1 + λ cos θ_jik)^ζ w(r_ij) w(r_ik)                (2011, eq. 10)

with `w(r) = exp(-η (r - r_s)²) f(r)` and a cutoff function f. A function counts neighbours of one
element (or pair of elements), or all of them with their atomic numbers as factors: Z_j in G2 and
Z_j Z_k in G4 and G5; Gastegger et al., J. Chem. Phys. 148, 241709 (2018), section II B.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.descriptors import angles
from mlip_jax.descriptors.envelopes import Envelope
from mlip_jax.elements import species_index
from mlip_jax.graph import AtomicGraph, edge_vectors, map_atom_blocks, prefix_length, safe_norm
from mlip_jax.nn import double

Weight = tuple[float, float, float, float]
"""The radial part (η, r_s, cutoff, distance where its Gaussian is 1) of a function."""

_MAX_DEGREE = 12
"""Above this ζ the (ζ + 1)² moments cost more, and round worse, than forming the pairs."""


@dataclasses.dataclass(frozen=True)
class Radial:
    """A radial function G2.

    Attributes:
        eta: 1/Å².
        r_shift: Å.
        cutoff: Å.
        neighbor: Z of the neighbours that count; `None` stands for one function per element.
        weighted: all neighbours count, with their Z as factor: one function whatever the elements.
        r_unit: Å, where the Gaussian is 1: w has the factor `exp(η (r_unit - r_s)²)`, without
            which a narrow one vanishes in float32; `None`: `r_shift`, no factor.
    """

    eta: float
    r_shift: float
    cutoff: float
    neighbor: int | None = None
    weighted: bool = False
    r_unit: float | None = None

    def __post_init__(self):
        _check_weighted(self.weighted, self.neighbor)


@dataclasses.dataclass(frozen=True)
class Angular:
    """An angular function: G5 (wide) or G4 (narrow: r_jk counts, too).

    Attributes:
        eta: 1/Å².
        r_shift: Å.
        lam: λ, +1 or -1.
        zeta: ζ ≥ 1; published potentials have negative integers, too, which diverge at θ = 180°
            for λ = 1 and at 0° for λ = -1.
        cutoff: Å.
        narrow: G4 instead of G5.
        neighbors: Z of the two neighbours; `None` stands for one function per pair of elements.
        weighted: all neighbours count, with the product of their Z as factor.
        r_unit: Å, of every w, see `Radial`.
    """

    eta: float
    r_shift: float
    lam: float
    zeta: float
    cutoff: float
    narrow: bool = False
    neighbors: tuple[int, int] | None = None
    weighted: bool = False
    r_unit: float | None = None

    def __post_init__(self):
        _check_weighted(self.weighted, self.neighbors)


def evaluate(
    graph: AtomicGraph,
    radial: tuple[Radial, ...],
    angular: tuple[Angular, ...],
    species: tuple[int, ...] | None,
    envelope: Envelope,
    double_sums: bool = False,
) -> Float[Array, "atoms features"]:
    """Symmetry functions of every atom, in blocks of atoms where the graph asks for it.

    Features are ordered as listed, radial before angular; a function that names no neighbour
    elements gives one feature for each element (or pair e ≤ f) in the order of `species`, a
    weighted one a single feature. Wide functions of integer ζ come from moments; the others form
    the pairs of neighbours, on the prefix of the rows that their cutoff needs. With `double_sums`,
    sums that are not moments are taken in float64.

    Raises:
        UserError: where `species` was not given.
    """
    if species is None:
        raise UserError(
            "symmetry functions: got no species; expected the atomic numbers of the elements. "
            "Give species, or let training take them from the data."
        )
    parts = [functions for functions in (radial, angular) if functions]
    einsum = double.einsum if double_sums else functools.partial(jnp.einsum, precision="highest")
    features = [_features_fn(functions, graph, species, envelope, einsum) for functions in parts]

    def block(vectors: Array, neighbor: Array) -> Array:
        elements = jax.nn.one_hot(neighbor, len(species), dtype=vectors.dtype)
        return jnp.concatenate([part(vectors, elements) for part in features], axis=1)

    neighbor = species_index(graph.atomic_numbers, species)[graph.neighbors]
    return map_atom_blocks(block, graph, edge_vectors(graph), neighbor)


def radial_weights(
    distances: Float[Array, "*batch"],
    weights: tuple[Weight, ...],
    envelope: Envelope,
    axis: int = -1,
) -> Float[Array, "..."]:
    """`exp(η ((r_u - r_s)² - (r - r_s)²)) f(r)` of distances r [Å], along a new axis."""
    r = jnp.expand_dims(distances, axis)
    shape = [1] * r.ndim
    shape[axis] = len(weights)
    eta, shift, cutoff, unit = (
        jnp.asarray(np.array(column).reshape(shape), r.dtype)
        for column in zip(*weights, strict=True)
    )
    if all(w[1] == w[3] for w in weights):
        exponent = -eta * (r - shift) ** 2
    else:
        # Where atoms are much closer than they should be, three factors have to remain finite.
        most = 0.25 * math.log(float(jnp.finfo(r.dtype).max))
        exponent = jnp.minimum(eta * (unit - r) * (r + unit - 2.0 * shift), most)
    if len({w[2] for w in weights}) == 1:
        return jnp.exp(exponent) * envelope(r / weights[0][2])
    return jnp.exp(exponent) * envelope(r / cutoff)


Form = Literal["radial", "moments", "wide", "narrow"]


class _Key(NamedTuple):
    """One feature: how it is evaluated, radial part, (λ, ζ), elements of neighbours that count."""

    form: Form
    weighted: bool
    weight: Weight
    shape: tuple[float, float]
    neighbors: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Group:
    """Functions that are evaluated together: every radial part with every (λ, ζ)."""

    form: Form
    weighted: bool
    weights: tuple[Weight, ...]
    shapes: angles.AngularShapes

    def keys(self, species: tuple[int, ...]) -> list[_Key]:
        """The columns of its table."""
        counted = _counted(self.form, self.weighted, species)
        if self.form == "radial":
            order = [(w, z, n) for w in self.weights for n in counted for z in self.shapes]
        else:
            order = [(w, z, n) for n in counted for w in self.weights for z in self.shapes]
        return [_Key(self.form, self.weighted, w, z, n) for w, z, n in order]


def _counted(form: Form, weighted: bool, species: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Elements, or pairs of elements, that a function tells apart."""
    if weighted:
        return [()]
    if form == "radial":
        return [(z,) for z in species]
    return [(species[e], species[f]) for e, f in angles.element_pairs(len(species))]


def _keys(f: Radial | Angular, species: tuple[int, ...]) -> list[_Key]:
    """The features of a function."""
    form, shape, named = "radial", (0.0, 0.0), None
    if isinstance(f, Angular):
        integer = float(f.zeta).is_integer() and 0 <= f.zeta <= _MAX_DEGREE
        form = "narrow" if f.narrow else "moments" if integer else "wide"
        shape = (f.lam, f.zeta)
        if f.neighbors is not None:
            named = tuple(sorted(f.neighbors, key=species.index))
    elif f.neighbor is not None:
        named = (f.neighbor,)
    counted = _counted(form, f.weighted, species) if named is None else [named]
    unit = f.r_shift if f.r_unit is None else f.r_unit
    weight = (f.eta, f.r_shift, f.cutoff, unit)
    return [_Key(form, f.weighted, weight, shape, n) for n in counted]


def _groups(keys: list[_Key]) -> list[_Group]:
    kinds: dict[tuple[Form, bool], list[_Key]] = {}
    for key in keys:
        kinds.setdefault((key.form, key.weighted), []).append(key)
    return [
        _Group(
            form,
            weighted,
            weights=tuple(dict.fromkeys(key.weight for key in members)),
            shapes=tuple(dict.fromkeys(key.shape for key in members)),
        )
        for (form, weighted), members in kinds.items()
    ]


def _features_fn(
    functions: Sequence[Radial | Angular],
    graph: AtomicGraph,
    species: tuple[int, ...],
    envelope: Envelope,
    einsum: Callable[..., Array],
) -> Callable[[Array, Array], Array]:
    """`(vectors, elements) -> [atoms, features]` of functions, in their order."""
    keys = [key for f in functions for key in _keys(f, species)]
    groups = _groups(keys)
    widths = [prefix_length(graph, max(w[2] for w in group.weights)) for group in groups]
    position = {key: k for k, key in enumerate(k for g in groups for k in g.keys(species))}
    columns = [position[key] for key in keys]

    def features(vectors: Array, elements: Array) -> Array:
        charges = jnp.asarray(species, vectors.dtype)[:, None]
        tables = []
        for group, k in zip(groups, widths, strict=True):
            counts = elements[:, :k]
            if group.weighted:
                counts = jnp.matmul(counts, charges, precision="highest")
            tables.append(_table(group, vectors[:, :k], counts, envelope, einsum))
        return _select(jnp.concatenate(tables, axis=1), columns)

    return features


def _table(
    group: _Group,
    vectors: Array,
    counts: Array,
    envelope: Envelope,
    einsum: Callable[..., Array],
) -> Array:
    """All features of a group, `[atoms, features]`, in the order of its keys."""
    r = safe_norm(vectors)
    if group.form == "radial":
        weights = radial_weights(r, group.weights, envelope)
        table = einsum("ijw,ije->iwe", weights, counts)
        return table.reshape((table.shape[0], -1))
    positive = jnp.where(r > 0.0, r, 1.0)
    if group.form == "moments":
        weights = radial_weights(r, group.weights, envelope)
        units = vectors / positive[..., None]
        table = angles.wide_from_moments(units, weights, counts, group.shapes)
        return table.reshape((table.shape[0], -1))

    def weigh(distances: Array) -> Array:
        return radial_weights(distances, group.weights, envelope, axis=1)

    third = weigh if group.form == "narrow" else None
    table = angles.from_pairs(vectors, positive, weigh(r), third, counts, group.shapes, einsum)
    return table.reshape((table.shape[0], -1))


def _check_weighted(weighted: bool, neighbors: object) -> None:
    if weighted and neighbors is not None:
        raise ValueError(
            f"symmetry function: got weighted with the neighbours {neighbors}; expected one of "
            "the two. A weighted function counts all neighbours."
        )


def _select(table: Array, columns: list[int]) -> Array:
    """Columns of a table, by a 0/1 matrix, whose transpose is a product and no scatter."""
    if columns == list(range(table.shape[1])):
        return table
    matrix = np.zeros((table.shape[1], len(columns)))
    matrix[columns, np.arange(len(columns))] = 1.0
    return jnp.matmul(table, jnp.asarray(matrix, table.dtype), precision="highest")
