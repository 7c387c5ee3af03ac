"""Phonon bands, densities of states and thermodynamics of a crystal, through phonopy.

Force constants are ours (`force_constants`), or phonopy's own from finite displacements. Polar
crystals: no splitting of longitudinal and transversal optical modes is added.
"""

import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mlip_jax import elements, units
from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure, StructureLabels
from mlip_jax.inference import predict
from mlip_jax.potential import Potential, predict_fn
from mlip_jax.properties import inputs
from mlip_jax.properties.band_path import BandPath, band_path
from mlip_jax.properties.force_constants import force_constants_fn

Method = Literal["derivatives", "displacements"]

_IMAGINARY = -1e-2
"""THz; above it a negative frequency is rounding of an acoustic mode."""


@dataclasses.dataclass(frozen=True, eq=False)
class Thermodynamics:
    """Harmonic thermodynamics of the primitive cell, without the energy at rest.

    Attributes:
        temperatures: K.
        free_energies: eV, zero-point energy included.
        entropies: eV/K.
        heat_capacities: at constant volume, eV/K.
    """

    temperatures: Float[np.ndarray, " temperatures"]
    free_energies: Float[np.ndarray, " temperatures"]
    entropies: Float[np.ndarray, " temperatures"]
    heat_capacities: Float[np.ndarray, " temperatures"]


@dataclasses.dataclass(frozen=True, eq=False)
class LatticeDynamics:
    """Phonons of a crystal.

    Attributes:
        primitive: the primitive cell that wave vectors belong to.
        path: lines through its Brillouin zone.
        bands: frequencies [THz] along each line; negative: imaginary.
        corners: frequencies [THz] at each named corner.
        dos_frequencies: THz.
        dos: density of states, 1/THz, of the primitive cell; its integral is the number of modes.
        lowest: lowest frequency on the mesh and the path, THz.
        thermodynamics: imaginary modes do not count, nor the three translations.
    """

    primitive: Structure
    path: BandPath
    bands: tuple[Float[np.ndarray, "points modes"], ...]
    corners: dict[str, Float[np.ndarray, " modes"]]
    dos_frequencies: Float[np.ndarray, " frequencies"]
    dos: Float[np.ndarray, " frequencies"]
    lowest: float
    thermodynamics: Thermodynamics

    @property
    def stable(self) -> bool:
        """Whether no frequency is imaginary, rounding apart."""
        return self.lowest > _IMAGINARY


def require_phonopy() -> None:
    """Stops where phonopy is not installed.

    Raises:
        UserError: saying how to install it.
    """
    if importlib.util.find_spec("phonopy") is None:
        raise UserError("phonons: needs phonopy. pip install 'mlip_jax[phonons]'.")


def lattice_dynamics(
    potential: Potential,
    structure: Structure,
    copies: tuple[int, int, int],
    *,
    method: Method = "derivatives",
    displacement: float = 0.01,
    mesh: float = 60.0,
    temperatures: Sequence[float] = tuple(10.0 * i for i in range(101)),
    progress: Callable[[int, int], None] | None = None,
) -> LatticeDynamics:
    """Phonons of a crystal as it stands; float64.

    Args:
        potential: the potential.
        structure: any cell, atoms at rest; the primitive one is found.
        copies: of the cell along its vectors, for the supercell of force constants.
        method: `derivatives`, exact second derivatives, or `displacements`, phonopy's differences.
        displacement: Å, of the latter.
        mesh: length [Å] that sets the density of wave vectors (phonopy's).
        temperatures: K.
        progress: called with the numbers of displaced structures done and of all.

    Raises:
        UserError: where phonopy is not installed, for a structure that is not periodic, or that
            the potential does not know.
    """
    crystal = phonopy_of(structure, copies)
    if method == "derivatives":
        crystal.force_constants = derivatives(potential, crystal)
    else:
        displace(potential, crystal, displacement, progress)
    path = band_path(np.asarray(crystal.primitive.cell))
    crystal.run_band_structure([line.points for line in path.lines])
    crystal.run_qpoints(list(path.corners.values()))
    corners = dict(zip(path.corners, np.asarray(crystal.qpoints.frequencies), strict=True))
    bands = tuple(np.asarray(f) for f in crystal.band_structure.frequencies)
    crystal.run_mesh(mesh, is_gamma_center=True)
    crystal.run_total_dos()
    lowest = min(float(np.min(f)) for f in (crystal.mesh.frequencies, *bands))
    return LatticeDynamics(
        primitive=_structure(crystal.primitive),
        path=path,
        bands=bands,
        corners=corners,
        dos_frequencies=np.asarray(crystal.total_dos.frequency_points),
        dos=np.asarray(crystal.total_dos.dos),
        lowest=lowest,
        thermodynamics=_thermodynamics(crystal, temperatures),
    )


def phonopy_of(structure: Structure, copies: tuple[int, int, int]) -> Any:
    """Makes phonopy's object for a supercell of a crystal, without force constants.

    Raises:
        UserError: where phonopy is not installed, or the structure is not periodic.
    """
    require_phonopy()
    if not np.all(structure.pbc):
        raise UserError(
            f"phonons: got pbc {np.asarray(structure.pbc).tolist()}; expected three periodic "
            "directions."
        )
    from phonopy import Phonopy  # pyright: ignore[reportMissingImports]
    from phonopy.structure.atoms import PhonopyAtoms  # pyright: ignore[reportMissingImports]
    from phonopy.structure.cells import guess_primitive_matrix  # pyright: ignore[reportMissingImports]

    atoms = PhonopyAtoms(
        numbers=structure.atomic_numbers.tolist(),
        positions=structure.positions,
        cell=structure.cell,
        masses=np.array(elements.MASSES)[structure.atomic_numbers],
    )
    primitive = guess_primitive_matrix(atoms)
    return Phonopy(atoms, supercell_matrix=np.diag(copies), primitive_matrix=primitive)


def derivatives(potential: Potential, crystal: Any) -> Float[np.ndarray, "home atoms 3 3"]:
    """Force constants [eV/Å^2] of the primitive atoms of phonopy's supercell, by autodiff."""
    variables, graph = inputs.variables_and_graph(potential, _structure(crystal.supercell))
    home = jnp.asarray(np.asarray(crystal.primitive.p2s_map))
    program = jax.jit(force_constants_fn(predict_fn(potential.model)))
    return np.asarray(program(variables, graph, home), order="C")


def displace(
    potential: Potential,
    crystal: Any,
    distance: float,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Force constants from differences of forces, into phonopy's object.

    Args:
        potential: the potential.
        crystal: phonopy's object.
        distance: of the displacements, Å.
        progress: called with the numbers of structures done and of all.
    """
    crystal.generate_displacements(distance=distance)
    moved = [_structure(cell) for cell in crystal.supercells_with_displacements]
    predictions = predict(potential, moved, precision="float64", progress=progress)
    crystal.forces = np.stack([found.forces for found in predictions])
    crystal.produce_force_constants(show_drift=False)


def _structure(atoms: Any) -> Structure:
    return Structure(
        atomic_numbers=np.asarray(atoms.numbers, dtype=np.int64),
        positions=np.array(atoms.positions, dtype=np.float64),
        cell=np.array(atoms.cell, dtype=np.float64),
        pbc=np.ones(3, bool),
        labels=StructureLabels(),
    )


def _thermodynamics(crystal: Any, temperatures: Sequence[float]) -> Thermodynamics:
    crystal.run_thermal_properties(
        temperatures=np.asarray(temperatures, dtype=np.float64), exclude_gamma_acoustic=True
    )
    found = crystal.thermal_properties
    per_mole = units.ENERGY["kJ/mol"]
    return Thermodynamics(
        temperatures=np.asarray(found.temperatures),
        free_energies=per_mole * np.asarray(found.free_energy),
        entropies=1e-3 * per_mole * np.asarray(found.entropy),
        heat_capacities=1e-3 * per_mole * np.asarray(found.heat_capacity),
    )
