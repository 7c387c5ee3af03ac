"""Our HDF5 layout: flat arrays over all atoms, read by index, for data larger than memory.

With S structures and A atoms in all (units: `mlip_jax.units`; stress positive under tension):

    /                  attributes: format = "mlip_jax structures", version = 1
    /offsets           [S + 1]   structure i owns the atoms offsets[i]:offsets[i + 1]
    /atomic_numbers    [A]
    /positions         [A, 3]
    /cell, /pbc        [S, 3, 3], [S, 3]
    /weight            [S]
    /config_type, /source, /group, /name      [S] strings
    /labels/energy, /labels/stress, /labels/total_charge                     [S, ...]
    /labels/forces, /labels/charges, /labels/magmoms, /labels/spins          [A, ...]
    /present/<label>   [S]       whether the structure has it (the value is 0 where not)
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import h5py
import numpy as np

from mlip_jax.config import UserError
from mlip_jax.data.formats.labels import check_cell
from mlip_jax.data.structure import Structure, StructureLabels

FORMAT, VERSION = "mlip_jax structures", 1

_PER_STRUCTURE = {"energy": (), "stress": (3, 3), "total_charge": ()}
_PER_ATOM = {"forces": (3,), "charges": (), "magmoms": (), "spins": (3,)}
_TEXTS = ("config_type", "source", "group", "name")
_BLOCK_ATOMS = 20_000
"""Atoms that are held in memory while writing (one structure more, at most)."""

_CHUNK = 512
"""Rows of a chunk."""


class HDF5Structures(Sequence[Structure]):
    """Structures of a file in our layout, each read when it is asked for.

    Attributes:
        path: the file.
        num_atoms: size of each structure.
        labels: the labels that some structure has.

    Raises:
        UserError: truncated, of another layout, or of a newer version.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._file: h5py.File | None = None
        file = self._open()
        if file.attrs.get("format") != FORMAT:
            raise UserError(
                f"{path}: this HDF5 file is not in the layout of mlip_jax (no attribute "
                f"format = {FORMAT!r}); make one with `mlip-jax data convert`."
            )
        if int(np.asarray(file.attrs["version"])) > VERSION:
            raise UserError(f"{path}: written by a newer mlip_jax; upgrade to read it.")
        self._offsets = _dataset(file, "offsets")[:]
        self.num_atoms = np.diff(self._offsets)
        self.labels = tuple(file["present"])  # pyright: ignore[reportArgumentType]

    def __len__(self) -> int:
        return len(self.num_atoms)

    def __getstate__(self) -> dict[str, Any]:
        """A copy for another process opens the file again."""
        return self.__dict__ | {"_file": None}

    @overload
    def __getitem__(self, index: int) -> Structure: ...
    @overload
    def __getitem__(self, index: slice) -> list[Structure]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return self._read(range(len(self))[index])

    def _read(self, index: int) -> Structure:
        file = self._open()
        atoms = slice(int(self._offsets[index]), int(self._offsets[index + 1]))
        where = f"{self.path}, frame {index}"
        try:
            values = {
                name: _dataset(file, f"labels/{name}")[index if name in _PER_STRUCTURE else atoms]
                for name in self.labels
                if _dataset(file, f"present/{name}")[index]
            }
            texts = {name: str(_dataset(file, name).asstr()[index]) for name in _TEXTS}
            numbers = _dataset(file, "atomic_numbers")[atoms]
            positions = _dataset(file, "positions")[atoms]
            cell, pbc = _dataset(file, "cell")[index], _dataset(file, "pbc")[index]
            weight = float(_dataset(file, "weight")[index])
        except OSError as error:
            raise UserError(f"{where}: unreadable ({error}); the file is damaged.") from error
        for name, value in {"positions": positions, **values}.items():
            if not np.all(np.isfinite(value)):
                raise UserError(f"{where}, key {name!r}: has a value that is not finite.")
        check_cell(cell, pbc, where)
        energy, total_charge = values.pop("energy", None), values.pop("total_charge", None)
        spins = values.pop("spins", None)
        return Structure(
            atomic_numbers=numbers.astype(np.int64),
            positions=positions,
            cell=cell,
            pbc=pbc,
            labels=StructureLabels(energy=None if energy is None else float(energy), **values),
            total_charge=None if total_charge is None else float(total_charge),
            spins=spins,
            weight=weight,
            **(texts | {"name": texts["name"] or f"{self.path.name}:{index}"}),
        )

    def _open(self) -> h5py.File:
        if self._file is None:
            try:
                self._file = h5py.File(self.path, "r")
            except OSError as error:
                raise UserError(f"{self.path}: truncated or no HDF5 file ({error}).") from error
        return self._file


def write_structures(path: Path, structures: Iterable[Structure]) -> None:
    """Writes structures block by block: as many as the disk holds, with the memory of one block."""
    with h5py.File(path, "w") as file:
        file.attrs["format"], file.attrs["version"] = FORMAT, VERSION
        file.create_dataset("offsets", data=np.zeros(1, np.int64), maxshape=(None,), chunks=(4096,))
        written = 0
        for block in _blocks(structures):
            _write_block(file, block, written)
            written += len(block)
        if written == 0:
            raise UserError(f"{path}: there is no structure to write.")
        file.require_group("present")


def _blocks(structures: Iterable[Structure]) -> Iterator[list[Structure]]:
    block: list[Structure] = []
    atoms = 0
    for structure in structures:
        block.append(structure)
        atoms += structure.num_atoms
        if atoms >= _BLOCK_ATOMS:
            yield block
            block, atoms = [], 0
    if block:
        yield block


def _write_block(file: h5py.File, block: list[Structure], written: int) -> None:
    sizes = np.array([s.num_atoms for s in block])
    offsets = _dataset(file, "offsets")
    before = int(offsets[-1])
    _append(file, "offsets", before + np.cumsum(sizes), written + 1)
    _append(file, "atomic_numbers", np.concatenate([s.atomic_numbers for s in block]), before)
    _append(file, "positions", np.concatenate([s.positions for s in block]), before)
    _append(file, "cell", np.stack([s.cell for s in block]), written)
    _append(file, "pbc", np.stack([s.pbc for s in block]), written)
    _append(file, "weight", np.array([s.weight for s in block]), written)
    for name in _TEXTS:
        values = np.array([getattr(s, name) for s in block], dtype=object)
        _append(file, name, values, written, dtype=h5py.string_dtype())
    for name, shape in (_PER_STRUCTURE | _PER_ATOM).items():
        values = [_label(s, name) for s in block]
        present = np.array([value is not None for value in values])
        if not present.any() and f"present/{name}" not in file:
            continue
        per_atom = name in _PER_ATOM
        filled = [
            np.zeros(((n,) if per_atom else ()) + shape) if value is None else np.asarray(value)
            for value, n in zip(values, sizes, strict=True)
        ]
        stacked = np.concatenate(filled) if per_atom else np.stack(filled)
        _append(file, f"labels/{name}", stacked, before if per_atom else written)
        _append(file, f"present/{name}", present, written)


def _label(structure: Structure, name: str):
    return getattr(structure if name in ("spins", "total_charge") else structure.labels, name)


def _append(file: h5py.File, name: str, values: np.ndarray, start: int, dtype=None) -> None:
    """Puts values after row `start`; rows before it that were never written are 0."""
    if name not in file:
        shape = (0, *values.shape[1:])
        maximum, chunk = (None, *values.shape[1:]), (_CHUNK, *values.shape[1:])
        file.create_dataset(
            name, shape, dtype=dtype or values.dtype, maxshape=maximum, chunks=chunk
        )
    dataset = _dataset(file, name)
    dataset.resize(start + len(values), axis=0)
    dataset[start:] = values


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    if name not in file:
        raise UserError(f"{file.filename}: the data set {name!r} is missing; the file is damaged.")
    dataset = file[name]
    assert isinstance(dataset, h5py.Dataset)
    return dataset
