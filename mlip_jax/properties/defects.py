"""Energies of a vacancy and of a surface, before and after the atoms around them have relaxed."""

from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.build import surface as cut
from jaxtyping import Float

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure
from mlip_jax.inference import predict
from mlip_jax.potential import Potential
from mlip_jax.properties.relaxed import relax_positions
from mlip_jax.simulate.system import replicate


class Defect(NamedTuple):
    """A defect in a crystal.

    Attributes:
        unrelaxed: formation energy with atoms where they are in the crystal, eV of a vacancy,
            eV/Å^2 of a surface.
        relaxed: the same after relaxation in the fixed cell.
        structure: the relaxed cell with the defect.
        distances: of each atom from the defect, Å: from the empty site, or the depth below
            the nearer surface.
        displacements: how far each atom has moved, Å.
    """

    unrelaxed: float
    relaxed: float
    structure: Structure
    distances: Float[np.ndarray, " atoms"]
    displacements: Float[np.ndarray, " atoms"]


def vacancy(
    potential: Potential,
    structure: Structure,
    supercell: tuple[int, int, int] = (3, 3, 3),
    atom: int = 0,
    chemical_potential: float | None = None,
) -> Defect:
    """The formation energy of a vacancy, `E(with) - E(without) + μ`, in the cell of the crystal.

    Images of the vacancy see each other: converge the supercell.

    Args:
        potential: the potential.
        structure: the crystal at its minimum.
        supercell: copies of its cell.
        atom: of the cell, that is taken away.
        chemical_potential: μ, eV, of the atom that leaves; of a crystal of one element it is the
            energy of an atom of the crystal, where it need not be given.

    Raises:
        UserError: for a structure that is no crystal, an atom that is not there, a compound without
            chemical potential, or atoms that do not come to rest.
    """
    _require_crystal(structure, "vacancy")
    if not 0 <= atom < structure.num_atoms or min(supercell) < 1:
        raise UserError(
            f"vacancy: got atom {atom} and supercell {supercell} for a cell of "
            f"{structure.num_atoms} atoms; expected an atom from 0 on, and copies from 1 on."
        )
    single = len(np.unique(structure.atomic_numbers)) == 1
    if chemical_potential is None and not single:
        symbol = elements.symbols([int(structure.atomic_numbers[atom])])[0]
        raise UserError(
            f"vacancy: the crystal is a compound, so that the energy depends on where the {symbol} "
            "goes. Give its chemical potential [eV]."
        )
    whole = replicate(structure, supercell)
    (perfect,) = predict(potential, [whole], precision="float64")
    mu = perfect.energy / whole.num_atoms if chemical_potential is None else chemical_potential
    with_hole = _without(whole, atom)
    reciprocal = np.linalg.inv(whole.cell)
    away = (with_hole.positions - whole.positions[atom]) @ reciprocal
    distances = np.linalg.norm((away - np.round(away)) @ whole.cell, axis=1)
    before, after, relaxed = _energies(potential, with_hole)
    return Defect(
        unrelaxed=before - perfect.energy + mu,
        relaxed=after - perfect.energy + mu,
        structure=relaxed,
        distances=distances,
        displacements=_moved(with_hole, relaxed),
    )


def surface(
    potential: Potential,
    structure: Structure,
    miller: tuple[int, int, int],
    layers: int = 6,
    vacuum: float = 15.0,
) -> Defect:
    """The energy of a surface, `(E(slab) - N E(crystal)) / 2A`, eV/Å^2.

    Both sides of the slab are taken to be alike; of a compound they may differ, and the energy is
    their mean. Converge the number of layers.

    Args:
        potential: the potential.
        structure: the conventional cell of the crystal at its minimum; Miller indices are its own.
        miller: indices of the surface.
        layers: thickness, in repetitions of the cell across the surface.
        vacuum: Å, between the slab and its image; longer than the range of the potential.

    Raises:
        UserError: for a structure that is no crystal, indices that are all zero, a slab without
            layers or vacuum, or atoms that do not come to rest.
    """
    _require_crystal(structure, "surface")
    if not any(miller) or layers < 1 or not vacuum > 0.0:
        raise UserError(
            f"surface: got Miller indices {miller}, {layers} layers and {vacuum:g} Å of vacuum; "
            "expected an index that is not zero, layers and vacuum."
        )
    bulk = Atoms(structure.atomic_numbers, structure.positions, cell=structure.cell, pbc=True)
    atoms = cut(bulk, miller, layers, vacuum=0.5 * vacuum, periodic=True)
    slab = Structure(
        atomic_numbers=np.asarray(atoms.numbers),
        positions=np.asarray(atoms.positions, np.float64),
        cell=np.asarray(atoms.cell.array, np.float64),
        pbc=np.ones(3, bool),
        name=f"slab {miller}",
    )
    (perfect,) = predict(potential, [structure], precision="float64")
    share = slab.num_atoms / structure.num_atoms
    area = float(np.linalg.norm(np.cross(slab.cell[0], slab.cell[1])))
    height = slab.positions[:, 2]
    before, after, relaxed = _energies(potential, slab)
    return Defect(
        unrelaxed=(before - share * perfect.energy) / (2.0 * area),
        relaxed=(after - share * perfect.energy) / (2.0 * area),
        structure=relaxed,
        distances=np.minimum(height - height.min(), height.max() - height),
        displacements=_moved(slab, relaxed),
    )


def _require_crystal(structure: Structure, what: str) -> None:
    if not np.all(structure.pbc):
        raise UserError(
            f"{what}: got pbc {np.asarray(structure.pbc).tolist()}; expected a crystal, periodic "
            "in three directions."
        )


def _without(structure: Structure, atom: int) -> Structure:
    kept = np.arange(structure.num_atoms) != atom
    return Structure(
        structure.atomic_numbers[kept],
        structure.positions[kept],
        structure.cell,
        structure.pbc,
        name=structure.name,
    )


def _energies(potential: Potential, structure: Structure) -> tuple[float, float, Structure]:
    """Energy [eV] before and after relaxation, and the relaxed structure."""
    (relaxed,) = relax_positions(potential, [structure])
    before, after = predict(potential, [structure, relaxed], precision="float64")
    return before.energy, after.energy, relaxed


def _moved(before: Structure, after: Structure) -> Float[np.ndarray, " atoms"]:
    """Displacements [Å], to the nearest image."""
    fractional = (after.positions - before.positions) @ np.linalg.inv(before.cell)
    return np.linalg.norm((fractional - np.round(fractional)) @ before.cell, axis=1)
