"""Steps on the device: refresh the list, evaluate the potential, integrate, watch.

A chunk of steps is one compiled loop that touches the host nowhere. It ends early when a list
overflows, when a limit is crossed, or at convergence; `advance_chunk` discards an overflowed chunk,
makes room, and runs it again from the state it started from. That state holds the random key, so
the second run draws the same numbers.
"""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mlip_jax import compilation, units
from mlip_jax.graph import AtomicGraph, pytree
from mlip_jax.neighbors import active, device
from mlip_jax.neighbors.device import DeviceNeighbors
from mlip_jax.potential import PredictFn
from mlip_jax.simulate.integrators import Ensemble, Surroundings, kinetic_energy


class Stop(enum.IntEnum):
    """Why a chunk ended before its last step."""

    NONE = 0
    TEMPERATURE = 1
    DISTANCE = 2
    NOT_FINITE = 3
    GRADE = 4
    CONVERGED = 5


@pytree
class DynamicsState:
    """All that the next step depends on, and what was last observed.

    Attributes:
        integrator: jax-md's state: positions [Å] inside the cell, momenta, forces, masses, ….
        neighbors: the list, built at some earlier step.
        images: n with unwrapped positions = positions + n @ cell.
        cell: Å.
        step: steps done.
        energy: potential energy, eV, without reference energies.
        virial: eV.
        shortest: smallest distance of two atoms, Å (1000 without neighbours).
        grade: largest extrapolation grade; 0 where the model has none.
    """

    integrator: Any
    neighbors: DeviceNeighbors
    images: Int[Array, "atoms 3"]
    cell: Float[Array, "3 3"]
    step: Int[Array, ""]
    energy: Float[Array, ""]
    virial: Float[Array, "3 3"]
    shortest: Float[Array, ""]
    grade: Float[Array, ""]


class Limits(NamedTuple):
    """A chunk ends when one is crossed: K, Å, grade, and eV/Å below which forces are converged."""

    max_temperature: Any = np.inf
    min_distance: Any = 0.0
    max_grade: Any = np.inf
    max_force: Any = 0.0


class Records(NamedTuple):
    """What was observed after every step of a chunk."""

    potential: Float[Array, " steps"]
    kinetic: Float[Array, " steps"]
    bath: Float[Array, " steps"]
    virial: Float[Array, " steps"]
    shortest: Float[Array, " steps"]
    max_force: Float[Array, " steps"]
    grade: Float[Array, " steps"]
    cell: Float[Array, "steps 3 3"]


class Chunk(NamedTuple):
    """Result of a chunk: only the first `done` records are meaningful."""

    state: DynamicsState
    records: Records
    done: Int[Array, ""]
    stop: Int[Array, ""]
    overflow: Int[Array, ""]


class Dynamics(NamedTuple):
    """Functions of one system and one ensemble.

    Attributes:
        init: `(variables, key, momenta, masses, neighbors, images) -> state`; positions and cell
            are the reference ones of the list. Compiled.
        advance: `(variables, state, steps, limits) -> Chunk`; `steps` at most the chunk's length.
            Compiled.
        before: `state -> state`, a step up to its force evaluation.
        evaluate: `(variables, state) -> state` with list, forces, energy and virial of its
            positions.
        after: `state -> state`, the step from the force evaluation on.
        ensemble: the integrator.
    """

    init: Callable[..., DynamicsState]
    advance: Callable[..., Chunk]
    before: Callable[[DynamicsState], DynamicsState]
    evaluate: Callable[[Any, DynamicsState], DynamicsState]
    after: Callable[[DynamicsState], DynamicsState]
    ensemble: Ensemble

    @property
    def degrees_of_freedom(self) -> int:
        """Of the momenta."""
        return self.ensemble.degrees_of_freedom


def build(
    predict: PredictFn,
    ensemble: Ensemble,
    template: AtomicGraph,
    chunk_length: int,
    model: Any = None,
) -> Dynamics:
    """Compiles (lazily) the steps of a system.

    Args:
        predict: `(variables, graph) -> Prediction`.
        ensemble: the integrator.
        template: graph of the system, see `neighbors.active.to_graph`.
        chunk_length: most steps of a chunk.
        model: of the potential, where the compiler is to know it (see `compilation`); steps that
            another program takes up cannot have options of their own.
    """

    def evaluate(variables, state: DynamicsState) -> DynamicsState:
        return _evaluate(predict, template, variables, _refresh(state))

    def init(variables, key, momenta, masses, neighbors, images):
        positions = neighbors.reference_positions
        zero = jnp.zeros((), positions.dtype)
        blank = DynamicsState(
            integrator=ensemble.init(key, positions, momenta, jnp.zeros_like(positions), masses),
            neighbors=neighbors,
            images=images,
            cell=neighbors.reference_cell,
            step=jnp.zeros((), jnp.int32),
            energy=zero,
            virial=jnp.zeros((3, 3), positions.dtype),
            shortest=zero,
            grade=zero,
        )
        return evaluate(variables, jax.tree.map(jnp.asarray, blank))

    def before(state: DynamicsState) -> DynamicsState:
        around = Surroundings(state.step, state.cell, state.virial)
        integrator, cell = ensemble.before(state.integrator, around)
        return dataclasses.replace(state, integrator=integrator, cell=cell)

    def after(state: DynamicsState) -> DynamicsState:
        around = Surroundings(state.step, state.cell, state.virial)
        integrator = ensemble.after(state.integrator, around)
        return dataclasses.replace(state, integrator=integrator, step=state.step + 1)

    def step(variables, state: DynamicsState) -> DynamicsState:
        return after(evaluate(variables, before(state)))

    def advance(variables, state, steps, limits):
        return _loop(step, ensemble, chunk_length, variables, state, steps, limits)

    options = compilation.options(model)
    begin, go_on = (jax.jit(function, compiler_options=options) for function in (init, advance))
    return Dynamics(begin, go_on, before, evaluate, after, ensemble)


def advance_chunk(
    dynamics: Dynamics, variables: Any, state: DynamicsState, steps: int, limits: Limits
) -> tuple[Chunk, int]:
    """Runs a chunk, again from its start with more room as often as a list overflows.

    Returns:
        The chunk, and how often room was made.
    """
    growths = 0
    while True:
        chunk = dynamics.advance(variables, state, steps, limits)
        if int(chunk.overflow) == 0:
            return chunk, growths
        state = make_room(state, chunk.state.neighbors)
        growths += 1


def make_room(state: DynamicsState, overflowed: DeviceNeighbors) -> DynamicsState:
    """The same state with a list, at the same reference positions, that holds what was needed."""
    neighbors = state.neighbors
    if int(device.flags(overflowed)) & device.Flag.CELL:
        fresh = device.allocate(
            np.asarray(overflowed.reference_positions, dtype=np.float64),
            np.asarray(overflowed.reference_cell, dtype=np.float64),
            np.asarray(overflowed.pbc),
            overflowed.cutoff,
            overflowed.skin,
            prefix_cutoffs=tuple(c for c, _ in overflowed.capacity.prefixes),
            dtype=neighbors.reference_positions.dtype,
        )
        capacity = fresh.capacity.at_least(neighbors.capacity)
    else:
        capacity = device.grown_capacity(overflowed)
    return dataclasses.replace(state, neighbors=device.with_capacity(neighbors, capacity))


def temperature(kinetic: Any, degrees_of_freedom: int) -> Any:
    """Temperature [K] of a kinetic energy [eV]."""
    return 2.0 * kinetic / (degrees_of_freedom * units.BOLTZMANN)


def _evaluate(predict, template, variables, state: DynamicsState) -> DynamicsState:
    positions = state.integrator.position
    graph, neighbors = active.to_graph(template, state.neighbors, positions, state.cell)
    prediction = predict(variables, graph)
    grades = prediction.grades
    return dataclasses.replace(
        state,
        integrator=state.integrator.set(force=prediction.forces[: positions.shape[0]]),
        neighbors=neighbors,
        energy=prediction.energy[0],
        virial=prediction.virial[0],
        shortest=active.shortest_distance(state.neighbors, positions, state.cell),
        grade=state.grade if grades is None else jnp.max(grades),
    )


def _refresh(state: DynamicsState) -> DynamicsState:
    """Where the list is stale: wraps positions into the cell and builds the list there."""

    def rebuild():
        positions = state.integrator.position
        wrapped, moves = device.wrap(state.neighbors, positions, state.cell)
        return (
            wrapped,
            state.images + moves,
            device.update(state.neighbors, wrapped, state.cell),
        )

    positions, images, neighbors = jax.lax.cond(
        device.is_stale(state.neighbors, state.integrator.position, state.cell),
        rebuild,
        lambda: (state.integrator.position, state.images, state.neighbors),
    )
    integrator = state.integrator.set(position=positions)
    return dataclasses.replace(state, integrator=integrator, neighbors=neighbors, images=images)


def _loop(step, ensemble, length, variables, state, steps, limits) -> Chunk:
    shapes = jax.eval_shape(lambda s: _observe(s, ensemble), state)
    records = jax.tree.map(lambda one: jnp.zeros((length, *one.shape), one.dtype), shapes)

    def running(carry: Chunk):
        return (carry.done < steps) & (carry.stop == 0) & (carry.overflow == 0)

    def body(carry: Chunk) -> Chunk:
        state = step(variables, carry.state)
        observed = _observe(state, ensemble)
        written = [r.at[carry.done].set(v) for r, v in zip(carry.records, observed, strict=True)]
        stop = _stop_code(state, observed, ensemble, limits)
        return Chunk(state, Records(*written), carry.done + 1, stop, device.flags(state.neighbors))

    nothing = jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(running, body, Chunk(state, records, nothing, nothing, nothing))


def _observe(state: DynamicsState, ensemble: Ensemble) -> Records:
    integrator, bath_energy = state.integrator, ensemble.bath_energy
    return Records(
        potential=state.energy,
        kinetic=kinetic_energy(integrator.momentum, integrator.mass),
        bath=jnp.zeros_like(state.energy) if bath_energy is None else bath_energy(integrator),
        virial=jnp.trace(state.virial),
        shortest=state.shortest,
        max_force=jnp.sqrt(jnp.max(jnp.sum(integrator.force**2, axis=1))),
        grade=state.grade,
        cell=state.cell,
    )


def _stop_code(state, observed: Records, ensemble: Ensemble, limits: Limits):
    hot = temperature(observed.kinetic, ensemble.degrees_of_freedom) > limits.max_temperature
    finite = jnp.isfinite(observed.potential) & jnp.isfinite(observed.kinetic)
    code = jnp.where(observed.max_force < limits.max_force, int(Stop.CONVERGED), 0)
    code = jnp.where(hot, int(Stop.TEMPERATURE), code)
    code = jnp.where(state.grade > limits.max_grade, int(Stop.GRADE), code)
    code = jnp.where(observed.shortest < limits.min_distance, int(Stop.DISTANCE), code)
    return jnp.where(finite, code, int(Stop.NOT_FINITE)).astype(jnp.int32)
