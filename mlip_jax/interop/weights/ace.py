"""Cluster expansions as LAMMPS's `pair_style pace` reads them: `.yace`, the C-tilde form.

Format: python-ace and LAMMPS's ML-PACE; Lysogorskiy et al. (2021), section "Implementation". In the
file a function is a sum of products of the complex atomic basis, `Re Σ_m c̃_m Π A_(μ n l m)`, with
`Y_(l m) = (-1)^m (Y^c + i Y^s) / √2` for m > 0 and `A_(l -m) = (-1)^m A*_(l m)`. It is invariant,
so that it is a combination of our functions of the same factors: these coefficients are stored.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.descriptors.ace_functions import Factor, Selection, orders, sizes, terms
from mlip_jax.descriptors.ace_radial import Bond
from mlip_jax.interop.weights.documents import Entry, read_document
from mlip_jax.models.pace import PACE, Embedding
from mlip_jax.potential import Potential

RADIAL = {
    "ChebExpCos": "cheb_exp_cos",
    "ChebPow": "cheb_pow",
    "ChebLinear": "cheb_linear",
    "SBessel": "bessel",
}
"""Names of radial functions in the file and here."""

FORMS = {"FinnisSinclair": "smoothed", "FinnisSinclairShiftedScaled": "shifted_scaled"}
"""Names of embeddings in the file and here."""

HIGHEST_ORDER = 8
_INVARIANT = 1e-8
"""Largest share of a function that may not be invariant; files have 16 digits, some only 8."""


class Function(NamedTuple):
    """A function of a file: factors (element, n, l), combinations of m, coefficients."""

    entry: Entry
    factors: tuple[tuple[int, int, int], ...]
    components: list[tuple[int, ...]]
    coefficients: Float[np.ndarray, "components densities"]


def read(files: Sequence[Path]) -> Potential:
    """Reads a cluster expansion.

    Args:
        files: one `.yace`.

    Returns:
        The potential, with analytic radial functions; its field `spline` set to the file's
        `deltaSplineBins`, which the card has, gives the tables that LAMMPS interpolates in.

    Raises:
        UserError: naming file and line of what is damaged, missing or not supported.
    """
    paths = [Path(path) for path in files]
    if len(paths) != 1 or paths[0].suffix != ".yace":
        names = ", ".join(path.name for path in paths) or "no files"
        raise UserError(
            f"ace: got {names}; expected one .yace (pace_yaml2yace of python-ace makes one of a "
            ".yaml potential)."
        )
    top = read_document(paths[0])
    species = _species(top["elements"])
    number = len(species)
    energies = top["E0"].numbers(number)
    embeddings = _by_element(top["embeddings"], number, _embedding)
    bonds, radial = _bonds(top["bonds"], number)
    densities = {len(embedding.exponents) for embedding in embeddings}
    if len(densities) != 1:
        raise top["embeddings"].error("elements differ in ndensity, which is not supported")
    size = densities.pop()
    functions = _by_element(
        top["functions"],
        number,
        lambda entry: [_function(item, number, radial.shape, size) for item in entry.entries()],
    )
    n_max, l_max = _bounds(functions)
    model = PACE(
        species=species,
        bonds=bonds,
        num_basis=radial.shape[-1],
        n_max=n_max,
        l_max=l_max,
        embeddings=tuple(embeddings),
        energy_scale=1.0,
    )
    params = _coefficients(functions, model.selection, size)
    selection = model.selection
    params["radial"] = radial[:, :, : selection.num_radial, : selection.highest + 1]
    bins = top["deltaSplineBins"].number()
    card = {"imported": {"format": "ace", "files": [paths[0].name], "deltaSplineBins": bins}}
    reference = dict(zip(species, energies.tolist(), strict=True))
    return Potential(model, {"params": params}, reference, card)


def _species(entry: Entry) -> tuple[int, ...]:
    found = []
    for item in entry.entries():
        if item.text() not in elements.SYMBOLS[1:] or item.text() in found:
            raise item.error(f"got {item.text()!r}; expected the symbol of an element, once")
        found.append(item.text())
    return tuple(elements.atomic_number(symbol) for symbol in found)


def _by_element(entry: Entry, number: int, read_one) -> list:
    """What stands under the index of each element."""
    found = {}
    for key, value in entry.items():
        found[key.integer(0, number - 1)] = read_one(value)
    if len(found) != number:
        raise entry.error(f"got {len(found)} elements; expected {number}")
    return [found[index] for index in range(number)]


def _embedding(entry: Entry) -> Embedding:
    size = entry["ndensity"].integer(1)
    parameters = entry["FS_parameters"].numbers(2 * size)
    return Embedding(
        weights=tuple(parameters[0::2].tolist()),
        exponents=tuple(parameters[1::2].tolist()),
        form=_named(entry["npoti"], FORMS),
        core_cutoff=entry["rho_core_cutoff"].number(),
        core_width=entry["drho_core_cutoff"].number(),
    )


def _bonds(entry: Entry, number: int) -> tuple[tuple[Bond, ...], Float[np.ndarray, "e e n l k"]]:
    """Bonds and radial coefficients of every pair; coefficients that a pair lacks are zero."""
    found: dict[tuple[int, int], tuple[Bond, np.ndarray]] = {}
    for key, value in entry.items():
        i, j = (item.integer(0, number - 1) for item in _pair(key))
        found[i, j] = (_bond(value), _radial_coefficients(value))
    pairs = list(itertools.product(range(number), repeat=2))
    missing = [pair for pair in pairs if pair not in found]
    if missing:
        raise entry.error(f"the pair {list(missing[0])} of elements is missing")
    shape = np.max([table.shape for _, table in found.values()], axis=0)
    radial = np.zeros((number, number, *shape))
    for (i, j), (_, table) in found.items():
        radial[i, j][tuple(slice(size) for size in table.shape)] = table
    return tuple(found[pair][0] for pair in pairs), radial


def _pair(key: Entry) -> list[Entry]:
    items = key.entries()
    if len(items) != 2:
        raise key.error("expected two indices of elements")
    return items


def _bond(entry: Entry) -> Bond:
    kind = entry.get("inner_cutoff_type")
    name = "density" if kind is None else kind.text()
    if name not in ("density", "distance"):
        raise entry.error(f"got inner_cutoff_type {name}; expected density or distance")
    inner = None
    if name == "distance":
        inner = (entry["rcut_in"].number(), entry["dcut_in"].number())
        if inner[1] <= 0.0:
            raise entry["dcut_in"].error(f"got {inner[1]}; expected a width above 0 Å")
    cutoff = entry["rcut"].number()
    if cutoff <= 0.0:
        raise entry["rcut"].error(f"got {cutoff}; expected a distance above 0 Å")
    return Bond(
        radial=_named(entry["radbasename"], RADIAL),
        cutoff=cutoff,
        parameter=float(entry["radparameters"].numbers()[0]),
        width=entry["dcut"].number(),
        core=(entry["prehc"].number(), entry["lambdahc"].number()),
        inner=inner,
    )


def _radial_coefficients(entry: Entry) -> Float[np.ndarray, "n l k"]:
    sizes = entry["nradmax"].integer(), entry["lmax"].integer(), entry["nradbasemax"].integer(1)
    rows = entry["radcoefficients"].entries()
    if len(rows) != sizes[0] or any(len(row.entries()) != sizes[1] + 1 for row in rows):
        raise entry["radcoefficients"].error(
            f"expected nradmax × (lmax + 1) = {sizes[0]} × {sizes[1] + 1} lists"
        )
    return np.array([[item.numbers(sizes[2]) for item in row.entries()] for row in rows]).reshape(
        sizes[0], sizes[1] + 1, sizes[2]
    )


def _named(entry: Entry, names: dict[str, str]):
    if entry.text() not in names:
        raise entry.error(f"got {entry.text()!r}; expected one of {', '.join(names)}")
    return names[entry.text()]


def _function(entry: Entry, number: int, radial: tuple[int, ...], size: int) -> Function:
    order = entry["rank"].integer(1, HIGHEST_ORDER)
    factors = []
    columns = [entry[name].entries() for name in ("mus", "ns", "ls")]
    if {len(column) for column in columns} != {order}:
        raise entry.error(f"expected {order} values in each of mus, ns and ls")
    for mu, n, l in zip(*columns, strict=True):
        most = radial[-1] if order == 1 else radial[2]
        degree = 0 if order == 1 else radial[3] - 1
        factors.append(
            (mu.integer(0, number - 1), n.integer(1, most) - 1, l.integer(0, degree))
        )
    count = entry["num_ms_combs"].integer(1)
    flat = entry["ms_combs"].integers(count * order)
    components = [tuple(flat[i * order : (i + 1) * order]) for i in range(count)]
    for component in components:
        if any(abs(m) > l for m, (_, _, l) in zip(component, factors, strict=True)):
            raise entry["ms_combs"].error(f"got m = {list(component)}; expected |m| <= l")
    values = entry["ctildes"].numbers(count * size).reshape(count, size)
    return Function(entry, tuple(factors), components, values)


def _bounds(functions: list[list[Function]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Bounds on n and l of each order that hold all functions."""
    everything = [function for of_element in functions for function in of_element]
    highest = max((len(function.factors) for function in everything), default=1)
    n_max, l_max = [0] * highest, [0] * highest
    for function in everything:
        index = len(function.factors) - 1
        n_max[index] = max(n_max[index], *(n + 1 for _, n, _ in function.factors), 1)
        l_max[index] = max(l_max[index], *(l for _, _, l in function.factors), 0)
    return tuple(max(n, 1) for n in n_max), tuple(l_max)


def _coefficients(
    functions: list[list[Function]], selection: Selection, size: int
) -> dict[str, Float[np.ndarray, "functions elements densities"]]:
    """Coefficients of our functions of each order."""
    tables = [np.zeros((count, selection.elements, size)) for count in sizes(selection)]
    places = [
        {multiset: first for multiset, first in zip(order.multisets, order.first, strict=False)}
        for order in orders(selection)
    ]
    for element, of_element in enumerate(functions):
        for function in of_element:
            if len(function.factors) == 1:
                ((mu, n, _),) = function.factors
                tables[0][mu * selection.n_max[0] + n, element] += function.coefficients[0]
                continue
            multiset, values = _in_our_functions(function, selection.num_radial)
            first = places[len(multiset) - 2].get(multiset)
            if first is not None:
                tables[len(multiset) - 1][first : first + len(values), element] += values
            elif np.any(values):
                raise function.entry.error("its degrees give no invariant")
    return {f"order_{order}": table for order, table in enumerate(tables, 1)}


def _in_our_functions(
    function: Function, num_radial: int
) -> tuple[tuple[Factor, ...], Float[np.ndarray, "paths densities"]]:
    """Sorted factors of a function, and its coefficients in our couplings of them."""
    factors = [(l, mu * num_radial + n) for mu, n, l in function.factors]
    order = sorted(range(len(factors)), key=lambda i: factors[i])
    multiset = tuple(factors[i] for i in order)
    degrees = tuple(l for l, _ in multiset)
    equal = tuple(multiset.index(factor) for factor in multiset)
    places, table, inverse = _couplings(degrees, equal)
    zero = np.zeros(function.coefficients.shape[1])
    found: dict[tuple[int, ...], np.ndarray] = {}
    for component, coefficients in zip(function.components, function.coefficients, strict=True):
        for real, weight in _real_products(tuple(component[i] for i in order), degrees, equal):
            found[real] = found.get(real, zero) + weight * coefficients
    values = np.array([found.pop(place, zero) for place in places]).reshape(-1, len(zero))
    ours = inverse @ values
    rest = [np.ravel(table.T @ ours - values), *found.values()]
    if np.abs(np.concatenate(rest)).max() > _INVARIANT * np.abs(function.coefficients).max():
        raise function.entry.error("its coefficients do not make it invariant under rotations")
    return multiset, ours


@functools.cache
def _couplings(degrees: tuple[int, ...], equal: tuple[int, ...]):
    """Products of our couplings, the couplings, and their pseudo-inverse."""
    components, table = terms(degrees, equal)
    return [tuple(row) for row in components.tolist()], table, np.linalg.pinv(table.T)


@functools.cache
def _real_products(
    component: tuple[int, ...], degrees: tuple[int, ...], equal: tuple[int, ...]
) -> list[tuple[tuple[int, ...], float]]:
    """A product of complex harmonics, its real part, as products of real ones (`l + m` each)."""
    choices = []
    for m, l in zip(component, degrees, strict=True):
        if m == 0:
            choices.append([(l, 1.0)])
        else:
            sign, phase = (-1.0 if m > 0 and m % 2 else 1.0), (1j if m > 0 else -1j)
            half = sign / math.sqrt(2.0)
            choices.append([(l + abs(m), half), (l - abs(m), half * phase)])
    result: dict[tuple[int, ...], float] = {}
    for chosen in itertools.product(*choices):
        weight = math.prod(complex(w) for _, w in chosen).real
        if weight:
            ordered = sorted(zip(equal, (place for place, _ in chosen), strict=True))
            key = tuple(place for _, place in ordered)
            result[key] = result.get(key, 0.0) + weight
    return list(result.items())
