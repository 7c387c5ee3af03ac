"""Thermodynamic quantities along a simulation: `thermo.jsonl` and its plot."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlip_jax import units
from mlip_jax.simulate.trajectory import cut_back
from mlip_jax.simulate.watch import Records, temperature

_PANELS = (
    (("temperature_K",), "temperature [K]"),
    (("potential_eV",), "potential energy [eV]"),
    (("total_eV", "conserved_eV"), "total energy [eV]"),
    (("pressure_GPa",), "pressure [GPa]"),
    (("volume_A3",), "volume [Å^3]"),
    (("largest_grade",), "extrapolation grade"),
)


class ThermoWriter:
    """A file of one JSON object a line, valid after each line."""

    def __init__(self, path: Path, mark: int | None = None):
        """Opens the file; with a mark, goes on there and discards what follows."""
        if mark is not None:
            cut_back(path, mark)
        self._file = path.open("w" if mark is None else "a", encoding="utf-8")

    def write(self, lines: Iterator[dict[str, Any]]) -> None:
        """Appends lines."""
        for line in lines:
            self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def mark(self) -> int:
        """A position in the file to which a later writer can return."""
        return self._file.tell()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def thermo_lines(
    records: Records,
    first_step: int,
    count: int,
    interval: int,
    *,
    timestep: float,
    degrees_of_freedom: int,
    reference_energy: float,
    volume: float | None,
    graded: bool = False,
    conserved: bool = True,
    moving_cell: bool = False,
) -> Iterator[dict[str, Any]]:
    """The lines of a chunk.

    Args:
        records: of the chunk.
        first_step: number of its first step.
        count: steps that it did.
        interval: steps between lines.
        timestep: fs.
        degrees_of_freedom: of the momenta.
        reference_energy: eV, added to the potential energy.
        volume: Å^3; without it there is no pressure.
        graded: whether there are extrapolation grades.
        conserved: whether some energy is conserved.
        moving_cell: whether the cell, and with it the volume, is that of each step.
    """
    values = {name: np.asarray(v, np.float64) for name, v in records._asdict().items()}
    for slot in range(count):
        step = first_step + slot
        if step % interval:
            continue
        kinetic = float(values["kinetic"][slot])
        total = float(values["potential"][slot]) + reference_energy + kinetic
        line = {
            "step": step,
            "time_fs": step * timestep,
            "temperature_K": float(temperature(kinetic, degrees_of_freedom)),
            "potential_eV": total - kinetic,
            "kinetic_eV": kinetic,
            "total_eV": total,
            **({"conserved_eV": total + float(values["bath"][slot])} if conserved else {}),
            "max_force_eV_per_A": float(values["max_force"][slot]),
            "shortest_distance_A": float(values["shortest"][slot]),
        }
        if moving_cell:
            cell = values["cell"][slot]
            volume = float(abs(np.linalg.det(cell)))
            line["volume_A3"] = volume
            lengths = np.linalg.norm(cell, axis=1)
            line.update(zip(("a_A", "b_A", "c_A"), lengths.tolist(), strict=True))
        if volume is not None:
            trace = 2.0 * kinetic + float(values["virial"][slot])
            line["pressure_GPa"] = trace / (3.0 * volume) / units.GPA
        if graded:
            line["largest_grade"] = float(values["grade"][slot])
        yield line


def read(path: Path) -> dict[str, np.ndarray]:
    """Columns of a `thermo.jsonl`."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    keys = lines[0] if lines else {}
    return {key: np.array([line[key] for line in lines]) for key in keys}


def plot(path: Path, target: Path) -> None:
    """Draws the columns of a `thermo.jsonl` over time into a PNG (needs matplotlib)."""
    import matplotlib.pyplot as plt

    columns = read(path)
    panels = [(keys, label) for keys, label in _PANELS if keys[0] in columns]
    if not panels:
        return
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(7, 2 * len(panels)), sharex=True, layout="constrained"
    )
    for axis, (keys, label) in zip(np.atleast_1d(axes), panels, strict=True):
        for key in [key for key in keys if key in columns]:
            axis.plot(columns["time_fs"] / 1000.0, columns[key], lw=0.8, label=key)
        axis.set_ylabel(label)
        if len(keys) > 1:
            axis.legend(frameon=False)
    np.atleast_1d(axes)[-1].set_xlabel("time [ps]")
    figure.savefig(target, dpi=150)
    plt.close(figure)
