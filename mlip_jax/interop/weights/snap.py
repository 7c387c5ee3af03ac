"""SNAP potentials as LAMMPS reads them: `.snapcoeff`, `.snapparam` and, for a hybrid, `.snap`.

Formats: LAMMPS manual, `pair_style snap`, `pair_style zbl`, `pair_style hybrid/overlay`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.descriptors.bispectrum import Bispectrum
from mlip_jax.interop.weights.lines import Lines
from mlip_jax.models.local import Local
from mlip_jax.models.pair import ZBL
from mlip_jax.models.sum import Sum
from mlip_jax.nn.linear import Linear, Quadratic
from mlip_jax.potential import Potential

DEFAULTS: dict[str, float] = {
    "rfac0": 0.99363,
    "rmin0": 0.0,
    "switchflag": 1,
    "bzeroflag": 1,
    "quadraticflag": 0,
    "chemflag": 0,
    "bnormflag": 0,
    "wselfallflag": 0,
    "switchinnerflag": 0,
}
"""Values of parameters that a `.snapparam` file may leave out; LAMMPS manual."""

IGNORED = ("diagonalstyle", "chunksize", "parallelthresh")
"""Keywords without influence on the result: of old versions, or of speed."""

LISTS = ("sinner", "dinner")


class Element(NamedTuple):
    """One block of a `.snapcoeff` file: radius and weight as LAMMPS has them, coefficients."""

    radius: float
    weight: float
    coefficients: np.ndarray


class Hybrid(NamedTuple):
    """What a `.snap` file adds: the elements that are used, and the range [Å] of a ZBL term."""

    symbols: tuple[str, ...]
    zbl: tuple[float, float] | None


def read(files: Sequence[Path]) -> Potential:
    """Reads a SNAP potential.

    Args:
        files: one `.snapcoeff` and one `.snapparam`; a `.snap` where there is a ZBL term.

    Returns:
        The potential; an isolated atom has the energy that LAMMPS gives it, as reference energy.

    Raises:
        UserError: naming file and line of what is damaged, missing or not supported.
    """
    paths = _by_suffix(files)
    blocks = read_coefficients(paths[".snapcoeff"])
    parameters = read_parameters(paths[".snapparam"])
    hybrid = Hybrid(tuple(blocks), None)
    if ".snap" in paths:
        hybrid = read_hybrid(paths[".snap"])
    chosen = _chosen(blocks, hybrid, paths)
    descriptor = _descriptor(chosen, parameters, paths[".snapparam"])
    quadratic = bool(parameters["quadraticflag"])
    local = Local(descriptor, Quadratic() if quadratic else Linear(), energy_scale=1.0)
    table = _coefficients(chosen, descriptor, quadratic, paths[".snapcoeff"])
    variables, energies = _variables(table, descriptor, quadratic)
    model: nn.Module = local
    if hybrid.zbl is not None:
        inner, outer = hybrid.zbl
        model = Sum((local, ZBL(species=descriptor.species, cutoff=outer, inner=inner)))
        variables = {kind: {"terms_0": values} for kind, values in variables.items()}
    species = descriptor.species or ()
    card = {"imported": {"format": "snap", "files": [p.name for p in paths.values()]}}
    return Potential(model, variables, dict(zip(species, energies, strict=True)), card)


def read_coefficients(path: Path) -> dict[str, Element]:
    """Reads the blocks of a `.snapcoeff` file, by element."""
    lines = Lines(path)
    head = lines.next("the numbers of elements and of coefficients", 2)
    count, size = lines.integer(head[0]), lines.integer(head[1])
    blocks: dict[str, Element] = {}
    for _ in range(count):
        symbol, radius, weight = lines.next("an element, its radius and its weight", 3)[:3]
        if symbol not in elements.SYMBOLS:
            raise lines.error(f"got {symbol!r}; expected the symbol of an element")
        values = [
            lines.number(lines.next(f"coefficient {k} of {size} of {symbol}")[0])
            for k in range(size)
        ]
        blocks[symbol] = Element(lines.number(radius), lines.number(weight), np.array(values))
    return blocks


def read_parameters(path: Path) -> dict[str, Any]:
    """Reads the keywords of a `.snapparam` file; those left out have LAMMPS's defaults."""
    lines = Lines(path)
    found: dict[str, Any] = {}
    while words := lines.next(None, 2):
        key, *values = words
        if key in LISTS:
            found[key] = tuple(lines.number(value) for value in values)
        elif key in (*DEFAULTS, "rcutfac", "twojmax"):
            found[key] = lines.number(values[0])
        elif key not in IGNORED:
            raise lines.error(f"got the keyword {key!r}, which is not known")
    for key in ("rcutfac", "twojmax"):
        if key not in found:
            raise UserError(f"{path}: {key} is missing; this keyword has no default.")
    return DEFAULTS | found


def read_hybrid(path: Path) -> Hybrid:
    """Reads the LAMMPS commands of a `.snap` file: `pair_style` and `pair_coeff`."""
    symbols: tuple[str, ...] = ()
    charges: dict[tuple[int, int], tuple[float, float]] = {}
    zbl = None
    lines = Lines(path, join="&")
    variables: dict[str, str] = {}
    while words := lines.next(None):
        words = [re.sub(r"\$\{(\w+)\}", lambda m: variables.get(m[1], m[0]), w) for w in words]
        match words:
            case ["variable", name, "equal" | "index", value]:
                variables[name] = value
            case ["pair_style", "snap"] | ["pair_style", "hybrid/overlay", "snap"]:
                pass
            case ["pair_style", "hybrid/overlay", "zbl", inner, outer, "snap"] | [
                "pair_style",
                "hybrid/overlay",
                "snap",
                "zbl",
                inner,
                outer,
            ]:
                zbl = (lines.number(inner), lines.number(outer))
            case ["pair_coeff", i, j, "zbl", zi, zj]:
                pair = (lines.integer(i), lines.integer(j))
                charges[pair] = (lines.number(zi), lines.number(zj))
            case ["pair_coeff", "*", "*", *_]:
                after = next(k for k, word in enumerate(words) if word.endswith(".snapparam"))
                symbols = tuple(words[after + 1 :])
            case _:
                raise lines.error(f"got {' '.join(words)!r}, a command that is not supported")
    if not symbols:
        raise UserError(f"{path}: names no elements; expected `pair_coeff * * snap …`.")
    if zbl is not None:
        _check_charges(path, charges, symbols)
    return Hybrid(symbols, zbl)


def _by_suffix(files: Iterable[Path]) -> dict[str, Path]:
    paths = {path.suffix: path for path in map(Path, files)}
    if not {".snapcoeff", ".snapparam"} <= set(paths) <= {".snapcoeff", ".snapparam", ".snap"}:
        names = ", ".join(path.name for path in paths.values()) or "no files"
        raise UserError(
            f"snap: got {names}; expected one .snapcoeff, one .snapparam and, for a hybrid with "
            "ZBL, one .snap."
        )
    return paths


def _chosen(
    blocks: Mapping[str, Element], hybrid: Hybrid, paths: Mapping[str, Path]
) -> dict[str, Element]:
    """The elements that are used, in the order of their atomic numbers or of the file."""
    missing = [symbol for symbol in hybrid.symbols if symbol not in blocks]
    if missing:
        raise UserError(
            f"{paths['.snap']}: uses {', '.join(missing)}; {paths['.snapcoeff']} has "
            f"{', '.join(blocks)}."
        )
    return {symbol: blocks[symbol] for symbol in dict.fromkeys(hybrid.symbols)}


def _descriptor(
    blocks: Mapping[str, Element], parameters: Mapping[str, Any], path: Path
) -> Bispectrum:
    radii = [block.radius for block in blocks.values()]
    largest = max(radii)
    inner = None
    if parameters["switchinnerflag"]:
        missing = [key for key in LISTS if len(parameters.get(key, ())) != len(blocks)]
        if missing:
            raise UserError(f"{path}: {missing[0]}: expected a number for each element.")
        inner = tuple(zip(parameters["sinner"], parameters["dinner"], strict=True))
    return Bispectrum(
        species=tuple(elements.atomic_number(symbol) for symbol in blocks),
        cutoff=2.0 * largest * parameters["rcutfac"],
        twojmax=int(parameters["twojmax"]),
        rfac0=parameters["rfac0"],
        rmin0=parameters["rmin0"],
        relative_radii=tuple(radius / largest for radius in radii),
        weights=tuple(block.weight for block in blocks.values()),
        switch=bool(parameters["switchflag"]),
        inner=inner,
        explicit=bool(parameters["chemflag"]),
        self_all=bool(parameters["wselfallflag"]),
        normalized=bool(parameters["bnormflag"]),
        subtract_isolated=bool(parameters["bzeroflag"]),
    )


def _coefficients(
    blocks: Mapping[str, Element], descriptor: Bispectrum, quadratic: bool, path: Path
) -> np.ndarray:
    """Coefficients `[elements, 1 + features (+ products)]`, the constant first."""
    size = descriptor.isolated_features().shape[1]
    expected = 1 + size + (size * (size + 1) // 2 if quadratic else 0)
    for symbol, block in blocks.items():
        if len(block.coefficients) != expected:
            raise UserError(
                f"{path}: {symbol} has {len(block.coefficients)} coefficients; the parameters "
                f"(twojmax, quadraticflag, chemflag) ask for {expected}."
            )
    return np.stack([block.coefficients for block in blocks.values()])


def _variables(
    table: np.ndarray, descriptor: Bispectrum, quadratic: bool
) -> tuple[dict[str, Any], list[float]]:
    """Variables of the local model, and the energy [eV] of an isolated atom of each element."""
    alone = descriptor.isolated_features()
    size = alone.shape[1]
    terms = alone
    if quadratic:
        rows, columns = np.triu_indices(size)
        products = alone[:, rows] * alone[:, columns] * np.where(rows == columns, 0.5, 1.0)
        terms = np.concatenate([alone, products], axis=1)
    constants = {"shift": np.zeros_like(alone), "factor": np.ones_like(alone)}
    variables = {"params": {"regressor": {"coefficients": table[:, 1:]}}, "constants": constants}
    return variables, (table[:, 0] + np.sum(table[:, 1:] * terms, axis=1)).tolist()


def _check_charges(
    path: Path, charges: Mapping[tuple[int, int], tuple[float, float]], symbols: Sequence[str]
) -> None:
    """ZBL has to act between all elements, with their own nuclear charges."""
    numbers = [float(elements.atomic_number(symbol)) for symbol in symbols]
    for i, first in enumerate(numbers, 1):
        for j, second in enumerate(numbers[i - 1 :], i):
            got = charges.get((i, j), charges.get((j, i), ())[::-1])
            if tuple(got) != (first, second):
                raise UserError(
                    f"{path}: zbl between the types {i} and {j} has the charges {got}; only "
                    f"{(first, second)}, those of the elements, are supported."
                )
