"""Frames of a trajectory as arrays over time."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mlip_jax.config import UserError
from mlip_jax.data.formats.registry import selection
from mlip_jax.simulate import trajectory


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """Frames of one system.

    Attributes:
        atomic_numbers: Z.
        positions: Å, not wrapped: no atom jumps when it crosses a border of the cell.
        cells: Å, vectors in rows.
        pbc: periodic directions.
        momenta: sqrt(amu eV), where the file has them.
        interval: fs between two frames, where the file has times.
    """

    atomic_numbers: Int[np.ndarray, " atoms"]
    positions: Float[np.ndarray, "frames atoms 3"]
    cells: Float[np.ndarray, "frames 3 3"]
    pbc: np.ndarray
    momenta: Float[np.ndarray, "frames atoms 3"] | None
    interval: float | None


def read_series(path: Path | str, index: str = ":") -> Series:
    """Reads the frames of a trajectory, such as `md` writes.

    Args:
        path: extended XYZ, or any file of structures that ASE reads.
        index: frames as a Python slice (`100:`, `::5`).

    Raises:
        UserError: for a missing or damaged file, fewer than two frames, frames of different
            systems, momenta in some frames only, or times that are not evenly spaced.
    """
    path = Path(path)
    records = trajectory.read_records(path)[selection(index)]
    if len(records) < 2:
        raise UserError(
            f"{path}: got {len(records)} frames (index {index!r}); expected two or more."
        )
    first = records[0]
    for record in records:
        same = np.array_equal(record.atomic_numbers, first.atomic_numbers)
        if not same or not np.array_equal(record.pbc, first.pbc):
            raise UserError(
                f"{record.where}: is another system than frame {first.frame}; expected the same "
                "atoms in the same order, and the same periodic directions."
            )
    momenta = [record.arrays.get("momenta") for record in records]
    missing = [r for r, m in zip(records, momenta, strict=True) if m is None]
    if 0 < len(missing) < len(records):
        raise UserError(f"{missing[0].where}: has no momenta, where other frames have some.")
    cells = np.array([record.cell for record in records], np.float64)
    positions = np.array([record.positions for record in records], np.float64)
    pbc = np.asarray(first.pbc, bool)
    return Series(
        atomic_numbers=np.asarray(first.atomic_numbers),
        positions=unwrapped(positions, cells, pbc),
        cells=cells,
        pbc=pbc,
        momenta=None if missing else np.array(momenta, np.float64),
        interval=_interval(records),
    )


def unwrapped(
    positions: Float[np.ndarray, "frames atoms 3"],
    cells: Float[np.ndarray, "frames 3 3"],
    pbc: np.ndarray,
) -> Float[np.ndarray, "frames atoms 3"]:
    """Positions [Å] without jumps by vectors of the cell [Å].

    An atom is taken to move less than half a cell from one frame to the next, in each periodic
    direction; where that holds, positions that are not wrapped stay as they are.
    """
    if not pbc.any():
        return positions
    complete = cells + np.eye(3) * ~np.any(cells, axis=2, keepdims=True)
    fractional = np.einsum("fai,fij->faj", positions, np.linalg.inv(complete))
    jumps = np.round(np.diff(fractional, axis=0)) * pbc
    images = np.concatenate([np.zeros_like(fractional[:1]), np.cumsum(jumps, axis=0)])
    return positions - np.einsum("fai,fij->faj", images, cells)


def _interval(records: list[trajectory.Record]) -> float | None:
    if any("time" not in record.info for record in records):
        return None
    times = np.array([float(record.info["time"]) for record in records])
    steps = np.diff(times)
    if steps[0] <= 0.0 or np.ptp(steps) > 1e-6 * steps[0]:
        raise UserError(
            f"{records[0].path}: the times of the frames are not evenly spaced (steps of "
            f"{steps.min():g} to {steps.max():g} fs). Choose frames by index."
        )
    return float(np.mean(steps))
