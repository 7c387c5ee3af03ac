"""A structure and a potential made ready for the device: graph, list, masses, energies."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from mlip_jax import elements, models
from mlip_jax.config import UserError
from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure, StructureLabels, require_inputs
from mlip_jax.graph import AtomicGraph
from mlip_jax.inference import require_precision
from mlip_jax.neighbors import device
from mlip_jax.neighbors.capacity import Capacity
from mlip_jax.neighbors.device import DeviceNeighbors
from mlip_jax.neighbors.host import wrap
from mlip_jax.potential import Potential, PredictFn, predict_fn

_CELL_GROWTH = 1.15
"""How much longer than at the start lattice vectors may become, where a model sums over reciprocal
lattice vectors; beyond that its energies are NaN, which stops a simulation."""


@dataclasses.dataclass(frozen=True, eq=False)
class System:
    """What a simulation of one structure needs.

    Attributes:
        structure: on the host.
        model: of the potential.
        predict: `(variables, graph) -> Prediction`.
        variables: of the model, in the precision of the simulation.
        template: graph of the structure; its rows do not matter.
        neighbors: a list with a skin, built at the structure's positions wrapped into the cell.
        images: n with positions = wrapped positions + n @ cell.
        masses: amu.
        reference_energy: eV, sum over atoms; a constant, added on the host.
        volume: Å^3, where all directions are periodic.
        dtype: of positions.
        graded: whether predictions have extrapolation grades.
    """

    structure: Structure
    model: Any
    predict: PredictFn
    variables: Any
    template: AtomicGraph
    neighbors: DeviceNeighbors
    images: Int[np.ndarray, "atoms 3"]
    masses: Float[np.ndarray, " atoms"]
    reference_energy: float
    volume: float | None
    dtype: np.dtype
    graded: bool

    def with_capacity(self, capacity: Capacity) -> DeviceNeighbors:
        """The list with other sizes."""
        return device.with_capacity(self.neighbors, capacity)

    def allocate(
        self,
        positions: Float[np.ndarray, "atoms 3"],
        cell: Float[np.ndarray, "3 3"],
        active_margin: float = 1.0,
    ) -> DeviceNeighbors:
        """A list at other positions [Å] and in another cell [Å], see `device.allocate`."""
        old = self.neighbors
        return device.allocate(
            positions,
            cell,
            np.asarray(old.pbc),
            old.cutoff,
            old.skin,
            prefix_cutoffs=tuple(c for c, _ in old.capacity.prefixes),
            pair_cutoffs=tuple(c for c, _ in old.capacity.pair_rooms),
            dtype=self.dtype,
            active_margin=active_margin,
        )


def prepare(
    potential: Potential, structure: Structure, precision: str, skin: float, block: int = 0
) -> System:
    """Makes a structure and a potential ready.

    Args:
        potential: the potential.
        structure: in any cell, or none.
        precision: `float32` or `float64`.
        skin: Å, of the neighbour list.
        block: atoms processed at a time (see `AtomicGraph`).

    Raises:
        UserError: for an unknown element, an impossible cell, atoms at one place, a charge that the
            model does not read, or float64 where jax is limited to 32 bits.
    """
    dtype = require_precision(precision)
    where = structure.name or "structure"
    potential.check_species(structure.atomic_numbers, where)
    needs = models.requirements(potential.model)
    require_inputs(structure, needs.inputs)
    cell, pbc = structure.cell, np.asarray(structure.pbc, dtype=bool)
    template = make_graph(
        structure,
        needs.cutoff,
        prefix_cutoffs=needs.prefix_cutoffs,
        dtype=dtype,
        reverse=needs.reverse,
        block=block,
        reciprocal_cutoff=_CELL_GROWTH * needs.reciprocal_cutoff,
    )
    wrapped, images = wrap(structure.positions, cell, pbc)
    neighbors = device.allocate(
        wrapped,
        cell,
        pbc,
        needs.cutoff,
        skin,
        prefix_cutoffs=needs.prefix_cutoffs,
        pair_cutoffs=needs.pair_cutoffs,
        dtype=dtype,
    )
    return System(
        structure=dataclasses.replace(structure, labels=StructureLabels()),
        model=potential.model,
        predict=predict_fn(potential.model),
        variables=potential.variables_in(dtype),
        template=jax.tree.map(jnp.asarray, template),
        neighbors=neighbors,
        images=images.astype(np.int32),
        masses=np.array(elements.MASSES)[structure.atomic_numbers],
        reference_energy=float(potential.reference_energy(structure.atomic_numbers).sum()),
        volume=float(abs(np.linalg.det(cell))) if pbc.all() else None,
        dtype=dtype,
        graded=potential.has_grades,
    )


def replicate(structure: Structure, copies: tuple[int, int, int]) -> Structure:
    """A supercell, without labels.

    Raises:
        UserError: for copies along a direction that is not periodic.
    """
    numbers = np.array(copies)
    if np.all(numbers == 1):
        return structure
    if np.any((numbers > 1) & ~np.asarray(structure.pbc)):
        raise UserError(
            f"supercell: got {list(copies)} copies, but only the directions "
            f"{np.asarray(structure.pbc).tolist()} are periodic; expected 1 elsewhere."
        )
    steps = np.stack(np.meshgrid(*[np.arange(n) for n in numbers], indexing="ij"), axis=-1)
    steps = steps.reshape(-1, 1, 3)
    charge = structure.total_charge
    return dataclasses.replace(
        structure,
        atomic_numbers=np.tile(structure.atomic_numbers, len(steps)),
        positions=(structure.positions[None] + steps @ structure.cell).reshape(-1, 3),
        cell=structure.cell * numbers[:, None],
        total_charge=None if charge is None else charge * len(steps),
        spins=None if structure.spins is None else np.tile(structure.spins, (len(steps), 1)),
        labels=StructureLabels(),
    )
