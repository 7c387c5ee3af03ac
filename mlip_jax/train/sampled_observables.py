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
from mlip_jax.potential import Potential
from mlip_jax.properties.elastic import tensor_of_strain, to_voigt
from mlip_jax.properties.structure import smooth_distribution_fn
from mlip_jax.simulate import differentiable, reweighting
from mlip_jax.simulate.differentiable import Start
from mlip_jax.simulate.dynamics import DynamicsState
from mlip_jax.simulate.reweighting import Frames
from mlip_jax.simulate.system import replicate
from mlip_jax.train.observables import ELASTIC, RDF, SamplingConfig, SystemConfig, Target
from mlip_jax.train.relaxed_observables import Values, by_target, density, roomy_list


class Ensembles(NamedTuple):
    """Frames of one ensemble, or of one for each strain.

    Attributes:
        frames: arrays with the leading axes ensembles and frames.
        energies: eV, with the parameters that they were sampled with.
    """

    frames: Frames
    energies: Float[Array, "ensembles frames"]


class Sampler(NamedTuple):
    """A system whose ensembles are sampled.

    Attributes:
        draw: `(variables, seed) -> Ensembles`, on the host.
        values: `(variables, ensembles) -> Values`, pure.
    """

    draw: Callable[[Any, int], Ensembles]
    values: Callable[[Any, Ensembles], Values]


def build(potential: Potential, structure: Structure, system: SystemConfig) -> Sampler:
    """Makes a system ready.

    Args:
        potential: for its model; its variables do not matter.
        structure: of the file; each sample begins at its supercell.
        system: says which values, and how it is sampled.
    """
    config = system.sampling
    assert config is not None
    structure = replicate(structure, system.supercell)
    start = _begin(potential, structure, config, config.seed)
    listed = roomy_list(start.system)
    start = start._replace(state=dataclasses.replace(start.state, neighbors=listed))
    strains = _strains(config.strain if set(system.observables) & set(ELASTIC) else None)
    sample = reweighting.sample_fn(start, config.steps, config.interval, config.discard)

    def draw(variables: Any, seed: int) -> Ensembles:
        state = start.state
        if seed != config.seed:
            state = _begin(potential, structure, config, seed).state
            state = dataclasses.replace(state, neighbors=listed)
        drawn = [sample(variables, _strained(state, strain)) for strain in strains]
        parts = [Ensembles(one.frames, one.energies) for one in drawn]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)

    return Sampler(draw, partial(_values, start, system, config, strains))


def _values(
    start: Start,
    system: SystemConfig,
    config: SamplingConfig,
    strains: Float[np.ndarray, "ensembles 6"],
    variables: Any,
    sample: Ensembles,
) -> Values:
    kT = units.BOLTZMANN * config.temperature
    shape = sample.energies.shape
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), sample.frames)
    results = reweighting.results_fn(start)(variables, flat)
    energies, virials = (leaf.reshape(*shape, *leaf.shape[1:]) for leaf in results)
    weights = jax.vmap(partial(reweighting.weights, kT=kT))(energies, sample.energies)
    sizes = jax.vmap(reweighting.effective_size)(weights) / shape[1]
    cells = sample.frames.cell
    named: dict[str, Array] = {}
    if config.pressure is not None:
        mean = partial(reweighting.average, weights[0])
        mass = float(np.sum(start.system.masses))
        named["lattice_constant"] = (
            mean(jnp.linalg.norm(cells[0, :, 0], axis=-1)) / system.supercell[0]
        )
        named["density"] = mean(density(mass, volumes(cells[0])))
    else:
        gas = len(start.system.masses) * kT * jnp.eye(3)
        mean_virials = jnp.einsum("ef,efab->eab", weights, virials) + gas[None]
        volume = volumes(cells[:1, 0])[0]
        named["pressure"] = jnp.trace(mean_virials[0]) / (3.0 * volume) / units.GPA
        if len(strains) > 1:
            named |= _elastic(mean_virials, strains, volume)
    for name, target in system.targets.items():
        if target.observable(name) == RDF:
            at = _distribution_fn(start.system.structure, target)
            parts = jax.lax.map(at, jax.tree.map(lambda leaf: leaf[0], sample.frames))
            named[name] = reweighting.average(weights[0], parts)
    yes = jnp.ones((), bool)
    return Values(
        by_target(system, named),
        jax.lax.stop_gradient(sizes),
        jnp.zeros((), jnp.int32),
        yes,
        yes,
    )


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
