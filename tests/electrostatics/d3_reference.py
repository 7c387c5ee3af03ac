"""Energies, forces and stresses of D3 as the program s-dftd3 has them.

    cd tests/electrostatics; python d3_reference.py d3.json

Run by a Python with the wheels `dftd3`, `tomlkit` and `ase`, and nothing of ours. The program cuts
with a step; in crystals each cutoff stands in the widest gap between shells of neighbours near the
one that is wanted, and the width of the gap goes with it, so that a switch which falls inside the
gap changes nothing.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ase
import ase.build
import numpy as np

HARTREE, BOHR = 27.211386245988, 0.529177210903  # eV, Å: CODATA 2018
FUNCTIONALS = """
b3lyp b3pw91 b97d bhlyp blyp bp bpbe camb3lyp hf hse06 lcwpbe m06 m06l olyp pbe pbe0 pbesol pw6b95
r2scan revpbe revpbe0 revtpss rpbe rpw86pbe scan tpss tpss0 tpssh
"""
DAMPINGS = {"bj": "RationalDampingParam", "zero": "ZeroDampingParam"}


def structures() -> dict[str, ase.Atoms]:
    """Molecules, some of them apart, and crystals of one to three elements."""
    pair = ase.build.molecule("C6H6") + ase.build.molecule("C6H6")
    pair.positions[12:] += [0.6, 1.2, 3.5]
    pair += ase.Atoms("Xe", positions=[[4.0, -1.0, 2.0]])
    methane = ase.build.molecule("CH4")
    methane.set_cell([[3.9, 0.0, 0.0], [0.4, 4.1, 0.0], [-0.3, 0.5, 4.0]])
    methane.pbc = True
    halide = ase.Atoms(
        "PbClI",
        scaled_positions=[[0.0, 0.0, 0.0], [0.5, 0.45, 0.5], [0.1, 0.5, 0.9]],
        cell=[[4.4, 0.0, 0.0], [0.5, 4.7, 0.0], [-0.4, 0.3, 5.6]],
        pbc=True,
    )
    graphite = ase.build.graphene(a=2.46, vacuum=0.0)
    graphite.set_cell([*graphite.cell[:2], [0.3, 0.1, 3.35]])
    graphite.pbc = True
    return {
        "ethanol": ase.build.molecule("CH3CH2OH"),
        "benzenes_and_xenon": pair,
        "methane_crystal": methane,
        "halide": halide,
        "graphite_AA": graphite,
    }


def gap(atoms: ase.Atoms, wanted: float) -> tuple[float, float]:
    """Middle and width [Å] of the widest range without distances within 0.3 Å of the wanted."""
    if not atoms.pbc.any():
        return wanted, 1.0
    reach = np.ceil((wanted + 1.0) * np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0))
    grid = np.meshgrid(*(np.arange(-n - 1, n + 2) for n in reach), indexing="ij")
    shifts = np.stack(grid, -1).reshape(-1, 3) @ atoms.cell.array
    vectors = atoms.positions[:, None] - atoms.positions[None]
    found = np.linalg.norm(vectors[:, :, None] + shifts, axis=-1).ravel()
    near = np.sort(found[np.abs(found - wanted) < 0.3])
    widest = np.argmax(np.diff(near))
    return float(near[widest : widest + 2].mean()), float(np.diff(near)[widest])


def evaluate(atoms: ase.Atoms, functional: str, damping: str) -> dict[str, Any]:
    # Here: tests are collected without the wheel, too.
    from dftd3 import interface

    periodic = bool(atoms.pbc.any())
    cutoff, width = gap(atoms, 13.0 if periodic else 50.0)
    coordination_cutoff, coordination_width = gap(atoms, 9.0 if periodic else 40.0)
    model = interface.DispersionModel(
        atoms.numbers,
        atoms.positions / BOHR,
        atoms.cell.array / BOHR if periodic else None,
        atoms.pbc if periodic else None,
    )
    model.set_realspace_cutoff(disp2=cutoff / BOHR, disp3=1.0, cn=coordination_cutoff / BOHR)
    parameters = getattr(interface, DAMPINGS[damping])(method=functional, atm=False)
    found = model.get_dispersion(parameters, grad=True)
    volume = atoms.cell.volume if periodic else 1.0
    return {
        "functional": functional,
        "damping": damping,
        "cutoff": cutoff,
        "width": width,
        "coordination_cutoff": coordination_cutoff,
        "coordination_width": coordination_width,
        "energy": float(found["energy"]) * HARTREE,
        "forces": (-found["gradient"] * HARTREE / BOHR).tolist(),
        "stress": (found["virial"] * HARTREE / volume).tolist() if periodic else None,
    }


def parameters() -> dict[str, dict[str, dict[str, float]]]:
    """What the program takes for each functional and damping."""
    from dftd3.parameters import get_all_damping_params

    kept = ("s6", "s8", "a1", "a2", "rs6", "rs8")
    return {
        damping: {
            name: {key: found[key] for key in kept if key in found}
            for name, found in get_all_damping_params([damping]).items()
            if name in FUNCTIONALS.split()
        }
        for damping in DAMPINGS
    }


def main(path: Path) -> None:
    cases = []
    for name, atoms in structures().items():
        for functional, damping in (
            ("pbe" if len(atoms) > 3 else "r2scan", "bj"),
            ("b3lyp", "zero"),
        ):
            cases.append(
                {
                    "name": name,
                    "numbers": atoms.numbers.tolist(),
                    "positions": atoms.positions.tolist(),
                    "cell": atoms.cell.array.tolist(),
                    "pbc": atoms.pbc.tolist(),
                    **evaluate(atoms, functional, damping),
                }
            )
    content = {
        "program": f"s-dftd3 (wheel dftd3 {version('dftd3')}), two-body terms, step cutoffs",
        "command": "python tests/electrostatics/d3_reference.py",
        "units": "Å, eV, eV/Å, eV/Å^3 (CODATA 2018)",
        "parameters": parameters(),
        "cases": cases,
    }
    path.write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
