"""Extended XYZ, plain or compressed (.gz, .xz, .bz2), read and written without losing a digit."""

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from io import TextIOBase
from pathlib import Path
from typing import Any

import numpy as np

from mlip_jax.config import UserError
from mlip_jax.data.formats.labels import Record
from mlip_jax.data.structure import Structure
from mlip_jax.elements import SYMBOLS

_OPENERS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_PAIR = re.compile(
    r'(?:"([^"]+)"|([^\s="]+))\s*=\s*'
    r"""(?:"((?:\\.|[^"\\])*)"|'([^']*)'|(\{[^}]*\})|(\[.*?\]+(?=\s|$))|(\S+))"""
)
_NUMBER_OF = {symbol: number for number, symbol in enumerate(SYMBOLS)}
_COLUMN_TYPES = {"R": float, "I": int, "L": str, "S": str}
_DEFAULT_COLUMNS = "species:S:1:pos:R:3"


def read_records(path: Path) -> Iterator[Record]:
    """Yields the frames of an extended (or plain) XYZ file.

    Raises:
        UserError: truncated or unreadable, naming file, frame and line.
    """
    frame = 0
    try:
        with _open(path, "rt") as file:
            for line in file:
                if line.strip():
                    yield _read_frame(file, line, path, frame)
                    frame += 1
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: the file is truncated or damaged after frame {frame - 1} ({error}). "
            "Get it again, or cut it there."
        ) from error
    if frame == 0:
        raise UserError(f"{path}: the file holds no frame.")


def write_structures(path: Path, structures: Iterable[Structure]) -> None:
    """Writes structures with their labels under the keys that ASE uses, in eV and Å."""
    with _open(path, "wt") as file:
        for structure in structures:
            file.write(format_frame(structure))


def format_frame(
    structure: Structure,
    info: Mapping[str, Any] | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> str:
    """Text of one frame.

    Args:
        structure: the atoms and their labels.
        info: further quantities of the structure.
        arrays: further real quantities of the atoms, `[atoms]` or `[atoms k]` (velocities …).
    """
    labels = structure.labels
    columns: dict[str, np.ndarray] = {"pos": structure.positions}
    optional = {
        "forces": labels.forces,
        "charges": labels.charges,
        "magmoms": labels.magmoms,
        "spins": structure.spins,
    }
    columns |= {name: value for name, value in optional.items() if value is not None}
    columns |= arrays or {}
    flat = {name: np.reshape(value, (structure.num_atoms, -1)) for name, value in columns.items()}
    properties = "".join(f":{name}:R:{value.shape[1]}" for name, value in flat.items())
    head = [f"Properties=species:S:1{properties}", *_header(structure)]
    head += [f"{key}={_value_text(value)}" for key, value in (info or {}).items()]
    if structure.cell.any():
        head.insert(0, f'Lattice="{_row_text(structure.cell.reshape(-1).tolist())}"')
    table = np.concatenate(list(flat.values()), axis=1)
    lines = [
        f"{SYMBOLS[number]} {_row_text(row)}"
        for number, row in zip(structure.atomic_numbers, table.tolist(), strict=True)
    ]
    return "\n".join([str(structure.num_atoms), " ".join(head), *lines, ""])


def _header(structure: Structure) -> list[str]:
    labels = structure.labels
    values = {
        "energy": labels.energy,
        "stress": labels.stress,
        "charge": structure.total_charge,
        "config_type": structure.config_type or None,
        "source": structure.source or None,
        "group": structure.group or None,
        "weight": None if structure.weight == 1.0 else structure.weight,
    }
    items = [f"{key}={_value_text(value)}" for key, value in values.items() if value is not None]
    return [*items, f'pbc="{" ".join("FT"[int(p)] for p in structure.pbc)}"']


def _value_text(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, bool | np.bool_):
        return "FT"[int(value)]
    flat = np.asarray(value).reshape(-1).tolist()
    return _row_text(flat) if len(flat) == 1 else f'"{_row_text(flat)}"'


def _row_text(values: list) -> str:
    return " ".join(map(repr, values))


def _open(path: Path, mode: str) -> TextIOBase:
    opener = _OPENERS.get(path.suffix.lower(), open)
    return opener(path, mode, encoding="utf-8")  # pyright: ignore


def _read_frame(file: TextIOBase, first_line: str, path: Path, frame: int) -> Record:
    where = f"{path}, frame {frame}"
    try:
        num_atoms = int(first_line)
    except ValueError:
        raise UserError(
            f"{where}: got {first_line.strip()[:60]!r} where the number of atoms should stand. "
            "The frame before it has too many lines, or this is no XYZ file."
        ) from None
    comment = file.readline()
    rows = [file.readline() for _ in range(num_atoms)]
    if not comment or (rows and not rows[-1].strip()):
        present = sum(bool(row.strip()) for row in rows)
        raise UserError(
            f"{where}: the file is truncated: {present} of {num_atoms} atoms are there."
        )
    info = {a or b: _first(groups) for a, b, *groups in _PAIR.findall(comment)}
    columns = _columns(rows, info.pop("Properties", _DEFAULT_COLUMNS), where)
    lattice = info.pop("Lattice", None)
    cell = np.zeros(9) if lattice is None else np.array(lattice.split(), float)
    if cell.size != 9:
        raise UserError(f"{where}: got Lattice={lattice!r}; expected nine numbers.")
    return Record(
        atomic_numbers=_atomic_numbers(columns, where),
        positions=columns.pop("pos"),
        cell=cell.reshape(3, 3),
        pbc=_pbc(info.pop("pbc", None), lattice is not None, where),
        info=info,
        arrays=columns,
        path=path,
        frame=frame,
    )


def _first(groups: list[str]) -> str:
    return next((group for group in groups if group), "").replace('\\"', '"').replace("\\\\", "\\")


def _columns(rows: list[str], properties: str, where: str) -> dict[str, np.ndarray]:
    fields = properties.split(":")
    specification = [
        (name, _COLUMN_TYPES[kind], int(width))
        for name, kind, width in zip(fields[::3], fields[1::3], fields[2::3], strict=True)
    ]
    total = sum(width for _, _, width in specification)
    words = [row.split() for row in rows]
    for atom, row in enumerate(words):
        if len(row) < total:
            raise UserError(
                f"{where}, atom {atom}: got {len(row)} columns; expected {total} ({properties})."
            )
    columns, start = {}, 0
    for name, kind, width in specification:
        try:
            values = [[kind(word) for word in row[start : start + width]] for row in words]
        except ValueError as error:
            raise UserError(f"{where}, key {name!r}: {error}.") from error
        columns[name] = np.array(values).reshape(len(rows), width)
        if width == 1:
            columns[name] = columns[name][:, 0]
        start += width
    if "pos" not in columns:
        raise UserError(f"{where}: Properties={properties} has no column 'pos'.")
    return columns


def _atomic_numbers(columns: dict[str, np.ndarray], where: str) -> np.ndarray:
    symbols = columns.pop("species", columns.pop("element", None))
    numbers = columns.pop("Z", columns.pop("numbers", None))
    if symbols is None:
        if numbers is None:
            raise UserError(f"{where}: there is no column 'species' or 'Z'.")
        return numbers
    unknown = [(i, s) for i, s in enumerate(symbols) if s not in _NUMBER_OF]
    if unknown:
        raise UserError(f"{where}, atom {unknown[0][0]}: {str(unknown[0][1])!r} is no element.")
    return np.array([_NUMBER_OF[s] for s in symbols], np.int64)


def _pbc(text: str | None, has_cell: bool, where: str) -> np.ndarray:
    if text is None:
        return np.full(3, has_cell)
    words = text.strip("[]").replace(",", " ").split()
    if len(words) != 3 or any(word[0].upper() not in "TF01" for word in words):
        raise UserError(f"{where}: got pbc={text!r}; expected three of T and F.")
    return np.array([word[0].upper() in "T1" for word in words])
