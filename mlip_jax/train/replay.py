"""Replay: structures of older data join fine-tuning, so that the network keeps what it knew.

Rehearsal is as old as A. Robins, Connect. Sci. 7, 123 (1995), who also trained on what the network
itself had said before (pseudorehearsal), the way of `labels: predicted`; as a loss beside that of
the new data it is Z. Li & D. Hoiem, "Learning without forgetting", arXiv:1606.09282 (2016), eq. 2.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from mlip_jax import inference
from mlip_jax.config import UserError
from mlip_jax.data import checks, dataset
from mlip_jax.data.dataset import DataConfig, Dataset, Files
from mlip_jax.data.formats import LabelKeys
from mlip_jax.data.sources import OpenFile, StructureSet
from mlip_jax.data.statistics import Statistics
from mlip_jax.data.structure import Structure, StructureLabels
from mlip_jax.elements import symbols
from mlip_jax.potential import Potential
from mlip_jax.train.loss import PROPERTIES, LossConfig


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """The key `training.replay`: structures that the potential of `training.start` is to remember.

    They are the data that it was fitted to, or any others whose elements it knows. Those that are
    not held out join the training data: an epoch passes once through both, batches mix them, and
    the share of the old data is set by `size` and `weight`. Those that are held out join the
    validation, where there is one, with the same weight.

    Attributes:
        files: of the structures.
        labels: `predicted` takes as targets what the potential says before training; otherwise
            keys, units and signs of the labels in the files, whose energies have to go with the
            reference energies of the potential.
        size: structures taken, at random by `data.seed`; all where null.
        valid: part of them that is held out.
        weight: factor on the weights of these structures in the loss.
    """

    files: Files
    labels: Literal["predicted"] | LabelKeys = "predicted"
    size: Annotated[int, Field(ge=2)] | None = None
    valid: Annotated[float, Field(gt=0, lt=1)] = 0.1
    weight: Annotated[float, Field(gt=0)] = 1.0


class Replay(NamedTuple):
    """Structures of older data with their targets.

    Attributes:
        train: those that are trained on.
        held_out: those that are not.
        files: for the card.
    """

    train: list[Structure]
    held_out: list[Structure]
    files: list[dict[str, Any]]


def check_references(potential: Potential, found: Statistics) -> None:
    """Refuses reference energies by source: older energies would belong to none of these.

    Raises:
        UserError: where the potential or the training data have such.
    """
    if found.source_reference_energies or potential.head_energies:
        raise UserError(
            "training.replay: got reference energies by source; expected one set of them. Choose "
            "one head of the potential (mlip-jax head), and data.statistics.per_source: false."
        )


def read(config: ReplayConfig, data: DataConfig, potential: Potential, base: Path) -> Replay:
    """Reads and checks the structures, as the files have them.

    Args:
        config: which.
        data: section of the new data, for its seed and the checks that are accepted.
        potential: of `training.start`.
        base: directory of the config.

    Raises:
        UserError: for files that are missing or hold too little, labels that contradict each other,
            elements that the potential does not know.
    """
    keys = LabelKeys() if config.labels == "predicted" else config.labels
    try:
        files = dataset.open_files(config.files, keys, base)
    except UserError as error:
        raise UserError(f"training.replay.files: {error}") from None
    pool = StructureSet(files, {}, {})
    size = len(pool) if config.size is None else config.size
    if not 2 <= size <= len(pool):
        raise UserError(
            f"training.replay: got {size} structures of files that hold {len(pool)}; expected two "
            "at least, one to train on and one that is held out, and at most as many as there are."
        )
    # A stream of its own: the split of the new data draws from the seed alone.
    order = np.random.default_rng([data.seed, 2]).permutation(len(pool))[:size]
    count = min(max(1, round(config.valid * size)), size - 1)
    held_out, train = ([pool[int(i)] for i in np.sort(o)] for o in (order[:count], order[count:]))
    for structure in (*train, *held_out):
        potential.check_species(structure.atomic_numbers, f"training.replay: {structure.name}")
    if config.labels != "predicted":
        try:
            checks.enforce(checks.run(dataset.sample(train), keys), data.checks)
        except UserError as error:
            raise UserError(f"training.replay.labels: {error}") from None
    return Replay(train, held_out, dataset.describe_files(files))


def with_targets(
    replay: Replay, config: ReplayConfig, potential: Potential, found: Statistics, precision: str
) -> Replay:
    """Labels that training can use beside those of the new data.

    Energies E of older data hold the reference energies E_z of the potential, training subtracts
    E'_z: the target is `E + sum_i (E'_z(i) - E_z(i))`, which leaves what the network has to learn,
    the energy of the interaction, what it was.

    Args:
        replay: see `read`.
        config: which labels, with what weight.
        potential: of `training.start`.
        found: statistics with the reference energies of training.
        precision: of predictions.

    Raises:
        UserError: for an element without a reference energy.
    """
    both = [*replay.train, *replay.held_out]
    if config.labels == "predicted":
        predictions = inference.predict(potential, both, precision=precision)
        both = [
            dataclasses.replace(structure, labels=_labels(structure, prediction))
            for structure, prediction in zip(both, predictions, strict=True)
        ]
    both = [
        dataclasses.replace(shifted(s, potential, found), weight=s.weight * config.weight)
        for s in both
    ]
    return replay._replace(train=both[: len(replay.train)], held_out=both[len(replay.train) :])


def describe(replay: Replay, config: ReplayConfig, potential: Potential, precision: str) -> str:
    """How many structures there are and, where files label them, what the potential says to that.

    Args:
        replay: with the labels of the files, see `read`.
        config: which labels.
        potential: of `training.start`; large errors mean that the labels are not of its level of
            theory.
        precision: of its predictions.
    """
    count = f"replay: {len(replay.train)} older structures, {len(replay.held_out)} held out"
    if config.labels == "predicted":
        return f"{count}, with what the potential predicts of them"
    predictions = inference.predict(potential, replay.held_out, precision=precision)
    pairs = inference.compare(replay.held_out, predictions, potential)
    errors = inference.summarize(pairs, replay.held_out)
    parts = (f"{n} {e['mae']:.4g} {errors['units'][n]}" for n, e in errors["total"].items())
    return f"{count}; mean absolute errors of the potential on these: {', '.join(parts)}"


def shifted(structure: Structure, potential: Potential, found: Statistics) -> Structure:
    """The structure with an energy that goes with other reference energies, see `with_targets`.

    Raises:
        UserError: for an element without one.
    """
    energy, numbers = structure.labels.energy, structure.atomic_numbers
    if energy is None:
        return structure
    missing = sorted({int(z) for z in numbers} - set(found.reference_energies))
    if missing:
        raise UserError(
            f"training.replay: {structure.name or 'a structure'} has the elements "
            f"{symbols(missing)}, of which the training data have no reference energies. Set "
            "training.start_reference_energies: refit or keep, which take those of the potential."
        )
    new = sum(found.reference_energies[int(z)] for z in numbers)
    energy = energy + float(new - potential.reference_energy(numbers).sum())
    labels = dataclasses.replace(structure.labels, energy=energy)
    return dataclasses.replace(structure, labels=labels)


def check_labels(replay: Replay, config: ReplayConfig, loss: LossConfig) -> None:
    """Refuses labels that the loss asks for and no older structure has.

    Raises:
        UserError: naming the label.
    """
    keys = config.labels
    if keys == "predicted":
        return
    if keys.energy is None and keys.forces is None:
        raise UserError(
            "training.replay.labels: got neither energy nor forces; expected one of them, or "
            "labels: predicted."
        )
    for name in PROPERTIES:
        wanted = getattr(loss, name) is not None and getattr(keys, name) is not None
        if wanted and all(s.trainable_label(name) is None for s in replay.train):
            raise UserError(
                f"training.replay.labels.{name}: got {getattr(keys, name)!r}, which no structure "
                f"has, while loss.{name} counts. Correct the key, set it to null to leave this "
                "label out, or set labels: predicted."
            )


def listed(data: Dataset, replay: Replay) -> Dataset:
    """The new data, with what is held out as a set of its own, and files for the card."""
    counts = {"trained": len(replay.train), "held_out": len(replay.held_out)}
    files = {**data.card["files"], "replay": replay.files}
    card = {**data.card, "files": files, "replay": counts}
    return dataclasses.replace(data, replay=replay.held_out, card=card)


def joined(new: Sequence[Structure], old: Sequence[Structure]) -> Sequence[Structure]:
    """One set of both, lazy where the new data are."""
    files = [OpenFile(Path(), s, LabelKeys(), source="", weight=1.0) for s in (new, old)]
    return StructureSet(files, {}, {}).materialized()


def _labels(structure: Structure, prediction: inference.StructurePrediction) -> StructureLabels:
    return StructureLabels(
        energy=prediction.energy,
        forces=prediction.forces,
        stress=prediction.stress if np.all(structure.pbc) else None,
        charges=prediction.charges,
        magmoms=prediction.magmoms,
    )
