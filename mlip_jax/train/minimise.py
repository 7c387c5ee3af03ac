"""The loss made small: by the loop, by an exact solver, or by both in turn."""

import dataclasses
from pathlib import Path
from typing import Any

from mlip_jax.data.statistics import Statistics
from mlip_jax.potential import Variables
from mlip_jax.train import exact, log, loop, variable_projection
from mlip_jax.train.engine import Task
from mlip_jax.train.loop import Outcome
from mlip_jax.train.sections import Sections


def minimise(
    task: Task,
    sections: Sections,
    found: Statistics,
    output: Path,
    *,
    resume: bool = False,
    progress: bool = True,
) -> tuple[Outcome, Statistics, dict[str, Any] | None]:
    """Fits the parameters of a task.

    With a solver and an optimiser the solver begins with the linear parameters, the optimiser goes
    on with all of them, and the solver ends: G. Golub & V. Pereyra, Inverse Probl. 19, R1 (2003),
    on such problems, whose linear parameters can be eliminated.

    Args:
        task: what to fit, on what.
        sections: the config, for `solver` and whether there is an `optimizer`.
        found: statistics of the training data.
        output: directory of the run.
        resume: continue the loop from its last checkpoint.
        progress: whether to print.

    Returns:
        What came of it, the statistics with the reference energies of the solution, and what the
        card says of the solution, if there was a solver.

    Raises:
        UserError: see `loop.train` and `exact.train`.
        TrainingInterrupted: see `loop.train`.
    """
    solver = sections.solver
    if solver is None:
        return loop.train(task, output, resume=resume, progress=progress), found, None
    terminal = log.Terminal(task.training.epochs, progress)
    begin = dataclasses.replace(solver, posterior=False, grades=False)
    if solver.nonlinear_iterations:
        searched = variable_projection.search(task, begin, found, terminal, output, resume=resume)
        task = task._replace(variables=searched)
    if sections.optimizer is None:
        return exact.train(task, solver, found, terminal)
    first, found, _ = exact.train(task, begin, found, terminal)
    task = _continued(task, first.variables, found)
    trained = loop.train(task, output, resume=resume, progress=progress)
    last, found, card = exact.train(
        _continued(task, trained.variables, found), solver, found, terminal
    )
    return trained._replace(variables=last.variables), found, card


def _continued(task: Task, variables: Variables, found: Statistics) -> Task:
    """The task from other variables on, with the reference energies of a solution."""
    energies = found.references
    return task._replace(
        variables=variables,
        train=task.train.with_reference_energies(energies),
        valid=None if task.valid is None else task.valid.with_reference_energies(energies),
    )
