"""Observables beside the rows of an exact solver: Gauss and Newton.

The loss of the labels is a square form of the linear parameters, known from its triangle. The
observables are not, so that they are linearised, the whole is solved, and again from there; a step
that does not lower the loss is halved: J. Nocedal & S. J. Wright, "Numerical Optimization" (2006),
section 10.3.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mlip_jax.config import UserError
from mlip_jax.models import linear_terms
from mlip_jax.train import log, solver
from mlip_jax.train import step as steps
from mlip_jax.train.engine import Task
from mlip_jax.train.observed import Linearised, Observables
from mlip_jax.train.solver import Rows, Solution, SolverConfig

MAX_STEPS, MAX_HALVINGS = 30, 6
CONVERGED = 1e-4
"""Relative decrease of the loss at which the search ends."""


class _Place(NamedTuple):
    coefficients: Float[np.ndarray, " columns"]
    near: Linearised
    loss: float


def search(
    task: Task,
    rows: Rows,
    config: SolverConfig,
    free: int,
    terminal: log.Terminal,
) -> Solution:
    """Solves for labels and observables together, from the parameters of the task on.

    Args:
        task: its variables are where the search begins.
        rows: of the labels; the first `free` columns are reference energies.
        config: of the solver.
        free: number of these.
        terminal: for messages.

    Raises:
        UserError: for parameters to begin with whose observables have no values.
    """
    assert task.observables is not None
    measure = _measure_fn(task, task.observables, rows, free)
    start = linear_terms.parameters(task.model, task.variables)
    # The reference energies that go best with the parameters of the start.
    here = measure(_with_free(rows, start, free))
    solution, index = None, 0
    for index in range(MAX_STEPS):
        _say(terminal, index, here)
        both = _with_observables(task, rows, here, free)
        solution = solver.solve(both, _same_penalty(config, rows, both, free), free)
        new = _step(here, solution.coefficients - here.coefficients, measure)
        if new is None or here.loss - new.loss <= CONVERGED * here.loss:
            here = here if new is None else new
            break
        here = new
    assert solution is not None
    _say(terminal, index + 1, here)
    return solution._replace(coefficients=here.coefficients, residual=here.loss)


def _measure_fn(
    task: Task, observables: Observables, rows: Rows, free: int
) -> Callable[[np.ndarray], _Place]:
    triangle = rows.triangle()
    constants = steps.constants_of(task.variables)

    def measure(coefficients: np.ndarray) -> _Place:
        variables = linear_terms.with_parameters(task.model, task.variables, coefficients[free:])
        near = observables.linearised(variables["params"], constants)
        labels = float(np.sum((triangle[:, :-1] @ coefficients - triangle[:, -1]) ** 2))
        return _Place(coefficients, near, labels + near.found.loss)

    return measure


def _step(here: _Place, change: np.ndarray, measure: Callable[[np.ndarray], _Place]):
    """The place after a step that lowers the loss; `None` where none does."""
    for halvings in range(MAX_HALVINGS):
        try:
            new = measure(here.coefficients + 0.5**halvings * change)
        except UserError:
            continue  # too far: it has no values there
        if new.loss < here.loss:
            return new
    return None


def _with_observables(task: Task, rows: Rows, here: _Place, free: int) -> Rows:
    triangle = rows.triangle()
    slopes = np.stack(
        [linear_terms.parameters(task.model, {"params": slope}) for slope in here.near.slopes]
    )
    slopes = np.pad(slopes, ((0, 0), (free, 0)))
    both = Rows(triangle.shape[1] - 1)
    both.add(triangle[:, :-1], triangle[:, -1])
    both.add(slopes, slopes @ here.coefficients - here.near.residuals)
    both.count = rows.count + len(slopes)
    return both


def _same_penalty(config: SolverConfig, rows: Rows, both: Rows, free: int) -> SolverConfig:
    """The config whose penalty, relative to the larger problem, is that of the labels alone."""
    labels, all_rows = (
        float(np.linalg.norm(problem.triangle()[free:, free:-1], 2)) for problem in (rows, both)
    )
    return dataclasses.replace(config, alpha=config.alpha * (labels / all_rows) ** 2)


def _with_free(rows: Rows, values: np.ndarray, free: int) -> np.ndarray:
    triangle = rows.triangle()
    target = triangle[:, -1] - triangle[:, free:-1] @ values
    shifts = np.linalg.lstsq(triangle[:, :free], target, rcond=None)[0] if free else np.zeros(0)
    return np.concatenate([shifts, values])


def _say(terminal: log.Terminal, index: int, here: _Place) -> None:
    values = ", ".join(f"{name} {value:.5g}" for name, value in here.near.found.values.items())
    terminal.say(f"solver step {index}: loss {here.loss:.6g}; {values}")
