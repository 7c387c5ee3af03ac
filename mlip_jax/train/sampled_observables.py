"""Observables as averages over ensembles, with slopes by reweighting (DiffTRe).

Elastic constants come from the mean stresses of two ensembles whose cells are strained by ±δ along
x and in the plane yz at once: in a cubic crystal these two do not mix to first order, and what is
even in the strain cancels. The ensembles share their random numbers, and with them most of their
noise. Momenta are integrated by hand: each atom adds kT.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax import elements, units
from mlip_jax.data.structure import Structure
from mlip_jax.graph import volumes
from mlip_jax.neighbors import device
from mlip_jax.neighbors.device import DeviceNeighbors
from mlip_jax.potential import Potential
from mlip_jax.properties.elastic import tensor_of_strain, to_voigt
from mlip_jax.properties.structure import smooth_distribution_fn
from mlip_jax.simulate import differentiable, free_energy, reweighting
from mlip_jax.simulate.differentiable import Start
from mlip_jax.simulate.dynamics import DynamicsState
from mlip_jax.simulate.reweighting import Frames
from mlip_jax.simulate.system import replicate
from mlip_jax.train import free_energies, sampled_diffusion
from mlip_jax.train.free_energies import Bridge
from mlip_jax.train.observables import (
    ELASTIC,
    FREE_ENERGY,
    RDF,
    SamplingConfig,
    SystemConfig,
    Target,
)
from mlip_jax.train.relaxed_observables import Values, by_target, density, roomy_list
from mlip_jax.train.sampled_diffusion import Trajectories


class Ensembles(NamedTuple):
    """Frames of one ensemble, or of one for each strain.

    Attributes:
        frames: arrays with the leading axes ensembles and frames.
        energies: eV, with the parameters that they were sampled with.
        neighbors: a list with room for all of them.
        momenta: of trajectories that start at the frames of the first, where diffusion is asked
            for; sqrt(amu eV).
        other: the ensemble of the other phase, where there is one.
        carried: eV per atom, how much the free energy of the other phase less that of this one has
            grown since the beginning of training until the parameters of the sample.
    """

    frames: Frames
    energies: Float[Array, "ensembles frames"]
    neighbors: DeviceNeighbors
    momenta: Float[Array, "frames trajectories atoms 3"] | None = None
    other: Any = None
    carried: Float[Array, ""] | None = None


class Sampler(NamedTuple):
    """A system whose ensembles are sampled.

    Attributes:
        draw: `(variables, seed) -> Ensembles`, on the host.
        values: `(variables, ensembles) -> Values`, pure.
        bridge: of two phases, where free energies are asked for.
    """

    draw: Callable[[Any, int], Ensembles]
    values: Callable[[Any, Ensembles], Values]
    bridge: Bridge | None = None


class _Phase(NamedTuple):
    """One phase, as it begins, and the function that samples it."""

    start: Start
    draw: Callable[[Any, int], Ensembles]


def build(
    potential: Potential,
    structure: Structure,
    system: SystemConfig,
    other: Structure | None = None,
) -> Sampler:
    """Makes a system ready.

    Args:
        potential: for its model; its variables do not matter.
        structure: of the file; each sample begins at its supercell.
        system: says which values, and how it is sampled.
        other: of the file of the other phase, where there is one.
    """
    config = system.sampling
    assert config is not None
    structure = replicate(structure, system.supercell)
    strains = _strains(config.strain if set(system.observables) & set(ELASTIC) else None)
    first, second, bridge = _phase(potential, structure, config, strains), None, None
    if system.other_phase is not None:
        assert other is not None
        copies = replicate(other, system.other_phase.supercell)
        second = _phase(potential, copies, config, _strains(None))
        kT = units.BOLTZMANN * config.temperature
        bridge = free_energies.bridge(first.start, second.start, kT)
    trajectories = sampled_diffusion.build(potential, structure, system)

    def draw(variables: Any, seed: int) -> Ensembles:
        sample = first.draw(variables, seed)
        if trajectories is not None:
            momenta, neighbors = trajectories.draw(
                variables, _of_first(sample.frames), sample.neighbors, seed
            )
            sample = sample._replace(momenta=momenta, neighbors=neighbors)
        if second is not None:
            phase = second.draw(variables, seed)
            sample = sample._replace(other=phase, carried=jnp.zeros((), phase.energies.dtype))
        return sample

    values = partial(_values, first, second, trajectories, system, config, strains)
    return Sampler(draw, values, bridge)


def _phase(
    potential: Potential,
    structure: Structure,
    config: SamplingConfig,
    strains: Float[np.ndarray, "ensembles 6"],
) -> _Phase:
    start = _begin(potential, structure, config, config.seed)
    listed = roomy_list(start.system)
    start = start._replace(state=dataclasses.replace(start.state, neighbors=listed))
    sample = reweighting.sample_fn(start, config.steps, config.interval, config.discard)

    def draw(variables: Any, seed: int) -> Ensembles:
        # Every sample begins with the same list: room that an earlier one had to make would change
        # the order of sums, and a resumed run would not be the same.
        state = start.state
        if seed != config.seed:
            state = _begin(potential, structure, config, seed).state
            state = dataclasses.replace(state, neighbors=listed)
        drawn = []
        for strain in strains:
            found = sample(variables, _strained(state, strain))
            room = reweighting.list_for(found.state, found.frames)
            neighbors = device.with_capacity(state.neighbors, room.capacity)
            state = dataclasses.replace(state, neighbors=neighbors)
            drawn.append((found.frames, found.energies))
        frames, energies = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
        return Ensembles(frames, energies, state.neighbors)

    return _Phase(start, draw)


def _values(
    phase: _Phase,
    second: _Phase | None,
    trajectories: Trajectories | None,
    system: SystemConfig,
    config: SamplingConfig,
    strains: Float[np.ndarray, "ensembles 6"],
    variables: Any,
    sample: Ensembles,
) -> Values:
    kT = units.BOLTZMANN * config.temperature
    start, frames = phase.start, _of_first(sample.frames)
    shape = sample.energies.shape
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), sample.frames)
    results = reweighting.results_fn(start)(variables, flat, sample.neighbors)
    energies, virials = (leaf.reshape(*shape, *leaf.shape[1:]) for leaf in results)
    weights = jax.vmap(partial(reweighting.weights, kT=kT))(energies, sample.energies)
    sizes = jax.vmap(reweighting.effective_size)(weights) / shape[1]
    named: dict[str, Array] = {}
    flags = jnp.zeros((), jnp.int32)
    if config.pressure is not None:
        mean = partial(reweighting.average, weights[0])
        mass = float(np.sum(start.system.masses))
        named["lattice_constant"] = (
            mean(jnp.linalg.norm(frames.cell[:, 0], axis=-1)) / system.supercell[0]
        )
        named["density"] = mean(density(mass, volumes(frames.cell)))
    else:
        gas = len(start.system.masses) * kT * jnp.eye(3)
        mean_virials = jnp.einsum("ef,efab->eab", weights, virials) + gas[None]
        volume = volumes(frames.cell[:1])[0]
        named["pressure"] = jnp.trace(mean_virials[0]) / (3.0 * volume) / units.GPA
        if len(strains) > 1:
            named |= _elastic(mean_virials, strains, volume)
    for name, target in system.targets.items():
        if target.observable(name) == RDF:
            parts = jax.lax.map(_distribution_fn(start.system.structure, target), frames)
            flags |= jnp.where(jnp.any(jnp.isnan(parts)), int(device.Flag.CELL), 0)
            named[name] = reweighting.average(weights[0], parts)
    if trajectories is not None:
        found, overflow = trajectories.values(
            variables, frames, sample.momenta, sample.neighbors, weights[0]
        )
        named, flags = named | found, flags | overflow
    if second is not None:
        change, size = _free_energy(phase.start, second.start, kT, variables, energies[0], sample)
        sizes = jnp.concatenate([sizes, size[None]])
        for name, target in system.targets.items():
            if target.observable(name) == FREE_ENERGY:
                assert target.start is not None
                named[name] = target.start + 1e3 * change
    yes = jnp.ones((), bool)
    return Values(by_target(system, named), jax.lax.stop_gradient(sizes), flags, yes, yes)


def _free_energy(
    first: Start, second: Start, kT: float, variables: Any, energies: Array, sample: Ensembles
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Change of the difference of the phases [eV per atom], and the effective size of the other."""
    other = sample.other
    assert sample.carried is not None
    own = free_energy.perturbation(energies, sample.energies[0], kT)
    there = reweighting.energies_fn(second)(variables, _of_first(other.frames), other.neighbors)
    moved = free_energy.perturbation(there, other.energies[0], kT)
    weights = reweighting.weights(there, other.energies[0], kT)
    size = reweighting.effective_size(weights) / len(weights)
    difference = moved / len(second.system.masses) - own / len(first.system.masses)
    return sample.carried + difference, size


def _of_first(frames: Frames) -> Frames:
    """Frames of the first ensemble."""
    return jax.tree.map(lambda leaf: leaf[0], frames)


def _distribution_fn(structure: Structure, target: Target) -> Callable[[Frames], Array]:
    """`frame -> g(r)`; frames do not depend on the parameters, their weights do."""
    assert target.distance is not None
    chosen = None
    if target.pair is not None:
        chosen = (elements.atomic_number(target.pair[0]), elements.atomic_number(target.pair[1]))
    at = smooth_distribution_fn(structure, target.distance, target.width, chosen)
    return lambda frame: at(frame.positions, frame.cell)


def _elastic(
    virials: Float[Array, "ensembles 3 3"], strains: Float[np.ndarray, "ensembles 6"], volume: Any
) -> dict[str, Array]:
    """Elastic constants [GPa]: differences of the slopes of the free energy by the strain.

    As in `properties.elastic`, the slope at a strain is the symmetric part of `-F⁻¹ W`.
    """
    slopes = []
    for virial, strain in zip(virials[1:], strains[1:], strict=True):
        deformation = jnp.eye(3) + tensor_of_strain(jnp.asarray(strain))
        slope = -jnp.linalg.solve(deformation, virial)
        slopes.append(to_voigt(0.5 * (slope + slope.T)))
    change = (slopes[0] - slopes[1]) / (2.0 * strains[1, 0] * volume * units.GPA)
    return {"C11": change[0], "C12": 0.5 * (change[1] + change[2]), "C44": change[3]}


def _strains(size: float | None) -> Float[np.ndarray, "ensembles 6"]:
    """None at all; and with elastic constants ±δ, along x and in the plane yz, in Voigt's form."""
    both = np.array([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    return np.zeros((1, 6)) if size is None else np.stack([0.0 * both, size * both, -size * both])


def _strained(state: DynamicsState, strain: Float[np.ndarray, " 6"]) -> DynamicsState:
    """The state in a strained cell; the first step builds a new list where it has to."""
    growth = jnp.eye(3) + tensor_of_strain(jnp.asarray(strain))
    integrator = state.integrator.set(position=state.integrator.position @ growth)
    return dataclasses.replace(state, integrator=integrator, cell=state.cell @ growth)


def _begin(potential: Potential, structure: Structure, config: SamplingConfig, seed: int) -> Start:
    return differentiable.begin(
        potential, structure, config.ensemble, config.timestep, seed=seed, precision="float64"
    )
