"""Cluster expansions as LAMMPS's `pair_style pace` reads them: `.yace`, the C-tilde form.

Format: python-ace and LAMMPS's ML-PACE; Lysogorskiy et al. (2021). In the file a function is a sum
of products of the complex atomic basis. It is invariant, so that it is a combination of our
functions of the same factors: these coefficients are stored.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.config.documents import Entry, read_document
from mlip_jax.descriptors.ace_functions import Selection
from mlip_jax.descriptors.ace_radial import Bond, RadialName
from mlip_jax.interop.weights import ctilde
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

T = TypeVar("T")

_NARROWEST = 1e-6
"""Range [eV] that stands for a step, of files whose `drho_core_cutoff` is zero."""


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
    path = _only_file(files)
    top = read_document(path)
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
        lambda entry: ctilde.read_functions(entry, number, radial.shape, size),
    )
    n_max, l_max = ctilde.bounds(functions)
    model = PACE(
        species=species,
        bonds=bonds,
        num_basis=radial.shape[-1],
        n_max=n_max,
        l_max=l_max,
        chosen=ctilde.chosen(functions, Selection(number, n_max, l_max)),
        embeddings=tuple(embeddings),
        energy_scale=1.0,
        double_sums=True,
    )
    params = ctilde.coefficients(functions, model.selection, size)
    selection = model.selection
    params["radial"] = radial[:, :, : selection.num_radial, : selection.highest + 1]
    bins = top["deltaSplineBins"].number()
    card = {"imported": {"format": "ace", "files": [path.name], "deltaSplineBins": bins}}
    reference = dict(zip(species, energies.tolist(), strict=True))
    return Potential(model, {"params": params}, reference, card)


def _only_file(files: Sequence[Path]) -> Path:
    paths = [Path(path) for path in files]
    if len(paths) != 1 or paths[0].suffix != ".yace":
        names = ", ".join(path.name for path in paths) or "no files"
        raise UserError(
            f"ace: got {names}; expected one .yace (pace_yaml2yace of python-ace makes one of a "
            ".yaml potential)."
        )
    return paths[0]


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
        core_width=max(entry["drho_core_cutoff"].number(), _NARROWEST),
    )


def _bonds(entry: Entry, number: int) -> tuple[tuple[Bond, ...], Float[np.ndarray, "e e n l k"]]:
    """Bonds and radial coefficients of every pair; coefficients that a pair lacks are zero."""
    values = {_pair(key, number): value for key, value in entry.items()}
    pairs = [(i, j) for i in range(number) for j in range(number)]
    missing = [pair for pair in pairs if pair not in values]
    if missing:
        raise entry.error(f"the pair {list(missing[0])} of elements is missing")
    kinds = {pair: _inner_kind(values[pair]) for pair in pairs}
    if len(set(kinds.values())) > 1:
        raise entry.error("pairs differ in inner_cutoff_type, of which LAMMPS takes the last")
    tables = {pair: _radial_coefficients(values[pair]) for pair in pairs}
    shape = np.max([table.shape for table in tables.values()], axis=0)
    radial = np.zeros((number, number, *shape))
    for pair, table in tables.items():
        radial[pair][tuple(slice(size) for size in table.shape)] = table
    bonds = tuple(_bond(values[pair]) for pair in pairs)
    return (bonds[:1] if len(set(bonds)) == 1 else bonds), radial


def _pair(key: Entry, number: int) -> tuple[int, int]:
    items = key.entries()
    if len(items) != 2:
        raise key.error("expected two indices of elements")
    return items[0].integer(0, number - 1), items[1].integer(0, number - 1)


def _inner_kind(entry: Entry) -> str:
    kind = entry.get("inner_cutoff_type")
    name = "density" if kind is None else kind.text()
    if name not in ("density", "distance"):
        raise entry.error(f"got inner_cutoff_type {name}; expected density or distance")
    return name


def _bond(entry: Entry) -> Bond:
    inner = None
    if _inner_kind(entry) == "distance":
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
