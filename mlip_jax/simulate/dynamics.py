"""Steps on the device: refresh the list, evaluate the potential, integrate.

A chunk of steps is one compiled loop that touches the host nowhere. It ends early when a list
overflows, when a limit is crossed, or at convergence; `advance_chunk` discards an overflowed chunk,
makes room, and runs it again from the state it started from. That state holds the random key, so
the second run draws the same numbers.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mlip_jax import compilation
from mlip_jax.graph import AtomicGraph, pytree
from mlip_jax.neighbors import active, device
from mlip_jax.neighbors.device import DeviceNeighbors
from mlip_jax.potential import PredictFn
from mlip_jax.simulate.integrators import Ensemble, Surroundings
from mlip_jax.simulate.watch import Limits, Records, observe, stop_code


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

    @jax.jit
    def blank(key, momenta, masses, neighbors, images):
        positions = neighbors.reference_positions
        zero = jnp.zeros((), positions.dtype)
        state = DynamicsState(
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
        return jax.tree.map(jnp.asarray, state)

    def before(state: DynamicsState) -> DynamicsState:
        around = Surroundings(state.step, state.cell, state.virial)
        integrator, cell = ensemble.before(state.integrator, around)
        return dataclasses.replace(state, integrator=integrator, cell=cell)

    def after(state: DynamicsState) -> DynamicsState:
        around = Surroundings(state.step, state.cell, state.virial)
        integrator = ensemble.after(state.integrator, around)
        return dataclasses.replace(state, integrator=integrator, step=state.step + 1)

    def turn(variables, state: DynamicsState, fresh) -> DynamicsState:
        """A step, or of a fresh state the evaluation alone."""
        state = jax.lax.cond(fresh, lambda same: same, before, state)
        return jax.lax.cond(fresh, lambda same: same, after, evaluate(variables, state))

    @partial(jax.jit, compiler_options=compilation.options(model))
    def program(variables, state, steps, limits, fresh):
        return _loop(turn, ensemble, chunk_length, variables, state, steps, limits, fresh)

    def init(variables, key, momenta, masses, neighbors, images):
        state = blank(key, momenta, masses, neighbors, images)
        limits = Limits(*(state.energy.dtype.type(value) for value in Limits()))
        return program(variables, state, 0, limits, True).state

    def advance(variables, state, steps, limits):
        return program(variables, state, steps, limits, False)

    return Dynamics(init, advance, before, evaluate, after, ensemble)


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
            pair_cutoffs=tuple(c for c, _ in overflowed.capacity.pair_rooms),
            dtype=neighbors.reference_positions.dtype,
        )
        capacity = fresh.capacity.at_least(neighbors.capacity)
    else:
        capacity = device.grown_capacity(overflowed)
    return dataclasses.replace(state, neighbors=device.with_capacity(neighbors, capacity))


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


def _loop(turn, ensemble, length, variables, state, steps, limits, fresh) -> Chunk:
    """A chunk, or of a fresh state its first forces: one program, which compiles the model once."""
    shapes = jax.eval_shape(lambda s: observe(s, ensemble), state)
    records = jax.tree.map(lambda one: jnp.zeros((length, *one.shape), one.dtype), shapes)

    def running(carry: tuple[Chunk, Array]):
        chunk, fresh = carry
        return fresh | ((chunk.done < steps) & (chunk.stop == 0) & (chunk.overflow == 0))

    def body(carry: tuple[Chunk, Array]):
        chunk, fresh = carry
        state = turn(variables, chunk.state, fresh)
        observed = observe(state, ensemble)
        written = [r.at[chunk.done].set(v) for r, v in zip(chunk.records, observed, strict=True)]
        stop = jnp.where(fresh, 0, stop_code(state, observed, ensemble, limits))
        done = chunk.done + jnp.where(fresh, 0, 1)
        chunk = Chunk(state, Records(*written), done, stop, device.flags(state.neighbors))
        return chunk, jnp.zeros_like(fresh)

    nothing = jnp.zeros((), jnp.int32)
    first = Chunk(state, records, nothing, nothing, nothing), jnp.asarray(fresh)
    return jax.lax.while_loop(running, body, first)[0]
