"""A potential as a model of torch-sim, whose integrators and optimisers then move batches with it.

torch-sim (Cohen et al., 2025) keeps systems in tensors of torch; energies are those of
`inference.predict`, in its few compiled shapes, on the device of JAX. Positions, forces and cells
go from one to the other by the memory of the host.
"""

from typing import Any

import jax
import numpy as np

from mlip_jax import heads
from mlip_jax.data.collate import Bucket
from mlip_jax.data.structure import Structure
from mlip_jax.inference import StructurePrediction, predict, require_precision
from mlip_jax.interop import catalogue
from mlip_jax.interop.ase import Source
from mlip_jax.potential import Potential

try:
    import torch  # pyright: ignore[reportMissingImports]
    from torch_sim.models.interface import (  # pyright: ignore[reportMissingImports]
        ModelInterface,
    )
except ImportError as error:
    raise ImportError(
        f"mlip_jax.interop.torch_sim needs torch and torch-sim, and importing them gave: {error}. "
        "Install them: pip install 'mlip_jax[torch-sim]' (where no GPU is meant for torch, its "
        "build for CPUs first, see pytorch.org)."
    ) from error

_OF_ATOMS = {"charges": "partial_charges", "magmoms": "magnetic_moments", "grades": "grades"}
"""Our names of what some potentials say of atoms, and torch-sim's."""


class TorchSimModel(ModelInterface):
    """Energies, forces and stress of a potential for torch-sim's runners and autobatchers.

    A program that is compiled for one batch serves later ones that fit into its shape, so that
    systems may come and go; `shapes` are those compiled so far.

    Where the states of torch-sim have `total_charge` or `charge` [e] of each system, models that
    read it get it, and others refuse a charged system. Spins of states are not read.

    Attributes:
        potential: what is evaluated.
        shapes: of the programs that were compiled.
    """

    def __init__(
        self,
        potential: Source,
        *,
        dtype: Any = torch.float32,
        device: Any = "cpu",
        precision: str | None = None,
        batch_atoms: int | None = None,
        block: int = 0,
        head: str | None = None,
    ):
        """Makes a model.

        Args:
            potential: a potential, its directory or the name of a published one (see `catalogue`).
            dtype: of torch-sim's states and of the results, a dtype of torch.
            device: of states and results, torch's; the potential is evaluated on JAX's.
            precision: of the potential, `float32` or `float64` (which needs x64); that of `dtype`
                by default. Integration in float64 of forces in float32 is a fair compromise.
            batch_atoms: atoms that are computed at a time, see `inference.predict`.
            block: atoms processed at a time (see `AtomicGraph`).
            head: the one to use of a potential with several.

        Raises:
            UserError: for float64 while 64-bit arithmetic is off, another dtype, or a potential
                that is not found.
        """
        super().__init__()
        self._dtype, self._device = dtype, torch.device(device)
        self._compute_forces = self._compute_stress = True
        self._precision = precision or str(dtype).removeprefix("torch.")
        loaded = potential if isinstance(potential, Potential) else catalogue.load(potential)
        self.potential = loaded if head is None else heads.choose(loaded, head)
        self.shapes: set[Bucket] = set()
        kept = self.potential.variables_in(require_precision(self._precision))
        self._options = {
            "batch_atoms": batch_atoms,
            "block": block,
            "variables": jax.device_put(kept),
        }

    def forward(self, state: Any, **_: Any) -> dict[str, Any]:
        """Results for a state of torch-sim.

        Args:
            state: a `SimState`: positions [Å], cells with vectors in columns [Å], atomic numbers,
                `pbc` and the system of each atom.

        Returns:
            `energy [systems]` [eV], `forces [atoms 3]` [eV/Å], `stress [systems 3 3]` [eV/Å^3],
            tension positive, NaN where not all directions are periodic; `partial_charges` [e],
            `magnetic_moments` [μ_B] and `grades`, all `[atoms]`, where the potential has them.

        Raises:
            UserError: as `inference.predict`; systems are named by their number in the batch.
        """
        predictions = predict(
            self.potential,
            _structures(state),
            precision=self._precision,
            shapes=self.shapes,
            **self._options,
        )
        arrays = _arrays(predictions)
        return {
            name: torch.as_tensor(values, dtype=self._dtype, device=self._device)
            for name, values in arrays.items()
        }


def _structures(state: Any) -> list[Structure]:
    """The systems of a state, cells with vectors in rows."""
    cells = _numpy(state.cell).swapaxes(1, 2)
    periodic = np.broadcast_to(_numpy(state.pbc).astype(bool), (len(cells), 3))
    sizes = np.bincount(_numpy(state.system_idx).astype(np.int64), minlength=len(cells))
    ends = np.cumsum(sizes)[:-1]
    numbers = np.split(_numpy(state.atomic_numbers).astype(np.int64), ends)
    positions = np.split(_numpy(state.positions), ends)
    charges = getattr(state, "total_charge", None)
    charges = getattr(state, "charge", None) if charges is None else charges
    charged = np.zeros(len(cells)) if charges is None else _numpy(charges)
    return [
        Structure(
            numbers[i],
            positions[i],
            cells[i],
            periodic[i],
            total_charge=float(charged[i]) or None,
            name=f"system {i}",
        )
        for i in range(len(cells))
    ]


def _numpy(values: Any) -> np.ndarray:
    return torch.as_tensor(values).detach().cpu().numpy().astype(np.float64)


def _arrays(predictions: list[StructurePrediction]) -> dict[str, np.ndarray]:
    """Results of systems and atoms, by torch-sim's names."""
    arrays = {
        "energy": np.array([p.energy for p in predictions]),
        "forces": np.concatenate([p.forces for p in predictions]),
        "stress": np.stack([p.stress for p in predictions]),
    }
    for ours, name in _OF_ATOMS.items():
        values = [getattr(p, ours) for p in predictions]
        if all(value is not None for value in values):
            arrays[name] = np.concatenate(values)
    return arrays
