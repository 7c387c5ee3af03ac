"""Trajectories as differentiable functions `(variables, state) -> state and observables`.

The steps are those of `dynamics`, for every ensemble and potential. Their derivatives are taken by
reverse accumulation with segmented checkpointing (Griewank 1992, with one level of segments): the
states at the beginnings of segments are stored, those within a segment are computed again when its
turn comes, and within a step the potential is, too. Memory grows with the square root of the
length; a gradient costs two evaluations of the trajectory beside the backward pass.

Neighbour lists have a fixed capacity and are rebuilt within the trajectory where they have become
stale. They carry no derivative: with a cutoff that is smooth the energy does not depend on them.
Where one overflows, all results of floating point are NaN, and with them their derivatives, and
`flags` says why. `with_room` finds a capacity that suffices.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure
from mlip_jax.neighbors import device
from mlip_jax.potential import Potential
from mlip_jax.simulate import dynamics, ensembles, floats
from mlip_jax.simulate.dynamics import Dynamics, DynamicsState
from mlip_jax.simulate.gates import Gate
from mlip_jax.simulate.settings import EnsembleConfig
from mlip_jax.simulate.system import System, prepare
from mlip_jax.simulate.watch import Limits

Observe = Callable[[Any, DynamicsState], Any]
"""`(variables, state) -> tree of arrays`: what a trajectory notes of its states."""


class Trajectory(NamedTuple):
    """What came out of a trajectory.

    Attributes:
        state: the last.
        observables: trees of `observe`, with a leading axis; `None` without it.
        flags: bits of `neighbors.device.Flag`; where they are not 0, all numbers are NaN.
    """

    state: DynamicsState
    observables: Any
    flags: Int[Array, ""]


TrajectoryFn = Callable[[Any, DynamicsState], Trajectory]


class Start(NamedTuple):
    """A system, its dynamics and its first state.

    Attributes:
        system: structure and potential on the device.
        compiled: its dynamics.
        variables: of the potential.
        state: the first.
    """

    system: System
    compiled: Dynamics
    variables: Any
    state: DynamicsState


def begin(
    potential: Potential,
    structure: Structure,
    ensemble: EnsembleConfig,
    timestep: float,
    *,
    seed: int = 0,
    precision: str = "float64",
    skin: float = 0.5,
    momenta: Float[np.ndarray, "atoms 3"] | None = None,
) -> Start:
    """Makes a potential, a structure and an ensemble ready for `trajectory_fn`.

    Args:
        potential: the potential.
        structure: in any cell, or none.
        ensemble: which.
        timestep: fs.
        seed: of the momenta and of the random forces.
        precision: `float32` or `float64`.
        skin: Å, of the neighbour list.
        momenta: sqrt(amu eV); `None` draws them at the temperature of the ensemble.

    Raises:
        UserError: for an unknown element, an impossible structure or precision.
    """
    system = prepare(potential, structure, precision, skin)
    integrator = ensembles.build(ensemble, timestep, structure.num_atoms, system.dtype)
    compiled = dynamics.build(system.predict, integrator, system.template, chunk_length=100)
    if momenta is None:
        momenta = ensembles.maxwell_boltzmann(seed, system.masses, ensemble.first_temperature)
    variables = jax.tree.map(jnp.asarray, system.variables)
    state = compiled.init(
        variables,
        jax.random.PRNGKey(seed),
        np.asarray(momenta, system.dtype),
        np.asarray(system.masses[:, None], system.dtype),
        system.neighbors,
        system.images,
    )
    return Start(system, compiled, variables, state)


def trajectory_fn(
    compiled: Dynamics,
    length: int,
    *,
    observe: Observe | None = None,
    interval: int = 1,
    segment: int | None = None,
    gate: Gate | None = None,
) -> TrajectoryFn:
    """Makes `(variables, state) -> Trajectory`, to be jitted and differentiated.

    The first state is evaluated anew, so that its forces depend on the variables and on its
    positions (see `moved`). With `segment=0` nothing is computed twice: memory then grows with the
    length times all that the potential stores for its derivative.

    Args:
        compiled: dynamics of a system.
        length: steps.
        observe: notes something of the state after every `interval` steps.
        interval: steps; a divisor of `length`.
        segment: steps between two stored states; `None`: the square root of the length; 0: all
            intermediate values are stored.
        gate: what happens to derivatives between steps, see `gates`.

    Raises:
        UserError: for an impossible number of steps.
    """
    check_steps(length, interval, segment)

    def run(variables: Any, state: DynamicsState) -> Trajectory:
        def step(state: DynamicsState, index: Array) -> tuple[DynamicsState, None]:
            drifted = compiled.before(state)
            if gate is not None:
                drifted = _through(gate, index, state, drifted)
            return compiled.after(compiled.evaluate(variables, drifted)), None

        def frame(state: DynamicsState, index: Array) -> tuple[DynamicsState, Any]:
            if interval == 1:
                state, _ = step(state, index)
            else:
                state, _ = scan_segments(step, state, index * interval, interval, segment)
            return state, None if observe is None else observe(variables, state)

        state = dataclasses.replace(state, neighbors=jax.lax.stop_gradient(state.neighbors))
        state = compiled.evaluate(variables, state)
        state, observables = scan_segments(frame, state, 0, length // interval, segment)
        flags = device.flags(state.neighbors)
        return floats.spoiled(Trajectory(state, observables, flags), flags != 0)

    return run


def moved(
    state: DynamicsState,
    positions: Float[Array, "atoms 3"] | None = None,
    momenta: Float[Array, "atoms 3"] | None = None,
) -> DynamicsState:
    """The state at other positions [Å, not wrapped] or momenta [sqrt(amu eV)].

    Its forces are those of before: for the start of a trajectory, which evaluates them.
    """
    integrator = state.integrator
    if positions is not None:
        integrator = integrator.set(
            position=positions - state.images.astype(positions.dtype) @ state.cell
        )
    if momenta is not None:
        integrator = integrator.set(momentum=momenta)
    return dataclasses.replace(state, integrator=integrator)


def unwrapped(state: DynamicsState) -> Float[Array, "atoms 3"]:
    """Positions [Å] that do not jump when an atom crosses a border of the cell."""
    return state.integrator.position + state.images.astype(state.cell.dtype) @ state.cell


def with_room(
    compiled: Dynamics, variables: Any, state: DynamicsState, length: int
) -> DynamicsState:
    """The state with a list that is large enough for a trajectory, which is run to find it.

    Other variables lead to another trajectory, for which the room may not suffice: look at `flags`.
    """
    last = jax.jit(compiled.evaluate)(variables, state)
    if int(device.flags(last.neighbors)):
        last = dynamics.make_room(state, last.neighbors)
        return with_room(compiled, variables, last, length)
    while int(last.step) < int(state.step) + length:
        count = min(100, int(state.step) + length - int(last.step))
        chunk, _ = dynamics.advance_chunk(compiled, variables, last, count, Limits())
        if int(chunk.stop):
            raise UserError(
                f"trajectory: the energy is no longer finite after {int(chunk.state.step)} steps; "
                "expected finite ones. Check the start, or reduce the timestep."
            )
        last = chunk.state
    neighbors = device.with_capacity(state.neighbors, last.neighbors.capacity)
    return dataclasses.replace(state, neighbors=neighbors)


def scan_segments(
    body: Callable[[Any, Array], tuple[Any, Any]],
    carry: Any,
    first: Any,
    length: int,
    segment: int | None,
) -> tuple[Any, Any]:
    """`lax.scan` of `body` over `first … first + length - 1` that stores the carry at few places.

    Args:
        body: `(carry, index) -> (carry, output)`.
        carry: the first.
        first: index.
        length: calls of `body`.
        segment: calls between two stored carries, see `trajectory_fn`.
    """
    if segment == 0:
        return jax.lax.scan(body, carry, first + jnp.arange(length))
    size = min(length, segment or _segment(length))
    whole, rest = divmod(length, size)
    small = jax.checkpoint(body, prevent_cse=False)

    def part(carry, start):
        return jax.lax.scan(small, carry, start + jnp.arange(size))

    starts = first + size * jnp.arange(whole)
    carry, outputs = jax.lax.scan(jax.checkpoint(part, prevent_cse=False), carry, starts)
    outputs = jax.tree.map(lambda a: a.reshape((-1, *a.shape[2:])), outputs)
    if rest == 0:
        return carry, outputs
    carry, last = jax.lax.scan(small, carry, first + whole * size + jnp.arange(rest))
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), outputs, last)


def _through(
    gate: Gate, index: Array, state: DynamicsState, drifted: DynamicsState
) -> DynamicsState:
    """Lets what the step has changed pass a gate; masses, and a cell at rest, are parameters."""
    integrator = gate(index, drifted.integrator).set(mass=state.integrator.mass)
    at_rest = drifted.cell is state.cell
    cell = drifted.cell if at_rest else gate(index, drifted.cell)
    return dataclasses.replace(drifted, integrator=integrator, cell=cell)


def _segment(length: int) -> int:
    """About the square root, and a divisor if one is near: a rest is a program of its own."""
    root = max(1, round(np.sqrt(length)))
    near = range(root, root // 2, -1)
    return next((n for n in near if length % n == 0), root)


def check_steps(length: int, interval: int, segment: int | None) -> None:
    """Refuses impossible numbers of steps (see `trajectory_fn`)."""
    if length < 1 or interval < 1 or length % interval:
        raise UserError(
            f"trajectory: got {length} steps, observed every {interval}; expected a positive "
            "multiple. Change length or interval."
        )
    if segment is not None and segment < 0:
        raise UserError(
            f"segment: got {segment} steps; expected 0 (everything is stored), a positive number, "
            "or None (the square root of the length)."
        )
