"""ASE's binary `.traj`, written frame by frame."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase.io.trajectory import Trajectory
from jaxtyping import Float

from mlip_jax.data.formats.ase_files import to_atoms
from mlip_jax.data.structure import Structure


class AseTrajectoryWriter:
    """A `.traj` file that grows by frames and is valid after each of them.

    Attributes:
        frames: number of frames in the file.
    """

    def __init__(self, path: Path, keep: int = 0):
        """Opens the file and keeps that many frames of what it holds."""
        kept: list[Any] = []
        if keep:
            previous: Any = Trajectory(path)
            kept = [previous[number] for number in range(keep)]
            previous.close()
        self._file: Any = Trajectory(path, "w")
        self.frames = 0
        for atoms in kept:
            self._append(atoms)

    def write(
        self,
        structure: Structure,
        momenta: Float[np.ndarray, "atoms 3"],
        info: Mapping[str, Any],
    ) -> None:
        """Appends a frame with its labels and momenta [sqrt(amu eV)]."""
        atoms = to_atoms(structure)
        atoms.set_momenta(momenta, apply_constraint=False)
        atoms.info.update(info)
        self._append(atoms)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _append(self, atoms: Any) -> None:
        self._file.write(atoms)
        self.frames += 1
