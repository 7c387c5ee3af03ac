"""Observables at the minimum of the energy, with slopes by implicit differentiation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mlip_jax import units
from mlip_jax.data.structure import Structure
from mlip_jax.graph import volumes
from mlip_jax.neighbors import active, device
from mlip_jax.neighbors.device import DeviceNeighbors
from mlip_jax.potential import Potential
from mlip_jax.properties import phonons
from mlip_jax.properties.elastic import elastic_fn
from mlip_jax.properties.force_constants import force_constants_fn
from mlip_jax.simulate import implicit
from mlip_jax.simulate.system import System, prepare
from mlip_jax.train.observables import ELASTIC, FREQUENCY, SystemConfig

TOLERANCE = 1e-6
"""eV/Å, of the relaxation."""

_COMPRESSED = 0.95
"""Lists are laid out for cells that are shorter by this factor, so that cells may change."""


class Values(NamedTuple):
    """Observables of one system, in the units of `observables.UNITS`.

    Attributes:
        named: by name; NaN where the rest says that they are not known.
        sizes: part of the frames of each ensemble that carries the weight; none at a minimum.
        flags: bits of `neighbors.device.Flag`.
        converged: whether the minimum was found.
        stable: whether it is one.
    """

    named: dict[str, Float[Array, ""]]
    sizes: Float[Array, " ensembles"]
    flags: Int[Array, ""]
    converged: Bool[Array, ""]
    stable: Bool[Array, ""]

    def fault(self) -> str | None:
        """Why there are no numbers, of values on the host."""
        if int(self.flags) & device.Flag.CELL:
            return (
                "its cell has become too small for its lists of neighbours or images. Start from "
                "parameters whose crystal is nearer to the file's"
            )
        if int(self.flags):
            return (
                "its atoms have come so close that a list of neighbours overflows. Start from "
                "parameters whose structure is nearer to the file's"
            )
        if not bool(self.converged):
            return (
                "it does not relax from the structure of the file. Start nearer to the minimum, "
                "or train on the labels alone first"
            )
        if not bool(self.stable):
            return (
                "its relaxed atoms are at no minimum of the energy, where elastic constants have "
                "no meaning. Train on the labels alone first"
            )
        if not all(np.isfinite(value) for value in self.named.values()):
            return "its values are not finite. Lower the learning rate, or observables.weight"
        return None


def density(mass: float, volume: Any) -> Any:
    """Density [g/cm^3] of a mass [amu] in a volume [Å^3]."""
    return mass * units.AMU * 1e3 / (volume * 1e-24)


def roomy_list(system: System) -> DeviceNeighbors:
    """A list of the system that holds those of cells that are a little smaller, too."""
    positions = np.asarray(system.neighbors.reference_positions, np.float64)
    cell = np.asarray(system.structure.cell, np.float64)
    listed = system.allocate(_COMPRESSED * positions, _COMPRESSED * cell)
    capacity = listed.capacity.at_least(system.neighbors.capacity)
    # It is built at smaller cells, too; whoever uses it refreshes it first.
    return device.with_capacity(listed, capacity)


def values_fn(
    potential: Potential, structure: Structure, config: SystemConfig
) -> Callable[[Any, None], Values]:
    """Makes `(variables, None) -> Values` of a structure whose atoms and cell are relaxed.

    Args:
        potential: for its model.
        structure: of the file; each relaxation begins at its supercell.
        config: says which values.
    """
    large, layout = phonons.supercell(structure, config.supercell)
    system = prepare(potential, large, "float64", skin=0.5)
    listed = roomy_list(system)
    relax = implicit.relaxed_fn(system, cell="full", tolerance=TOLERANCE)
    elastic, second = elastic_fn(system.predict), force_constants_fn(system.predict)
    wanted = config.observables
    vibrations = {
        name: (jnp.array([target.wave_vector]), target.branch)
        for name, target in config.targets.items()
        if target.observable(name) == FREQUENCY
    }
    mass = float(np.sum(system.masses))
    positions, cell = system.neighbors.reference_positions, system.neighbors.reference_cell

    def values(variables: Any, sample: None) -> Values:
        del sample
        found = relax(variables, positions, cell, listed)
        named = {
            "lattice_constant": jnp.linalg.norm(found.cell[0]) / config.supercell[0],
            "density": density(mass, volumes(found.cell[None])[0]),
        }
        stable = jnp.ones((), bool)
        at_end = device.update(listed, found.positions, found.cell)
        graph, _ = active.to_graph(system.template, at_end, found.positions, found.cell)
        if any(observable in ELASTIC for observable in wanted):
            constants = elastic(variables, graph)
            named |= cubic_constants(constants.stiffness)
            stable = constants.softest > 0.0
        if vibrations:
            between = second(variables, graph, layout.home)[:, : large.num_atoms]
            for name, (points, branch) in vibrations.items():
                named[name] = phonons.frequencies(between, layout, points)[0, branch]
        return Values(
            by_target(config, named),
            jnp.zeros(0),
            found.flags,
            found.converged,
            stable,
        )

    return values


def by_target(config: SystemConfig, named: dict[str, Array]) -> dict[str, Array]:
    """Values by the names of the targets, of values by those or by observables."""
    return {
        name: named[name if name in named else target.observable(name)]
        for name, target in config.targets.items()
    }


def cubic_constants(stiffness: Float[Array, "6 6"]) -> dict[str, Float[Array, ""]]:
    """C11, C12 and C44 [GPa] of a cubic crystal, means of what is equal by symmetry [eV/Å^3]."""
    c = stiffness / units.GPA
    return {
        "C11": (c[0, 0] + c[1, 1] + c[2, 2]) / 3.0,
        "C12": (c[0, 1] + c[1, 2] + c[0, 2]) / 3.0,
        "C44": (c[3, 3] + c[4, 4] + c[5, 5]) / 3.0,
    }
