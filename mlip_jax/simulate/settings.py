"""The sections `ensemble` and `simulation` of a config, and `relaxation`."""

import dataclasses
import itertools
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from mlip_jax.config import UserError

Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A quantity that changes with time; constant before the first time and after the last.

    Attributes:
        times: fs since the start of the simulation, increasing.
        values: one for each time.
        interpolation: `linear` between the times, or `stepwise`: each value holds until the next.
    """

    times: tuple[NonNegative, ...]
    values: tuple[float, ...]
    interpolation: Literal["linear", "stepwise"] = "linear"

    def __post_init__(self):
        if len(self.times) < 2 or len(self.times) != len(self.values):
            raise UserError(
                f"got {len(self.times)} times and {len(self.values)} values; expected as many of "
                "one as of the other, two at least. For a constant write a number."
            )
        if any(b <= a for a, b in itertools.pairwise(self.times)):
            raise UserError(
                f"times: got {list(self.times)} fs; expected each later than the one before."
            )


@dataclasses.dataclass(frozen=True)
class BarostatConfig:
    """How the cell fluctuates: stochastic cell rescaling, for `langevin` and `csvr`.

    Attributes:
        pressure: GPa, compression positive; a number, or a schedule (`times`, `values`,
            `interpolation`).
        cell: `isotropic` (the volume), `axes` (lengths along x, y and z, each on its own) or
            `flexible` (any strain).
        relaxation_time: fs, in which the volume relaxes if `compressibility` is that of the system.
        compressibility: 1/GPa; a guess will do: it changes how fast the cell moves, not what is
            sampled.
        interval: steps between two changes of the cell.
    """

    pressure: float | Schedule = 0.0
    cell: Literal["isotropic", "axes", "flexible"] = "isotropic"
    relaxation_time: Positive = 1000.0
    compressibility: Positive = 0.01
    interval: Annotated[int, Ge(1)] = 10


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """Which ensemble is sampled.

    Attributes:
        kind: `nve` (velocity Verlet), or with a thermostat `langevin` (BAOAB), `csvr` (stochastic
            velocity rescaling) or `nose_hoover` (chain).
        temperature: K; of the thermostat, and (its first value) of the initial velocities where
            `simulation.initial_temperature` is not given. A number, or a schedule (`times`,
            `values`, `interpolation`).
        friction: 1/fs, of `langevin`.
        relaxation_time: fs, of `csvr`; period of the chain of `nose_hoover`.
        chain_length: thermostats in the chain.
        chain_steps: substeps of the chain in each half step.
        suzuki_yoshida_steps: order of the splitting of a substep.
        barostat: how the cell fluctuates; `null` keeps it.
    """

    kind: Literal["nve", "langevin", "csvr", "nose_hoover"] = "nve"
    temperature: NonNegative | Schedule = 300.0
    friction: Positive = 0.01
    relaxation_time: Positive = 100.0
    chain_length: Annotated[int, Ge(2)] = 3
    chain_steps: Annotated[int, Ge(1)] = 2
    suzuki_yoshida_steps: Literal[1, 3, 5, 7] = 3
    barostat: BarostatConfig | None = None

    def __post_init__(self):
        value = self.temperature
        if self.kind == "nve" and isinstance(value, Schedule):
            raise UserError(
                "ensemble.temperature: got a schedule for nve; expected a number. Nothing holds a "
                "temperature in NVE: choose a thermostat with ensemble.kind."
            )
        lowest = min(value.values) if isinstance(value, Schedule) else value
        if (self.kind != "nve" and not lowest > 0.0) or lowest < 0.0:
            raise UserError(
                f"ensemble.temperature: got {lowest} K for {self.kind}; expected a "
                "positive temperature."
            )
        if self.barostat is not None and self.kind not in ("langevin", "csvr"):
            raise UserError(
                f"ensemble.barostat: got one for {self.kind}; expected langevin or csvr, with "
                "which it samples the isothermal-isobaric ensemble. Change ensemble.kind."
            )

    @property
    def first_temperature(self) -> float:
        """Temperature [K] at the start."""
        value = self.temperature
        return value.values[0] if isinstance(value, Schedule) else value

    @property
    def label(self) -> str:
        """The ensemble in words."""
        return self.kind if self.barostat is None else f"{self.kind} with {self.barostat.cell} cell"


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
        fixed_atoms: atoms of the structure's file that do not move (from 0; all copies of them).
        fixed_elements: symbols of elements whose atoms do not move.
        drift_interval: steps between removals of the motion of the centre of mass; 0: never.
        walls: Å, places of a lower and an upper reflecting wall by axis (`{z: [0, 40]}`); the
            structure is not periodic across them.
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
    fixed_atoms: tuple[Annotated[int, Ge(0)], ...] = ()
    fixed_elements: tuple[str, ...] = ()
    drift_interval: Annotated[int, Ge(0)] = 0
    walls: dict[Literal["x", "y", "z"], tuple[float, float]] = dataclasses.field(
        default_factory=dict
    )
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
        for axis, (lower, upper) in self.walls.items():
            if not lower < upper:
                raise UserError(
                    f"simulation.walls.{axis}: got [{lower:g}, {upper:g}] Å; expected the lower "
                    "wall first."
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
        max_displacement: Å, longest step of an atom, and of the strain times the cube root of the
            volume an atom.
        block: see `SimulationConfig`; 0: chosen by the device and the size of the batch.
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
