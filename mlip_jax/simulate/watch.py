"""What is watched after every step: records, and limits that end a chunk."""

import enum
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mlip_jax import units
from mlip_jax.simulate.integrators import Ensemble, kinetic_energy


class Stop(enum.IntEnum):
    """Why a chunk ended before its last step."""

    NONE = 0
    TEMPERATURE = 1
    DISTANCE = 2
    NOT_FINITE = 3
    GRADE = 4
    CONVERGED = 5


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


def temperature(kinetic: Any, degrees_of_freedom: int) -> Any:
    """Temperature [K] of a kinetic energy [eV]."""
    return 2.0 * kinetic / (degrees_of_freedom * units.BOLTZMANN)


def observe(state: Any, ensemble: Ensemble) -> Records:
    """What is recorded of a `dynamics.DynamicsState` after a step."""
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


def stop_code(state: Any, observed: Records, ensemble: Ensemble, limits: Limits) -> Int[Array, ""]:
    """The limit that the state has crossed, a value of `Stop`."""
    hot = temperature(observed.kinetic, ensemble.degrees_of_freedom) > limits.max_temperature
    finite = jnp.isfinite(observed.potential) & jnp.isfinite(observed.kinetic)
    code = jnp.where(observed.max_force < limits.max_force, int(Stop.CONVERGED), 0)
    code = jnp.where(hot, int(Stop.TEMPERATURE), code)
    code = jnp.where(state.grade > limits.max_grade, int(Stop.GRADE), code)
    code = jnp.where(observed.shortest < limits.min_distance, int(Stop.DISTANCE), code)
    return jnp.where(finite, code, int(Stop.NOT_FINITE)).astype(jnp.int32)
