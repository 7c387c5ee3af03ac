"""Averages over an ensemble as differentiable functions of the parameters: DiffTRe.

Thaler & Zavadlav (2021), Nat. Commun. 12, 6884. Frames are sampled with some parameters; at others
nearby, each counts with the weight `exp(-(U - U_sampled) / kT)`, which is differentiable: no
derivative goes through the trajectory. Where few frames carry all the weight, `refresh` samples
anew. At a constant pressure weights are the same: what the volume adds to the enthalpy cancels.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.neighbors import active, device
from mlip_jax.neighbors.device import DeviceNeighbors
from mlip_jax.simulate import differentiable, dynamics
from mlip_jax.simulate.differentiable import Start
from mlip_jax.simulate.dynamics import DynamicsState
from mlip_jax.simulate.floats import spoiled

MAX_GROWTHS = 20
"""How often room is made for the lists of frames."""


class Frames(NamedTuple):
    """Structures of one system.

    Attributes:
        positions: Å.
        cell: Å.
    """

    positions: Float[Array, "frames atoms 3"]
    cell: Float[Array, "frames 3 3"]


class Sample(NamedTuple):
    """Frames that are distributed as some parameters ask, and where they end.

    Attributes:
        frames: the structures.
        energies: eV, with the parameters that they were sampled with.
        state: the last, from which a new sample goes on.
    """

    frames: Frames
    energies: Float[Array, " frames"]
    state: DynamicsState


def weights(
    energies: Float[Array, " frames"], sampled: Float[Array, " frames"], kT: Any
) -> Float[Array, " frames"]:
    """Weights of frames, whose sum is 1.

    Args:
        energies: eV, with the parameters that are asked about.
        sampled: eV, with those that the frames were sampled with.
        kT: eV.
    """
    return jax.nn.softmax(-(energies - sampled) / kT)


def effective_size(weights: Float[Array, " frames"]) -> Float[Array, ""]:
    """How many frames carry the weight: `exp(-Σ w ln w)`, from 1 to their number."""
    logarithms = jnp.log(jnp.where(weights == 0.0, 1.0, weights))
    return jnp.exp(-jnp.sum(weights * logarithms))


def average(weights: Float[Array, " frames"], observables: Any) -> Any:
    """Weighted means of arrays whose leading axis is that of the frames."""
    return jax.tree.map(lambda a: jnp.tensordot(weights, a, axes=1), observables)


class FrameResults(NamedTuple):
    """What a potential says of frames; NaN where the list of a frame overflows.

    Attributes:
        energies: eV, without reference energies.
        virials: -dE/dε, eV.
    """

    energies: Float[Array, " frames"]
    virials: Float[Array, "frames 3 3"]


def results_fn(start: Start) -> Callable[..., FrameResults]:
    """Makes `(variables, frames, neighbors) -> FrameResults`, in whatever cells the frames are.

    Memory is that of one frame: all is computed again in the backward pass. The list may be left
    out; that of the start is taken then.
    """
    system = start.system

    def one(variables, neighbors: DeviceNeighbors, frame: Frames) -> FrameResults:
        listed = device.update(neighbors, frame.positions, frame.cell)
        graph, listed = active.to_graph(system.template, listed, frame.positions, frame.cell)
        prediction = system.predict(variables, graph)
        results = FrameResults(prediction.energy[0], prediction.virial[0])
        return spoiled(results, device.flags(listed) != 0)

    def results(
        variables: Any, frames: Frames, neighbors: DeviceNeighbors = start.state.neighbors
    ) -> FrameResults:
        body = jax.checkpoint(lambda frame: one(variables, neighbors, frame))
        return jax.lax.map(body, frames)

    return results


def energies_fn(start: Start) -> Callable[..., Float[Array, " frames"]]:
    """Makes `(variables, frames, neighbors) -> energies` [eV], see `results_fn`."""
    results = results_fn(start)
    return lambda *arguments: results(*arguments).energies


def list_for(state: DynamicsState, frames: Frames) -> DeviceNeighbors:
    """The list of a state, or a larger one, that holds the pairs of every frame.

    A simulation builds its list at few of its positions, and not at those of the frames.
    """
    for _ in range(MAX_GROWTHS):
        last = _listed(state.neighbors, frames)
        if not int(device.flags(last)):
            break
        state = dynamics.make_room(state, last)
    return state.neighbors


@jax.jit
def _listed(neighbors: DeviceNeighbors, frames: Frames) -> DeviceNeighbors:
    def body(listed: DeviceNeighbors, frame: Frames):
        return device.update(listed, frame.positions, frame.cell), None

    return jax.lax.scan(body, neighbors, frames)[0]


def sample_fn(
    start: Start, length: int, interval: int, discard: int = 0
) -> Callable[[Any, DynamicsState], Sample]:
    """Makes `(variables, state) -> Sample`, which makes room for the list where it overflows.

    Args:
        start: a system with the dynamics of the ensemble.
        length: steps.
        interval: steps between frames; a divisor of `length`.
        discard: steps before, in which the system forgets the parameters of before.
    """

    def note(variables, state: DynamicsState):
        del variables
        return Frames(differentiable.unwrapped(state), state.cell), state.energy

    options = {"observe": note, "interval": interval, "segment": 0}
    run = jax.jit(differentiable.trajectory_fn(start.compiled, length, **options))
    equilibrate = None
    if discard:
        equilibrate = jax.jit(differentiable.trajectory_fn(start.compiled, discard, segment=0))

    def sample(variables: Any, state: DynamicsState) -> Sample:
        if equilibrate is not None:
            state = _with_room(start, equilibrate, variables, state, discard).state
        result = _with_room(start, run, variables, state, length)
        frames, energies = result.observables
        return Sample(frames, energies, result.state)

    return sample


def refresh(
    sample: Sample,
    variables: Any,
    energies: Float[Array, " frames"],
    kT: float,
    draw: Callable[[Any, DynamicsState], Sample],
    smallest: float = 0.9,
) -> tuple[Sample, bool]:
    """The sample, or a new one where too few of its frames still count; and which.

    Args:
        sample: frames so far.
        variables: at which averages are asked for.
        energies: eV, of the frames with these.
        kT: eV.
        draw: see `sample_fn`.
        smallest: effective size over number of frames at which a sample is still good.

    Raises:
        UserError: for energies that are not finite.
    """
    size = float(effective_size(weights(energies, sample.energies, kT)))
    if not size == size:
        raise UserError(
            "reweighting: got energies of frames that are not finite; expected numbers. Check the "
            "parameters, and whether the lists hold all frames."
        )
    if size >= smallest * energies.shape[0]:
        return sample, False
    return draw(variables, sample.state), True


def _with_room(start: Start, run, variables, state: DynamicsState, length: int):
    """A trajectory; where its list overflows, with one that is large enough."""
    result = run(variables, state)
    if int(result.flags):
        state = differentiable.with_room(start.compiled, variables, state, length)
        result = run(variables, state)
    return result
