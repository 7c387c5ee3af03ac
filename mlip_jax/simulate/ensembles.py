"""Ensembles as splittings of jax-md's integrators around the one force evaluation of a step.

`before` takes a state up to the point where new forces are needed, `after` from there to the end of
the step. Between them the caller refreshes the neighbour list, so that no force is ever taken from
a stale one. The pieces are jax-md's; `before`, force, `after` is what `jax_md.simulate.nve`,
`nvt_langevin` and `nvt_nose_hoover` do.

Inside, time is in Å sqrt(amu/eV) (`units.TIME_UNIT`) and momenta are in sqrt(amu eV), as in ASE.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax_md import simulate
from jaxtyping import Array, Float

from mlip_jax import units
from mlip_jax.simulate.settings import EnsembleConfig

State = Any
"""A state of jax-md: position, momentum, force, mass and what the ensemble adds."""


class Ensemble(NamedTuple):
    """An integrator in two halves.

    Attributes:
        init: `(key, positions, momenta, forces, masses) -> state`.
        before: the step up to the new forces.
        after: the step from the new forces on.
        bath_energy: eV, what the thermostat holds: with kinetic and potential energy it is
            conserved (zero where nothing is).
        degrees_of_freedom: of the momenta.
    """

    init: Callable[[Array, Array, Array, Array, Array], State]
    before: Callable[[State], State]
    after: Callable[[State], State]
    bath_energy: Callable[[State], Array]
    degrees_of_freedom: int


def build(config: EnsembleConfig, timestep: float, num_atoms: int, dtype: np.dtype) -> Ensemble:
    """The ensemble of a config.

    Args:
        config: says which.
        timestep: fs.
        num_atoms: atoms of the system.
        dtype: of positions and momenta.
    """
    step = dtype.type(timestep / units.TIME_UNIT)
    kT = dtype.type(units.BOLTZMANN * config.temperature)
    if config.kind == "langevin":
        friction = dtype.type(config.friction * units.TIME_UNIT)
        return langevin(step, kT, friction, 3 * num_atoms)
    # Total momentum is conserved and zero: it carries no thermal energy.
    freedom = 3 * num_atoms - 3 if num_atoms > 1 else 3
    if config.kind == "nve":
        return nve(step, freedom)
    chain = simulate.nose_hoover_chain(
        step,
        config.chain_length,
        config.chain_steps,
        config.suzuki_yoshida_steps,
        dtype.type(config.relaxation_time / units.TIME_UNIT),
    )
    return nose_hoover(step, kT, chain, freedom)


def nve(step: Any, degrees_of_freedom: int) -> Ensemble:
    """Velocity Verlet (Swope et al. 1982, eqs. 3 and 4)."""

    def init(key, positions, momenta, forces, masses):
        del key
        return _make(simulate.NVEState, positions, momenta, forces, masses)

    def before(state):
        state = simulate.momentum_step(state, step / 2)
        return simulate.position_step(state, _move, step)

    def after(state):
        return simulate.momentum_step(state, step / 2)

    return Ensemble(init, before, after, _nothing, degrees_of_freedom)


def langevin(step: Any, kT: Any, friction: Any, degrees_of_freedom: int) -> Ensemble:
    """BAOAB splitting of Langevin dynamics (Leimkuhler & Matthews 2013, section 3).

    Total momentum is not conserved: the bath acts on it, too.
    """

    def init(key, positions, momenta, forces, masses):
        return _make(simulate.NVTLangevinState, positions, momenta, forces, masses, key)

    def before(state):
        state = simulate.momentum_step(state, step / 2)
        state = simulate.position_step(state, _move, step / 2)
        state = simulate.stochastic_step(state, step, kT, friction)
        return simulate.position_step(state, _move, step / 2)

    def after(state):
        return simulate.momentum_step(state, step / 2)

    return Ensemble(init, before, after, _nothing, degrees_of_freedom)


def nose_hoover(
    step: Any, kT: Any, chain: simulate.NoseHooverChainFns, degrees_of_freedom: int
) -> Ensemble:
    """Nosé-Hoover chain (Martyna et al. 1996, eq. 25), for momenta whose sum is zero.

    jax-md's own driver counts 3 degrees of freedom an atom, which makes a system of N atoms with
    conserved zero momentum too hot by N / (N - 1).
    """

    def init(key, positions, momenta, forces, masses):
        del key
        kinetic = kinetic_energy(momenta, masses)
        bath = chain.initialize(degrees_of_freedom, kinetic, kT)
        return _make(simulate.NVTNoseHooverState, positions, momenta, forces, masses, bath)

    def before(state):
        bath = chain.update_mass(state.chain, kT)
        momenta, bath = chain.half_step(state.momentum, bath, kT)
        state = state.set(momentum=momenta, chain=bath)
        state = simulate.momentum_step(state, step / 2)
        return simulate.position_step(state, _move, step)

    def after(state):
        state = simulate.momentum_step(state, step / 2)
        bath = state.chain.set(kinetic_energy=kinetic_energy(state.momentum, state.mass))
        momenta, bath = chain.half_step(state.momentum, bath, kT)
        return state.set(momentum=momenta, chain=bath)

    def bath_energy(state):
        bath = state.chain
        freedom = jnp.ones_like(bath.position).at[0].set(degrees_of_freedom)
        return jnp.sum(bath.momentum**2 / (2 * bath.mass) + kT * freedom * bath.position)

    return Ensemble(init, before, after, bath_energy, degrees_of_freedom)


def kinetic_energy(
    momenta: Float[Array, "atoms 3"], masses: Float[Array, "atoms 1"]
) -> Float[Array, ""]:
    """Kinetic energy [eV]."""
    return 0.5 * jnp.sum(momenta**2 / masses)


def maxwell_boltzmann(
    seed: int, masses: Float[np.ndarray, " atoms"], temperature: float
) -> Float[np.ndarray, "atoms 3"]:
    """Momenta [sqrt(amu eV)] drawn at a temperature [K], their sum removed (for several atoms)."""
    scale = np.sqrt(masses * units.BOLTZMANN * temperature)[:, None]
    momenta = scale * np.random.default_rng(seed).standard_normal((len(masses), 3))
    if len(masses) > 1:
        momenta -= masses[:, None] * momenta.sum(axis=0) / masses.sum()
    return momenta


def _make(kind: Any, *fields: Any) -> State:
    """A state of jax-md, whose decorator hides the fields from a type checker."""
    return kind(*fields)


def _move(positions, displacement, **unused):
    del unused
    return positions + displacement


def _nothing(state) -> jax.Array:
    return jnp.zeros((), state.momentum.dtype)
