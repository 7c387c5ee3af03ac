"""NVE whose gradient needs no memory of the trajectory: it runs back, bit for bit, instead.

Positions and momenta are integers (`fixed_point`), as by Levesque & Verlet (1993): what
a kick or a drift adds is rounded to an integer, so that it can be taken off again without error,
and velocity Verlet is reversed exactly in spite of rounding. The backward pass reconstructs the
states from the last one, and carries the adjoint of the step along (custom_vjp).

Reversal is exact where forces are a function of the positions alone, to the last bit. So lists are
built in every step, and the evaluation of the forces stands behind a condition, which a compiler
does not merge with its surroundings. The end of the way back is compared with the start: where they
differ in one bit (scatters on a GPU add in any order; set `--xla_gpu_deterministic_ops=true` there)
the gradient is NaN.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from mlip_jax import units
from mlip_jax.config import UserError
from mlip_jax.neighbors import device
from mlip_jax.simulate import floats
from mlip_jax.simulate.differentiable import (
    Observe,
    Trajectory,
    TrajectoryFn,
    check_steps,
    unwrapped,
)
from mlip_jax.simulate.dynamics import Dynamics, DynamicsState
from mlip_jax.simulate.fixed_point import fits, to_integers, to_numbers


class _Reals(NamedTuple):
    """What derivatives are taken with respect to: arrays of floating point.

    Momenta are those of half a step later, but for the first.
    """

    variables: Any
    cell: Array
    masses: Array
    positions: Array
    momenta: Array


class _Others(NamedTuple):
    """What none are taken with respect to: integers among the variables, a state to fill in."""

    variables: Any
    state: DynamicsState


class _Grid(NamedTuple):
    """Fixed-point positions [Å] and momenta [sqrt(amu eV)], flags of lists, whether all fitted."""

    positions: Int[Array, "atoms 3"]
    momenta: Int[Array, "atoms 3"]
    flags: Int[Array, ""]
    valid: Bool[Array, ""]


class _Steps(NamedTuple):
    """What a trajectory consists of: its system, step [Å sqrt(amu/eV)], lengths and `observe`."""

    compiled: Dynamics
    step: float
    frames: int
    interval: int
    observe: Observe | None


def reversible_fn(
    compiled: Dynamics,
    timestep: float,
    length: int,
    *,
    observe: Observe | None = None,
    interval: int = 1,
) -> TrajectoryFn:
    """Makes `(variables, state) -> Trajectory` of NVE, to be jitted and differentiated in reverse.

    As `trajectory_fn` with an ensemble `nve`, whose trajectory it follows within the rounding of
    the grid, as that grows. Derivatives are those of velocity Verlet at the states of the grid, by
    variables, positions, momenta, cell and masses; memory does not grow with the length beyond the
    observables. A list is built in every step, and observing costs an evaluation.

    Args:
        compiled: dynamics of the system; of its ensemble nothing is used.
        timestep: fs.
        length: steps.
        observe: notes something of the state after every `interval` steps.
        interval: steps; a divisor of `length`.

    Raises:
        UserError: without x64, or for an impossible number of steps.
    """
    if not jax.config.read("jax_enable_x64"):
        raise UserError(
            "reversible_fn: got 32-bit integers; expected 64 bits, in which positions are kept. "
            'Call jax.config.update("jax_enable_x64", True) first.'
        )
    check_steps(length, interval, None)
    steps = _Steps(compiled, timestep / units.TIME_UNIT, length // interval, interval, observe)

    @jax.custom_vjp
    def simulate(reals: _Reals, others: _Others):
        state, observables, grid, _ = _forward(steps, reals, others)
        return state, observables, grid

    def forward(reals: _Reals, others: _Others):
        state, observables, grid, first = _forward(steps, reals, others)
        return (state, observables, grid), (reals, others, first, grid)

    def backward(residuals, cotangents):
        state, observables, _ = (floats.cotangents_of_floats(c) for c in cotangents)
        reals, others, first, last = residuals
        return _backward(steps, reals, others, first, last, state, observables), None

    simulate.defvjp(forward, backward)

    def run(variables: Any, state: DynamicsState) -> Trajectory:
        reals, integers = floats.split(variables)
        integrator = state.integrator
        wide = [state.cell, integrator.mass, unwrapped(state), integrator.momentum]
        reals = _Reals(reals, *(a.astype(float) for a in wide))
        template = jax.lax.stop_gradient(state)
        last, observables, grid = simulate(reals, _Others(integers, template))
        wrong = (grid.flags != 0) | ~grid.valid
        return floats.spoiled(Trajectory(last, observables, grid.flags), wrong)

    return run


def _forward(steps: _Steps, reals: _Reals, others: _Others):
    """Last state, observables, last and first grid; momenta of grids are half a step later."""

    def step(grid: _Grid, _) -> tuple[_Grid, None]:
        positions = grid.positions + _drift(steps, reals, grid.momenta)
        grid = grid._replace(positions=positions)
        kick, grid = _half_kick(steps, reals, others, grid)
        return grid._replace(momenta=grid.momenta + 2 * kick), None

    def frame(grid: _Grid, index: Array) -> tuple[_Grid, Any]:
        grid, _ = jax.lax.scan(step, grid, length=steps.interval)
        if steps.observe is None:
            return grid, None
        state = _state(steps, reals, others, grid, (index + 1) * steps.interval)
        return grid, steps.observe(floats.join(reals.variables, others.variables), state)

    positions, momenta = to_integers(reals.positions), to_integers(reals.momenta)
    no_flag = jnp.zeros((), jnp.int32)
    valid = fits(reals.positions) & fits(reals.momenta)
    first = _Grid(positions, momenta, no_flag, valid)
    kick, grid = _half_kick(steps, reals, others, first)
    grid = grid._replace(momenta=momenta + kick)
    grid, observables = jax.lax.scan(frame, grid, jnp.arange(steps.frames))
    last = _state(steps, reals, others, grid, steps.frames * steps.interval)
    return last, observables, grid, first


def _backward(
    steps: _Steps, reals: _Reals, others: _Others, first: _Grid, last: _Grid, of_state, of_frames
) -> _Reals:
    """Cotangents of the reals: one step after the other is taken back, and its adjoint applied."""

    def back(carry, output_slopes: Any, advance: Callable[[_Reals], Any]):
        grid, slopes = carry
        grid = _undone(steps, reals, others, grid)
        moving = {"positions": slopes.positions, "momenta": slopes.momenta}
        pullback = jax.vjp(advance, _at(reals, grid))[1]
        return grid, _added(slopes, pullback((moving, output_slopes))[0])

    def plain(at: _Reals):
        return _advanced(steps, at, others)[0], None

    def frame(carry, inputs):
        index, of_frame = inputs
        number = ((index + 1) * steps.interval).astype(jnp.int32)

        def observed(at: _Reals):
            moving, state = _advanced(steps, at, others)
            state = dataclasses.replace(state, step=others.state.step + number)
            noted = None
            if steps.observe is not None:
                noted = steps.observe(floats.join(at.variables, others.variables), state)
            return moving, (floats.split(state)[0], floats.split(noted)[0])

        at_end = (index == steps.frames - 1).astype(float)
        of_last = jax.tree.map(lambda c: c * at_end.astype(c.dtype), of_state)
        carry = back(carry, (of_last, of_frame), observed)
        if steps.interval > 1:
            again = lambda c, _: (back(c, None, plain), None)  # noqa: E731
            carry, _ = jax.lax.scan(again, carry, length=steps.interval - 1)
        return carry, None

    nothing = jax.tree.map(jnp.zeros_like, reals)
    frames = (jnp.arange(steps.frames), of_frames)
    (grid, slopes), _ = jax.lax.scan(frame, (last, nothing), frames, reverse=True)
    kick, grid = _half_kick(steps, reals, others, grid)

    def start(at: _Reals):
        force = _evaluated(steps, at, others).integrator.force
        return {"positions": at.positions, "momenta": at.momenta + 0.5 * steps.step * force}

    moving = {"positions": slopes.positions, "momenta": slopes.momenta}
    slopes = _added(slopes, jax.vjp(start, reals)[1](moving)[0])
    returned = jnp.all(grid.positions == first.positions)
    returned &= jnp.all(grid.momenta - kick == first.momenta)
    return floats.spoiled(slopes, ~returned)


def _undone(steps: _Steps, reals: _Reals, others: _Others, grid: _Grid) -> _Grid:
    """The grid a step earlier."""
    kick, grid = _half_kick(steps, reals, others, grid)
    grid = grid._replace(momenta=grid.momenta - 2 * kick)
    return grid._replace(positions=grid.positions - _drift(steps, reals, grid.momenta))


def _advanced(steps: _Steps, at: _Reals, others: _Others) -> tuple[dict, DynamicsState]:
    """Positions and momenta (half a step later) after one step in real numbers, and its state."""
    positions = at.positions + steps.step * at.momenta / at.masses
    state = _evaluated(steps, at._replace(positions=positions), others)
    half = 0.5 * steps.step * state.integrator.force.astype(float)
    state = _with_momenta(state, at.momenta + half)
    return {"positions": positions, "momenta": at.momenta + 2.0 * half}, state


def _state(steps: _Steps, reals: _Reals, others: _Others, grid: _Grid, number) -> DynamicsState:
    """The state at a grid, with momenta of the same time."""
    at = _at(reals, grid)
    state = _evaluated(steps, at, others)
    half = 0.5 * steps.step * state.integrator.force.astype(float)
    state = _with_momenta(state, at.momenta - half)
    step = (others.state.step + number).astype(others.state.step.dtype)
    return dataclasses.replace(state, step=step)


def _evaluated(steps: _Steps, at: _Reals, others: _Others) -> DynamicsState:
    """State with list, forces and energy, a function of the positions only."""
    state = others.state
    dtype = state.integrator.position.dtype
    wrapped, images = device.wrap(state.neighbors, at.positions, at.cell)
    wrapped, cell = wrapped.astype(dtype), at.cell.astype(dtype)
    integrator = state.integrator.set(
        position=wrapped,
        momentum=at.momenta.astype(dtype),
        mass=at.masses.astype(dtype),
    )
    state = dataclasses.replace(
        state,
        integrator=integrator,
        images=images,
        cell=cell,
        neighbors=device.update(state.neighbors, wrapped, cell),
    )
    return steps.compiled.evaluate(floats.join(at.variables, others.variables), state)


def _half_kick(
    steps: _Steps, reals: _Reals, others: _Others, grid: _Grid
) -> tuple[Int[Array, "atoms 3"], _Grid]:
    """What half a step of the forces adds to the momenta; nothing after an overflow."""

    def evaluate():
        state = _evaluated(steps, _at(reals, grid), others)
        change = 0.5 * steps.step * state.integrator.force.astype(float)
        return to_integers(change), device.flags(state.neighbors), fits(change)

    def nothing():
        return jnp.zeros_like(grid.momenta), jnp.zeros_like(grid.flags), jnp.ones((), bool)

    good = grid.valid & (grid.flags == 0)
    kick, flags, in_range = jax.lax.cond(good, evaluate, nothing)
    in_range &= fits(to_numbers(grid.positions)) & fits(to_numbers(grid.momenta))
    return kick, grid._replace(flags=grid.flags | flags, valid=grid.valid & in_range)


def _drift(steps: _Steps, reals: _Reals, momenta: Int[Array, "atoms 3"]) -> Array:
    """What a step adds to the positions."""
    return to_integers(steps.step * to_numbers(momenta) / reals.masses)


def _at(reals: _Reals, grid: _Grid) -> _Reals:
    return reals._replace(positions=to_numbers(grid.positions), momenta=to_numbers(grid.momenta))


def _with_momenta(state: DynamicsState, momenta: Array) -> DynamicsState:
    momenta = momenta.astype(state.integrator.momentum.dtype)
    return dataclasses.replace(state, integrator=state.integrator.set(momentum=momenta))


def _added(slopes: _Reals, new: _Reals) -> _Reals:
    """Cotangents of what is constant add up over the steps; those of what moves are replaced."""
    total = jax.tree.map(jnp.add, slopes, new)
    return total._replace(positions=new.positions, momenta=new.momenta)
