"""Tables of Grimme's D3: reference systems of the elements, read from an installed package.

They are no part of this repository. The package `torch-dftd` holds them as plain arrays; it is
not imported, and needs no torch for that.
"""

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mlip_jax import elements, units
from mlip_jax.config import UserError

PACKAGE, FILE = "torch_dftd", "nn/params/dftd3_params.npz"
_LAST = 94  # Pu
_BOHR_OF_FILE = 0.52917726  # Å, with which the radii in the file were made bohr
_PER_REACH = 0.75  # covalent radii stand there times 4/3, the k2 of D3
_C6_UNIT = units.HARTREE * units.BOHR**6  # eV Å^6


class Tables(NamedTuple):
    """What D3 knows of the elements of a model, in the order of its species.

    Attributes:
        coordination: of the reference systems of an element; -1 in places that hold none.
        c6: of pairs of reference systems, eV Å^6; symmetric.
        covalent_radii: Å.
        ratio_roots: √(C8/3C6) of pairs of equal atoms, Å.
        cutoff_radii: of pairs of elements, of the zero damping, Å.
    """

    coordination: Float[np.ndarray, "elements references"]
    c6: Float[np.ndarray, "elements elements references references"]
    covalent_radii: Float[np.ndarray, " elements"]
    ratio_roots: Float[np.ndarray, " elements"]
    cutoff_radii: Float[np.ndarray, "elements elements"]


@dataclasses.dataclass(frozen=True)
class ExplicitTables:
    """The same in a config, as the papers and programs of D3 print it.

    Attributes:
        coordination: numbers of the reference systems of each element.
        c6: hartree bohr^6; a matrix (reference systems of e × those of f) for each pair e ≤ f in
            the order of the species.
        covalent_radii: Å, of each element.
        ratio_roots: √(√Z <r4>/<r2> / 2) of each element, bohr.
        cutoff_radii: Å, of each pair e ≤ f.
    """

    coordination: tuple[tuple[float, ...], ...]
    c6: tuple[tuple[tuple[float, ...], ...], ...]
    covalent_radii: tuple[float, ...]
    ratio_roots: tuple[float, ...]
    cutoff_radii: tuple[float, ...]

    def arrays(self, num_elements: int) -> Tables:
        """The tables of so many elements.

        Raises:
            UserError: where sizes do not fit.
        """
        pairs = [(e, f) for e in range(num_elements) for f in range(e, num_elements)]
        counts = [len(numbers) for numbers in self.coordination]
        shapes = [(len(m), *{len(row) for row in m}) for m in self.c6]
        fits = (
            len(counts) == len(self.covalent_radii) == len(self.ratio_roots) == num_elements
            and len(self.cutoff_radii) == len(pairs)
            and min(counts) > 0
            and shapes == [(counts[e], counts[f]) for e, f in pairs]
        )
        if not fits:
            raise UserError(
                f"d3.tables: got coordination numbers {counts}, c6 {shapes}, and "
                f"{len(self.covalent_radii)}, {len(self.ratio_roots)}, {len(self.cutoff_radii)} "
                f"radii and ratios for {num_elements} elements; expected one of each element, one "
                f"of each of the {len(pairs)} pairs, and c6 of the sizes that the coordination "
                "numbers say."
            )
        most = max(counts)
        known = np.arange(most) < np.array(counts)[:, None]
        coordination = np.full(known.shape, -1.0)
        coordination[known] = np.concatenate(self.coordination)
        c6 = np.zeros((num_elements, num_elements, most, most))
        radii = np.zeros((num_elements, num_elements))
        for (e, f), matrix, radius in zip(pairs, self.c6, self.cutoff_radii, strict=True):
            values = np.array(matrix)
            c6[f, e, : counts[f], : counts[e]] = values.T
            c6[e, f, : counts[e], : counts[f]] = values
            radii[e, f] = radii[f, e] = radius
        return Tables(
            coordination,
            c6 * _C6_UNIT,
            np.array(self.covalent_radii),
            np.array(self.ratio_roots) * units.BOHR,
            radii,
        )


def find() -> Path | None:
    """The file of the installed package; `None` where there is none."""
    spec = importlib.util.find_spec(PACKAGE)
    places = [] if spec is None else [Path(p) / FILE for p in spec.submodule_search_locations or ()]
    return next((path for path in places if path.is_file()), None)


def read(species: Sequence[int]) -> Tables:
    """The tables of some elements.

    Radii and ratios stand in the file in single precision; they were published with two and four
    decimals, which are restored.

    Args:
        species: atomic numbers.

    Raises:
        UserError: without the package, or for an element beyond plutonium.
    """
    beyond = [z for z in species if not 1 <= z <= _LAST]
    if beyond:
        raise UserError(
            f"d3.species: got {elements.symbols(beyond)}; expected elements up to "
            f"{elements.SYMBOLS[_LAST]}, for which D3 was published."
        )
    path = find()
    if path is None:
        raise UserError(
            "d3: the tables of reference systems are not installed; expected the package "
            "torch-dftd, which has them (it is not imported, and torch is not needed). Run "
            "`pip install 'mlip_jax[dispersion]'`, or `pip install --no-deps torch-dftd`. A "
            "potential that was saved with this term needs it no more."
        )
    index = np.array(species, dtype=np.int64)
    pairs = np.ix_(index, index)
    with np.load(path, allow_pickle=False) as file:
        references, radii = (file[name][pairs].astype(np.float64) for name in ("c6ab", "r0ab"))
        reach, roots = (file[name][index].astype(np.float64) for name in ("rcov", "r2r4"))
    own = np.arange(len(index))
    numbers = np.diagonal(references[own, own, :, :, 1], axis1=1, axis2=2)
    used = int((numbers >= 0.0).sum(axis=1).max())
    root_z = np.sqrt(index)
    expectation = np.round(2.0 * roots**2 / root_z, 4)  # <r4>/<r2>, bohr^2
    return Tables(
        numbers[:, :used],
        np.maximum(references[:, :, :used, :used, 0], 0.0) * _C6_UNIT,
        np.round(reach * _BOHR_OF_FILE * _PER_REACH, 2),
        np.sqrt(0.5 * expectation * root_z) * units.BOHR,
        np.round(radii * _BOHR_OF_FILE, 4),
    )
