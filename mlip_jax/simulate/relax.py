"""Relaxation of positions in a fixed cell with FIRE (Bitzek et al. 2006)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax_md import minimize
from jaxtyping import Float

from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure, StructureLabels
from mlip_jax.potential import Potential
from mlip_jax.simulate import dynamics
from mlip_jax.simulate.integrators import Ensemble, State, Surroundings
from mlip_jax.simulate.settings import RelaxationConfig
from mlip_jax.simulate.system import prepare
from mlip_jax.simulate.watch import Limits, Stop

# Bitzek et al. (2006), p. 3; times in Å sqrt(amu/eV) with a mass of 1 amu for every atom.
_STEP, _MAX_STEP = 0.1, 1.0
_MIN_DOWNHILL, _FASTER, _SLOWER = 5, 1.1, 0.5
_MIXING, _LESS_MIXING = 0.1, 0.99
_DEFAULTS = RelaxationConfig()


@dataclasses.dataclass(frozen=True, eq=False)
class RelaxationResult:
    """How a relaxation ended.

    Attributes:
        structure: relaxed, with energy, forces and stress as labels.
        converged: whether every force is below `max_force`.
        steps: done.
        max_force: eV/Å, at the end.
        energies: eV, before each step and at the end.
        max_forces: eV/Å, likewise.
    """

    structure: Structure
    converged: bool
    steps: int
    max_force: float
    energies: Float[np.ndarray, " evaluations"]
    max_forces: Float[np.ndarray, " evaluations"]


def fire(
    potential: Potential, structure: Structure, config: RelaxationConfig = _DEFAULTS
) -> RelaxationResult:
    """Moves atoms downhill until no force exceeds `config.max_force`.

    Raises:
        UserError: for an unknown element, an impossible structure, or forces that are not finite.
    """
    system = prepare(potential, structure, config.precision, config.skin, config.block)
    zeros = np.zeros(structure.positions.shape, system.dtype)
    ensemble = descent(system.dtype.type(config.max_displacement))
    compiled = dynamics.build(system.predict, ensemble, system.template, config.chunk, system.model)
    state = compiled.init(
        system.variables,
        jax.random.PRNGKey(0),
        zeros,
        np.ones((len(zeros), 1), system.dtype),
        system.neighbors,
        system.images,
    )
    limits = Limits(*map(system.dtype.type, (np.inf, 0.0, np.inf, config.max_force)))
    energies, forces = [np.array([state.energy])], [np.array([_largest(state.integrator.force)])]
    steps, code = 0, Stop.CONVERGED if forces[0][0] < config.max_force else Stop.NONE
    while code == Stop.NONE and steps < config.max_steps:
        count = min(config.chunk, config.max_steps - steps)
        chunk, _ = dynamics.advance_chunk(compiled, system.variables, state, count, limits)
        state, done, code = chunk.state, int(chunk.done), Stop(int(chunk.stop))
        energies.append(np.asarray(chunk.records.potential[:done]))
        forces.append(np.asarray(chunk.records.max_force[:done]))
        steps += done
    if code == Stop.NOT_FINITE:
        raise UserError(
            f"relaxation: the energy is no longer finite after {steps} steps; expected a structure "
            "within reach of the potential. Check distances, or reduce max_displacement."
        )
    max_forces = np.concatenate(forces).astype(np.float64)
    return RelaxationResult(
        structure=_labelled(system, state),
        converged=code == Stop.CONVERGED,
        steps=steps,
        max_force=float(max_forces[-1]),
        energies=np.concatenate(energies).astype(np.float64) + system.reference_energy,
        max_forces=max_forces,
    )


def descent(max_displacement: Any) -> Ensemble:
    """FIRE as an `Ensemble` whose momenta are the velocities of the descent.

    Args:
        max_displacement: Å, longest step in the space of all coordinates.
    """

    def init(key, positions, momenta, forces, masses):
        del key
        kind: Any = minimize.FireDescentState
        dtype = positions.dtype
        step, mixing = jnp.asarray(_STEP, dtype), jnp.asarray(_MIXING, dtype)
        count = jnp.zeros((), jnp.int32)
        return kind(positions, momenta, forces, masses, step, mixing, count)

    def before(state: State, around: Surroundings) -> tuple[State, Any]:
        forces, velocities = state.force, state.momentum
        uphill = jnp.sum(forces * velocities) < 0.0
        along = forces * _norm(velocities) / jnp.maximum(_norm(forces), 1e-30)
        mixed = (1.0 - state.alpha) * velocities + state.alpha * along
        step, mixing, count = adapt(uphill, state.dt, state.alpha, state.n_pos)
        velocities = jnp.where(uphill, 0.0, mixed) + step * forces
        length = step * _norm(velocities)
        move = step * velocities * jnp.minimum(1.0, max_displacement / jnp.maximum(length, 1e-30))
        state = state.set(
            position=state.position + move,
            momentum=velocities,
            dt=step,
            alpha=mixing,
            n_pos=count,
        )
        return state, around.cell

    return Ensemble(init, before, lambda state, around: state, None, 1)


def adapt(uphill: Any, step: Any, mixing: Any, count: Any) -> tuple[Any, Any, Any]:
    """New step, mixing and number of downhill steps, of one descent or of each of several.

    Args:
        uphill: whether the power is negative.
        step: Å sqrt(amu/eV).
        mixing: of the velocity with the direction of the force.
        count: steps downhill in a row.
    """
    count = jnp.where(uphill, 0, count + 1)
    faster = count > _MIN_DOWNHILL
    longer = jnp.where(faster, jnp.minimum(step * _FASTER, _MAX_STEP), step)
    less = jnp.where(faster, mixing * _LESS_MIXING, mixing)
    first = jnp.asarray(_MIXING, mixing.dtype)
    return jnp.where(uphill, step * _SLOWER, longer), jnp.where(uphill, first, less), count


def _labelled(system, state) -> Structure:
    positions = np.asarray(state.integrator.position, np.float64)
    labels = StructureLabels(
        energy=float(state.energy) + system.reference_energy,
        forces=np.asarray(state.integrator.force, np.float64),
        stress=None if system.volume is None else -np.asarray(state.virial, float) / system.volume,
    )
    return dataclasses.replace(
        system.structure,
        positions=positions + np.asarray(state.images) @ system.structure.cell,
        labels=labels,
    )


def _norm(values):
    return jnp.sqrt(jnp.sum(values**2))


def _largest(forces) -> float:
    return float(np.sqrt(np.max(np.sum(np.asarray(forces) ** 2, axis=1))))
