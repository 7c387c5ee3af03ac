"""What a file calls its labels, in which units and signs, and how they become ours.

Every reader yields `Record`s: atoms with whatever the file says about them. `to_structure` is the
only place where foreign names, units, signs and orders turn into a `Structure`.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlip_jax import units
from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure, StructureLabels
from mlip_jax.neighbors.host import complete_cell

EnergyUnit = Literal["eV", "meV", "hartree", "rydberg", "kcal/mol", "kJ/mol"]
LengthUnit = Literal["angstrom", "bohr", "nm"]
StressUnit = Literal["eV/angstrom^3", "GPa", "kbar", "hartree/bohr^3"]
StressSign = Literal["tension_positive", "compression_positive"]

_AXES = {"x": 0, "y": 1, "z": 2}
_COMPONENTS = ("xx", "yy", "zz", "yz", "xz", "xy")


@dataclasses.dataclass(frozen=True)
class LabelUnits:
    """Units of a file.

    Attributes:
        energy: unit of the energy (and of the virial).
        length: unit of positions and cell.
        forces: unit of the forces, such as `hartree/bohr`; energy unit over length unit when left
            out.
        stress: unit of the stress.
    """

    energy: EnergyUnit = "eV"
    length: LengthUnit = "angstrom"
    forces: str | None = None
    stress: StressUnit = "eV/angstrom^3"

    @property
    def force_factor(self) -> float:
        """Factor that turns the file's forces into eV/Å."""
        name = self.forces or f"{self.energy}/{self.length}"
        if name not in units.FORCE:
            raise UserError(
                f"data.labels.units.forces: got {name!r}; expected one of {sorted(units.FORCE)}."
            )
        return units.FORCE[name]


@dataclasses.dataclass(frozen=True)
class LabelKeys:
    """Names of the labels in a file; `None` leaves a label out.

    Attributes:
        energy: key of the energy of a structure. (For VASP runs `free_energy` is the one whose
            derivative the forces are; `energy` is extrapolated to zero smearing.)
        forces: key of the forces.
        stress: key of the stress: 3×3, 9 or 6 numbers.
        virial: key of the virial `-dE/dε` (an energy), used where there is no stress.
        charges: key of the atoms' charges [e].
        magmoms: key of the atoms' magnetic moments [μ_B], one number each (`initial_magmoms` of
            ASE are where a calculation began, not its result).
        spins: key of the atoms' spin vectors [μ_B], an input of spin models.
        total_charge: key of the total charge [e].
        config_type: key of the kind of configuration.
        source: key of the level of theory.
        group: key of the group whose structures stay on one side of a split.
        weight: key of a structure's weight in the loss.
        units: units of the file.
        stress_sign: whether a stretched solid has positive or negative stress in the file (VASP's
            OUTCAR and many JSON files: compression_positive).
        stress_order: order of six numbers; VASP's own is `xx yy zz xy yz zx`.
        stress_offset: a constant that the diagonals of all stresses have too much, also of those
            that come from virials, in the unit and sign of stresses of the file (Pulay stress of a
            small basis); it is subtracted.
    """

    energy: str | None = "energy"
    forces: str | None = "forces"
    stress: str | None = "stress"
    virial: str | None = None
    charges: str | None = "charges"
    magmoms: str | None = "magmoms"
    spins: str | None = "spins"
    total_charge: str | None = "charge"
    config_type: str | None = "config_type"
    source: str | None = None
    group: str | None = None
    weight: str | None = None
    units: LabelUnits = LabelUnits()
    stress_sign: StressSign = "tension_positive"
    stress_order: str = "xx yy zz yz xz xy"
    stress_offset: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """One frame as its file states it, in the file's units.

    Attributes:
        atomic_numbers: Z, `[atoms]`.
        positions: `[atoms 3]`.
        cell: vectors in rows, `[3 3]`; zero where there is none.
        pbc: `[3]`.
        info: quantities of the structure by the file's key (numbers, arrays, or their text).
        arrays: quantities of the atoms by the file's key, leading axis atoms.
        path: the file.
        frame: its number in the file, from 0.
    """

    atomic_numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    info: Mapping[str, Any]
    arrays: Mapping[str, Any]
    path: Path
    frame: int

    @property
    def where(self) -> str:
        """File and frame, for messages."""
        return f"{self.path}, frame {self.frame}"


def to_structure(record: Record, keys: LabelKeys) -> Structure:
    """Turns a record into a structure in our units, signs and order.

    Raises:
        UserError: positions or labels that are not finite, labels of a wrong shape, or a periodic
            direction without a proper cell vector; the message names file, frame, key and atom.
    """
    length = units.LENGTH[keys.units.length]
    positions = _per_atom(record, "positions", record.positions, (3,)) * length
    cell = np.asarray(record.cell, float) * length
    pbc = np.asarray(record.pbc, bool)
    check_cell(cell, pbc, record.where)
    labels = StructureLabels(
        energy=_scaled(_scalar(record, keys.energy), units.ENERGY[keys.units.energy]),
        forces=_scaled(_array(record, keys.forces, (3,)), keys.units.force_factor),
        stress=_stress(record, keys, cell),
        charges=_array(record, keys.charges, ()),
        magmoms=_array(record, keys.magmoms, ()),
    )
    weight = _scalar(record, keys.weight)
    return Structure(
        atomic_numbers=np.asarray(record.atomic_numbers, np.int64),
        positions=positions,
        cell=cell,
        pbc=pbc,
        labels=labels,
        total_charge=_scalar(record, keys.total_charge),
        spins=_array(record, keys.spins, (3,)),
        config_type=_text(record, keys.config_type),
        source=_text(record, keys.source),
        group=_text(record, keys.group),
        weight=1.0 if weight is None else weight,
        name=f"{record.path.name}:{record.frame}",
    )


def check_cell(cell: np.ndarray, pbc: np.ndarray, where: str) -> None:
    """Refuses a cell whose periodic directions span nothing, or that is not finite.

    Raises:
        UserError: naming `where`.
    """
    try:
        complete_cell(cell, pbc)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def voigt_indices(order: str) -> tuple[tuple[int, int], ...]:
    """Matrix indices of six stress numbers in the given order.

    Raises:
        UserError: when the six components do not each appear once.

    >>> voigt_indices("xx yy zz xy yz zx")[3:]
    ((0, 1), (1, 2), (0, 2))
    """
    names = tuple("".join(sorted(name)) for name in order.split())
    if sorted(names) != sorted(_COMPONENTS):
        raise UserError(
            f"data.labels.stress_order: got {order!r}; expected the six components in the order of "
            "the file, such as 'xx yy zz yz xz xy' (ASE) or 'xx yy zz xy yz zx' (VASP)."
        )
    return tuple((_AXES[name[0]], _AXES[name[1]]) for name in names)


def _stress(record: Record, keys: LabelKeys, cell: np.ndarray) -> np.ndarray | None:
    indices = voigt_indices(keys.stress_order)
    unit = units.PRESSURE[keys.units.stress]
    unit = unit if keys.stress_sign == "tension_positive" else -unit
    offset = keys.stress_offset * unit * np.eye(3)
    if keys.stress is not None and keys.stress in record.info:
        return _symmetric(record, keys.stress, indices) * unit - offset
    if keys.virial is not None and keys.virial in record.info:
        volume = abs(np.linalg.det(cell))
        if volume == 0.0:
            raise UserError(f"{record.where}: key {keys.virial!r} is a virial without a cell.")
        virial = _symmetric(record, keys.virial, indices) * units.ENERGY[keys.units.energy]
        return -virial / volume - offset
    return None


def _symmetric(record: Record, key: str, indices) -> np.ndarray:
    values = _numbers(record, key, record.info[key]).reshape(-1)
    if values.size == 6:
        matrix = np.zeros((3, 3))
        for (row, column), value in zip(indices, values, strict=True):
            matrix[row, column] = matrix[column, row] = value
    elif values.size == 9:
        matrix = values.reshape(3, 3)
    else:
        raise UserError(f"{record.where}, key {key!r}: got {values.size} numbers; expected 6 or 9.")
    if not np.all(np.isfinite(matrix)):
        raise UserError(f"{record.where}, key {key!r}: has a value that is not finite.")
    if np.max(np.abs(matrix - matrix.T)) > 0.1 * np.max(np.abs(matrix)):
        raise UserError(f"{record.where}, key {key!r}: got an asymmetric matrix {matrix.tolist()}.")
    return 0.5 * (matrix + matrix.T)


def _scaled(value, factor: float):
    return None if value is None else value * factor


def _numbers(record: Record, key: str, value: Any) -> np.ndarray:
    try:
        if isinstance(value, str):
            return np.array([float(word) for word in value.strip("[]{}").replace(",", " ").split()])
        return np.asarray(value, float)
    except (TypeError, ValueError) as error:
        raise UserError(f"{record.where}, key {key!r}: got {value!r}; expected numbers.") from error


def _scalar(record: Record, key: str | None) -> float | None:
    if key is None or record.info.get(key) is None:
        return None
    values = _numbers(record, key, record.info[key]).reshape(-1)
    if values.size != 1 or not np.isfinite(values[0]):
        raise UserError(
            f"{record.where}, key {key!r}: got {record.info[key]!r}; expected one finite number. "
            "Correct the frame, or remove the key from it: a label may be absent."
        )
    return float(values[0])


def _array(record: Record, key: str | None, shape: tuple[int, ...]) -> np.ndarray | None:
    if key is None or record.arrays.get(key) is None:
        return None
    return _per_atom(record, key, record.arrays[key], shape)


def _per_atom(record: Record, key: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    values = _numbers(record, key, value)
    expected = (len(record.atomic_numbers), *shape)
    if values.shape != expected:
        raise UserError(
            f"{record.where}, key {key!r}: got shape {values.shape}; expected {expected}."
        )
    bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    if bad.size:
        raise UserError(
            f"{record.where}, key {key!r}: atom {bad[0]} has a value that is not finite "
            f"({values[bad[0]].tolist()}). Correct the frame, or remove the key from it."
        )
    return values


def _text(record: Record, key: str | None) -> str:
    return "" if key is None or key not in record.info else str(record.info[key])
