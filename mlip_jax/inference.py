"""A potential applied to structures: predictions, their errors, and the file of predictions.

Structures of like size go through one compiled program for each shape; the device holds one batch
at a time. Sums with reference energies are taken on the host, in float64.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Float

from mlip_jax import elements, models
from mlip_jax.config import UserError
from mlip_jax.data.batching import ReferenceEnergies, reference_energy
from mlip_jax.data.collate import Bucket, collate
from mlip_jax.data.lists import NeighborLists
from mlip_jax.data.planning import atom_ladder, row_ladder
from mlip_jax.data.structure import Structure
from mlip_jax.potential import Potential, Prediction, predict_fn

SCHEMA_VERSION = 1
UNITS = {
    "energy": "eV",
    "forces": "eV/Å",
    "stress": "eV/Å^3",
    "charges": "e",
    "magmoms": "μ_B",
    "atom_energies": "eV",
}
ERROR_UNITS = {name: UNITS[name] for name in ("forces", "stress", "charges", "magmoms")}
ERROR_UNITS = {"energy": "eV/atom", **ERROR_UNITS}
"""Units of the errors of `evaluate`."""

_WINDOW = 512
_BATCH_ATOMS = {"cpu": 256}
_MAX_GRAPHS = 64


@dataclasses.dataclass(frozen=True, eq=False)
class StructurePrediction:
    """What a potential says about one structure; float64 on the host.

    Attributes:
        energy: eV, reference energies included.
        forces: eV/Å.
        stress: eV/Å^3, tension positive; NaN where not all directions are periodic.
        atom_energies: eV; their sum is `energy`.
        charges: e, where the model has them.
        magmoms: μ_B, where the model has them.
    """

    energy: float
    forces: Float[np.ndarray, "atoms 3"]
    stress: Float[np.ndarray, "3 3"]
    atom_energies: Float[np.ndarray, " atoms"]
    charges: Float[np.ndarray, " atoms"] | None = None
    magmoms: Float[np.ndarray, " atoms"] | None = None


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
    progress: Callable[[int, int], None] | None = None,
) -> list[StructurePrediction]:
    """Predicts energies, forces and stresses.

    Args:
        potential: what to predict with.
        structures: one, or several, in memory or lazy; their order is kept.
        precision: `float32` or `float64` (which needs x64).
        batch_atoms: atoms that are computed at a time; a larger structure is a batch of its own.
        progress: called with the numbers of structures done and of all.

    Raises:
        UserError: for elements that the potential does not know, impossible structures, or where
            the device's memory does not suffice.
    """
    structures = [structures] if isinstance(structures, Structure) else structures
    dtype = require_precision(precision)
    limit = batch_atoms or _BATCH_ATOMS.get(jax.default_backend(), 4096)
    needs = models.requirements(potential.model)
    variables = jax.device_put(jax.tree.map(functools.partial(_cast, dtype), potential.variables))
    program = _program(potential.model)
    results: list[Any] = [None] * len(structures)
    done = 0
    for start in range(0, len(structures), _WINDOW):
        window = [structures[i] for i in range(start, min(start + _WINDOW, len(structures)))]
        references = [_references(potential, structure) for structure in window]
        lists = NeighborLists(window, needs.cutoff, needs.prefix_cutoffs, keep=True)
        for members, bucket in _pack(lists, limit):
            parts = [window[i] for i in members]
            graph = collate(
                parts, [lists[i] for i in members], bucket, dtype=dtype, reverse=needs.reverse
            )
            prediction = _run(program, variables, graph, limit)
            for i, one in zip(members, _split(prediction, parts, references, members), strict=True):
                results[start + i] = one
            done += len(members)
            if progress is not None:
                progress(done, len(structures))
    return results


class Comparison(NamedTuple):
    """Labels and predictions of one property, component by component.

    Attributes:
        label: in the unit of `ERROR_UNITS`; energies per atom.
        predicted: likewise.
        structure: index of the structure that a component belongs to.
        element: atomic number of its atom; 0 for properties of structures.
    """

    label: Float[np.ndarray, " components"]
    predicted: Float[np.ndarray, " components"]
    structure: np.ndarray
    element: np.ndarray


def compare(
    structures: Sequence[Structure],
    predictions: Sequence[StructurePrediction],
    potential: Potential,
    references: ReferenceEnergies | None = None,
) -> dict[str, Comparison]:
    """Sets labels against predictions, for every property that some structure has a label of.

    Args:
        structures: with labels.
        predictions: of `predict`.
        potential: that made them.
        references: reference energies by source, where labels of several sources are mixed: the
            predicted energy is then that with the reference energies of the structure's source.
    """
    columns: dict[str, list[tuple[Any, Any, int, Any]]] = {}
    for index, (structure, prediction) in enumerate(zip(structures, predictions, strict=True)):
        numbers, atoms = structure.atomic_numbers, structure.num_atoms
        for name in ERROR_UNITS:
            label, value = getattr(structure.labels, name), getattr(prediction, name)
            if label is None or value is None or not np.all(np.isfinite(value)):
                continue
            if name == "energy":
                if references is not None:
                    value = value - float(potential.reference_energy(numbers).sum())
                    value = value + reference_energy(numbers, references, structure.source)
                label, value = np.atleast_1d(label) / atoms, np.atleast_1d(value) / atoms
            per_atom = name not in ("energy", "stress")
            element = np.repeat(numbers, label.size // atoms) if per_atom else np.zeros(label.size)
            columns.setdefault(name, []).append((label.ravel(), value.ravel(), index, element))
    result = {}
    for name, rows in columns.items():
        owner = np.concatenate([np.full(len(row[0]), row[2]) for row in rows])
        label, value, element = (np.concatenate([row[k] for row in rows]) for k in (0, 1, 3))
        result[name] = Comparison(label, value, owner, element.astype(np.int64))
    return result


def evaluate(
    potential: Potential,
    structures: Sequence[Structure],
    *,
    precision: str = "float32",
    batch_atoms: int | None = None,
    references: ReferenceEnergies | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Errors of a potential on labelled structures; see `summarize` for the form of the result.

    Args:
        potential: what to evaluate.
        structures: with labels.
        precision: see `predict`.
        batch_atoms: see `predict`.
        references: see `compare`.
        progress: see `predict`.

    Raises:
        UserError: where no structure has a label, and as `predict` does.
    """
    predictions = predict(
        potential, structures, precision=precision, batch_atoms=batch_atoms, progress=progress
    )
    comparisons = compare(structures, predictions, potential, references)
    if not comparisons:
        raise UserError(
            f"evaluate: none of {len(structures)} structures has a label of "
            f"{', '.join(ERROR_UNITS)}. Check the label keys of the data."
        )
    return summarize(comparisons, structures)


def summarize(
    comparisons: dict[str, Comparison], structures: Sequence[Structure]
) -> dict[str, Any]:
    """MAE and RMSE of comparisons, ready for JSON.

    Returns:
        `{total: {property: {mae, rmse, max, count}}, per_config_type: {type: {property: …}},
        per_element: {symbol: {property: …}}, units: {property: unit}, num_structures, num_atoms}`.
        Forces and stress count by component, all nine of a stress.
    """
    types = [structure.config_type for structure in structures]
    by_type: dict[str, Any] = {}
    for kind in sorted(set(types)):
        members = np.array([t == kind for t in types])
        by_type[kind] = {
            name: _errors(c, members[c.structure])
            for name, c in comparisons.items()
            if members[c.structure].any()
        }
    numbers = sorted({int(z) for c in comparisons.values() for z in np.unique(c.element) if z})
    by_element = {
        elements.SYMBOLS[z]: {
            name: _errors(c, c.element == z) for name, c in comparisons.items() if z in c.element
        }
        for z in numbers
    }
    return {
        "num_structures": len(structures),
        "num_atoms": int(sum(structure.num_atoms for structure in structures)),
        "units": {name: ERROR_UNITS[name] for name in comparisons},
        "total": {name: _errors(c, slice(None)) for name, c in comparisons.items()},
        "per_config_type": by_type,
        "per_element": by_element,
    }


def write_npz(path: str | PathLike[str], predictions: Sequence[StructurePrediction]) -> None:
    """Writes predictions as `.npz`.

    Arrays: `energy [structures]`, `n_atoms [structures]`, `forces [all atoms, 3]` in order,
    `stress [structures, 3, 3]` (NaN where not all directions are periodic), further outputs of
    atoms (`atom_energies`, `charges`, `magmoms`) concatenated in the same order,
    `schema_version`, and `units_<name>` as strings.
    """
    arrays: dict[str, Any] = {
        "schema_version": np.array(SCHEMA_VERSION),
        "energy": np.array([p.energy for p in predictions], np.float64),
        "n_atoms": np.array([len(p.forces) for p in predictions], np.int64),
        "stress": np.array([p.stress for p in predictions], np.float64).reshape(-1, 3, 3),
        "forces": np.concatenate([np.zeros((0, 3)), *(p.forces for p in predictions)]),
    }
    for name in ("atom_energies", "charges", "magmoms"):
        values = [getattr(p, name) for p in predictions]
        if values and all(value is not None for value in values):
            arrays[name] = np.concatenate(values)
    units = {f"units_{name}": np.array(UNITS[name]) for name in UNITS if name in arrays}
    with open(path, "wb") as stream:
        np.savez_compressed(stream, **arrays, **units)  # pyright: ignore[reportArgumentType]


@functools.lru_cache(maxsize=8)
def _program(model: nn.Module) -> Any:
    """One jitted function for each model, so that a second call compiles nothing."""
    predict = predict_fn(model)
    return jax.jit(lambda v, graph: dataclasses.replace(predict(v, graph), features=None))


def _references(potential: Potential, structure: Structure) -> np.ndarray:
    """Reference energy [eV] of each atom."""
    try:
        return potential.reference_energy(structure.atomic_numbers)
    except ValueError as error:
        raise UserError(f"{structure.name or 'structure'}: {error}") from error


def _cast(dtype: np.dtype, leaf: Any) -> np.ndarray:
    leaf = np.asarray(leaf)
    return leaf.astype(dtype) if np.issubdtype(leaf.dtype, np.floating) else leaf


def _pack(lists: NeighborLists, limit: int) -> Iterator[tuple[list[int], Bucket]]:
    """Deals structures to batches of like row lengths, in few shapes."""
    sizes = lists.sizes
    rows = [row_ladder(int(k)) for k in sizes.max_neighbors]
    order = sorted(range(len(lists)), key=lambda i: (rows[i], sizes.num_atoms[i], i))
    members: list[int] = []
    for i in order:
        atoms = int(sizes.num_atoms[[*members, i]].sum())
        full = atoms > limit or len(members) == _MAX_GRAPHS
        if members and (full or rows[i] != rows[members[0]]):
            yield members, _bucket(lists, members, rows, limit)
            members = []
        members.append(i)
    if members:
        yield members, _bucket(lists, members, rows, limit)


def _bucket(lists: NeighborLists, members: list[int], rows: list[int], limit: int) -> Bucket:
    sizes, row = lists.sizes, rows[members[0]]
    atoms = int(sizes.num_atoms[members].sum())
    # One shape for all batches that are more than half full.
    atoms = atom_ladder(limit if limit / 2 < atoms <= limit else atoms)
    lengths = sizes.prefixes[members].max(axis=0)
    slots = (min(row_ladder(int(k)), row) for k in lengths)
    prefixes = tuple(zip(sizes.prefix_cutoffs, slots, strict=True))
    graphs = 1 if len(members) == 1 else _MAX_GRAPHS
    return Bucket(graphs=graphs, atoms=atoms, max_neighbors=row, prefixes=prefixes)


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
        charges, magmoms = prediction.charges, prediction.magmoms
        yield StructurePrediction(
            energy=float(np.sum(atom_energies)),
            forces=np.asarray(prediction.forces[atoms]),
            stress=np.asarray(prediction.stress[index]) if periodic else np.full((3, 3), np.nan),
            atom_energies=np.asarray(atom_energies),
            charges=None if charges is None else np.asarray(charges[atoms]),
            magmoms=None if magmoms is None else np.asarray(magmoms[atoms]),
        )


def _errors(comparison: Comparison, chosen: Any) -> dict[str, Any]:
    error = np.abs(comparison.predicted[chosen] - comparison.label[chosen])
    return {
        "mae": float(np.mean(error)),
        "rmse": float(np.sqrt(np.mean(np.square(error)))),
        "max": float(np.max(error)),
        "count": len(error),
    }
