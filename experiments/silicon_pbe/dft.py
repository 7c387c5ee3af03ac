"""Density functional theory of one frame with GPAW: the only place where settings stand."""

from __future__ import annotations

import time
from pathlib import Path

from ase import Atoms
from structures import Frame

CUTOFF = 350.0  # eV, plane waves
SMEARING = 0.1  # eV, Fermi-Dirac width of periodic frames
MOLECULAR_SMEARING = 0.01  # eV; wider, the open shells of atom and dimer do not converge
CONVERGENCE = {"energy": 1e-5, "density": 1e-4, "eigenstates": 4e-8}
MAX_ITERATIONS = 60


def compute(frame: Frame, log: Path | str | None = None, cutoff: float = CUTOFF) -> dict:
    """Energy, forces and stress of a frame, as plain numbers.

    The energy is the free energy, whose derivatives the forces and the stress are. Plane waves
    need a periodic cell; vacuum separates what the frame declares to be finite.

    Args:
        frame: What to compute.
        log: File for the report of GPAW; silent where `None`.
        cutoff: Plane-wave cutoff in eV.

    Raises:
        gpaw.KohnShamConvergenceError: The density did not converge.
    """
    from gpaw import GPAW, PW, FermiDirac, Mixer, MixerSum  # absent where only the data are read

    started = time.process_time()
    atoms = Atoms(frame.atoms.numbers, frame.atoms.positions, cell=frame.atoms.cell, pbc=True)
    polarised = frame.magmom is not None
    if polarised:
        atoms.set_initial_magnetic_moments([frame.magmom] * len(atoms))
    atoms.calc = GPAW(
        mode=PW(cutoff),
        xc="PBE",
        kpts={"size": frame.kpts, "gamma": True},
        occupations=FermiDirac(
            MOLECULAR_SMEARING if polarised else SMEARING, fixmagmom=frame.fixed_moment
        ),
        nbands=2 + 3 * len(atoms) if polarised else None,
        convergence=CONVERGENCE,
        maxiter=MAX_ITERATIONS,
        mixer=MixerSum(0.1, 5, 1) if polarised else Mixer(0.3, 5, 1),
        txt=log,
    )
    energy = atoms.get_potential_energy(force_consistent=True)
    result = {
        "name": frame.name,
        "config_type": frame.config_type,
        "pbc": frame.atoms.pbc.tolist(),
        "cell": frame.atoms.cell.tolist(),
        "positions": frame.atoms.positions.tolist(),
        "kpts": list(frame.kpts),
        "energy": float(energy),
        "energy_at_zero_smearing": float(atoms.get_potential_energy()),
        "forces": atoms.get_forces().tolist(),
        "stress": None,
        "magmom": float(atoms.get_magnetic_moment()) if polarised else 0.0,
        "iterations": int(atoms.calc.get_number_of_iterations()),
    }
    if frame.atoms.pbc.all():
        result["stress"] = atoms.get_stress(voigt=False).tolist()
    result["seconds"] = time.process_time() - started
    return result
