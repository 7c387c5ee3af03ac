"""A structure on the host: numpy float64, in our units, with whatever labels it came with."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mlip_jax.config import UserError

_ISOLATED_DISTANCE = 6.0  # Å


@dataclasses.dataclass(frozen=True, eq=False)
class StructureLabels:
    """Labels of one structure; `None` where a label is absent.

    Attributes:
        energy: eV, of the whole structure.
        forces: eV/Å.
        stress: eV/Å^3, tension positive, full matrix.
        charges: e.
        magmoms: magnetic moments along one axis, μ_B, with or without their signs.
    """

    energy: float | None = None
    forces: Float[np.ndarray, "atoms 3"] | None = None
    stress: Float[np.ndarray, "3 3"] | None = None
    charges: Float[np.ndarray, " atoms"] | None = None
    magmoms: Float[np.ndarray, " atoms"] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Structure:
    """Atoms in a cell.

    Attributes:
        atomic_numbers: Z.
        positions: Å.
        cell: Å, vectors in rows; zero vectors where there is no cell.
        pbc: which lattice directions are periodic.
        labels: what is known about it.
        total_charge: e.
        spins: μ_B, input of spin models.
        config_type: kind of configuration, for errors per type.
        source: level of theory or file, for reference energies per source; the head of a model
            that has several.
        group: structures of one group stay on one side of a split.
        weight: weight in the loss.
        name: where it came from (`si.extxyz:17`), for messages.
    """

    atomic_numbers: Int[np.ndarray, " atoms"]
    positions: Float[np.ndarray, "atoms 3"]
    cell: Float[np.ndarray, "3 3"]
    pbc: np.ndarray
    labels: StructureLabels = StructureLabels()
    total_charge: float | None = None
    spins: Float[np.ndarray, "atoms 3"] | None = None
    config_type: str = ""
    source: str = ""
    group: str = ""
    weight: float = 1.0
    name: str = ""

    @property
    def num_atoms(self) -> int:
        """Number of atoms."""
        return len(self.atomic_numbers)

    def trainable_label(self, name: str) -> Any:
        """A label as a loss may use it, or `None`.

        A stress is defined only where all three directions are periodic: elsewhere predictions
        hold zeros, against which no label may count. Of magnetic moments absolute values count:
        energies are the same when all moments turn round, so that a model without spins among its
        inputs cannot know the signs.
        """
        if name == "stress" and not np.all(self.pbc):
            return None
        value = getattr(self.labels, name)
        return np.abs(value) if name == "magmoms" and value is not None else value


def require_inputs(structure: Structure, inputs: Sequence[str]) -> None:
    """Refuses a charged structure for a model that does not read the total charge.

    Args:
        structure: what the model is given.
        inputs: further inputs that the model reads, see `models.Requirements`.

    Raises:
        UserError: naming the structure and its charge.
    """
    charge = structure.total_charge
    if charge is not None and charge != 0.0 and "total_charge" not in inputs:
        raise UserError(
            f"{structure.name or 'structure'}: got the total charge {charge:+g} e, which this "
            "model does not read: it would treat the structure as any other. Leave charged "
            "structures out, choose a model that reads charges (hdnnp_4g), or, where the charge "
            "is meant to be ignored, do not read it (`total_charge: null` among the label keys)."
        )


def head_index(structure: Structure, heads: Sequence[str]) -> int:
    """Which of a model's heads a structure belongs to, by its source.

    Args:
        structure: what the model is given.
        heads: of the model.

    Raises:
        UserError: where the structure says none, or one that the model does not have.
    """
    if structure.source in heads:
        return list(heads).index(structure.source)
    raise UserError(
        f"{structure.name or 'structure'}: got the head {structure.source!r}; the model has the "
        f"heads {', '.join(heads)}. Say to which one the structure belongs: `source` of a file of "
        "the data section, `labels.source` for a key in the file, Structure.source, or --source; "
        "or choose one head of the potential (mj.load(path, head=...), `mlip-jax head`)."
    )


def is_isolated_atom(structure: Structure) -> bool:
    """Whether a structure is one atom, farther than 6 Å from each of its images.

    The limit is the same for every model, whatever its cutoff.
    """
    if structure.num_atoms != 1:
        return False
    if not structure.pbc.any():
        return True
    lattice = np.where(structure.pbc[:, None], structure.cell, 0.0)
    steps = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    distances = np.linalg.norm(steps @ lattice, axis=1)
    return bool(distances[distances > 1e-9].min() > _ISOLATED_DISTANCE)
