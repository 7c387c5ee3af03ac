"""Atom-centred symmetry functions of a list; Behler & Parrinello (2007), Behler (2011).

    radial:  G2 = Σ_j w(r_ij)                                                         (2011, eq. 7)
    narrow:  G4 = 2^(1-ζ) Σ_(j<k) (1 + λ cos θ_jik)^ζ w(r_ij) w(r_ik) w(r_jk)         (2011, eq. 9)
    wide:    G5 = 2^(1-ζ) Σ_(j<k) (1 + λ cos θ_jik)^ζ w(r_ij) w(r_ik)                (2011, eq. 10)

with `w(r) = exp(-η (r - r_s)²) f(r)` and a cutoff function f.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.descriptors import angles
from mlip_jax.descriptors.envelopes import ENVELOPES, Envelope
from mlip_jax.elements import species_index
from mlip_jax.graph import AtomicGraph, edge_vectors, map_atom_blocks, prefix_length, safe_norm

EnvelopeName = Literal["cosine", "tanh_cubed", "polynomial"]
Weight = tuple[float, float, float]
"""The radial part (η, r_s, cutoff) of a function."""

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
    """

    eta: float
    r_shift: float
    cutoff: float
    neighbor: int | None = None


@dataclasses.dataclass(frozen=True)
class Angular:
    """An angular function: G5 (wide) or G4 (narrow: r_jk counts, too).

    Attributes:
        eta: 1/Å².
        r_shift: Å.
        lam: λ, +1 or -1.
        zeta: ζ ≥ 1.
        cutoff: Å.
        narrow: G4 instead of G5.
        neighbors: Z of the two neighbours; `None` stands for one function per pair of elements.
    """

    eta: float
    r_shift: float
    lam: float
    zeta: float
    cutoff: float
    narrow: bool = False
    neighbors: tuple[int, int] | None = None


def evaluate(
    graph: AtomicGraph,
    radial: tuple[Radial, ...],
    angular: tuple[Angular, ...],
    species: tuple[int, ...] | None,
    envelope: EnvelopeName,
) -> Float[Array, "atoms features"]:
    """Symmetry functions of every atom, in blocks of atoms where the graph asks for it.

    Features are ordered as listed, radial before angular; a function that names no neighbour
    elements gives one feature for each element (or pair e ≤ f) in the order of `species`. Wide
    functions of integer ζ come from moments; the others form the pairs of neighbours, on the prefix
    of the rows that their cutoff needs.

    Raises:
        UserError: where `species` was not given.
    """
    if species is None:
        raise UserError(
            "symmetry functions: got no species; expected the atomic numbers of the elements. "
            "Give species, or let training take them from the data."
        )
    decay = ENVELOPES[envelope]
    groups = _angular_groups(angular)
    widths = [prefix_length(graph, max(w[2] for w in group.weights)) for group in groups]
    columns = _angular_columns(groups, angular, species)

    def block(vectors: Array, neighbor_index: Array) -> Array:
        elements = jax.nn.one_hot(neighbor_index, len(species), dtype=vectors.dtype)
        features = [_radial_features(vectors, elements, radial, species, decay)] if radial else []
        if groups:
            tables = [
                _angular_table(group, vectors[:, :k], elements[:, :k], decay)
                for group, k in zip(groups, widths, strict=True)
            ]
            features.append(_select(jnp.concatenate(tables, axis=1), columns))
        return jnp.concatenate(features, axis=1)

    neighbor_index = species_index(graph.atomic_numbers, species)[graph.neighbors]
    return map_atom_blocks(block, graph, edge_vectors(graph), neighbor_index)


def radial_weights(
    distances: Float[Array, "*batch"], weights: tuple[Weight, ...], envelope: Envelope
) -> Float[Array, "*batch weights"]:
    """`exp(-η (r - r_s)²) f(r)` of distances r [Å] for each (η, r_s, cutoff)."""
    shape = (1,) * distances.ndim + (len(weights),)
    eta, shift, cutoff = (
        jnp.asarray(np.array(column).reshape(shape), distances.dtype)
        for column in zip(*weights, strict=True)
    )
    r = distances[..., None]
    same_cutoff = len({w[2] for w in weights}) == 1
    return jnp.exp(-eta * (r - shift) ** 2) * envelope(
        r / (cutoff[..., :1] if same_cutoff else cutoff)
    )


def _radial_features(vectors, elements, functions: tuple[Radial, ...], species, envelope) -> Array:
    weights = tuple(dict.fromkeys((f.eta, f.r_shift, f.cutoff) for f in functions))
    values = radial_weights(safe_norm(vectors), weights, envelope)
    table = jnp.einsum("ijw,ije->iwe", values, elements, precision="highest").reshape(
        (values.shape[0], -1)
    )
    columns = []
    for f in functions:
        first = weights.index((f.eta, f.r_shift, f.cutoff)) * len(species)
        chosen = species if f.neighbor is None else (f.neighbor,)
        columns += [first + species.index(z) for z in chosen]
    return _select(table, columns)


@dataclasses.dataclass(frozen=True)
class _Group:
    """Angular functions that are evaluated together: every weight with every shape."""

    form: Literal["moments", "wide", "narrow"]
    weights: tuple[Weight, ...]
    shapes: angles.AngularShapes


def _form(f: Angular) -> Literal["moments", "wide", "narrow"]:
    if f.narrow:
        return "narrow"
    return "moments" if float(f.zeta).is_integer() and f.zeta <= _MAX_DEGREE else "wide"


def _angular_groups(functions: tuple[Angular, ...]) -> list[_Group]:
    groups = []
    for form in ("moments", "wide", "narrow"):
        members = [f for f in functions if _form(f) == form]
        weights = tuple(dict.fromkeys((f.eta, f.r_shift, f.cutoff) for f in members))
        shapes = tuple(dict.fromkeys((f.lam, f.zeta) for f in members))
        if members:
            groups.append(_Group(form, weights, shapes))
    return groups


def _angular_table(group: _Group, vectors, elements, envelope: Envelope) -> Array:
    """All features of a group, `[atoms, pairs * weights * shapes]`."""
    r = safe_norm(vectors)
    positive = jnp.where(r > 0.0, r, 1.0)
    weights = radial_weights(r, group.weights, envelope)
    if group.form == "moments":
        units = vectors / positive[..., None]
        table = angles.wide_from_moments(units, weights, elements, group.shapes)
    else:
        third = None
        if group.form == "narrow":
            cutoff = max(w[2] for w in group.weights)
            sides = angles.third_sides(vectors, r < cutoff, cutoff)
            third = radial_weights(sides, group.weights, envelope)
        table = angles.from_triplets(vectors, positive, weights, third, elements, group.shapes)
    return table.reshape((table.shape[0], -1))


def _angular_columns(groups: list[_Group], functions: tuple[Angular, ...], species) -> list[int]:
    """Column of every feature in the concatenated tables of the groups."""
    pairs = angles.element_pairs(len(species))
    columns = []
    for f in functions:
        offset = 0
        for group in groups:
            if group.form == _form(f):
                break
            offset += len(pairs) * len(group.weights) * len(group.shapes)
        else:
            raise ValueError(f"{f} belongs to none of the groups.")
        weight = group.weights.index((f.eta, f.r_shift, f.cutoff))
        within = weight * len(group.shapes) + group.shapes.index((f.lam, f.zeta))
        chosen = range(len(pairs))
        if f.neighbors is not None:
            first, second = sorted(species.index(z) for z in f.neighbors)
            chosen = [pairs.index((first, second))]
        columns += [offset + p * len(group.weights) * len(group.shapes) + within for p in chosen]
    return columns


def _select(table: Array, columns: list[int]) -> Array:
    """Columns of a table, by a 0/1 matrix, whose transpose is a product and no scatter."""
    if columns == list(range(table.shape[1])):
        return table
    matrix = np.zeros((table.shape[1], len(columns)))
    matrix[columns, np.arange(len(columns))] = 1.0
    return jnp.matmul(table, jnp.asarray(matrix, table.dtype), precision="highest")
