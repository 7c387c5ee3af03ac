"""Barriers between two minima: nudged elastic bands, all images in one program."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.mep import NEB
from ase.optimize import FIRE
from jaxtyping import Float

from mlip_jax.config import UserError
from mlip_jax.data.formats.ase_files import to_atoms
from mlip_jax.data.structure import Structure, StructureLabels
from mlip_jax.inference import predict
from mlip_jax.potential import Potential
from mlip_jax.properties.relaxed import relax_positions

_ROUGH = 5.0
"""The highest image climbs once forces are below so many times the limit."""


class Barrier(NamedTuple):
    """A path over a saddle point.

    Attributes:
        images: from the first minimum to the last, with energies and forces as labels.
        path: length of the path up to each image, Å in the space of all atoms.
        energies: of each image above the first, eV.
        forward: barrier seen from the first minimum, eV.
        backward: barrier seen from the last, eV.
        steps: of the optimiser.
    """

    images: list[Structure]
    path: Float[np.ndarray, " images"]
    energies: Float[np.ndarray, " images"]
    forward: float
    backward: float
    steps: int


class _Band(NEB):
    """ASE's band, whose images are predicted together."""

    def __init__(self, images: list, potential: Potential):
        super().__init__(images, method="improvedtangent", climb=False)
        self.potential = potential

    def structures(self) -> list[Structure]:
        """All images with what is predicted of them."""
        bare = [
            Structure(i.numbers, i.positions.copy(), i.cell.array, np.asarray(i.pbc, bool))
            for i in self.images
        ]
        found = predict(self.potential, bare, precision="float64")
        return [
            dataclasses.replace(one, labels=StructureLabels(energy=p.energy, forces=p.forces))
            for one, p in zip(bare, found, strict=True)
        ]

    def get_forces(self) -> np.ndarray:
        """Forces on the inner images, springs and projections included."""
        for image, structure in zip(self.images, self.structures(), strict=True):
            labels = structure.labels
            image.calc = SinglePointCalculator(image, energy=labels.energy, forces=labels.forces)
        return super().get_forces()


def barrier(
    potential: Potential,
    first: Structure,
    last: Structure,
    num_images: int = 7,
    max_force: float = 0.01,
    max_steps: int = 1000,
    progress: Callable[[int, int], None] | None = None,
) -> Barrier:
    """The lowest path between two minima in one cell, and its highest point.

    Both ends are relaxed at fixed cell. The first path is that of image-dependent pair potentials
    (Smidstrup et al., J. Chem. Phys. 140, 214106 (2014)); tangents are the improved ones, and the
    highest image climbs (Henkelman et al., J. Chem. Phys. 113, 9978 and 9901 (2000)).

    Args:
        potential: the potential.
        first: near the first minimum.
        last: near the last; the same atoms in the same order, the same cell.
        num_images: between the two.
        max_force: of the band on any atom of an image, eV/Å.
        max_steps: of the optimiser.
        progress: called with the steps done and the limit.

    Raises:
        UserError: for ends that do not belong together, or a band that does not converge.
    """
    _require_ends(first, last, num_images)
    ends = relax_positions(potential, [first, last])
    atoms = [to_atoms(ends[0]) for _ in range(num_images + 1)] + [to_atoms(ends[1])]
    band = _Band(atoms, potential)
    band.interpolate(method="idpp", mic=bool(first.pbc.any()))
    steps, converged = 0, False
    for band.climb, limit in ((False, _ROUGH * max_force), (True, max_force)):
        descent = FIRE(band, logfile=None)  # pyright: ignore  (a band is no Atoms, for its types)
        for converged in descent.irun(fmax=limit, steps=max_steps - steps):
            if progress is not None:
                progress(steps + descent.nsteps, max_steps)
            if converged:
                break
        steps += descent.nsteps
        if not converged:
            raise UserError(
                f"barrier: forces of the band are not below {limit:g} eV/Å after {steps} steps. "
                "Allow more steps, or a larger max_force; a path over an intermediate minimum "
                "wants a band on either side of it."
            )
    return _barrier(band.structures(), steps)


def _barrier(images: list[Structure], steps: int) -> Barrier:
    energies = np.array([one.labels.energy for one in images])
    moves = [
        np.linalg.norm(_shortest(b.positions - a.positions, a))
        for a, b in itertools.pairwise(images)
    ]
    top = float(energies.max())
    return Barrier(
        images=images,
        path=np.concatenate([[0.0], np.cumsum(moves)]),
        energies=energies - energies[0],
        forward=top - float(energies[0]),
        backward=top - float(energies[-1]),
        steps=steps,
    )


def _shortest(moves: np.ndarray, structure: Structure) -> np.ndarray:
    """Displacements less whole lattice vectors."""
    if not structure.pbc.all():
        return moves
    fractional = moves @ np.linalg.inv(structure.cell)
    return (fractional - np.round(fractional)) @ structure.cell


def _require_ends(first: Structure, last: Structure, num_images: int) -> None:
    same = np.array_equal(first.atomic_numbers, last.atomic_numbers)
    if not same or not np.array_equal(first.pbc, last.pbc):
        raise UserError(
            f"barrier: the ends have {first.num_atoms} and {last.num_atoms} atoms, or other "
            "elements or periodic directions; expected the same atoms in the same order."
        )
    change = float(np.abs(first.cell - last.cell).max())
    if change > 1e-6:
        raise UserError(
            f"barrier: the cells of the ends differ by {change:.3g} Å; expected one cell. Relax "
            "the ends at fixed cell."
        )
    if num_images < 1:
        raise UserError(f"barrier: got {num_images} images; expected one or more.")
