"""Errors of predictions against labels: in total, by configuration type and by element."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.data.batching import ReferenceEnergies, reference_energy
from mlip_jax.data.structure import Structure
from mlip_jax.inference.prediction import StructurePrediction, predict
from mlip_jax.potential import Potential

ERROR_UNITS = {
    "energy": "eV/atom",
    "forces": "eV/Å",
    "stress": "eV/Å^3",
    "charges": "e",
    "magmoms": "μ_B",
}
"""Units of the errors of `evaluate`."""


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

    Magnetic moments are compared by their absolute values: energies are the same when all moments
    turn round, so that a model without spins among its inputs cannot know the signs.

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
                    value = value + reference_energy(
                        numbers, references, structure.source, structure.name or "structure"
                    )
                label, value = np.atleast_1d(label) / atoms, np.atleast_1d(value) / atoms
            if name == "magmoms":
                label = np.abs(label)
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

    Takes the arguments of `predict_and_compare` and raises what it raises.
    """
    comparisons = predict_and_compare(
        potential,
        structures,
        precision=precision,
        batch_atoms=batch_atoms,
        references=references,
        progress=progress,
    )
    return summarize(comparisons, structures)


def predict_and_compare(
    potential: Potential,
    structures: Sequence[Structure],
    *,
    precision: str = "float32",
    batch_atoms: int | None = None,
    references: ReferenceEnergies | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Comparison]:
    """Predicts labelled structures and sets labels against predictions, see `compare`.

    Args:
        potential: what to evaluate.
        structures: with labels.
        precision: see `predict`.
        batch_atoms: see `predict`.
        references: see `compare`; by default those that the potential's card keeps.
        progress: see `predict`.

    Raises:
        UserError: where no structure has a label or one is of an unknown source, and as `predict`
            does.
    """
    references = source_references(potential) if references is None else references
    _check_sources(structures, references, potential.head)
    predictions = predict(
        potential, structures, precision=precision, batch_atoms=batch_atoms, progress=progress
    )
    comparisons = compare(structures, predictions, potential, references)
    if not comparisons:
        raise UserError(
            f"evaluate: none of {len(structures)} structures has a label of "
            f"{', '.join(ERROR_UNITS)}. Check the label keys of the data."
        )
    return comparisons


def source_references(potential: Potential) -> ReferenceEnergies | None:
    """Reference energies [eV] by source, where the training data had several sources.

    Predictions of a potential with several heads have those of the structure's already.
    """
    if potential.head_energies:
        return None
    statistics = potential.card.get("statistics") or {}
    by_source = statistics.get("source_reference_energies") or {}
    return {s: {int(z): float(e) for z, e in of.items()} for s, of in by_source.items()} or None


def _check_sources(
    structures: Sequence[Structure], references: ReferenceEnergies | None, head: str | None
) -> None:
    """Refuses labels of an unknown level of theory before anything is computed."""
    for structure in structures if head is not None else ():
        if structure.source not in ("", head):
            raise UserError(
                f"{structure.name or 'structure'}: its source is {structure.source!r}; this is the "
                f"head {head!r} of a potential. Evaluate the head of that source, or the potential "
                "with all of them."
            )
    if not references or not isinstance(next(iter(references)), str):
        return
    for structure in structures:
        if structure.labels.energy is not None and structure.source not in references:
            raise UserError(
                f"{structure.name or 'structure'}: its source is {structure.source!r}; the "
                f"potential was trained on energies of the sources {sorted(map(str, references))}, "
                "which have reference energies of their own. Say of which the labels are: "
                "Structure.source, labels.source, or --source on the command line."
            )


def summarize(
    comparisons: dict[str, Comparison], structures: Sequence[Structure]
) -> dict[str, Any]:
    """MAE and RMSE of comparisons, ready for JSON.

    Returns:
        `{total: {property: {mae, rmse, max, count}}, per_config_type: {type: {property: …}},
        per_source: {source: {property: …}}, per_element: {symbol: {property: …}}, units:
        {property: unit}, num_structures, num_atoms}`.
        Forces and stress count by component, all nine of a stress.
    """
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
        "per_config_type": _by_group(comparisons, [s.config_type for s in structures]),
        "per_source": _by_group(comparisons, [s.source for s in structures]),
        "per_element": by_element,
    }


def _by_group(comparisons: dict[str, Comparison], groups: Sequence[str]) -> dict[str, Any]:
    """Errors of the structures of each group, by the name of the group of each structure."""
    found: dict[str, Any] = {}
    for group in sorted(set(groups)):
        members = np.array([g == group for g in groups])
        found[group] = {
            name: _errors(c, members[c.structure])
            for name, c in comparisons.items()
            if members[c.structure].any()
        }
    return found


def _errors(comparison: Comparison, chosen: Any) -> dict[str, Any]:
    error = np.abs(comparison.predicted[chosen] - comparison.label[chosen])
    return {
        "mae": float(np.mean(error)),
        "rmse": float(np.sqrt(np.mean(np.square(error)))),
        "max": float(np.max(error)),
        "count": len(error),
    }
