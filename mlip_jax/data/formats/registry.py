"""Which reader and writer a path gets."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from mlip_jax.config import UserError
from mlip_jax.data.formats import ase_files, extxyz, hdf5, pymatgen_json
from mlip_jax.data.formats.labels import LabelKeys, Record, to_structure
from mlip_jax.data.structure import Structure

_COMPRESSED = (".gz", ".xz", ".bz2")
_WRITERS = {
    "xyz": extxyz.write_structures,
    "extxyz": extxyz.write_structures,
    "json": pymatgen_json.write_structures,
    "h5": hdf5.write_structures,
    "hdf5": hdf5.write_structures,
    "db": ase_files.write_database,
    "aselmdb": ase_files.write_database,
    "traj": ase_files.write_trajectory,
}
_KEYS_FROM = 200
"""Frames that are looked at to list the keys of a file."""


def read(path: Path | str, *, keys: LabelKeys | None = None, index: str = ":") -> list[Structure]:
    """Reads structures into memory.

    Args:
        path: a file or directory; its ending decides the format.
        keys: names, units and signs of the labels (our HDF5 files state their own).
        index: frames as a Python index or slice (`:`, `-1`, `::10`).

    Raises:
        UserError: missing, truncated or unreadable file, or a frame that makes no sense.
    """
    chosen = selection(index)
    path = _existing(Path(path))
    if _is_lazy(path):
        lazy = open_structures(path, keys=keys)
        return [lazy[i] for i in range(len(lazy))[chosen]]
    keys = keys or LabelKeys()
    records: Iterable[Record] = _records(path)
    if chosen == slice(None):
        return [to_structure(record, keys) for record in records]
    return [to_structure(record, keys) for record in list(records)[chosen]]


def open_structures(path: Path | str, *, keys: LabelKeys | None = None) -> Sequence[Structure]:
    """Opens structures as a sequence: lazy (read by index) where the format allows it.

    A lazy sequence has the attribute `num_atoms`, an array with the size of every structure.
    """
    path = _existing(Path(path))
    if path.suffix.lower() in (".h5", ".hdf5"):
        return hdf5.HDF5Structures(path)
    if path.suffix.lower() in (".db", ".aselmdb"):
        return ase_files.DatabaseStructures(path, keys or LabelKeys())
    return read(path, keys=keys)


def write(path: Path | str, structures: Iterable[Structure]) -> None:
    """Writes structures with their labels, in eV and Å, ASE's sign of the stress.

    Raises:
        UserError: when no writer knows the ending.
    """
    path = Path(path)
    write_all = writer(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_all(path, structures)


def writer(path: Path | str) -> Callable[[Path, Iterable[Structure]], None]:
    """The function that writes structures to a path, by its ending.

    Raises:
        UserError: when no writer knows the ending.
    """
    path = Path(path)
    ending = _format(path)
    if ending not in _WRITERS:
        raise UserError(
            f"{path}: no writer for {ending!r}; expected .extxyz or .json (also .gz, .xz), "
            ".h5, .db, .aselmdb or .traj."
        )
    return _WRITERS[ending]


def available_keys(path: Path | str) -> tuple[str, ...]:
    """Keys that the first frames of a file have, for messages."""
    path = _existing(Path(path))
    if path.suffix.lower() in (".h5", ".hdf5"):
        return tuple(hdf5.HDF5Structures(path).labels)
    found: dict[str, None] = {}
    for record in itertools.islice(_records(path), _KEYS_FROM):
        found |= dict.fromkeys([*record.info, *record.arrays])
    return tuple(found)


def _records(path: Path) -> Iterator[Record]:
    if path.is_dir():
        return ase_files.read_vasp_directory(path)
    match _format(path):
        case "xyz" | "extxyz":
            return extxyz.read_records(path)
        case "json":
            return pymatgen_json.read_records(path)
        case "db" | "aselmdb":
            return ase_files.read_database_records(path)
        case _:
            return ase_files.read_records(path)


def _format(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1].lstrip(".") if suffixes else path.name


def _is_lazy(path: Path) -> bool:
    return path.suffix.lower() in (".h5", ".hdf5", ".db", ".aselmdb")


def _existing(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path}: no such file or directory.")
    return path


def selection(index: str) -> slice:
    """The frames that an index (`-1`) or a slice (`::10`) means.

    Raises:
        UserError: for anything else.
    """
    try:
        numbers = [int(word) if word.strip() else None for word in index.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and numbers[0] is not None:
        start = numbers[0]
        return slice(start, start + 1 if start != -1 else None)
    if len(numbers) in (2, 3):
        return slice(*numbers)
    raise UserError(f"index: got {index!r}; expected a number or a slice such as '::10' or '-1'.")
