"""Relaxed structures and cells as differentiable functions of the parameters of a potential.

At a minimum the slope g(θ, q) of the energy in the coordinates q vanishes, so that
`dq/dθ = -H⁻¹ ∂g/∂θ` with the Hessian H (implicit function theorem): the way to the minimum carries
no derivative. The system is solved by conjugate gradients on Hessian-vector products.

Coordinates are displacements u of the atoms and a symmetric strain ε of the cell, as far as it may
move: positions `(x + u) (1 + ε)`, cell `h (1 + ε)`, ε scaled by a length as in `batch_descent`.
Translations, and rotations where the directions that are not periodic allow them, change no energy:
they are projected out, and a relaxed structure neither moves as a whole nor turns.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mlip_jax.config import UserError
from mlip_jax.graph import volumes
from mlip_jax.neighbors import active, device
from mlip_jax.neighbors.device import DeviceNeighbors
from mlip_jax.simulate.batch_descent import driving
from mlip_jax.simulate.conjugate_gradients import conjugate_gradients
from mlip_jax.simulate.floats import spoiled
from mlip_jax.simulate.system import System

Vector = Float[Array, " coordinates"]

_INEXACT = 1e-3
"""Relative residual at which the linear solve of a step on the way is ended."""
_EXACT = 1e-10
"""The same of the solve for a derivative, in float64; the rounding of the dtype bounds it."""


class Relaxed(NamedTuple):
    """A minimum of the energy; all numbers are NaN where it was not found.

    Attributes:
        positions: Å.
        cell: Å.
        energy: eV, without reference energies.
        stress: eV/Å^3.
        converged: whether no component of the slope exceeds the tolerance.
        steps: Newton steps done.
        flags: bits of `neighbors.device.Flag`.
    """

    positions: Float[Array, "atoms 3"]
    cell: Float[Array, "3 3"]
    energy: Float[Array, ""]
    stress: Float[Array, "3 3"]
    converged: Bool[Array, ""]
    steps: Int[Array, ""]
    flags: Int[Array, ""]


class _Place(NamedTuple):
    """Where a descent began: Å, Å, and the length [Å] by which strain is scaled."""

    positions: Array
    cell: Array
    length: Array


class _Descent(NamedTuple):
    coordinates: Vector
    neighbors: DeviceNeighbors
    steps: Array
    converged: Array


def relaxed_fn(
    system: System,
    *,
    cell: str = "fixed",
    tolerance: float = 1e-6,
    max_steps: int = 50,
    max_displacement: float = 0.3,
) -> Callable[..., Relaxed]:
    """Makes `(variables, positions, cell, neighbors=None) -> Relaxed`, to be jitted.

    It goes from a structure nearby to the minimum by Newton's method with truncated conjugate
    gradients (Dembo & Steihaug 1983): for a start that is far away, relax with `relax.fire` or
    `batch_relax` first. Derivatives with respect to variables and, where the cell is fixed, to the
    cell are those of the minimum, to all orders and in both directions. With a saddle point in
    place of a minimum they are NaN.

    Args:
        system: structure and potential; its list is used unless another is given.
        cell: `fixed`, `hydrostatic` (the volume) or `full` (any strain).
        tolerance: eV/Å, largest component of the slope at convergence; that of the cell is its
            virial [eV] over the scale of strain.
        max_steps: Newton steps.
        max_displacement: Å, longest step of a coordinate.

    Raises:
        UserError: for a cell that moves without three periodic directions, or an unknown kind.
    """
    _check_cell(system, cell)

    def slope(variables, place: _Place, listed, coordinates) -> tuple[Vector, DeviceNeighbors]:
        """The derivative of the energy by the coordinates, projected on those that may change."""
        positions, box, growth = _deformed(place, coordinates, cell)
        graph, listed = active.to_graph(system.template, listed, positions, box)
        prediction = system.predict(variables, graph)
        forces = prediction.forces[: positions.shape[0]] @ growth
        virial = driving(jnp.linalg.solve(growth, prediction.virial[0])[None], cell)[0]
        return -jnp.concatenate([forces.ravel(), virial.ravel() / place.length]), listed

    def descend(variables, place: _Place, listed: DeviceNeighbors) -> _Descent:
        def body(one: _Descent) -> _Descent:
            positions, box, _ = _deformed(place, one.coordinates, cell)
            listed = device.refresh(one.neighbors, positions, box)
            project = _projection(system, positions, cell)
            (down, listed), product = jax.linearize(
                lambda q: slope(variables, place, listed, q), one.coordinates
            )
            converged = jnp.max(jnp.abs(project(down))) < tolerance
            limit = jnp.where(converged, 0, 4 * down.size)
            step, _ = conjugate_gradients(
                lambda v: project(product(v)[0]), -project(down), _INEXACT, limit
            )
            longest = jnp.max(jnp.abs(step))
            step = step * (max_displacement / jnp.maximum(longest, max_displacement))
            return _Descent(one.coordinates + step, listed, one.steps + ~converged, converged)

        none = jnp.zeros(3 * place.positions.shape[0] + 9, place.positions.dtype)
        first = _Descent(none, listed, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
        going = lambda one: ~one.converged & (one.steps < max_steps)  # noqa: E731
        return jax.lax.while_loop(going, body, first)

    def relaxed(variables, positions, box, neighbors=None) -> Relaxed:
        positions, box = (jnp.asarray(a, system.dtype) for a in (positions, box))
        place = _Place(positions, box, _strain_length(box, len(positions)))
        fixed = jax.lax.stop_gradient(
            (variables, place, system.neighbors if neighbors is None else neighbors)
        )
        end = jax.lax.stop_gradient(descend(*fixed))
        at_end = _deformed(fixed[1], end.coordinates, cell)[:2]
        listed = device.refresh(end.neighbors, *at_end)
        project = _projection(system, at_end[0], cell)
        coordinates = jax.lax.custom_root(
            lambda q: slope(variables, place, listed, q)[0],
            end.coordinates,
            lambda function, guess: guess,
            lambda product, right: _solve(product, right, project),
        )
        positions, box, _ = _deformed(place, coordinates, cell)
        graph, listed = active.to_graph(system.template, listed, positions, box)
        last = system.predict(variables, graph)
        flags = device.flags(listed)
        result = Relaxed(
            positions, box, last.energy[0], last.stress[0], end.converged, end.steps, flags
        )
        return spoiled(result, (flags != 0) | ~end.converged)

    return relaxed


def _deformed(place: _Place, coordinates: Vector, kind: str) -> tuple[Array, Array, Array]:
    """Positions and cell at some coordinates, and 1 + ε."""
    displacements = coordinates[:-9].reshape(-1, 3)
    strain = driving(coordinates[-9:].reshape(1, 3, 3), kind)[0] / place.length
    growth = jnp.eye(3, dtype=strain.dtype) + strain
    return (place.positions + displacements) @ growth, place.cell @ growth, growth


def _solve(product: Callable[[Vector], Vector], right: Vector, project: Any) -> Vector:
    """The solution of `P H P x = P y`; NaN where H is not positive or the solve fails."""
    tolerance = max(_EXACT, 10.0 * float(jnp.finfo(right.dtype).eps))

    def solve(matrix, right):
        solution, solved = conjugate_gradients(matrix, right, tolerance, 20 * right.size)
        return jnp.where(solved, solution, jnp.nan)

    # Projected on both sides, for the solve with the transpose gets what comes from the left.
    return project(
        jax.lax.custom_linear_solve(
            lambda v: project(product(project(v))), project(right), solve, symmetric=True
        )
    )


def _projection(
    system: System, positions: Float[Array, "atoms 3"], kind: str
) -> Callable[[Vector], Vector]:
    """Takes translations, free rotations and forbidden strains out of a vector."""
    modes = _free_modes(positions, jnp.asarray(system.structure.cell), system.neighbors.pbc)
    _, sizes, rows = jnp.linalg.svd(modes, full_matrices=False)
    # The rotation of a line of atoms about itself is no mode.
    rows = jnp.where(sizes[:, None] > 1e-6 * sizes[0], rows, 0.0)

    def project(vector: Vector) -> Vector:
        atoms, strain = vector[:-9], vector[-9:].reshape(1, 3, 3)
        atoms = atoms - (rows @ atoms) @ rows
        return jnp.concatenate([atoms, driving(strain, kind).ravel()])

    return project


def _free_modes(positions, cell, pbc) -> Float[Array, "modes coordinates"]:
    """Translations along x, y and z, and the rotations that leave the periodic directions alone."""
    identity = jnp.eye(3, dtype=positions.dtype)
    shifts = [jnp.broadcast_to(axis, positions.shape) for axis in identity]
    periodic = [i for i in range(3) if pbc[i]]
    axes = {0: list(identity), 1: [cell[i].astype(positions.dtype) for i in periodic[:1]]}
    centred = positions - jnp.mean(positions, axis=0, keepdims=True)
    turns = [jnp.cross(axis[None], centred) for axis in axes.get(len(periodic), [])]
    return jnp.stack([mode.ravel() for mode in shifts + turns])


def _strain_length(cell: Float[Array, "3 3"], atoms: int) -> Float[Array, ""]:
    """Å, as in `batch_descent.BatchState.length`."""
    volume = jax.lax.stop_gradient(volumes(cell[None])[0])
    return np.sqrt(atoms) * jnp.cbrt(volume / atoms)


def _check_cell(system: System, cell: str) -> None:
    if cell not in ("fixed", "hydrostatic", "full"):
        raise UserError(f"cell: got {cell}; expected fixed, hydrostatic or full.")
    if cell != "fixed" and not all(system.neighbors.pbc):
        raise UserError(
            f"cell: got {cell} for pbc {list(system.neighbors.pbc)}; expected three periodic "
            "directions. Set cell=fixed."
        )
