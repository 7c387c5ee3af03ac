"""Integrators: splittings of jax-md's integrators around the one force evaluation of a step.

`before` takes a state up to the point where new forces are needed, `after` from there to the end of
the step. Between them the caller refreshes the neighbour list, so that no force is ever taken from
a stale one. The pieces are jax-md's; `before`, force, `after` is what `jax_md.simulate.nve`,
`nvt_langevin` and `nvt_nose_hoover` do. Ours are `csvr` and `barostat`.

Inside, time is in Å sqrt(amu/eV) (`units.TIME_UNIT`) and momenta are in sqrt(amu eV), as in ASE.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax_md import simulate
from jaxtyping import Array, Float, Int

from mlip_jax.simulate import barostat, csvr
from mlip_jax.simulate.schedules import AtStep

State = Any
"""A state of jax-md: position, momentum, force, mass and what the ensemble adds."""


class Surroundings(NamedTuple):
    """What a half step depends on beside the state: steps done, cell [Å], virial [eV].

    In `before` the virial is that of the positions; in `after` that of the new ones.
    """

    step: Int[Array, ""]
    cell: Float[Array, "3 3"]
    virial: Float[Array, "3 3"]


class Ensemble(NamedTuple):
    """An integrator in two halves.

    Attributes:
        init: `(key, positions, momenta, forces, masses) -> state`.
        before: `(state, surroundings) -> (state, cell)`, the step up to the new forces.
        after: `(state, surroundings) -> state`, the step from the new forces on.
        bath_energy: eV, what the thermostat holds: with kinetic and potential energy it is
            conserved. `None` where nothing is.
        degrees_of_freedom: of the momenta.
    """

    init: Callable[[Array, Array, Array, Array, Array], State]
    before: Callable[[State, Surroundings], tuple[State, Array]]
    after: Callable[[State, Surroundings], State]
    bath_energy: Callable[[State], Array] | None
    degrees_of_freedom: int


def nve(step: Any, degrees_of_freedom: int, mobile: Any = None) -> Ensemble:
    """Velocity Verlet (Swope et al. 1982, eqs. 3 and 4)."""

    def init(key, positions, momenta, forces, masses):
        del key
        return _make(simulate.NVEState, positions, momenta, forces, masses)

    def before(state, around):
        state = _kick(state, step / 2, mobile)
        return simulate.position_step(state, _move, step), around.cell

    def after(state, around):
        del around
        return _kick(state, step / 2, mobile)

    return Ensemble(init, before, after, _nothing, degrees_of_freedom)


def langevin(
    step: Any, kT: AtStep, friction: Any, degrees_of_freedom: int, mobile: Any, strain: Any
) -> Ensemble:
    """BAOAB splitting of Langevin dynamics (Leimkuhler & Matthews 2013, section 3).

    Total momentum is not conserved: the bath acts on it, too.
    """

    def init(key, positions, momenta, forces, masses):
        return _make(simulate.NVTLangevinState, positions, momenta, forces, masses, key)

    def thermostat(state, around):
        state = simulate.stochastic_step(state, step, kT(around.step), friction)
        return _hold(state, mobile)

    before, after = _middle(step, thermostat, mobile, strain)
    return Ensemble(init, before, after, None, degrees_of_freedom)


def rescaling(
    step: Any, kT: AtStep, decay: Any, degrees_of_freedom: int, mobile: Any, strain: Any
) -> Ensemble:
    """Stochastic velocity rescaling (see `csvr`) in the middle of the step, as BAOAB has its bath.

    Positions are then sampled to a higher order in the step than with a bath at its end
    (Zhang et al. 2017). Without a barostat, the energy less the heat given is conserved.
    """

    def init(key, positions, momenta, forces, masses):
        heat = jnp.zeros((), positions.dtype)
        return _make(csvr.CSVRState, positions, momenta, forces, masses, key, heat)

    def thermostat(state, around):
        key, split = jax.random.split(state.rng)
        kinetic = kinetic_energy(state.momentum, state.mass)
        factor = csvr.scale_factor(split, kinetic, kT(around.step), decay, degrees_of_freedom)
        heat = state.heat + kinetic * (factor**2 - 1)
        return state.set(momentum=factor * state.momentum, rng=key, heat=heat)

    before, after = _middle(step, thermostat, mobile, strain)
    bath_energy = None if strain is not None else lambda state: -state.heat
    return Ensemble(init, before, after, bath_energy, degrees_of_freedom)


def nose_hoover(
    step: Any,
    kT: AtStep,
    chain: simulate.NoseHooverChainFns,
    degrees_of_freedom: int,
    mobile: Any = None,
) -> Ensemble:
    """Nosé-Hoover chain (Martyna et al. 1996, eq. 25), for momenta whose sum is zero.

    jax-md's own driver counts 3 degrees of freedom an atom, which makes a system of N atoms with
    conserved zero momentum too hot by N / (N - 1).
    """

    def init(key, positions, momenta, forces, masses):
        del key
        kinetic = kinetic_energy(momenta, masses)
        bath = chain.initialize(degrees_of_freedom, kinetic, kT(jnp.zeros((), jnp.int32)))
        return _make(simulate.NVTNoseHooverState, positions, momenta, forces, masses, bath)

    def before(state, around):
        heat = kT(around.step)
        bath = chain.update_mass(state.chain, heat)
        momenta, bath = chain.half_step(state.momentum, bath, heat)
        state = state.set(momentum=momenta, chain=bath)
        state = _kick(state, step / 2, mobile)
        return simulate.position_step(state, _move, step), around.cell

    def after(state, around):
        state = _kick(state, step / 2, mobile)
        bath = state.chain.set(kinetic_energy=kinetic_energy(state.momentum, state.mass))
        momenta, bath = chain.half_step(state.momentum, bath, kT(around.step))
        return state.set(momentum=momenta, chain=bath)

    def bath_energy(state):
        bath = state.chain
        freedom = jnp.ones_like(bath.position).at[0].set(degrees_of_freedom)
        heat = kT(jnp.zeros((), jnp.int32))
        return jnp.sum(bath.momentum**2 / (2 * bath.mass) + heat * freedom * bath.position)

    return Ensemble(init, before, after, bath_energy, degrees_of_freedom)


def without_drift(ensemble: Ensemble, interval: int) -> Ensemble:
    """The same with the velocity of the centre of mass taken off after every `interval` steps."""

    def after(state, around):
        state = ensemble.after(state, around)
        velocity = jnp.sum(state.momentum, axis=0, keepdims=True) / jnp.sum(state.mass)
        still = state.momentum - state.mass * velocity
        turn = (around.step + 1) % interval == 0
        return state.set(momentum=jnp.where(turn, still, state.momentum))

    return ensemble._replace(after=after)


def kinetic_energy(
    momenta: Float[Array, "atoms 3"], masses: Float[Array, "atoms 1"]
) -> Float[Array, ""]:
    """Kinetic energy [eV]."""
    return 0.5 * jnp.sum(momenta**2 / masses)


def _middle(step: Any, thermostat: Any, mobile: Any, strain: Any) -> tuple[Any, Any]:
    """Halves of a step with the thermostat between two half drifts, the barostat before them.

    There the virial is still that of the positions, and the momenta are those of the half step,
    whose kinetic energy the thermostat sets: the length of the step hardly changes the pressure.
    """

    def before(state, around):
        state, cell = _kick(state, step / 2, mobile), around.cell
        if strain is not None:
            key, split = jax.random.split(state.rng)
            tensor = strain(split, state.momentum, state.mass, *around)
            positions, momenta, cell = barostat.deform(state.position, state.momentum, cell, tensor)
            state = state.set(position=positions, momentum=momenta, rng=key)
        state = simulate.position_step(state, _move, step / 2)
        state = thermostat(state, around)
        return simulate.position_step(state, _move, step / 2), cell

    def after(state, around):
        del around
        return _kick(state, step / 2, mobile)

    return before, after


def _kick(state: State, duration: Any, mobile: Any) -> State:
    return _hold(simulate.momentum_step(state, duration), mobile)


def _hold(state: State, mobile: Any) -> State:
    """Takes the momenta off atoms that may not move."""
    if mobile is None:
        return state
    return state.set(momentum=jnp.where(mobile, state.momentum, 0.0))


def _make(kind: Any, *fields: Any) -> State:
    """A state of jax-md, whose decorator hides the fields from a type checker."""
    return kind(*fields)


def _move(positions, displacement, **unused):
    del unused
    return positions + displacement


def _nothing(state) -> jax.Array:
    return jnp.zeros((), state.momentum.dtype)
