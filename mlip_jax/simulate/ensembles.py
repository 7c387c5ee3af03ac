"""From the section `ensemble` of a config to an integrator, and momenta to start with."""

import numpy as np
from jax_md import simulate
from jaxtyping import Bool, Float

from mlip_jax import units
from mlip_jax.config import UserError
from mlip_jax.simulate import barostat, integrators, schedules, walls
from mlip_jax.simulate.integrators import Ensemble
from mlip_jax.simulate.settings import EnsembleConfig, Schedule
from mlip_jax.simulate.walls import Walls

Mobile = Bool[np.ndarray, " atoms"]
"""Which atoms may move."""


def build(
    config: EnsembleConfig,
    timestep: float,
    num_atoms: int,
    dtype: np.dtype,
    *,
    mobile: Mobile | None = None,
    drift_interval: int = 0,
    between: Walls | None = None,
) -> Ensemble:
    """The ensemble of a config.

    Args:
        config: says which.
        timestep: fs.
        num_atoms: atoms of the system.
        dtype: of positions and momenta.
        mobile: which atoms may move; `None`: all.
        drift_interval: steps between removals of the total momentum; 0: never.
        between: reflecting walls, which take up momentum along their axes.

    Raises:
        UserError: for a removal of momentum that the ensemble does not go together with.
    """
    _check_drift(config, drift_interval, mobile)
    step = dtype.type(timestep / units.TIME_UNIT)
    kT = schedules.at_step(config.temperature, units.BOLTZMANN, timestep, dtype)
    drift_free = mobile is None and (config.kind != "langevin" or drift_interval > 0)
    moving = num_atoms if mobile is None else int(np.sum(mobile))
    # A total momentum that is zero carries no thermal energy.
    still = 3 - len(between or {}) if drift_free and moving > 1 else 0
    freedom = 3 * moving - still
    mask = None if mobile is None else np.asarray(mobile)[:, None]
    strain = None
    if config.barostat is not None:
        strain = barostat.build(config.barostat, timestep, kT, drift_free, dtype)
    if config.kind == "nve":
        ensemble = integrators.nve(step, freedom, mask)
    elif config.kind == "langevin":
        friction = dtype.type(config.friction * units.TIME_UNIT)
        ensemble = integrators.langevin(step, kT, friction, freedom, mask, strain)
    elif config.kind == "csvr":
        decay = dtype.type(np.exp(-timestep / config.relaxation_time))
        ensemble = integrators.rescaling(step, kT, decay, freedom, mask, strain)
    else:
        chain = simulate.nose_hoover_chain(
            step,
            config.chain_length,
            config.chain_steps,
            config.suzuki_yoshida_steps,
            dtype.type(config.relaxation_time / units.TIME_UNIT),
        )
        ensemble = integrators.nose_hoover(step, kT, chain, freedom, mask)
        if isinstance(config.temperature, Schedule):  # its extended energy is that of one kT
            ensemble = ensemble._replace(bath_energy=None)
    if between:
        ensemble = walls.reflecting(ensemble, between, dtype)
    return integrators.without_drift(ensemble, drift_interval) if drift_interval else ensemble


def maxwell_boltzmann(
    seed: int | tuple[int, ...],
    masses: Float[np.ndarray, " atoms"],
    temperature: float,
    mobile: Mobile | None = None,
) -> Float[np.ndarray, "atoms 3"]:
    """Momenta [sqrt(amu eV)] drawn at a temperature [K].

    Their sum is removed (for several atoms), unless some atoms are fixed: those have none.
    """
    scale = np.sqrt(masses * units.BOLTZMANN * temperature)[:, None]
    momenta = scale * np.random.default_rng(seed).standard_normal((len(masses), 3))
    if mobile is not None:
        return np.where(mobile[:, None], momenta, 0.0)
    if len(masses) > 1:
        momenta -= masses[:, None] * momenta.sum(axis=0) / masses.sum()
    return momenta


def _check_drift(config: EnsembleConfig, interval: int, mobile: Mobile | None) -> None:
    if interval and mobile is not None:
        raise UserError(
            f"simulation.drift_interval: got {interval} with fixed atoms, which hold the others "
            "in place; expected 0. Remove the key."
        )
    if interval > 1 and config.kind == "langevin":
        raise UserError(
            f"simulation.drift_interval: got {interval} for langevin, whose bath moves the centre "
            "of mass in every step; expected 1 (removed in every step) or 0 (thermal, too)."
        )
