"""What a simulation starts from: momenta, atoms that may move, the first state, open files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure
from mlip_jax.simulate import ensembles, restart, thermo, trajectory
from mlip_jax.simulate.dynamics import Dynamics, DynamicsState
from mlip_jax.simulate.ensembles import Mobile
from mlip_jax.simulate.settings import EnsembleConfig, SimulationConfig
from mlip_jax.simulate.system import System

Momenta = Float[np.ndarray, "atoms 3"]


class Outputs(NamedTuple):
    """Files that grow."""

    trajectory: trajectory.TrajectoryWriter | None
    thermo: thermo.ThermoWriter


def mobile_atoms(structure: Structure, simulation: SimulationConfig) -> Mobile | None:
    """Which atoms of the supercell may move; `None`: all.

    Args:
        structure: before replication.
        simulation: section of the config.

    Raises:
        UserError: for an atom or element that the structure does not have, or none that may move.
    """
    numbers, fixed = structure.atomic_numbers, np.zeros(structure.num_atoms, bool)
    for index in simulation.fixed_atoms:
        if index >= len(fixed):
            raise UserError(
                f"simulation.fixed_atoms: got atom {index} of a structure with {len(fixed)}; "
                "expected numbers from 0."
            )
        fixed[index] = True
    for symbol in simulation.fixed_elements:
        chosen = numbers == elements.atomic_number(symbol)
        if not np.any(chosen):
            raise UserError(
                f"simulation.fixed_elements: got {symbol}; expected elements of the structure: "
                f"{', '.join(elements.symbols(sorted(set(numbers.tolist()))))}."
            )
        fixed |= chosen
    if np.all(fixed):
        raise UserError(
            "simulation: every atom is fixed; expected some that move. Change fixed_atoms or "
            "fixed_elements."
        )
    copies = int(np.prod(simulation.supercell))
    return np.tile(~fixed, copies) if np.any(fixed) else None


def initial_momenta(
    structure: Structure,
    simulation: SimulationConfig,
    ensemble: EnsembleConfig,
    momenta: Momenta | None,
) -> Callable[[Float[np.ndarray, " atoms"]], Momenta]:
    """Makes `masses of the supercell -> momenta` [sqrt(amu eV)]; those of fixed atoms are zero.

    Raises:
        UserError: for `velocities: structure` without momenta.
    """
    if simulation.velocities == "structure" and momenta is None:
        raise UserError(
            f"simulation.velocities: got 'structure', but {structure.name or 'the structure'} has "
            "no momenta; expected a frame with a `momenta` column. Use 'maxwell' or 'zero'."
        )
    kelvin = simulation.initial_temperature
    kelvin = ensemble.first_temperature if kelvin is None else kelvin
    mobile = mobile_atoms(structure, simulation)

    def draw(masses: Float[np.ndarray, " atoms"]) -> Momenta:
        if simulation.velocities == "structure" and momenta is not None:
            drawn = np.tile(momenta, (int(np.prod(simulation.supercell)), 1))
            return drawn if mobile is None else np.where(mobile[:, None], drawn, 0.0)
        if simulation.velocities == "zero":
            return np.zeros((len(masses), 3))
        return ensembles.maxwell_boltzmann(simulation.seed, masses, kelvin, mobile)

    return draw


def first_state(
    system: System,
    compiled: Dynamics,
    momenta: Momenta,
    simulation: SimulationConfig,
    ensemble: EnsembleConfig,
    resume: Path | str | None,
) -> tuple[DynamicsState, restart.Restart | None]:
    """The first state, or that of a restart file with what the file says beside.

    Raises:
        UserError: for a restart file of another system, ensemble, timestep or skin.
    """
    neighbors = system.neighbors
    header = None
    if resume is not None:
        header = restart.read_header(Path(resume))
        written = (header.kind, header.timestep, header.skin)
        stated = (ensemble.label, simulation.timestep, simulation.skin)
        if written != stated:
            raise UserError(
                f"{resume}: got a restart of {written[0]} with timestep {written[1]} fs and skin "
                f"{written[2]} Å; the config says {stated[0]}, {stated[1]} fs and {stated[2]} Å. "
                "Use the config it was written with."
            )
        neighbors = system.with_capacity(header.capacity)
    arguments: tuple[Any, ...] = (
        system.variables,
        jax.random.PRNGKey(simulation.seed),
        np.asarray(momenta, system.dtype),
        np.asarray(system.masses[:, None], system.dtype),
        neighbors,
        system.images,
    )
    if resume is None:
        return compiled.init(*arguments), None
    shapes = jax.eval_shape(compiled.init, *arguments)
    return restart.read_state(Path(resume), shapes), header


def open_outputs(
    output: Path, simulation: SimulationConfig, header: restart.Restart | None
) -> Outputs:
    """Opens the files, where a restart is resumed at the places where they stood."""
    thermo_mark = None if header is None else header.thermo_mark
    writer = None
    if simulation.trajectory_interval:
        path = output / f"trajectory.{simulation.trajectory_format}"
        writer = trajectory.open_writer(path, None if header is None else header.trajectory_mark)
    return Outputs(writer, thermo.ThermoWriter(output / "thermo.jsonl", thermo_mark))
