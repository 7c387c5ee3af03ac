"""Molecular dynamics of a potential: from a structure and two config sections to files."""

import dataclasses
import importlib.util
import time
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure, StructureLabels
from mlip_jax.interrupt import StopRequest
from mlip_jax.simulate import (
    barostat,
    dynamics,
    ensembles,
    integrators,
    restart,
    start,
    thermo,
    trajectory,
    walls,
)
from mlip_jax.simulate.dynamics import Chunk, DynamicsState
from mlip_jax.simulate.progress import Progress
from mlip_jax.simulate.settings import EnsembleConfig, SimulationConfig
from mlip_jax.simulate.system import System, prepare, replicate
from mlip_jax.simulate.watch import Limits, Stop, temperature

Momenta = Float[np.ndarray, "atoms 3"]


@dataclasses.dataclass(frozen=True, eq=False)
class SimulationResult:
    """How a simulation ended.

    Attributes:
        structure: the last frame.
        momenta: sqrt(amu eV).
        steps: done, those before a restart included.
        stop_reason: why it ended early; empty where it did not.
        growths: how often a list overflowed and a chunk was run again.
        compile_seconds: time of the first chunk beyond that of a later one.
        microseconds_per_atom_step: of the steady state; NaN where there was one chunk only.
        nanoseconds_per_day: likewise.
        interrupted: number of the signal that ended it, or `None`.
    """

    structure: Structure
    momenta: Momenta
    steps: int
    stop_reason: str
    growths: int
    compile_seconds: float
    microseconds_per_atom_step: float
    nanoseconds_per_day: float
    interrupted: int | None = None


def run(
    potential: Any,
    structure: Structure,
    ensemble: EnsembleConfig,
    simulation: SimulationConfig,
    output: Path | str,
    *,
    momenta: Momenta | None = None,
    resume: Path | str | None = None,
    show_progress: bool = False,
) -> SimulationResult:
    """Simulates and writes trajectory, `thermo.jsonl`, `thermo.png` and `restart.npz`.

    Ctrl-C ends it after the chunk in flight; trajectory and restart file are valid then.

    Args:
        potential: a `Potential`.
        structure: where to start (before replication).
        ensemble: section of the config.
        simulation: section of the config.
        output: directory of the files; made where it does not exist.
        momenta: of the structure's atoms, sqrt(amu eV); used by `velocities: structure`.
        resume: a restart file; the simulation goes on from it up to `num_steps`, bit for bit as
            if it had never stopped, and files go on where they stood.
        show_progress: whether to show a progress bar.

    Raises:
        UserError: for an unknown element, an impossible cell or wall, atoms at one place, missing
            momenta or a restart file of another system.
    """
    output = Path(output)
    draw = start.initial_momenta(structure, simulation, ensemble, momenta)
    mobile = start.mobile_atoms(structure, simulation)
    structure = replicate(structure, simulation.supercell)
    _check_boundaries(structure, ensemble, simulation, any_fixed=mobile is not None)
    system = prepare(potential, structure, simulation.precision, simulation.skin, simulation.block)
    integrator = ensembles.build(
        ensemble,
        simulation.timestep,
        structure.num_atoms,
        system.dtype,
        mobile=mobile,
        drift_interval=simulation.drift_interval,
        between=simulation.walls,
    )
    compiled = dynamics.build(
        system.predict, integrator, system.template, simulation.chunk_length, system.model
    )
    output.mkdir(parents=True, exist_ok=True)
    state, header = start.first_state(
        system, compiled, draw(system.masses), simulation, ensemble, resume
    )
    outputs = start.open_outputs(output, simulation, header)
    simulator = _Simulator(system, compiled, ensemble, simulation, output, outputs)
    try:
        if header is None:
            simulator.write_frame(state)
        with StopRequest() as stop, Progress(simulation, structure, show_progress) as progress:
            return simulator.run(state, stop, progress)
    finally:
        outputs.thermo.close()
        if outputs.trajectory is not None:
            outputs.trajectory.close()
        if importlib.util.find_spec("matplotlib") is not None:
            thermo.plot(output / "thermo.jsonl", output / "thermo.png")


def _check_boundaries(
    structure: Structure, ensemble: EnsembleConfig, simulation: SimulationConfig, *, any_fixed: bool
) -> None:
    """Looks whether cell and walls go together with the structure and the ensemble."""
    if ensemble.barostat is not None:
        barostat.check_cell(ensemble.barostat, structure.cell, structure.pbc, any_fixed=any_fixed)
    walls.check(
        simulation.walls,
        structure,
        moving_cell=ensemble.barostat is not None,
        drift_interval=simulation.drift_interval,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Simulator:
    """The loop over chunks; holds what does not change along it."""

    system: System
    compiled: dynamics.Dynamics
    ensemble: EnsembleConfig
    config: SimulationConfig
    output: Path
    outputs: start.Outputs

    def run(self, state: DynamicsState, stop: StopRequest, progress: Progress) -> SimulationResult:
        limits, growths, code = self._limits(), 0, Stop.NONE
        step = int(state.step)
        while step < self.config.num_steps and code == Stop.NONE and stop.signal is None:
            length = self.config.chunk_length
            count = min(length - step % length, self.config.num_steps - step)
            started = time.perf_counter()
            chunk, grown = dynamics.advance_chunk(
                self.compiled, self.system.variables, state, count, limits
            )
            state, growths, done = chunk.state, growths + grown, int(chunk.done)
            code = Stop(int(chunk.stop))
            self._write_chunk(chunk, step, code)
            progress.update(done, time.perf_counter() - started, grown > 0)
            previous, step = step, step + done
            interval = self.config.restart_interval
            if code == Stop.NONE and step // interval > previous // interval:
                self._save(state)
        if code == Stop.NONE:
            self._save(state)
        frame = self.frame(state)
        return SimulationResult(
            structure=frame.structure,
            momenta=frame.momenta,
            steps=step,
            stop_reason=self._reason(code, state),
            growths=growths,
            compile_seconds=progress.compile_seconds,
            microseconds_per_atom_step=progress.microseconds_per_atom_step,
            nanoseconds_per_day=progress.nanoseconds_per_day,
            interrupted=stop.signal,
        )

    def write_frame(self, state: DynamicsState) -> None:
        if self.outputs.trajectory is not None:
            self.outputs.trajectory.write(self.frame(state))

    def frame(self, state: DynamicsState) -> trajectory.Frame:
        system, integrator = self.system, state.integrator
        cell = system.structure.cell  # in float64, where it does not change
        if self.ensemble.barostat is not None:
            cell = np.asarray(state.cell, np.float64)
        positions = np.asarray(integrator.position, np.float64) + np.asarray(state.images) @ cell
        labels = StructureLabels(
            energy=float(state.energy) + system.reference_energy,
            forces=np.asarray(integrator.force, np.float64),
            stress=None
            if system.volume is None
            else -np.asarray(state.virial, np.float64) / abs(np.linalg.det(cell)),
        )
        step = int(state.step)
        return trajectory.Frame(
            dataclasses.replace(system.structure, positions=positions, cell=cell, labels=labels),
            np.asarray(integrator.momentum, np.float64),
            step,
            step * self.config.timestep,
        )

    def _limits(self) -> Limits:
        safety = self.config.safety
        if safety.max_grade is not None and not self.system.graded:
            raise UserError(
                "simulation.safety.max_grade: this potential has no extrapolation grade; remove "
                "the key."
            )
        grade = np.inf if safety.max_grade is None else safety.max_grade
        limits = (safety.max_temperature, safety.min_distance, grade, 0.0)
        return Limits(*(self.system.dtype.type(value) for value in limits))

    def _write_chunk(self, chunk: Chunk, step: int, code: Stop) -> None:
        lines = thermo.thermo_lines(
            chunk.records,
            step + 1,
            int(chunk.done),
            self.config.thermo_interval,
            timestep=self.config.timestep,
            degrees_of_freedom=self.compiled.degrees_of_freedom,
            reference_energy=self.system.reference_energy,
            volume=self.system.volume,
            graded=self.system.graded,
            conserved=self.compiled.ensemble.bath_energy is not None,
            moving_cell=self.ensemble.barostat is not None,
        )
        self.outputs.thermo.write(lines)
        interval = self.config.trajectory_interval
        if code != Stop.NONE:
            offending = trajectory.format_frame(self.frame(chunk.state))
            (self.output / "stopped.extxyz").write_text(offending, encoding="utf-8")
        elif interval and (step + int(chunk.done)) % interval == 0:
            self.write_frame(chunk.state)

    def _save(self, state: DynamicsState) -> None:
        writer = self.outputs.trajectory
        header = restart.Restart(
            kind=self.ensemble.label,
            capacity=state.neighbors.capacity,
            skin=self.config.skin,
            trajectory_mark=None if writer is None else writer.mark(),
            thermo_mark=self.outputs.thermo.mark(),
            timestep=self.config.timestep,
        )
        restart.save(self.output / "restart.npz", state, header)

    def _reason(self, code: Stop, state: DynamicsState) -> str:
        if code == Stop.NONE:
            return ""
        kinetic = integrators.kinetic_energy(state.integrator.momentum, state.integrator.mass)
        kelvin = float(temperature(kinetic, self.compiled.degrees_of_freedom))
        safety = self.config.safety
        what = {
            Stop.TEMPERATURE: f"the temperature reached {kelvin:.0f} K "
            f"(safety.max_temperature: {safety.max_temperature:g} K)",
            Stop.DISTANCE: f"two atoms came within {float(state.shortest):.3f} Å "
            f"(safety.min_distance: {safety.min_distance:g} Å)",
            Stop.NOT_FINITE: "the energy is no longer finite",
            Stop.GRADE: f"the extrapolation grade reached {float(state.grade):.2f} "
            f"(safety.max_grade: {safety.max_grade})",
        }[code]
        return f"step {int(state.step)}: {what}; the frame is in {self.output / 'stopped.extxyz'}"
