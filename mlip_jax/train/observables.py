"""The section `observables`: properties of crystals that a potential is fitted to beside labels.

The loss is `weight * Σ w ((value - target) / tolerance)²`, over the targets of all systems. A
system without `sampling` is at the minimum of its energy, atoms and cell: values are those at 0 K,
and slopes are taken through the minimum (`simulate.implicit`). With `sampling` they are averages
over an ensemble, reweighted from one set of parameters to the next (`simulate.reweighting`);
trajectories from its frames give diffusion (`simulate.diffusion`), and the ensembles of two phases
the change of their difference of free energy (`free_energies`).
"""

import dataclasses
from typing import Annotated

from pydantic import Field

from mlip_jax import config as configs
from mlip_jax.config import UserError
from mlip_jax.simulate.settings import BarostatConfig, EnsembleConfig

Positive = Annotated[float, Field(gt=0)]

UNITS = {
    "lattice_constant": "Å",
    "density": "g/cm^3",
    "pressure": "GPa",
    "C11": "GPa",
    "C12": "GPa",
    "C44": "GPa",
    "frequency": "THz",
    "rdf": "1",
    "diffusion": "Å^2/ps",
    "free_energy": "meV/atom",
}
"""What can be observed, and in which unit; 1 Å^2/ps is 1e-4 cm^2/s or 1e-8 m^2/s."""

ELASTIC = ("C11", "C12", "C44")
FREQUENCY, RDF, DIFFUSION, FREE_ENERGY = "frequency", "rdf", "diffusion", "free_energy"
_KEYS = {
    FREQUENCY: ("wave_vector", "branch"),
    RDF: ("distance", "pair"),
    DIFFUSION: ("window", "element"),
    FREE_ENERGY: ("start",),
}
_OPTIONAL = ("pair", "element")
_OF_CELL = ("lattice_constant", "density")


@dataclasses.dataclass(frozen=True)
class Target:
    """What a value should be.

    Attributes:
        value: in the unit of the observable, see `UNITS`.
        tolerance: in the same unit; a deviation of this size adds `weight` to the loss.
        weight: of this target.
        of: the observable, where the target has a name of its own: a system may have several
            frequencies.
        wave_vector: of `frequency`, multiples of the reciprocal vectors of the file's cell, without
            2π; exact where it fits the supercell.
        branch: of `frequency`, from 0 by increasing frequency, or from -1 down.
        distance: Å, of `rdf`.
        width: Å, of `rdf`: standard deviation of the Gaussian that a distance counts with.
        pair: of `rdf`, symbols of the central atoms and of their neighbours; all where null.
        window: fs, of `diffusion`: the time over which the autocorrelation of velocities is
            integrated; a multiple of `sampling.timestep`. As long as velocities are correlated, and
            no more than a few inverse Lyapunov exponents (see `simulate.diffusion`): in liquids
            some hundred fs.
        element: of `diffusion`, symbol of the atoms that are meant; all where null.
        start: meV/atom, of `free_energy`: the difference that the potential has which training
            starts with.
    """

    value: float
    tolerance: Positive
    weight: Annotated[float, Field(ge=0)] = 1.0
    of: str | None = None
    wave_vector: tuple[float, float, float] | None = None
    branch: int | None = None
    distance: Positive | None = None
    width: Positive = 0.05
    pair: tuple[str, str] | None = None
    window: Positive | None = None
    element: str | None = None
    start: float | None = None

    def observable(self, name: str) -> str:
        """What a target of this name is of."""
        return self.of or name

    def check(self, name: str) -> None:
        """Looks whether it has what its observable needs.

        Raises:
            UserError: for an unknown observable, and keys that are missing.
        """
        observable = self.observable(name)
        if observable not in UNITS:
            raise configs.unknown_name("targets", "observable", observable, UNITS)
        if observable != name and name in UNITS:
            raise UserError(
                f"targets.{name}: got of: {observable}, for a target with the name of another "
                "observable; expected a name of its own. Rename it."
            )
        own = _KEYS.get(observable, ())
        missing = [key for key in own if key not in _OPTIONAL and getattr(self, key) is None]
        if missing:
            raise UserError(
                f"targets.{name}: got no {' and no '.join(missing)}, which {observable} needs."
            )
        foreign = [key for keys in _KEYS.values() for key in keys if key not in own]
        given = [key for key in foreign if getattr(self, key) is not None]
        if given:
            raise UserError(
                f"targets.{name}: got {', '.join(given)}, which mean nothing for {observable}. "
                "Remove them."
            )


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How the ensemble of a system is sampled: Langevin dynamics.

    Every sample begins at the structure, with the same random numbers. What is minimised is then a
    fixed function of the parameters, as far as reweighting is exact, and its statistical error is
    the same throughout; the values of the report are from a sample with others.

    Attributes:
        temperature: K.
        pressure: GPa, with which the volume fluctuates; in the cell of the file where null.
        timestep: fs.
        discard: steps before the first frame.
        steps: of a sample.
        interval: steps between frames; a divisor of `steps`.
        friction: 1/fs.
        smallest: a new sample is drawn where the effective number of frames is below this part of
            their number.
        strain: of the ensembles whose mean stresses give elastic constants.
        trajectories: of each frame, for `diffusion`: each starts with momenta of its own.
        seed: of momenta and random forces.
    """

    temperature: Positive
    pressure: float | None = None
    timestep: Positive = 2.0
    discard: Annotated[int, Field(ge=0)] = 500
    steps: Annotated[int, Field(ge=1)] = 2000
    interval: Annotated[int, Field(ge=1)] = 40
    friction: Positive = 0.02
    smallest: Annotated[float, Field(gt=0, lt=1)] = 0.5
    strain: Annotated[float, Field(gt=0, le=0.05)] = 0.01
    trajectories: Annotated[int, Field(ge=1)] = 1
    seed: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self):
        if self.steps % self.interval or self.steps == self.interval:
            raise UserError(
                f"got {self.steps} steps with a frame every {self.interval}; expected a multiple, "
                "of two frames at least. Change steps or interval."
            )

    @property
    def ensemble(self) -> EnsembleConfig:
        """The ensemble."""
        barostat = None if self.pressure is None else BarostatConfig(pressure=self.pressure)
        return EnsembleConfig(
            "langevin", self.temperature, friction=self.friction, barostat=barostat
        )


@dataclasses.dataclass(frozen=True)
class PhaseConfig:
    """Another phase of a system, whose free energy is compared with that of `structure`.

    It has the same composition, and is sampled in the same way: at constant pressure the difference
    is that of Gibbs's free energies; in fixed cells that of Helmholtz's, at the two volumes. Each
    phase has to stay what it is while it is sampled.

    Attributes:
        structure: file, beside the config or in the working directory.
        index: frame of the file.
        supercell: copies along each cell vector.
    """

    structure: str
    index: int = -1
    supercell: tuple[int, int, int] = (1, 1, 1)

    def __post_init__(self):
        _check_copies(self.supercell)


@dataclasses.dataclass(frozen=True)
class SystemConfig:
    """A system, and what it is known for.

    Attributes:
        structure: file, beside the config or in the working directory.
        targets: by name: `lattice_constant` (length of the first cell vector of the file),
            `density`, `pressure`, of cubic crystals `C11`, `C12` and `C44` with relaxed atoms,
            `frequency` of a phonon, `rdf`, the radial distribution function at a distance,
            `diffusion`, the coefficient of self-diffusion, and `free_energy` of the other phase
            less that of `structure`, per atom.
        index: frame of the file.
        supercell: copies along each cell vector.
        sampling: of an ensemble; null: at the minimum of the energy. At constant pressure the
            lattice constant and the density are known, in a fixed cell the pressure, the elastic
            constants and the diffusion, in both `rdf` and `free_energy`; at the minimum lattice,
            density, elastic constants and frequencies.
        other_phase: of `free_energy`; all other targets are of `structure`.
    """

    structure: str
    targets: dict[str, Target]
    index: int = -1
    supercell: tuple[int, int, int] = (1, 1, 1)
    sampling: SamplingConfig | None = None
    other_phase: PhaseConfig | None = None

    def __post_init__(self):
        if not self.targets:
            raise UserError(f"targets: got none; expected some of {', '.join(UNITS)}.")
        for name, target in self.targets.items():
            target.check(name)
        _check_copies(self.supercell)
        foreign = sorted(set(self.observables) - set(self._known()[0]))
        if foreign:
            known, kind, advice = self._known()
            raise UserError(
                f"targets: got {', '.join(foreign)} {kind}, where only {', '.join(known)} have a "
                f"meaning. {advice}"
            )
        if (FREE_ENERGY in self.observables) != (self.other_phase is not None):
            have, lack = (FREE_ENERGY, "no other_phase")
            if self.other_phase is not None:
                have, lack = "other_phase", f"no target {FREE_ENERGY}"
            raise UserError(f"got {have}, but {lack}; expected both. Add it, or remove {have}.")
        for name, target in self.targets.items():
            if target.window is not None and self.sampling is not None:
                _check_window(name, target.window, self.sampling.timestep)

    @property
    def observables(self) -> tuple[str, ...]:
        """What the targets are of, in their order."""
        return tuple(target.observable(name) for name, target in self.targets.items())

    def _known(self) -> tuple[tuple[str, ...], str, str]:
        if self.sampling is None:
            advice = "Give a sampling for the others, or leave them out."
            return (*_OF_CELL, *ELASTIC, FREQUENCY), "at the minimum of the energy", advice
        if self.sampling.pressure is None:
            advice = "Set sampling.pressure in a system of its own."
            known = ("pressure", *ELASTIC, RDF, DIFFUSION, FREE_ENERGY)
            return known, "in a fixed cell", advice
        advice = "Put them into a system without sampling.pressure."
        return (*_OF_CELL, RDF, FREE_ENERGY), "at constant pressure", advice


def _check_copies(supercell: tuple[int, int, int]) -> None:
    if min(supercell) < 1:
        raise UserError(f"supercell: got {list(supercell)}; expected numbers ≥ 1.")


def _check_window(name: str, window: float, timestep: float) -> None:
    steps = round(window / timestep)
    if steps < 1 or abs(steps * timestep - window) > 1e-6 * window:
        raise UserError(
            f"targets.{name}.window: got {window:g} fs; expected a multiple of sampling.timestep, "
            f"{timestep:g} fs. Change one of them."
        )


@dataclasses.dataclass(frozen=True)
class ObservablesConfig:
    """The section `observables`.

    Attributes:
        systems: crystals by any name.
        weight: of all targets together, beside the loss of the labels.
        interval: steps of training between two in which the loss and the gradient of the targets
            are added to those of the batch; 1 for `lbfgs`.
    """

    systems: dict[str, SystemConfig]
    weight: Annotated[float, Field(ge=0)] = 1.0
    interval: Annotated[int, Field(ge=1)] = 1

    def __post_init__(self):
        if not self.systems:
            raise UserError("systems: got none; expected one at least. Or remove the section.")
