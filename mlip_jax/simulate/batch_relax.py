"""Relaxation of many structures: finished ones leave the batch, waiting ones take their places.

The host builds lists with a skin and lays out the batch; `batch_descent` makes the steps.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mlip_jax import models
from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket, collate
from mlip_jax.data.structure import Structure, StructureLabels, require_inputs
from mlip_jax.inference.prediction import require_precision
from mlip_jax.interrupt import StopRequest
from mlip_jax.neighbors.host import HostNeighbors
from mlip_jax.potential import Potential
from mlip_jax.simulate import batch_descent, batch_layout, batch_lbfgs
from mlip_jax.simulate.batch_descent import BatchState
from mlip_jax.simulate.batch_lbfgs import Memory
from mlip_jax.simulate.settings import BatchRelaxationConfig

_DEFAULTS = BatchRelaxationConfig()

_REASONS = {
    batch_descent.CONVERGED: "converged",
    batch_descent.NOT_FINITE: "energy, forces or stress are not finite",
    batch_descent.COLLAPSED: "atoms are closer than min_distance",
    batch_descent.VOLUME: "the volume changed by more than max_volume_factor",
    batch_descent.STEPS: "not converged in max_steps",
}
_OF_GRAPHS = ("steps", "status", "length", "roots", "volume")


@dataclasses.dataclass(frozen=True, eq=False)
class BatchResult:
    """How the relaxation of one structure ended.

    Attributes:
        structure: where it stands, with energy, forces and stress as labels where they are known.
        steps: done.
        status: `converged`, or the reason why not.
    """

    structure: Structure
    steps: int
    status: str

    @property
    def converged(self) -> bool:
        """Whether forces and stress are below their limits."""
        return self.status == "converged"


@dataclasses.dataclass
class _Descent:
    """A structure on its way, on the host."""

    index: int
    structure: Structure
    values: dict[str, Any]
    memory: dict[str, np.ndarray]
    pairs: HostNeighbors


def relax_many(
    potential: Potential,
    structures: Sequence[Structure],
    settings: BatchRelaxationConfig = _DEFAULTS,
    progress: Callable[[int, int], None] | None = None,
) -> list[BatchResult]:
    """Relaxes structures, in their order; one that fails is reported and the others go on.

    Ctrl-C ends all at the next look of the host: what is under way is returned as it stands, with
    the status `interrupted`.

    Args:
        potential: whose energy is made least.
        structures: any number; none has to fit with another.
        settings: how.
        progress: called with the numbers of structures done and of all.

    Raises:
        UserError: for a cell that moves and a model with sums over reciprocal lattice vectors.
    """
    dtype, needs = require_precision(settings.precision), models.requirements(potential.model)
    if needs.reciprocal_cutoff and settings.cell != "fixed":
        raise UserError(
            f"cell: got {settings.cell} for a model with sums over reciprocal lattice vectors, "
            "whose number would change with the cell; expected fixed. Set cell=fixed."
        )
    run = batch_descent.program(potential.model, settings, needs.cutoff)
    inputs = [n for n in needs.inputs if any(getattr(s, n) is not None for s in structures)]
    variables = jax.device_put(potential.variables_in(dtype))
    waiting = batch_layout.in_order(structures, needs, settings)
    results: dict[int, BatchResult] = {}
    active: list[_Descent] = []
    bucket = batch_layout.first_bucket(structures, needs, settings)
    with StopRequest() as stop:
        while (active or waiting) and stop.signal is None:
            _refill(active, waiting, structures, potential, settings, needs, bucket, results)
            if active:
                under_way = [(d.structure, d.pairs) for d in active]
                bucket = batch_layout.fitting(bucket, under_way, waiting, needs, settings)
                _advance(active, bucket, run, variables, potential, dtype, needs.reverse, inputs)
            for one in [d for d in active if d.values["status"] != batch_descent.ACTIVE]:
                results[one.index] = _result(one, _REASONS[int(one.values["status"])])
            active = [d for d in active if d.values["status"] == batch_descent.ACTIVE]
            active = _relist(active, needs, settings, results)
            if progress is not None:
                progress(len(results), len(structures))
    for one in active:
        results[one.index] = _result(one, "interrupted")
    for i in (one.index for one in waiting):
        results[i] = BatchResult(_unlabelled(structures[i]), 0, "interrupted")
    return [results[i] for i in range(len(structures))]


def _refill(active, waiting, structures, potential, settings, needs, bucket, results) -> None:
    """Moves waiting structures into free room; those that cannot begin are reported."""
    room = bucket.atoms - sum(d.structure.num_atoms for d in active)
    for one in list(waiting):
        i, structure = one.index, structures[one.index]
        if len(active) == bucket.graphs:
            return
        if structure.num_atoms > room:
            continue
        waiting.remove(one)
        try:
            active.append(_begin(i, structure, potential, settings, needs))
            room -= structure.num_atoms
        except UserError as error:
            results[i] = BatchResult(_unlabelled(structure), 0, str(error))


def _begin(index: int, structure: Structure, potential, settings, needs) -> _Descent:
    potential.check_species(structure.atomic_numbers, structure.name or "structure")
    require_inputs(structure, needs.inputs)
    if settings.cell != "fixed" and not np.all(structure.pbc):
        raise UserError(
            f"cell: got {settings.cell} for pbc {structure.pbc.tolist()}; expected three periodic "
            "directions. Set cell=fixed."
        )
    pairs = batch_layout.build_list(structure, needs, settings)
    volume, atoms = abs(float(np.linalg.det(structure.cell))) or 1.0, max(structure.num_atoms, 1)
    values = {
        "steps": 0,
        "status": batch_descent.ACTIVE,
        "length": np.sqrt(atoms) * np.cbrt(volume / atoms),
        "roots": np.sqrt(atoms),
        "volume": volume,
    }
    memory = batch_lbfgs.start(structure.num_atoms, 1, settings.max_displacement)
    return _Descent(index, structure, values, memory, pairs)


def _relist(active, needs, settings, results) -> list[_Descent]:
    going = []
    for one in active:
        try:
            going.append(
                dataclasses.replace(
                    one, pairs=batch_layout.build_list(one.structure, needs, settings)
                )
            )
        except UserError as error:
            results[one.index] = _result(one, str(error))
    return going


def _advance(active, bucket: Bucket, run, variables, potential, dtype, reverse, inputs) -> None:
    """Some steps of all, in place."""
    parts, lists = [d.structure for d in active], [d.pairs for d in active]
    graph: Any = collate(parts, lists, bucket, dtype=dtype, reverse=reverse, inputs=inputs)
    moved, state, found = jax.device_get(run(variables, graph, _state(active, bucket, dtype)))
    start = 0
    for g, one in enumerate(active):
        atoms = slice(start, start + one.structure.num_atoms)
        start = atoms.stop
        deformation = np.asarray(state.deformation[g], np.float64)
        offset = graph.positions[atoms].astype(np.float64) - one.structure.positions
        periodic = bool(np.all(one.structure.pbc))
        reference = potential.reference_energy(one.structure.atomic_numbers)
        labels = StructureLabels(
            energy=float(found.energy[g]) + float(np.sum(reference)),
            forces=np.asarray(found.forces[atoms], np.float64),
            stress=np.asarray(found.stress[g], np.float64) if periodic else None,
        )
        one.structure = dataclasses.replace(
            one.structure,
            positions=np.asarray(moved.positions[atoms], np.float64) - offset @ deformation,
            cell=one.structure.cell @ deformation,
            labels=labels,
        )
        one.values = {name: getattr(state, name)[g] for name in _OF_GRAPHS}
        one.memory = {
            name: getattr(state.memory, name)[atoms if name in batch_lbfgs.OF_ATOMS else [g]]
            for name in one.memory
        }


def _state(active, bucket: Bucket, dtype) -> BatchState:
    arrays: dict[str, Any] = {}
    for name in _OF_GRAPHS:
        kind = np.int32 if name in ("steps", "status") else dtype
        arrays[name] = np.ones(bucket.graphs, kind)  # padding: converged, of volume 1
        arrays[name][: len(active)] = [d.values[name] for d in active]
    rows = batch_lbfgs.start(bucket.atoms, bucket.graphs, 1.0)
    for name, values in rows.items():
        known = np.concatenate([d.memory[name] for d in active])
        values[: len(known)] = known
    arrays["deformation"] = np.tile(np.eye(3, dtype=dtype), (bucket.graphs, 1, 1))
    memory: dict[str, Any] = {name: values.astype(dtype) for name, values in rows.items()}
    return BatchState(memory=Memory(**memory), **arrays)


def _result(one: _Descent, status: str) -> BatchResult:
    structure = one.structure
    if one.values["status"] == batch_descent.ACTIVE:  # moved since the last evaluation
        structure = _unlabelled(structure)
    return BatchResult(structure, int(one.values["steps"]), status)


def _unlabelled(structure: Structure) -> Structure:
    """Without labels, which would be those of another place or of the input file."""
    return dataclasses.replace(structure, labels=StructureLabels())
