"""A potential applied to structures: predictions, their errors, and the file of predictions.

Structures of like size go through one compiled program for each shape; the device holds one batch
at a time. Sums with reference energies are taken on the host, in float64.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Float

from mlip_jax import compilation, models
from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket, collate
from mlip_jax.data.lists import NeighborLists
from mlip_jax.data.structure import Structure
from mlip_jax.inference.packing import pack
from mlip_jax.inference.price import Price, price_of
from mlip_jax.potential import Potential, Prediction, predict_fn

_WINDOW = 512
_BATCH_ATOMS = {"cpu": 256}
_MANY = 50
"""Structures from which on a CPU works in blocks: they compile for longer, and are faster; and
from which shapes are priced."""

_BLOCK = 8


@dataclasses.dataclass(frozen=True, eq=False)
class StructurePrediction:
    """What a potential says about one structure; float64 on the host.

    Attributes:
        energy: eV, reference energies included.
        forces: eV/Å.
        stress: eV/Å^3, tension positive; NaN where not all directions are periodic.
        atom_energies: eV; their sum is `energy`.
        charges: e, where the model has them.
        magmoms: absolute values of the magnetic moments, μ_B, where the model has them.
        grades: extrapolation grades of the atoms, where the potential has an active set.
    """

    energy: float
    forces: Float[np.ndarray, "atoms 3"]
    stress: Float[np.ndarray, "3 3"]
    atom_energies: Float[np.ndarray, " atoms"]
    charges: Float[np.ndarray, " atoms"] | None = None
    magmoms: Float[np.ndarray, " atoms"] | None = None
    grades: Float[np.ndarray, " atoms"] | None = None


def require_precision(precision: str) -> np.dtype:
    """The dtype of a precision.

    Raises:
        UserError: for an unknown one, or for float64 while x64 is off.
    """
    if precision not in ("float32", "float64"):
        raise UserError(f"precision: got {precision!r}; expected float32 or float64.")
    if precision == "float64" and not jax.config.read("jax_enable_x64"):
        raise UserError(
            "precision: got float64 while 64-bit arithmetic is off. Call "
            'jax.config.update("jax_enable_x64", True) first (the command line does), '
            "or choose float32."
        )
    return np.dtype(precision)


def predict(
    potential: Potential,
    structures: Structure | Sequence[Structure],
    *,
    precision: str = "float32",
    batch_atoms: int | None = None,
    shapes: set[Bucket] | None = None,
    progress: Callable[[int, int], None] | None = None,
    block: int | None = None,
    variables: Any = None,
) -> list[StructurePrediction]:
    """Predicts energies, forces and stresses.

    Args:
        potential: what to predict with.
        structures: one, or several, in memory or lazy; their order is kept.
        precision: `float32` or `float64` (which needs x64).
        batch_atoms: atoms that are computed at a time; a larger structure is a batch of its own.
        shapes: of the programs that earlier calls with this potential have compiled, which grows
            by those of this call: who calls several times compiles less with it.
        progress: called with the numbers of structures done and of all.
        block: atoms processed at a time (see `AtomicGraph`); by default chosen by the device and
            the number of structures.
        variables: `potential.variables_in` this precision, on the device, from a caller that keeps
            them; by default they are prepared in every call.

    Raises:
        UserError: for elements that the potential does not know, impossible structures, charged
            ones where the model does not read charges, or where the device's memory does not
            suffice.
    """
    structures = [structures] if isinstance(structures, Structure) else structures
    dtype = require_precision(precision)
    limit = batch_atoms or _BATCH_ATOMS.get(jax.default_backend(), 4096)
    many = jax.default_backend() == "cpu" and len(structures) >= _MANY
    if block is None:
        block = _BLOCK if many else 0
    needs = models.requirements(potential.model)
    if variables is None:
        variables = jax.device_put(potential.variables_in(dtype))
    program = _program(potential.model)
    shapes = set[Bucket]() if shapes is None else shapes
    results: list[Any] = [None] * len(structures)
    done = 0
    for start in range(0, len(structures), _WINDOW):
        window = [structures[i] for i in range(start, min(start + _WINDOW, len(structures)))]
        lists = NeighborLists.of_model(window, needs, keep=True)
        references = [_references(potential, structure) for structure in window]
        price = Price()
        if many:
            price = price_of(potential.model, variables, window, lists, dtype)
        for members, bucket in pack(lists, limit, shapes, block, needs.pair_cutoffs, price):
            parts = [window[i] for i in members]
            graph = collate(
                parts,
                [lists[i] for i in members],
                bucket,
                dtype=dtype,
                reverse=needs.reverse,
                inputs=lists.inputs,
                heads=lists.heads,
            )
            prediction = _run(program, variables, graph, limit)
            for i, one in zip(members, _split(prediction, parts, references, members), strict=True):
                results[start + i] = one
            done += len(members)
            if progress is not None:
                progress(done, len(structures))
    return results


@functools.lru_cache(maxsize=8)
def _program(model: nn.Module) -> Any:
    """One jitted function for each model, so that a second call compiles nothing."""
    predict = predict_fn(model)
    return jax.jit(
        lambda v, graph: dataclasses.replace(predict(v, graph), features=None),
        compiler_options=compilation.options(model),
    )


def _references(potential: Potential, structure: Structure) -> np.ndarray:
    """Reference energy [eV] of each atom."""
    head = structure.source if potential.head_energies else None
    return potential.reference_energy(structure.atomic_numbers, structure.name or "structure", head)


def _run(program: Any, variables: Any, graph: Any, limit: int) -> Prediction:
    try:
        return jax.tree.map(lambda a: np.asarray(a, np.float64), program(variables, graph))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error).lower():
            raise
        raise UserError(
            f"predict: {graph.num_atoms} atoms with {graph.max_neighbors} neighbours do not fit "
            f"into the device's memory; batch_atoms is {limit}. Set a smaller batch_atoms."
        ) from error


def _split(
    prediction: Prediction,
    structures: Sequence[Structure],
    references: Sequence[np.ndarray],
    members: Sequence[int],
) -> Iterator[StructurePrediction]:
    """Cuts a batch into its structures and adds the reference energies."""
    start = 0
    for index, structure in enumerate(structures):
        atoms = slice(start, start + structure.num_atoms)
        start = atoms.stop
        atom_energies = prediction.atom_energies[atoms] + references[members[index]]
        periodic = bool(np.all(structure.pbc))
        of_atoms = {
            name: None if values is None else np.asarray(values[atoms])
            for name in ("charges", "magmoms", "grades")
            for values in [getattr(prediction, name)]
        }
        yield StructurePrediction(
            energy=float(np.sum(atom_energies)),
            forces=np.asarray(prediction.forces[atoms]),
            stress=np.asarray(prediction.stress[index]) if periodic else np.full((3, 3), np.nan),
            atom_energies=np.asarray(atom_energies),
            **of_atoms,
        )
