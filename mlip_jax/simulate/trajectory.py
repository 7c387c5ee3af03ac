"""Frames streamed to extended XYZ or ASE's `.traj`, and a start from any frame of such a file."""

import dataclasses
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from mlip_jax.config import UserError
from mlip_jax.data.formats import LabelKeys, extxyz
from mlip_jax.data.formats.labels import Record, to_structure
from mlip_jax.data.structure import Structure, StructureLabels


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """One moment of a simulation.

    Attributes:
        structure: with unwrapped positions, and energy, forces and stress as labels.
        momenta: sqrt(amu eV), as in ASE.
        step: steps since the start.
        time: fs.
    """

    structure: Structure
    momenta: Float[np.ndarray, "atoms 3"]
    step: int
    time: float


@runtime_checkable
class TrajectoryWriter(Protocol):
    """A file that grows by frames and is valid after each of them."""

    def write(self, frame: Frame) -> None:
        """Appends a frame."""
        ...

    def mark(self) -> int:
        """A position in the file to which `open_writer` can return."""
        ...

    def close(self) -> None:
        """Closes the file."""
        ...


def open_writer(path: Path, mark: int | None = None) -> TrajectoryWriter:
    """Opens a trajectory by its ending, `.extxyz` or `.traj`.

    Args:
        path: the file.
        mark: goes on there and discards what follows; `None` starts the file anew.
    """
    return _AseWriter(path, mark) if path.suffix == ".traj" else _ExtxyzWriter(path, mark)


def cut_back(path: Path, mark: int) -> None:
    """Discards what a file holds beyond a mark, before a simulation goes on in it.

    Raises:
        UserError: for a file that is missing, or shorter than it was.
    """
    size = path.stat().st_size if path.exists() else 0
    if size < mark:
        raise UserError(
            f"{path}: has {size} bytes; expected the {mark} that the restart file knows of. Put "
            "the file back, or start from a frame in another directory."
        )
    os.truncate(path, mark)


def format_frame(frame: Frame) -> str:
    """A frame as extended XYZ."""
    info = {"step": frame.step, "time": frame.time}
    return extxyz.format_frame(frame.structure, info, {"momenta": frame.momenta})


def read_frame(
    path: Path | str, index: int = -1
) -> tuple[Structure, Float[np.ndarray, "atoms 3"] | None]:
    """Reads one frame, without labels, and its momenta [sqrt(amu eV)] where it has them.

    Args:
        path: extended XYZ, or any file of structures that ASE reads.
        index: number of the frame; negative ones count from the end.

    Raises:
        UserError: for a missing or damaged file, or a frame that it does not have.
    """
    path = Path(path)
    records = read_records(path, None if index < 0 else index + 1)
    if not -len(records) <= index < len(records):
        raise UserError(
            f"{path}: got frame {index}, but the file has {len(records)} frames; choose another."
        )
    record = records[index]
    momenta = record.arrays.get("momenta")
    structure = dataclasses.replace(to_structure(record, LabelKeys()), labels=StructureLabels())
    return structure, None if momenta is None else np.asarray(momenta, dtype=np.float64)


def read_records(path: Path, stop: int | None = None) -> list[Record]:
    """The frames of a file, or the first so many, as the file states them.

    Raises:
        UserError: for a missing or damaged file.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file (working directory: {Path.cwd()}). Check the path.")
    return list(itertools.islice(_records(path), stop))


def _records(path: Path) -> Iterator[Record]:
    if {".xyz", ".extxyz"} & {suffix.lower() for suffix in path.suffixes}:
        return extxyz.read_records(path)
    from mlip_jax.data.formats import ase_files

    return ase_files.read_records(path)


class _ExtxyzWriter:
    def __init__(self, path: Path, mark: int | None):
        if mark is not None:
            cut_back(path, mark)
        self._file = path.open("w" if mark is None else "a", encoding="utf-8")

    def write(self, frame: Frame) -> None:
        self._file.write(format_frame(frame))
        self._file.flush()

    def mark(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


class _AseWriter:
    def __init__(self, path: Path, mark: int | None):
        from mlip_jax.data.formats.ase_trajectory import AseTrajectoryWriter

        self._file = AseTrajectoryWriter(path, mark or 0)

    def write(self, frame: Frame) -> None:
        info = {"step": frame.step, "time": frame.time}
        self._file.write(frame.structure, frame.momenta, info)

    def mark(self) -> int:
        return self._file.frames

    def close(self) -> None:
        self._file.close()
