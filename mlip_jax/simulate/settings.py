"""The sections `ensemble` and `simulation` of a config, and `relaxation`."""

import dataclasses
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from mlip_jax.config import UserError

Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """Which ensemble is sampled.

    Attributes:
        kind: `nve` (velocity Verlet), `langevin` (NVT, BAOAB) or `nose_hoover` (NVT, chain).
        temperature: K; of the thermostat, and of the initial velocities where
            `simulation.initial_temperature` is not given.
        friction: 1/fs, of `langevin`.
        relaxation_time: fs, period of the chain of `nose_hoover`.
        chain_length: thermostats in the chain.
        chain_steps: substeps of the chain in each half step.
        suzuki_yoshida_steps: order of the splitting of a substep.
    """

    kind: Literal["nve", "langevin", "nose_hoover"] = "nve"
    temperature: NonNegative = 300.0
    friction: Positive = 0.01
    relaxation_time: Positive = 100.0
    chain_length: Annotated[int, Ge(2)] = 3
    chain_steps: Annotated[int, Ge(1)] = 2
    suzuki_yoshida_steps: Literal[1, 3, 5, 7] = 3

    def __post_init__(self):
        if self.kind != "nve" and not self.temperature > 0.0:
            raise UserError(
                f"ensemble.temperature: got {self.temperature} K for {self.kind}; expected a "
                "positive temperature."
            )


@dataclasses.dataclass(frozen=True)
class SafetyConfig:
    """When a simulation stops by itself; the offending frame is saved.

    Attributes:
        max_temperature: K.
        min_distance: Å, of any two atoms.
        max_grade: largest extrapolation grade of an atom, where the model has one.
    """

    max_temperature: Positive = 10000.0
    min_distance: NonNegative = 0.5
    max_grade: Positive | None = None


@dataclasses.dataclass(frozen=True)
class SimulationConfig:
    """How a simulation runs and what it writes.

    Attributes:
        steps: number of steps; either this or `duration`.
        duration: fs.
        timestep: fs.
        seed: of the velocities and of the random forces.
        velocities: `maxwell` draws them at the initial temperature with zero total momentum,
            `zero` starts at rest, `structure` takes those of the structure's file.
        initial_temperature: K; that of the ensemble where it is not given.
        supercell: copies along each cell vector.
        precision: of positions, momenta and the potential.
        skin: Å, width beyond the cutoff within which the neighbour list holds pairs.
        chunk: steps between two looks of the host at most.
        block: atoms processed at a time (see `AtomicGraph`); results do not depend on it.
        trajectory_interval: steps between frames; 0 writes none.
        trajectory_format: extended XYZ, or ASE's binary format.
        thermo_interval: steps between lines of `thermo.jsonl`.
        restart_interval: steps between restart files (and one at the end).
        safety: when to stop.
    """

    steps: Annotated[int, Ge(1)] | None = None
    duration: Positive | None = None
    timestep: Positive = 1.0
    seed: Annotated[int, Ge(0)] = 0
    velocities: Literal["maxwell", "zero", "structure"] = "maxwell"
    initial_temperature: NonNegative | None = None
    supercell: tuple[int, int, int] = (1, 1, 1)
    precision: Literal["float32", "float64"] = "float32"
    skin: Positive = 0.5
    chunk: Annotated[int, Ge(1)] = 100
    block: Annotated[int, Ge(0)] = 0
    trajectory_interval: Annotated[int, Ge(0)] = 100
    trajectory_format: Literal["extxyz", "traj"] = "extxyz"
    thermo_interval: Annotated[int, Ge(1)] = 10
    restart_interval: Annotated[int, Ge(1)] = 1000
    safety: SafetyConfig = SafetyConfig()

    def __post_init__(self):
        if (self.steps is None) == (self.duration is None):
            raise UserError(
                f"simulation: got steps={self.steps} and duration={self.duration}; expected "
                "exactly one of them. Set the number of steps, or the duration in fs."
            )
        if min(self.supercell) < 1:
            raise UserError(
                f"simulation.supercell: got {list(self.supercell)}; expected whole numbers ≥ 1."
            )

    @property
    def num_steps(self) -> int:
        """Steps of the whole simulation."""
        if self.steps is not None:
            return self.steps
        assert self.duration is not None
        return max(1, round(self.duration / self.timestep))

    @property
    def chunk_length(self) -> int:
        """Steps of a chunk: frames are taken at the ends of chunks only."""
        interval = self.trajectory_interval
        if interval == 0:
            return self.chunk
        return next(n for n in range(min(self.chunk, interval), 0, -1) if interval % n == 0)


@dataclasses.dataclass(frozen=True)
class RelaxationConfig:
    """How positions are relaxed (cell fixed).

    Attributes:
        max_force: eV/Å; converged when no atom feels a larger force.
        max_steps: gives up after so many.
        max_displacement: Å, longest step of all atoms together.
        precision: of positions and the potential.
        skin: Å, of the neighbour list.
        chunk: steps between two looks of the host.
        block: see `SimulationConfig`.
    """

    max_force: Positive = 0.01
    max_steps: Annotated[int, Ge(1)] = 1000
    max_displacement: Positive = 0.2
    precision: Literal["float32", "float64"] = "float64"
    skin: Positive = 0.5
    chunk: Annotated[int, Ge(1)] = 50
    block: Annotated[int, Ge(0)] = 0


@dataclasses.dataclass(frozen=True)
class BatchRelaxationConfig(RelaxationConfig):
    """How many structures are relaxed at once; the cell may be, too.

    Attributes:
        max_displacement: Å, longest step of all atoms and the scaled strain of a structure.
        cell: `fixed`, `full` (any symmetric strain) or `hydrostatic` (the volume only).
        max_stress: eV/Å^3; no component that moves the cell is larger at convergence.
        min_distance: Å; a structure with closer atoms has failed.
        max_volume_factor: a structure whose volume changes by more has failed.
        batch_atoms: atoms that are relaxed at a time; a larger structure is a batch of its own.
        batch_graphs: structures at a time, at most.
    """

    cell: Literal["fixed", "full", "hydrostatic"] = "fixed"
    max_stress: Positive = 1e-4
    min_distance: NonNegative = 0.5
    max_volume_factor: Annotated[float, Gt(1)] = 3.0
    batch_atoms: Annotated[int, Ge(1)] = 256
    batch_graphs: Annotated[int, Ge(1)] = 64
