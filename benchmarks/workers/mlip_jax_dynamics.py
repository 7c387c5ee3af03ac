"""Molecular dynamics by our engine: one system, or many replicas of it in one program."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from protocol import Task
from structures import to_atoms

from mlip_jax import units
from mlip_jax.data.structure import Structure
from mlip_jax.potential import Potential

SKIN = 0.5  # Å
ROOM = 2
"""Slots that rows of replicas have beyond those of one system."""


def dynamics_tasks(
    potential: Potential, structure: Structure, case: dict
) -> dict[str, Callable[[int], Task]]:
    """Task -> function that prepares it for a number of atoms in a block.

    `md` always; a task for each of the further skins `case["skins"]` {name: Å}, and two for each
    number of replicas in `case["replicas"]`: one after the other, and side by side.
    """
    prepared = functools.cache(
        lambda block, skin: _prepare(potential, structure, block, case, skin)
    )

    def one(skin: float) -> Callable[[int], Task]:
        return lambda block: simulate(prepared(block, skin), case)

    def many(count: int, vectorised: bool) -> Callable[[int], Task]:
        return lambda block: replicas(prepared(block, SKIN), case, count, vectorised)

    tasks = {"md": one(SKIN)} | {name: one(skin) for name, skin in case.get("skins", {}).items()}
    for count in case.get("replicas", ()):
        tasks[f"{count} replicas in turn"] = many(count, False)
        tasks[f"{count} replicas vectorised"] = many(count, True)
    return tasks


class _Prepared(NamedTuple):
    """A system with its compiled steps, and what its steps are given beside a state."""

    system: Any
    compiled: Any
    limits: Any

    def start(self, momenta: np.ndarray) -> Any:
        """The state with momenta in sqrt(amu eV), at the positions of the structure."""
        system = self.system
        masses = system.masses[:, None].astype(system.dtype)
        arguments = (momenta.astype(system.dtype), masses, system.neighbors, system.images)
        return self.compiled.init(system.variables, jax.random.PRNGKey(0), *arguments)


def _prepare(
    potential: Potential, structure: Structure, block: int, case: dict, skin: float
) -> _Prepared:
    """Velocity Verlet as `mlip_jax.simulate` runs a chunk of it, one compiled loop."""
    # Only here, as a user's program would: jax-md takes as long to import as all the rest.
    from mlip_jax.simulate import dynamics, ensembles
    from mlip_jax.simulate.settings import EnsembleConfig
    from mlip_jax.simulate.system import prepare
    from mlip_jax.simulate.watch import Limits

    system = prepare(potential, structure, "float32", skin, block)
    ensemble = ensembles.build(
        EnsembleConfig("nve"), case["timestep_fs"], structure.num_atoms, system.dtype
    )
    steps = case["md_steps"]
    compiled = dynamics.build(system.predict, ensemble, system.template, steps, system.model)
    limits = Limits(*(system.dtype.type(value) for value in Limits()))
    return _Prepared(system, compiled, limits)


def simulate(prepared: _Prepared, case: dict) -> Task:
    """One system; its facts are the slots of rows and how often a run renews the list."""
    from mlip_jax.simulate import dynamics

    system, compiled, limits = prepared
    start = prepared.start(to_atoms(case["structures"][0]).get_momenta())
    steps = case["md_steps"]

    def run() -> None:
        chunk, grown = dynamics.advance_chunk(compiled, system.variables, start, steps, limits)
        if int(chunk.done) != steps or grown:
            raise RuntimeError(f"{int(chunk.done)} steps, stop code {int(chunk.stop)}, {grown=}")
        jax.device_get(chunk.state.integrator.position)

    facts = {"slots": system.neighbors.capacity.active, "skin": system.neighbors.skin}
    if "skins" in case:
        facts["renewals"], state = 0, start
        for _ in range(steps):
            before = state.neighbors.reference_positions
            state = dynamics.advance_chunk(compiled, system.variables, state, 1, limits)[0].state
            facts["renewals"] += int(np.any(before != state.neighbors.reference_positions))
    return Task(run, units=steps, facts=facts)


def replicas(prepared: _Prepared, case: dict, count: int, vectorised: bool) -> Task:
    """Replicas with momenta of their own; one unit of work is a step of one replica.

    Vectorised, all take a step before any takes the next (`jax.vmap`), and as the choice whether a
    list is renewed becomes one between two results, every step renews all lists. In turn, each
    takes its steps before the next one begins (`jax.lax.map`).
    """
    from mlip_jax.neighbors import device

    system, compiled, limits = prepared
    width = np.sqrt(units.BOLTZMANN * case["temperature_K"] * system.masses)[:, None]
    momenta = width * np.random.default_rng(0).normal(size=(count, len(width), 3))
    # What is run for many replicas cannot make room for one: as much as jax-md's drivers get.
    roomy = device.grown_capacity(system.neighbors, extra=ROOM)
    lists, states = device.with_capacity(system.neighbors, roomy), []
    for own in momenta - momenta.mean(axis=1, keepdims=True):
        state = prepared.start(own)
        states.append(dataclasses.replace(state, neighbors=lists))
    stacked = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *states)
    variables, steps = jax.tree.map(jax.numpy.asarray, system.variables), case["md_steps"]

    def advance(state):
        return compiled.advance(variables, state, steps, limits)

    together = jax.vmap(advance) if vectorised else lambda states: jax.lax.map(advance, states)
    program = jax.jit(together)

    def run() -> None:
        chunks = program(stacked)
        if np.any(chunks.done != steps) or np.any(chunks.overflow):
            raise RuntimeError(f"{chunks.done} steps, {chunks.stop=}, {chunks.overflow=}")
        jax.device_get(chunks.state.integrator.position)

    return Task(run, units=steps * count, facts={"slots": roomy.active})
