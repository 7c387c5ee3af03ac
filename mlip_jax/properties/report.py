"""Properties as plain values for JSON, with units in the names; GPa here and nowhere before."""

from typing import Any

import numpy as np

from mlip_jax import elements, units
from mlip_jax.data.structure import Structure
from mlip_jax.properties.angles import AngularDistribution
from mlip_jax.properties.barrier import Barrier
from mlip_jax.properties.conduction import Conduction
from mlip_jax.properties.defects import Defect
from mlip_jax.properties.elastic import ElasticConstants
from mlip_jax.properties.equation_of_state import EquationOfState
from mlip_jax.properties.green_kubo import W_M_K
from mlip_jax.properties.lattice_dynamics import LatticeDynamics
from mlip_jax.properties.moduli import moduli, stability
from mlip_jax.properties.structure import RadialDistribution
from mlip_jax.properties.transport import Diffusion, Spectrum

_CM2_S = 1e-16 / 1e-15
"""One Å^2/fs in cm²/s."""

_J_M2 = units.ELEMENTARY_CHARGE * 1e20
"""One eV/Å^2 in J/m²."""


def elastic(found: ElasticConstants, structure: Structure) -> dict[str, Any]:
    """Elastic constants, moduli and stability."""
    stiffness = np.asarray(found.stiffness) / units.GPA
    averages = {name: float(value) for name, value in vars(moduli(stiffness)).items()}
    lowest = float(stability(stiffness)[0])
    return {
        "property": "elastic",
        "voigt_order": ["xx", "yy", "zz", "yz", "xz", "xy"],
        "stiffness_GPa": stiffness.tolist(),
        "clamped_ion_stiffness_GPa": (np.asarray(found.clamped) / units.GPA).tolist(),
        "moduli": {
            name if name in ("poisson", "anisotropy") else f"{name}_GPa": value
            for name, value in averages.items()
        },
        "lowest_eigenvalue_GPa": lowest,
        "stable": lowest > 0.0 and float(found.softest) > 0.0,
        "stress_GPa": (np.asarray(found.stress) / units.GPA).tolist(),
        "max_force_eV_A": float(found.max_force),
        "softest_curvature_eV_A2": _finite(found.softest),
        "structure": describe(structure),
    }


def equation_of_state(found: EquationOfState, structure: Structure) -> dict[str, Any]:
    """The curve of Birch and Murnaghan, and what it was fitted to."""
    atoms = structure.num_atoms
    return {
        "property": "equation_of_state",
        "form": "Birch-Murnaghan, third order",
        "volume_A3": float(found.volume),
        "volume_A3_atom": float(found.volume) / atoms,
        "energy_eV": float(found.energy),
        "energy_eV_atom": float(found.energy) / atoms,
        "bulk_modulus_GPa": float(found.bulk_modulus) / units.GPA,
        "bulk_modulus_pressure_derivative": float(found.bulk_derivative),
        "residual_eV_atom": float(found.residual) / atoms,
        "volumes_A3": np.asarray(found.volumes).tolist(),
        "energies_eV": np.asarray(found.energies).tolist(),
        "structure": describe(structure),
    }


def phonons(found: LatticeDynamics) -> dict[str, Any]:
    """Frequencies at corners and along lines, density of states, thermodynamics."""
    thermal = found.thermodynamics
    return {
        "property": "phonons",
        "convention": "negative frequencies are imaginary; quantities are of the primitive cell",
        "stable": found.stable,
        "lowest_THz": found.lowest,
        "corners": {
            name: {"wave_vector": point.tolist(), "frequencies_THz": found.corners[name].tolist()}
            for name, point in found.path.corners.items()
        },
        "bands": [
            {
                "from": line.start,
                "to": line.end,
                "wave_vectors": line.points.tolist(),
                "frequencies_THz": values.tolist(),
            }
            for line, values in zip(found.path.lines, found.bands, strict=True)
        ],
        "density_of_states": {
            "frequencies_THz": found.dos_frequencies.tolist(),
            "states_per_THz": found.dos.tolist(),
        },
        "thermodynamics": {
            "temperatures_K": thermal.temperatures.tolist(),
            "free_energies_eV": thermal.free_energies.tolist(),
            "entropies_eV_K": thermal.entropies.tolist(),
            "heat_capacities_eV_K": thermal.heat_capacities.tolist(),
        },
        "structure": describe(found.primitive),
    }


def radial_distribution(
    found: RadialDistribution, pair: tuple[str, str] | None, frames: int
) -> dict[str, Any]:
    """A radial distribution function, the elements it is of, and the number of frames."""
    return {
        "property": "radial_distribution",
        "pair": None if pair is None else list(pair),
        "frames": frames,
        "distances_A": np.asarray(found.distances).tolist(),
        "values": np.asarray(found.values).tolist(),
        "neighbors_within": np.asarray(found.neighbors).tolist(),
    }


def angular_distribution(
    found: AngularDistribution, triple: tuple[str, str, str] | None, frames: int
) -> dict[str, Any]:
    """A distribution of angles, the elements it is of, and the number of frames."""
    return {
        "property": "angular_distribution",
        "triple": None if triple is None else list(triple),
        "frames": frames,
        "angles_deg": np.asarray(found.angles).tolist(),
        "values_per_deg": np.asarray(found.values).tolist(),
        "angles_at_an_atom": float(found.number),
    }


def diffusion(found: Diffusion, element: str | None, frames: int) -> dict[str, Any]:
    """The coefficient of diffusion, and the mean square displacements that it comes from."""
    return {
        "property": "diffusion",
        "element": element,
        "frames": frames,
        "coefficient_cm2_s": found.coefficient * _CM2_S,
        "error_cm2_s": found.error * _CM2_S,
        "dimensions": found.dimensions,
        "window_fs": list(found.window),
        "intercept_A2": found.intercept,
        "lags_fs": found.lags.tolist(),
        "mean_square_displacements_A2": found.displacements.tolist(),
        "errors_A2": found.errors.tolist(),
    }


def vibrations(
    correlation: Any, spectrum: Spectrum, interval: float, element: str | None, frames: int
) -> dict[str, Any]:
    """The autocorrelation of velocities and its spectrum; `interval` [fs] between frames."""
    return {
        "property": "vibrations",
        "element": element,
        "frames": frames,
        "lags_fs": (interval * np.arange(len(correlation))).tolist(),
        "velocity_autocorrelation": np.asarray(correlation).tolist(),
        "frequencies_THz": np.asarray(spectrum.frequencies).tolist(),
        "states_per_THz": np.asarray(spectrum.density).tolist(),
    }


def conductivity(run: Conduction, atoms: int) -> dict[str, Any]:
    """Thermal conductivity by both estimates; `atoms` in the cell."""
    found = run.conductivity
    return {
        "property": "conductivity",
        "temperature_K": run.temperature,
        "atoms": atoms,
        "frames": len(run.fluxes),
        "conductivity_W_m_K": found.value * W_M_K,
        "error_W_m_K": found.error * W_M_K,
        "cepstral_coefficients": found.coefficients,
        "frequencies_THz": found.frequencies.tolist(),
        "spectrum_W_m_K": (found.spectrum * W_M_K).tolist(),
        "smooth_spectrum_W_m_K": (found.smooth * W_M_K).tolist(),
        "lags_fs": found.lags.tolist(),
        "running_W_m_K": (found.running * W_M_K).tolist(),
        "running_errors_W_m_K": (found.running_errors * W_M_K).tolist(),
    }


def vacancy(found: Defect, atom: int, supercell: tuple[int, int, int]) -> dict[str, Any]:
    """Formation energies of a vacancy."""
    return {
        "property": "vacancy",
        "atom": atom,
        "supercell": list(supercell),
        "unrelaxed_energy_eV": found.unrelaxed,
        "energy_eV": found.relaxed,
        **_defect(found),
    }


def surface(found: Defect, miller: tuple[int, int, int], layers: int) -> dict[str, Any]:
    """Energies of a surface."""
    return {
        "property": "surface",
        "miller": list(miller),
        "layers": layers,
        "unrelaxed_energy_J_m2": found.unrelaxed * _J_M2,
        "energy_J_m2": found.relaxed * _J_M2,
        **_defect(found),
    }


def barrier(found: Barrier) -> dict[str, Any]:
    """Heights of a barrier and the energies along its path."""
    return {
        "property": "barrier",
        "forward_eV": found.forward,
        "backward_eV": found.backward,
        "path_A": found.path.tolist(),
        "energies_eV": found.energies.tolist(),
        "steps": found.steps,
    }


def _defect(found: Defect) -> dict[str, Any]:
    return {
        "distances_A": found.distances.tolist(),
        "displacements_A": found.displacements.tolist(),
        "structure": describe(found.structure),
    }


def describe(structure: Structure) -> dict[str, Any]:
    """Elements, cell and positions that a property belongs to."""
    return {
        "elements": elements.symbols(structure.atomic_numbers.tolist()),
        "cell_A": structure.cell.tolist(),
        "positions_A": structure.positions.tolist(),
    }


def _finite(value: Any) -> float | None:
    """A number; `None`, which JSON has, where there is none."""
    return float(value) if np.isfinite(value) else None
