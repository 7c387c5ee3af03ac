"""A fit from beginning to end: data, statistics, model, loop, potential, errors, report."""

import dataclasses
import importlib.metadata
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mlip_jax import config as configs
from mlip_jax import inference, models, storage
from mlip_jax.config import UserError
from mlip_jax.data import dataset, statistics
from mlip_jax.data.batching import BatchConfig, BatchSource
from mlip_jax.data.dataset import Dataset
from mlip_jax.data.lists import NeighborLists
from mlip_jax.data.shapes import SLOTS_PER_COMPILATION
from mlip_jax.data.statistics import Statistics
from mlip_jax.inference import uncertainty
from mlip_jax.potential import Potential, Variables
from mlip_jax.train import (
    agreement,
    assess,
    checkpoint,
    log,
    loop,
    lora,
    observed,
    replay,
    report,
    settings,
    start,
    variable_projection,
)
from mlip_jax.train.engine import Task
from mlip_jax.train.minimise import minimise
from mlip_jax.train.optimizer import OptimizerConfig
from mlip_jax.train.sections import Sections, parse, resolved, write_config, write_data
from mlip_jax.train.settings import TrainingConfig

__all__ = ["Sections", "fit", "parse", "resolved"]


def fit(
    sections: Sections,
    output: Path | None = None,
    *,
    base: Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Potential:
    """Trains a potential and writes everything about it.

    Args:
        sections: the config, see `parse`.
        output: directory of the run; `runs/<training.name>` where not given.
        base: directory beside which relative data paths are looked up first; the working
            directory where not given.
        resume: continue the run in `output`, bit for bit; without a checkpoint it starts anew.
        progress: whether to print.

    Returns:
        The potential with the best parameters, as written to `output/potential`.

    Raises:
        TrainingInterrupted: on Ctrl-C or SIGTERM; `resume` continues.
        UserError: for faults of config or data, a loss that is not finite, too little memory or
            disk.
    """
    started = time.perf_counter()
    training = sections.training
    dtype = inference.require_precision(training.precision)
    output = Path("runs") / training.name if output is None else output
    _check_output(output, resume)
    terminal = log.Terminal(training.epochs, progress)
    terminal.say(f"run {output}: reading data")
    data = dataset.load(sections.data, base or Path.cwd())
    task, found, data = _prepare(sections, data, dtype, base or Path.cwd(), terminal.say)
    first = _potential(task.model, task.merge(task.variables), found, {})
    complete = dataclasses.replace(sections, model=task.model)
    write_data(data.card["files"], output, resume)
    write_config(resolved(complete), output, resume)
    terminal.say(_describe(task, data, found))
    for hint in agreement.hints(sections, found, task.variables.get("params", {})):
        terminal.say(hint)
    prepared = time.perf_counter() - started
    outcome, found, solved = minimise(
        task, sections, found, output, resume=resume, progress=progress
    )
    terminal.say(f"training ended ({outcome.stopped}); measuring errors")
    card = _card(data, found, complete, outcome, solved)
    if task.observables is not None:
        card["observables"] = observed.conclude(task.observables, outcome.variables, output)
    if training.start is not None:
        card["moved"] = start.changes(first.variables, outcome.variables)
        terminal.say(start.describe_changes(card["moved"]))
    if training.lora is not None:
        trained, of = lora.counts(task.variables)
        card["lora"] = {"trained_parameters": trained, "parameters": of}
        terminal.say(f"LoRA: {trained} parameters were trained of {of} of the potential")
    potential = _potential(task.model, outcome.variables, found, card)
    if "posterior" in outcome.variables:
        unseen = data.valid if len(data.valid) else data.train
        potential = uncertainty.calibrate(
            potential, [unseen[i] for i in range(len(unseen))], task.train.room
        )
    storage.save(potential, output / "potential")
    facts = _facts(task, outcome, prepared)
    before = None if training.replay is None else first
    potential, written = assess.assess(
        potential, data, training, output, facts, task.train.room, before
    )
    terminal.say(written)
    return potential


def untrained(sections: Sections, base: Path | None = None) -> Potential:
    """The potential that training begins with: for its cost, its size, its memory.

    Args:
        sections: the config, see `parse`.
        base: directory beside which relative data paths are looked up first.

    Returns:
        The model with its statistics and its first parameters, calibrated on the data.

    Raises:
        UserError: for faults of config or data.
    """
    dtype = inference.require_precision(sections.training.precision)
    base = base or Path.cwd()
    data = dataset.load(sections.data, base)
    task, found, _ = _prepare(sections, data, dtype, base, lambda _: None)
    return _potential(task.model, task.merge(task.variables), found, {})


def _potential(
    model: nn.Module, variables: Variables, found: Statistics, card: dict[str, Any]
) -> Potential:
    of_heads = found.source_reference_energies if models.requirements(model).heads else {}
    return Potential(model, variables, found.reference_energies, card, of_heads)


def _check_output(output: Path, resume: bool) -> None:
    files = (output / "potential", output / variable_projection.FILE)
    exists = checkpoint.latest(output / "checkpoints") or any(file.exists() for file in files)
    if exists and not resume:
        raise UserError(
            f"{output}: holds a run already. Continue it with --resume, choose another --output, "
            "or remove it."
        )


def _prepare(
    sections: Sections, data: Dataset, dtype: np.dtype, base: Path, say: Callable[[str], None]
) -> tuple[Task, Statistics, Dataset]:
    """Statistics, the complete model, its first variables and the batches; all data with replay."""
    training = sections.training
    needs = models.requirements(sections.model)
    lists = NeighborLists.of_model(data.train, needs)
    found = statistics.compute(data.train, needs.cutoff, sections.data.statistics, lists)
    agreement.check_sources(sections, needs.heads, found)
    model = models.fill_from_statistics(sections.model, found)
    variables, structures, valid = None, data.train, data.valid
    if training.start is not None:
        begun = start.begin(sections, data.train, found, dtype, base)
        model, variables, found, old = begun.model, begun.variables, begun.found, begun.replay
        say(begun.done)
        needs = models.requirements(model)
        if old is not None:
            data = replay.listed(data, old)
            structures = replay.joined(data.train, old.train)
            lists = NeighborLists.of_model(structures, needs)
            valid = replay.joined(data.valid, old.held_out) if len(data.valid) else data.valid
    devices = settings.count_devices(training)
    passes = 2 if sections.optimizer is None else training.epochs
    batches = BatchConfig(
        training.batch_size,
        devices,
        shape_slots=SLOTS_PER_COMPILATION / passes,
        block=training.block,
        seed=training.seed,
    )
    train = BatchSource(structures, lists, batches, found.references, dtype, needs)
    if variables is None:
        single = sections.solver is not None
        variables = start.first_variables(
            model, data.train, lists, found, dtype, training.seed, single
        )
    adapted = variables
    if training.lora is not None:
        adapted = lora.split(variables, training.lora, training.seed)
    task = Task(
        model=model,
        variables=adapted,
        loss=sections.loss,
        optimizer=sections.optimizer or OptimizerConfig(),
        training=training,
        structures=structures,
        train=train,
        valid=_valid_source(valid, training, devices, found, dtype, needs, train.fields),
        observables=observed.build(
            sections.observables,
            base,
            _potential(model, variables, found, {}),
            devices,
        ),
        merge=lora.merge_fn(training.lora),
    )
    agreement.check_loss(sections.loss, task)
    return task, found, data


def _valid_source(structures, training: TrainingConfig, devices, found, dtype, needs, fields):
    """Batches of validation, on as many devices as there are structures for."""
    if len(structures) == 0:
        return None
    devices = devices if len(structures) >= devices else 1
    size = min(training.valid_batch_size or training.batch_size, len(structures))
    batch_size = max(size // devices, 1) * devices
    config = BatchConfig(batch_size, devices, block=training.block, shuffle=False)
    lists = NeighborLists.of_model(structures, needs)
    return BatchSource(structures, lists, config, found.references, dtype, needs, fields)


def _version() -> str:
    try:
        return importlib.metadata.version("mlip_jax")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _describe(task: Task, data: Dataset, found: Statistics) -> str:
    count, of = lora.counts(task.variables)
    named = f"{count} parameters" if count == of else f"{count} of {of} parameters are trained"
    waste = task.train.waste
    return (
        f"{len(data.train)} training, {len(data.valid)} validation, {len(data.test)} test "
        f"structures; {named}; {found.avg_num_neighbors:.1f} neighbours an atom; "
        f"{waste.shapes} shapes, padding {waste.slots:.0%}"
    )


def _card(
    data: Dataset,
    found: Statistics,
    sections: Sections,
    outcome: loop.Outcome,
    solved: dict[str, Any] | None,
) -> dict[str, Any]:
    """What the potential was fitted to, and how; `solved`: what an exact solver says."""
    loop_card = {
        "stopped": outcome.stopped,
        "steps": outcome.position.step,
        "best_epoch": outcome.position.best_epoch,
        f"best_{sections.training.monitor}": outcome.position.best,
    }
    return {
        **configs.to_plain(data.card),
        "statistics": configs.to_plain(found),
        "config": resolved(sections),
        "training": loop_card if solved is None else {**loop_card, **solved},
        "versions": {
            "mlip_jax": _version(),
            "jax": jax.__version__,
            "python": platform.python_version(),
        },
    }


def _facts(task: Task, outcome: loop.Outcome, prepared: float) -> report.RunFacts:
    return report.RunFacts(
        stopped=outcome.stopped,
        steps=outcome.position.step,
        best_epoch=outcome.position.best_epoch,
        programs=outcome.programs,
        memory_bytes=outcome.memory,
        preparation_seconds=prepared,
        waste=configs.to_plain(task.train.waste),
    )
