"""Least squares with a few parameters that the energies are not linear in.

The linear parameters p are solved for wherever the others, q, stand, so that a search over q alone
is left: G. Golub & V. Pereyra, Inverse Probl. 19, R1 (2003). Its steps are those of Levenberg and
Marquardt for both together: with `A` the derivatives of the rows by p and `K` those by q, they
minimise

    |A p + K dq - y|² + α |p|² + λ |D dq|²,   D the lengths of the columns of K,

and p is solved for anew at the new place (J. Nocedal & S. J. Wright, "Numerical Optimization"
(2006), section 10.3). All rows of a place go through one QR factorisation, see `solver`.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.data.batching import Batch
from mlip_jax.data.statistics import Statistics
from mlip_jax.interrupt import StopRequest
from mlip_jax.models import linear_terms
from mlip_jax.potential import Variables, predict_fn
from mlip_jax.train import design, exact, log, solver
from mlip_jax.train.engine import Task
from mlip_jax.train.interrupt import TrainingInterrupted
from mlip_jax.train.solver import SolverConfig

_FIRST, _LOWEST, _HIGHEST = 1e-2, 1e-6, 1e6
"""λ of the first step, and its bounds."""

_SMALLER, _LARGER = 0.2, 5.0
"""What λ is multiplied with after a step that lowers the loss, and after one that does not."""

FILE = "variable_projection.npz"

T = TypeVar("T")

Flat = dict[tuple[str, ...], Any]
"""Parameters by their path."""


class Place(NamedTuple):
    """Where the search stands.

    Attributes:
        others: q, as a vector.
        guess: p that K was taken at, after the reference energies that are fitted.
        linear: p that is best here, likewise.
        triangle: R of the rows `[reference energies | A | K | y]`.
        alpha: α.
        loss: sum of the squared residuals.
    """

    others: Float[np.ndarray, " others"]
    guess: Float[np.ndarray, " linear"]
    linear: Float[np.ndarray, " linear"]
    triangle: Float[np.ndarray, "_ columns"]
    alpha: float
    loss: float


def search(
    task: Task,
    config: SolverConfig,
    found: Statistics,
    terminal: log.Terminal,
    output: Path,
    *,
    resume: bool = False,
) -> Variables:
    """Parameters at which the loss of the training data is small, from those of the task on.

    Args:
        task: what is fitted.
        config: with `nonlinear_iterations` and `nonlinear_fraction`.
        found: statistics of the training data.
        terminal: for messages.
        output: directory for the state of the search, after each step.
        resume: continue from this state, where there is one.

    Raises:
        UserError: for a model without such parameters, and as `exact.train`.
        TrainingInterrupted: on Ctrl-C or SIGTERM.
    """
    visit = visit_fn(task, config, found)
    others, _ = _split(task)
    begin = np.asarray(ravel_pytree(others)[0], np.float64)
    number = linear_terms.parameters(task.model, task.variables).size
    guess = np.zeros(len(exact.free_elements(found)) + number)
    damping, taken, file = _FIRST, 0, output / FILE
    if resume and file.exists():
        with np.load(file) as state:
            begin, guess = state["others"], state["guess"]
            damping, taken = float(state["damping"]), int(state["taken"])
        terminal.say(f"continuing from step {taken} ({file})")
    with StopRequest() as request:
        best = visit(begin, guess)
        if taken == 0:
            best = visit(begin, best.linear)
        while taken < config.nonlinear_iterations and damping < _HIGHEST:
            guess, step = _step(best, damping)
            new = visit(best.others + step, guess)
            better = new.loss < best.loss
            damping = max(damping * (_SMALLER if better else _LARGER), _LOWEST)
            terminal.say(
                f"step {taken + 1} of {config.nonlinear_iterations}: loss {new.loss:.6g} "
                f"{'<' if better else '>'} {best.loss:.6g}, damping {damping:.0e}"
            )
            best, taken = (new if better else best), taken + 1
            state = {"others": best.others, "guess": best.guess, "damping": damping}
            _write(file, {**state, "taken": taken})
            if request.signal is not None:
                raise TrainingInterrupted(
                    f"the search was interrupted after step {taken}; its state is in {file}. "
                    "Continue with --resume.",
                    request.signal,
                )
    return _with_others(task, best.others)


def visit_fn(
    task: Task, config: SolverConfig, found: Statistics
) -> Callable[[np.ndarray, np.ndarray], Place]:
    """Makes `(q, guess of p) -> Place`: a pass over the data; K is taken at the guess."""
    free = exact.free_elements(found)
    scales = exact.scales(task)
    make = design.design_fn(task.model, task.variables, scales, free)
    slopes = _slopes_fn(task, scales)

    def visit(others: np.ndarray, guess: np.ndarray) -> Place:
        variables = _with_others(task, others)
        variables = linear_terms.with_parameters(task.model, variables, guess[len(free) :])
        size = len(guess)
        rows = solver.Rows(size + len(others))
        for batch in spread(exact.batches(task), config.nonlinear_fraction):
            part = make(variables, batch)
            slope = slopes(variables, batch)
            rows.add(np.concatenate([part.composition, part.matrix, slope], axis=1), part.target)
        triangle = rows.triangle()
        alone = solver.Rows(size)
        alone.add(triangle[:, :size], triangle[:, -1])
        alone.count = rows.count
        solved = solver.solve(alone, config, free=len(free))
        return Place(others, guess, solved.coefficients, triangle, solved.alpha, solved.residual)

    return visit


def _step(place: Place, damping: float) -> tuple[np.ndarray, np.ndarray]:
    """The linear parameters after a step, as its model has them, and the step of the others."""
    size, number = len(place.linear), len(place.others)
    matrix, target = place.triangle[:, :-1], place.triangle[:, -1]
    penalty = np.zeros(size + number)
    largest = np.linalg.norm(matrix[:, :size], 2)
    penalty[:size] = np.sqrt(place.alpha) * largest
    penalty[size:] = np.sqrt(damping) * np.linalg.norm(matrix[:, size:], axis=0)
    stacked = np.concatenate([matrix, np.diag(penalty)])
    lengths = np.maximum(np.linalg.norm(stacked, axis=0), np.finfo(float).tiny)
    full = np.append(target, np.zeros(size + number))
    solution = np.linalg.lstsq(stacked / lengths, full, rcond=None)[0] / lengths
    return solution[:size], solution[size:]


def _slopes_fn(
    task: Task, scales: dict[str, float]
) -> Callable[[Variables, Batch], Float[np.ndarray, "rows others"]]:
    """Makes `(variables, batch) -> K`, for the labels that there are."""
    predict = predict_fn(task.model)

    @jax.jit
    def columns(variables: Any, batch: Batch) -> tuple[Array, Array]:
        others, linear = _parts(task.model, variables["params"])
        flat, unravel = ravel_pytree(others)

        def rows(flat: Array) -> Array:
            params = _joined(unravel(flat), linear)
            prediction = predict({**variables, "params": params}, batch.graph)
            return design.weighted_rows(prediction, batch, scales)

        return design.forward_slopes(rows, flat).T, design.labelled(batch, scales)

    def slopes(variables: Variables, batch: Batch) -> np.ndarray:
        found, mask = columns(variables, jax.tree.map(jnp.asarray, batch))
        return np.asarray(found, np.float64)[np.asarray(mask)]

    return slopes


def spread(items: Iterable[T], fraction: float) -> Iterator[T]:
    """So many of the items, evenly spread; the first of all for any fraction."""
    for index, item in enumerate(items):
        if math.ceil((index + 1) * fraction) > math.ceil(index * fraction):
            yield item


def _split(task: Task) -> tuple[Flat, Flat]:
    others, linear = _parts(task.model, task.variables["params"])
    if not others:
        raise UserError(
            "solver.nonlinear_iterations: the energies of this model are linear in all of its "
            "parameters. Remove the key."
        )
    return others, linear


def _parts(model: Any, params: Any) -> tuple[Flat, Flat]:
    """Parameters of descriptors and of regressors, as flat dictionaries."""
    ends = [path for path, _ in linear_terms.local_terms(model, params)]
    flat = traverse_util.flatten_dict(dict(params))
    linear = {k: v for k, v in flat.items() if any(k[: len(p)] == p for p in ends)}
    return {k: v for k, v in flat.items() if k not in linear}, linear


def _joined(others: Flat, linear: Flat) -> dict[str, Any]:
    return traverse_util.unflatten_dict({**others, **linear})


def _with_others(task: Task, values: np.ndarray) -> dict[str, Any]:
    others, linear = _split(task)
    new = ravel_pytree(others)[1](jnp.asarray(values))
    new = {name: np.asarray(leaf) for name, leaf in new.items()}
    return {**task.variables, "params": _joined(new, linear)}


def _write(file: Path, arrays: dict[str, Any]) -> None:
    """Replaces a file at once, so that an interrupt leaves the old one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part.npz")
    np.savez(part, **arrays)
    part.replace(file)
