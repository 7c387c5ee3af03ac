"""Diffusion as an observable: short trajectories that start at the frames of a sample."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mlip_jax import elements
from mlip_jax.data.structure import Structure
from mlip_jax.neighbors.device import DeviceNeighbors
from mlip_jax.potential import Potential
from mlip_jax.simulate import differentiable, diffusion, reweighting
from mlip_jax.simulate.reweighting import Frames
from mlip_jax.simulate.settings import EnsembleConfig
from mlip_jax.train.observables import DIFFUSION, SystemConfig

Momenta = Float[Array, "frames trajectories atoms 3"]


class Trajectories(NamedTuple):
    """The trajectories of a system; those of one window serve all targets with it.

    Attributes:
        draw: `(variables, frames, neighbors, seed) -> momenta, neighbors` with room, on the host.
        values: `(variables, frames, momenta, neighbors, weights) -> values by target, flags`, pure.
    """

    draw: Callable[[Any, Frames, DeviceNeighbors, int], tuple[Momenta, DeviceNeighbors]]
    values: Callable[..., tuple[dict[str, Array], Int[Array, ""]]]


def build(potential: Potential, structure: Structure, system: SystemConfig) -> Trajectories | None:
    """Makes the trajectories ready, where a target asks for them.

    Args:
        potential: for its model.
        structure: the supercell.
        system: says which targets, and how frames are sampled.
    """
    config = system.sampling
    targets = {n: t for n, t in system.targets.items() if t.observable(n) == DIFFUSION}
    if config is None or not targets:
        return None
    nve = EnsembleConfig("nve", config.temperature)
    start = differentiable.begin(potential, structure, nve, config.timestep)
    lengths = {name: round((t.window or 0.0) / config.timestep) for name, t in targets.items()}
    functions = {n: diffusion.coefficients_fn(start, n) for n in set(lengths.values())}
    compiled = {length: jax.jit(function) for length, function in functions.items()}

    def draw(variables: Any, frames: Frames, neighbors: DeviceNeighbors, seed: int):
        masses, count = start.system.masses, len(frames.cell)
        momenta = diffusion.draw_momenta(
            masses, config.temperature, count, config.trajectories, seed
        )
        momenta = jnp.asarray(momenta, start.system.dtype)
        for length, function in sorted(compiled.items()):
            neighbors = diffusion.with_room(
                start, length, function, variables, frames, momenta, neighbors
            )
        return momenta, neighbors

    def values(variables: Any, frames: Frames, momenta: Momenta, neighbors, weights):
        found = {n: f(variables, frames, momenta, neighbors) for n, f in functions.items()}
        named = {}
        for name, target in targets.items():
            atoms = _atoms(structure, target.element)
            mean = jnp.mean(found[lengths[name]].values[:, :, atoms], axis=(1, 2))
            named[name] = 1e3 * reweighting.average(weights, mean)
        flags = jnp.concatenate([one.flags.ravel() for one in found.values()])
        return named, jax.lax.reduce(flags, np.int32(0), jax.lax.bitwise_or, (0,))

    return Trajectories(draw, values)


def _atoms(structure: Structure, element: str | None) -> np.ndarray:
    numbers = structure.atomic_numbers
    if element is None:
        return np.arange(len(numbers))
    return np.flatnonzero(numbers == elements.atomic_number(element))
