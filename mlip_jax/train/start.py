"""The variables that training begins with: new ones, or those of a potential."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from mlip_jax import inference, models, storage
from mlip_jax.config import UserError
from mlip_jax.data.batching import BatchConfig, BatchSource
from mlip_jax.data.dataset import find
from mlip_jax.data.lists import NeighborLists
from mlip_jax.data.shapes import SLOTS_PER_COMPILATION
from mlip_jax.data.statistics import Statistics
from mlip_jax.data.structure import Structure
from mlip_jax.elements import SYMBOLS
from mlip_jax.models.initial import cast_variables, initial_variables
from mlip_jax.potential import Potential, Variables
from mlip_jax.train import replay
from mlip_jax.train.replay import Replay
from mlip_jax.train.sections import Sections


class Beginning(NamedTuple):
    """What training begins with, where that is a potential.

    Attributes:
        model: of the potential.
        variables: of the potential.
        found: statistics with the reference energies of training.
        replay: older structures with their targets, where there are some.
        done: what was done, in words.
    """

    model: nn.Module
    variables: Variables
    found: Statistics
    replay: Replay | None
    done: str


def first_variables(
    model: nn.Module,
    structures: Sequence[Structure],
    lists: NeighborLists,
    found: Statistics,
    dtype: np.dtype,
    seed: int,
    singly: bool,
) -> Variables:
    """The variables of a new potential, calibrated on the data where the model asks for it.

    A solver takes structures `singly`; calibration then does, too, with the same programs.
    """
    needs = models.requirements(model)
    config = BatchConfig(batch_size=1, shuffle=False)
    single = BatchSource(structures, lists, config, found.references, dtype, needs)
    variables = initial_variables(model, seed, single.batch(0, 0).graph)
    calibrate = getattr(model, "calibrate", None)
    if calibrate is not None:
        size = min(32, len(structures))
        config = BatchConfig(size, shape_slots=SLOTS_PER_COMPILATION, shuffle=False)
        several = BatchSource(structures, lists, config, found.references, dtype, needs)
        batches = (several.batch(0, index) for index in range(several.num_batches()))
        graphs = (batch.graph for batch in (several.singles() if singly else batches))
        variables = calibrate(variables, graphs)

    return cast_variables(variables, dtype)


def begin(
    sections: Sections,
    structures: Sequence[Structure],
    found: Statistics,
    dtype: np.dtype,
    base: Path,
) -> Beginning:
    """Reads the potential that training begins with, and the older data that it is to remember.

    Args:
        sections: the config, with `training.start`.
        structures: training data.
        found: their statistics.
        dtype: of the variables.
        base: directory of the config.

    Raises:
        UserError: see `of_potential`, `reference_energies` and `replay.read`.
    """
    training = sections.training
    assert training.start is not None
    first = of_potential(training.start, base, sections.model, dtype)
    way = training.start_reference_energies
    found, done = reference_energies(first, structures, way, found)
    said, old = [done], None
    if training.replay is not None:
        replay.check_references(first, found)
        old = replay.read(training.replay, sections.data, first, base)
        replay.check_labels(old, training.replay, sections.loss)
        said.append(replay.describe(old, training.replay, first, training.precision))
        old = replay.with_targets(old, training.replay, first, found, training.precision)
    if sections.loss.magmoms is None and getattr(first.model, "predict_magmoms", False):
        said.append(
            "warning: magnetic moments are not trained, but features that they are read from"
        )
    return Beginning(first.model, first.variables, found, old, "\n".join(said))


def of_potential(path: str, base: Path, model: nn.Module, dtype: np.dtype) -> Potential:
    """A potential on the disk, without what an exact solver says of it.

    Args:
        path: of `training.start`.
        base: directory of the config.
        model: of the config; where it has `None`, and in `energy_scale`, which is a unit of the
            parameters, the potential's fields are taken.
        dtype: of the variables.

    Raises:
        UserError: for a potential that is not there, or of another model.
    """
    try:
        potential = storage.load(find(path, base))
    except UserError as error:
        raise UserError(f"training.start: {error}") from None
    _check_same(model, potential, path)
    kept = {k: v for k, v in potential.variables.items() if k != "posterior"}
    return dataclasses.replace(potential, variables=cast_variables(kept, dtype))


def reference_energies(
    potential: Potential, structures: Sequence[Structure], way: str, found: Statistics
) -> tuple[Statistics, str]:
    """The statistics with the reference energies of training that begins with a potential.

    Where they are fitted again, shifts of the elements minimise the squared errors of the energies
    per atom; of equally good ones the smallest is taken, and elements that the data lack keep
    theirs.

    Args:
        potential: see `of_potential`.
        structures: training data.
        way: `training.start_reference_energies`.
        found: of the training data.

    Returns:
        The statistics, and what was done, in words.

    Raises:
        UserError: for energies by source, or data without energies, where they have to be fitted.
    """
    if way == "data":
        return found, "reference energies are those of the data"
    if found.source_reference_energies or potential.head_energies:
        raise UserError(
            f"training.start_reference_energies: got {way} for reference energies by source; "
            "expected data."
        )
    kept = dict(potential.reference_energies)
    if way == "keep":
        return dataclasses.replace(found, reference_energies=kept), (
            "reference energies are those of the potential"
        )
    known = [s for s in structures if s.trainable_label("energy") is not None]
    if not known:
        raise UserError(
            "training.start_reference_energies: got refit for training data without energies; "
            "expected keep or data."
        )
    elements = sorted({int(z) for s in known for z in s.atomic_numbers})
    counts = np.array([[np.sum(s.atomic_numbers == z) for z in elements] for s in known])
    atoms = counts.sum(axis=1, keepdims=True)
    labels = np.array([s.trainable_label("energy") for s in known], float)
    predicted = np.array([one.energy for one in inference.predict(potential, known)])
    errors = (labels - predicted) / atoms[:, 0]
    shifts = np.linalg.lstsq(counts / atoms, errors, rcond=None)[0]
    left = errors - counts / atoms @ shifts
    named = ", ".join(
        f"{SYMBOLS[z]} {shift:+.3f}" for z, shift in zip(elements, shifts, strict=True)
    )
    energies = kept | {z: kept[z] + float(s) for z, s in zip(elements, shifts, strict=True)}
    return dataclasses.replace(found, reference_energies=energies), (
        f"reference energies re-fitted ({named} eV): mean absolute error of the energies "
        f"{1e3 * np.mean(np.abs(errors)):.4g} -> {1e3 * np.mean(np.abs(left)):.4g} meV/atom"
    )


def changes(before: Variables, after: Variables) -> dict[str, float]:
    """How far parameters have moved, relative to their norm, by the first part of their path."""
    moved = {}
    for name, old in before["params"].items():
        pairs = list(zip(jax.tree.leaves(old), jax.tree.leaves(after["params"][name]), strict=True))
        size = sum(float(np.sum(np.square(np.asarray(a, np.float64)))) for a, _ in pairs)
        step = sum(float(np.sum(np.square(np.asarray(b, np.float64) - a))) for a, b in pairs)
        moved[name] = float(np.sqrt(step / size)) if size else float(np.sqrt(step))
    return moved


def describe_changes(moved: dict[str, float]) -> str:
    """The changes in words, the largest first, with a warning where there are none."""
    if max(moved.values(), default=0.0) == 0.0:
        return (
            "warning: no parameter has moved from those of training.start; look at "
            "optimizer.groups and the learning rate"
        )
    ordered = sorted(moved.items(), key=lambda item: -item[1])
    still = [name for name, change in ordered if change == 0.0]
    text = ", ".join(f"{name} {change:.2g}" for name, change in ordered if change > 0.0)
    return f"parameters moved, relative to their norm: {text}" + (
        f"; not at all: {', '.join(still)}" if still else ""
    )


def _check_same(model: nn.Module, potential: Potential, path: str) -> None:
    wanted, there = (_leaves(models.module_to_config(m)) for m in (model, potential.model))
    differing = [
        f"{key}: {there.get(key)!r} there, {value!r} in the config"
        for key, value in wanted.items()
        if value is not None and not key.endswith("energy_scale") and there.get(key) != value
    ]
    if differing:
        raise UserError(
            f"training.start: the potential {path} has another model:\n  "
            + "\n  ".join(differing)
            + "\nWrite its model (mlip-jax info) into the config."
        )


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    found = {}
    for key, item in value.items():
        found |= _leaves(item, f"{prefix}.{key}" if prefix else str(key))
    return found
