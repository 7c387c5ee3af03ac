"""Least squares with a few parameters that the energies are not linear in.

The linear parameters p are solved for wherever the others, q, stand, so that a search over q alone
is left: G. Golub & V. Pereyra, Inverse Probl. 19, R1 (2003). Its steps are those of Levenberg and
Marquardt for both together: with `A` the derivatives of the rows by p, `K` those by q at the p that
is best here, they minimise

    |A p + K dq - y|² + α |p|² + λ |D dq|²,   D the lengths of the columns of K,

and p is solved for anew at the new place. λ follows what the loss falls by, compared with what the
step promised (J. Nocedal & S. J. Wright, "Numerical Optimization" (2006), chapter 4, section 10.3).
All rows of a place go through one QR factorisation, see `solver`.
"""

import math
import zipfile
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

_FIRST, _LOWEST, _HIGHEST = 1e-2, 1e-9, 1e6
"""λ of the first step, and its bounds."""

_GOOD, _POOR = 0.5, 0.1
"""Fall of the loss over what was promised: from here on λ is divided, below it is multiplied."""

_FACTOR = 5.0
"""What λ is divided by or multiplied with."""

_WORTH = 1e-4
"""Part of the loss that a step must promise to take away, or the search is at its end."""

FILE = "variable_projection.npz"

T = TypeVar("T")

Flat = dict[tuple[str, ...], Any]
"""Parameters by their path."""


class Place(NamedTuple):
    """Where the search stands.

    Attributes:
        others: q, as a vector.
        linear: p that is best here, after the reference energies that are fitted.
        triangle: R of the rows `[reference energies | A | y]`.
        alpha: α over the largest squared singular value of A.
    """

    others: Float[np.ndarray, " others"]
    linear: Float[np.ndarray, " linear"]
    triangle: Float[np.ndarray, "_ columns"]
    alpha: float


class Passes(NamedTuple):
    """Passes over the data.

    Attributes:
        place: `q -> Place`.
        slopes: `place -> R of the rows [reference energies | A | K | y]`, K at the p of the place.
        free: number of reference energies that are fitted.
    """

    place: Callable[[np.ndarray], Place]
    slopes: Callable[[Place], np.ndarray]
    free: int


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
        UserError: for a model without such parameters, a damaged state, and as `exact.train`.
        TrainingInterrupted: on Ctrl-C or SIGTERM.
    """
    passes = passes_fn(task, config, found)
    others, _ = _split(task)
    begin = np.asarray(ravel_pytree(others)[0], np.float64)
    damping, taken, file = _FIRST, 0, output / FILE
    if resume and file.exists():
        begin, damping, taken = _read(file, begin.size)
        terminal.say(f"continuing from step {taken} ({file})")
    with StopRequest() as request:
        best, slopes = passes.place(begin), None
        while taken < config.nonlinear_iterations and damping < _HIGHEST:
            slopes = passes.slopes(best) if slopes is None else slopes
            step, promised = _step(best, slopes, damping, passes.free)
            before = _loss(best, best.alpha, passes.free)
            if before - promised <= _WORTH * before:
                terminal.say(f"no step promises more than {_WORTH:.0e} of the loss {before:.6g}")
                break
            new = passes.place(best.others + step)
            after = _loss(new, best.alpha, passes.free)
            taken += 1
            terminal.say(
                f"step {taken} of {config.nonlinear_iterations}: loss {after:.6g} from "
                f"{before:.6g}, promised {promised:.6g}, damping {damping:.0e}"
            )
            damping = _next_damping(damping, before - after, before - promised)
            if after < before:
                best, slopes = new, None
            _write(file, {"others": best.others, "damping": damping, "taken": taken})
            if request.signal is not None:
                raise TrainingInterrupted(
                    f"the search was interrupted after step {taken}; its state is in {file}. "
                    "Continue with --resume.",
                    request.signal,
                )
    return _with_others(task, best.others)


def passes_fn(task: Task, config: SolverConfig, found: Statistics) -> Passes:
    """Makes the passes over the part of the data that the search looks at."""
    free = exact.free_elements(found)
    scales = exact.scales(task)
    make = design.design_fn(task.model, task.variables, scales, free)
    slopes_of = _slopes_fn(task, scales)
    size = len(free) + linear_terms.parameters(task.model, task.variables).size

    def place(others: np.ndarray) -> Place:
        variables = _with_others(task, others)
        rows = solver.Rows(size)
        for batch in spread(exact.batches(task), config.nonlinear_fraction):
            part = make(variables, batch)
            rows.add(np.concatenate([part.composition, part.matrix], axis=1), part.target)
        solved = solver.solve(rows, config, free=len(free))
        return Place(others, solved.coefficients, rows.triangle(), solved.alpha)

    def slopes(place: Place) -> np.ndarray:
        variables = _with_others(task, place.others)
        variables = linear_terms.with_parameters(task.model, variables, place.linear[len(free) :])
        rows = solver.Rows(size + len(place.others))
        for batch in spread(exact.batches(task), config.nonlinear_fraction):
            part = make(variables, batch)
            slope = slopes_of(variables, batch)
            rows.add(np.concatenate([part.composition, part.matrix, slope], axis=1), part.target)
        return rows.triangle()

    return Passes(place, slopes, len(free))


def _step(
    place: Place, triangle: Float[np.ndarray, "_ columns"], damping: float, free: int
) -> tuple[np.ndarray, float]:
    """dq, and the loss that a model linear in both would have after it."""
    size, number = len(place.linear), len(place.others)
    matrix, target = triangle[:, :-1], triangle[:, -1]
    penalty = np.zeros(size + number)
    penalty[free:size] = np.sqrt(place.alpha) * np.linalg.norm(matrix[free:, free:size], 2)
    penalty[size:] = np.sqrt(damping) * np.linalg.norm(matrix[:, size:], axis=0)
    stacked = np.concatenate([matrix, np.diag(penalty)])
    lengths = np.maximum(np.linalg.norm(stacked, axis=0), np.finfo(float).tiny)
    full = np.append(target, np.zeros(size + number))
    solution = np.linalg.lstsq(stacked / lengths, full, rcond=None)[0] / lengths
    left = matrix @ solution - target
    shrunk = penalty[:size] * solution[:size]
    return solution[size:], float(left @ left + shrunk @ shrunk)


def _loss(place: Place, alpha: float, free: int) -> float:
    """`|A p - y|² + α |p|²` at its smallest."""
    return solver.penalised_loss(place.triangle, alpha, free)


def _next_damping(damping: float, fall: float, promised: float) -> float:
    if fall >= _GOOD * promised > 0.0:
        return max(damping / _FACTOR, _LOWEST)
    return damping if fall >= _POOR * promised > 0.0 else damping * _FACTOR


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


def _read(file: Path, size: int) -> tuple[np.ndarray, float, int]:
    """Other parameters, damping and steps taken, as `_write` left them."""
    try:
        with file.open("rb") as stream, np.load(stream) as state:
            others, damping, taken = state["others"], float(state["damping"]), int(state["taken"])
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{file}: is damaged ({error}). Remove it to begin the search anew."
        ) from error
    if others.shape != (size,):
        raise UserError(
            f"{file}: got {others.shape} parameters; expected {(size,)}, those of the model of "
            "this config. Restore the config, or train anew in another --output."
        )
    return others, damping, taken


def _write(file: Path, arrays: dict[str, Any]) -> None:
    """Replaces a file at once, so that an interrupt leaves the old one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part.npz")
    np.savez(part, **arrays)
    part.replace(file)
