"""Cluster expansions as LAMMPS's `pair_style pace` reads them: `.yace`, the C-tilde form.

Format: python-ace and LAMMPS's ML-PACE; Lysogorskiy et al. (2021). In the file a function is a sum
of products of the complex atomic basis. It is invariant, so that it is a combination of our
functions of the same factors: these coefficients are stored.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.descriptors.ace_functions import Factor, Selection, orders, sizes
from mlip_jax.descriptors.ace_radial import Bond, RadialName
from mlip_jax.interop.weights import complex_products
from mlip_jax.interop.weights.documents import Entry, read_document
from mlip_jax.models.pace import PACE, Embedding
from mlip_jax.nn.finnis_sinclair import Form
from mlip_jax.potential import Potential

RADIAL: dict[str, RadialName] = {
    "ChebExpCos": "cheb_exp_cos",
    "ChebPow": "cheb_pow",
    "ChebLinear": "cheb_linear",
    "SBessel": "bessel",
}
"""Names of radial functions in the file and here."""

FORMS: dict[str, Form] = {
    "FinnisSinclair": "smoothed",
    "FinnisSinclairShiftedScaled": "shifted_scaled",
}
"""Names of embeddings in the file and here."""

HIGHEST_ORDER = 8
"""Orders above this are refused: no file has them."""

T = TypeVar("T")
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


def _by_element(entry: Entry, number: int, read_one: Callable[[Entry], T]) -> list[T]:
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
    values = {_pair(key, number): value for key, value in entry.items()}
    pairs = [(i, j) for i in range(number) for j in range(number)]
    missing = [pair for pair in pairs if pair not in values]
    if missing:
        raise entry.error(f"the pair {list(missing[0])} of elements is missing")
    tables = {pair: _radial_coefficients(values[pair]) for pair in pairs}
    shape = np.max([table.shape for table in tables.values()], axis=0)
    radial = np.zeros((number, number, *shape))
    for pair, table in tables.items():
        radial[pair][tuple(slice(size) for size in table.shape)] = table
    return tuple(_bond(values[pair]) for pair in pairs), radial


def _pair(key: Entry, number: int) -> tuple[int, int]:
    items = key.entries()
    if len(items) != 2:
        raise key.error("expected two indices of elements")
    return items[0].integer(0, number - 1), items[1].integer(0, number - 1)


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


def _named(entry: Entry, names: Mapping[str, T]) -> T:
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
        factors.append((mu.integer(0, number - 1), n.integer(1, most) - 1, l.integer(0, degree)))
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
    components = [tuple(component[i] for i in order) for component in function.components]
    ours, rest = complex_products.in_couplings(multiset, components, function.coefficients)
    if rest > _INVARIANT * np.abs(function.coefficients).max():
        raise function.entry.error("its coefficients do not make it invariant under rotations")
    return multiset, ours
