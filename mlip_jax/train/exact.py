"""Training by an exact solver: one pass over the data, one small dense problem."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from mlip_jax.config import UserError
from mlip_jax.data.batching import Batch
from mlip_jax.data.statistics import Statistics
from mlip_jax.elements import SYMBOLS
from mlip_jax.models import linear_terms
from mlip_jax.train import active_set, design, exact_observables, log, solver
from mlip_jax.train.checkpoint import Position
from mlip_jax.train.engine import Task
from mlip_jax.train.loop import Outcome
from mlip_jax.train.solver import Solution, SolverConfig


def train(
    task: Task, config: SolverConfig, found: Statistics, terminal: log.Terminal
) -> tuple[Outcome, Statistics, dict[str, Any]]:
    """Minimises the loss over all training data at once, and that of observables with it.

    Where reference energies were fitted and not taken from isolated atoms, they are parameters of
    the problem, too.

    Args:
        task: a model that is linear in its parameters, its data and its loss of squares.
        config: the solver.
        found: statistics of the training data.
        terminal: for messages.

    Returns:
        What came of training, the statistics with the reference energies of the solution, and what
        the card says of the solution.

    Raises:
        UserError: for a model that is not linear, a loss that is no sum of squares, several
            devices, or data that determine nothing.
    """
    factors = scales(task)
    free = free_elements(found)
    make = design.design_fn(task.model, task.variables, factors, free)
    size = linear_terms.parameters(task.model, task.variables).size
    rows = solver.Rows(len(free) + size)
    terminal.say(f"solver {config.name}: {size} parameters, {len(task.structures)} structures")
    for batch in batches(task):
        part = make(task.variables, batch)
        rows.add(np.concatenate([part.composition, part.matrix], axis=1), part.target)
    if task.observables is None:
        solution = solver.solve(rows, config, free=len(free))
    else:
        solution = exact_observables.search(task, rows, config, len(free), terminal)
    shifts = dict(zip(free, solution.coefficients.tolist(), strict=False))
    values = solution.coefficients[len(free) :]
    variables = linear_terms.with_parameters(task.model, task.variables, values)
    if config.grades:
        graphs = (batch.graph for batch in batches(task))
        terms = linear_terms.linear_terms(task.model, task.variables)
        variables = active_set.with_active_sets(terms, variables, graphs)
    if config.posterior and task.training.precision == "float32":
        terminal.say("no posterior: it needs training.precision: float64")
    elif config.posterior:
        variables["posterior"] = {
            "factor": np.sqrt(solution.noise) * solution.factor,
            "free": np.array(free, np.int32),
            "scales": np.tile([1.0, 0.0], (3, 1)),
        }
    outcome = Outcome(variables, Position(best=solution.residual), "solved", 1, 0)
    terminal.say(_describe(solution, rows.count, size + len(free)))
    return outcome, _shifted(found, shifts), _card(config, solution, rows.count)


def scales(task: Task) -> dict[str, float]:
    """Factors of the squared errors in the loss: weights over numbers of labels.

    Raises:
        UserError: for a loss that is no sum of squares, or has no label.
    """
    found = design.scales_of(task.loss, batches(task))
    if not found:
        raise UserError("solver: no label of the loss is there, or all weights are zero.")
    return found


def batches(task: Task) -> Iterator[Batch]:
    """Structures of the training data one by one.

    Raises:
        UserError: for several devices.
    """
    if task.train.config.devices > 1:
        raise UserError("solver: runs on one device. Set training.devices: 1.")
    return task.train.singles()


def free_elements(found: Statistics) -> tuple[int, ...]:
    """Elements whose reference energy was fitted; none where sources have their own."""
    if found.source_reference_energies:
        return ()
    report = found.reports.get("")
    if report is None or report.num_elements == 0 or report.undetermined:
        return ()
    return tuple(z for z in found.species if SYMBOLS[z] not in report.isolated)


def _shifted(found: Statistics, shifts: dict[int, float]) -> Statistics:
    energies = {z: e + shifts.get(z, 0.0) for z, e in found.reference_energies.items()}
    return dataclasses.replace(found, reference_energies=energies)


def _describe(solution: Solution, rows: int, columns: int) -> str:
    return (
        f"solved: {rows} rows, rank {solution.rank} of {columns}, penalty {solution.alpha:.1e}, "
        f"loss {solution.residual:.3g}"
    )


def _card(config: SolverConfig, solution: Solution, rows: int) -> dict[str, Any]:
    return {
        "name": config.name,
        "alpha": solution.alpha,
        "rank": solution.rank,
        "rows": rows,
        "loss": solution.residual,
    }
