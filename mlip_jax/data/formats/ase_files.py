"""What ASE reads: `Atoms` both ways, databases (`.db`, `.aselmdb`), VASP runs, trajectories."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import ase
import ase.db
import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.formats import UnknownFileTypeError

from mlip_jax.config import UserError
from mlip_jax.data.formats.labels import LabelKeys, Record, to_structure
from mlip_jax.data.structure import Structure

_GEOMETRY = ("numbers", "positions")
# What ASE's readers raise on files that are damaged or of an unfinished run.
_READ_ERRORS = (
    UnknownFileTypeError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    SyntaxError,
)
_VASP_FILES = ("vasprun.xml", "vasprun.xml.gz", "OUTCAR", "OUTCAR.gz")


def from_atoms(
    atoms: ase.Atoms, keys: LabelKeys | None = None, *, name: str = "Atoms"
) -> Structure:
    """Turns ASE's `Atoms`, with the results of its calculator, into a structure."""
    return to_structure(_record(atoms, {}, Path(name), 0), keys or LabelKeys())


def to_atoms(structure: Structure) -> ase.Atoms:
    """Turns a structure into ASE's `Atoms`; labels become results of a single-point calculator."""
    atoms = ase.Atoms(
        numbers=structure.atomic_numbers,
        positions=structure.positions,
        cell=structure.cell,
        pbc=structure.pbc,
    )
    labels = structure.labels
    results = {
        field.name: getattr(labels, field.name)
        for field in dataclasses.fields(labels)
        if getattr(labels, field.name) is not None
    }
    if "stress" in results:
        stress = results["stress"]
        results["stress"] = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    if structure.spins is not None:
        atoms.set_array("spins", structure.spins)
    atoms.info |= _key_values(structure)
    return atoms


def read_records(path: Path) -> Iterator[Record]:
    """Yields the frames of any single file that ASE knows.

    Raises:
        UserError: where ASE does not know the format or cannot read the file.
    """
    for frame, atoms in enumerate(_read_with_ase(path)):
        yield _record(atoms, {}, path, frame)


def read_vasp_directory(path: Path) -> Iterator[Record]:
    """Yields every ionic step of every VASP run below a directory, in the order of their paths.

    A run is a directory with `vasprun.xml` or, failing that, `OUTCAR` (either may be gzipped);
    its path relative to `path` is the record's `config_type` and `group`.
    """
    directories = sorted({file.parent for name in _VASP_FILES for file in path.rglob(name)})
    if not directories:
        raise UserError(f"{path}: no {', '.join(_VASP_FILES)} in this directory or below it.")
    for directory in directories:
        file = next(f for name in _VASP_FILES if (f := directory / name).exists())
        run = str(directory.relative_to(path))
        for frame, atoms in enumerate(_read_with_ase(file)):
            yield _record(atoms, {"config_type": run, "group": run}, file, frame)


def read_database_records(path: Path) -> Iterator[Record]:
    """Yields the rows of an ASE database."""
    for frame, row in enumerate(_connect(path).select()):
        yield _row_record(row, path, frame)


class DatabaseStructures(Sequence[Structure]):
    """Structures of an ASE database (SQLite, or LMDB with ase-db-backends), read by index.

    Opening it passes over the rows once, to learn their ids and sizes.

    Attributes:
        path: the file.
        num_atoms: size of each structure.
    """

    def __init__(self, path: Path, keys: LabelKeys):
        self.path, self.keys = path, keys
        self._database: Any = _connect(path)
        pairs = [(row.id, row.natoms) for row in self._database.select(include_data=False)]
        if not pairs:
            raise UserError(f"{path}: the database holds no row.")
        self._ids, sizes = zip(*pairs, strict=True)
        self.num_atoms = np.array(sizes)

    def __len__(self) -> int:
        return len(self._ids)

    def __getstate__(self) -> dict[str, Any]:
        """A copy for another process connects again."""
        return self.__dict__ | {"_database": None}

    @overload
    def __getitem__(self, index: int) -> Structure: ...
    @overload
    def __getitem__(self, index: slice) -> list[Structure]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        frame = range(len(self))[index]
        if self._database is None:
            self._database = _connect(self.path)
        return to_structure(
            _row_record(self._database.get(id=self._ids[frame]), self.path, frame), self.keys
        )


def write_database(path: Path, structures: Iterable[Structure]) -> None:
    """Writes an ASE database, replacing the file."""
    path.unlink(missing_ok=True)
    with _connect(path, readonly=False) as database:
        for structure in structures:
            atoms = to_atoms(structure)
            texts = {k: v for k, v in atoms.info.items() if isinstance(v, str)}
            data = {k: v for k, v in atoms.info.items() if k not in texts}
            if structure.spins is not None:
                data["spins"] = structure.spins
            database.write(atoms, data=data, key_value_pairs=texts)


def write_trajectory(path: Path, structures: Iterable[Structure]) -> None:
    """Writes an ASE `.traj` file."""
    ase.io.write(path, [to_atoms(structure) for structure in structures])


def _record(atoms: ase.Atoms, info: dict[str, Any], path: Path, frame: int) -> Record:
    results = {} if atoms.calc is None else dict(atoms.calc.results)
    num_atoms = len(atoms)
    per_atom = {
        key: value
        for key, value in results.items()
        if key in ("forces", "charges", "magmoms") and len(np.atleast_1d(value)) == num_atoms
    }
    arrays = {key: value for key, value in atoms.arrays.items() if key not in _GEOMETRY}
    return Record(
        atomic_numbers=atoms.numbers,
        positions=atoms.positions,
        cell=np.array(atoms.cell),
        pbc=atoms.pbc,
        info={**info, **atoms.info, **{k: v for k, v in results.items() if k not in per_atom}},
        arrays={**arrays, **per_atom},
        path=path,
        frame=frame,
    )


def _row_record(row: Any, path: Path, frame: int) -> Record:
    atoms = row.toatoms()
    data = dict(row.data or {})
    arrays = {k: v for k, v in data.items() if np.shape(v)[:1] == (len(atoms),)}
    atoms.info = {**dict(row.key_value_pairs), **data}
    record = _record(atoms, {}, path, frame)
    return dataclasses.replace(record, arrays={**arrays, **record.arrays})


def _key_values(structure: Structure) -> dict[str, Any]:
    values = {
        "config_type": structure.config_type or None,
        "source": structure.source or None,
        "group": structure.group or None,
        "charge": structure.total_charge,
        "weight": None if structure.weight == 1.0 else structure.weight,
    }
    return {key: value for key, value in values.items() if value is not None}


def _read_with_ase(path: Path) -> Iterator[ase.Atoms]:
    try:
        frames = iter(ase.io.iread(path, index=":"))
        yield from itertools.chain([next(frames)], frames)
    except StopIteration:
        raise UserError(f"{path}: the file holds no frame.") from None
    except _READ_ERRORS as error:
        raise UserError(f"{path}: ASE cannot read this file ({error!r}).") from error


def _connect(path: Path, *, readonly: bool = True) -> Any:
    if path.suffix.lower() == ".aselmdb":
        try:
            import ase_db_backends.aselmdb as aselmdb
        except ImportError as error:
            raise UserError(
                f"{path}: reading .aselmdb needs the package ase-db-backends: "
                "pip install 'mlip_jax[data]'."
            ) from error
        return aselmdb.LMDBDatabase(str(path), readonly=readonly)
    return ase.db.connect(path)
