"""Self-diffusion of an ensemble as a differentiable function of the parameters.

The coefficient of Green and Kubo is an integral of the autocorrelation of velocities, over a window
T instead of all times. The integral of a velocity is a displacement, so that the ends suffice:

    D(T) = 1/3 ∫_0^T <v(0) · v(t)> dt = 1/3 <v(0) · (r(T) - r(0))>        per atom

Trajectories are those of constant energy. They start at the frames of an ensemble, with momenta of
Maxwell and Boltzmann whose sum is zero. The mean over starting points depends on the parameters in
two ways (B. Han & K. Yu, Nat. Commun. 16, 816 (2025)):

    dD/dθ = Σ_f dw_f/dθ D_f + Σ_f w_f dD_f/dθ

The weights w of the frames are those of `reweighting`; momenta have none, their distribution does
not depend on θ. The second part is the derivative through the trajectories (`differentiable`).

Limits. Derivatives of a chaotic trajectory grow as exp(λ t), with the Lyapunov exponent λ (in
simple liquids about 1/ps): the window has to be a few 1/λ at most, or the second part is noise. It
should be longer than the correlation of the velocities, or D(T) is not D: what lies beyond it is
cut off. In a periodic cell of length L a liquid has D smaller by 2.837 kT / (6 π η L), with the
viscosity η (I.-C. Yeh & G. Hummer, J. Phys. Chem. B 108, 15873 (2004)). With the total momentum at
zero it is smaller by a part of 1/N.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mlip_jax import units
from mlip_jax.neighbors.device import DeviceNeighbors
from mlip_jax.simulate import differentiable, ensembles
from mlip_jax.simulate.differentiable import Start
from mlip_jax.simulate.reweighting import Frames

MAX_GROWTHS = 20
"""How often room is made for the trajectories of one sample."""


class Coefficients(NamedTuple):
    """What each trajectory says of each atom.

    Attributes:
        values: v(0) · (r(T) - r(0)) / 3, Å^2/fs.
        flags: bits of `neighbors.device.Flag`; where they are not 0, values are NaN.
    """

    values: Float[Array, "frames trajectories atoms"]
    flags: Int[Array, "frames trajectories"]


CoefficientsFn = Callable[
    [Any, Frames, Float[Array, "frames trajectories atoms 3"], DeviceNeighbors], Coefficients
]
"""`(variables, frames, momenta [sqrt(amu eV)], neighbors) -> Coefficients`."""


def coefficients_fn(start: Start, length: int) -> CoefficientsFn:
    """Makes the function of frames and momenta; frames carry no derivative of the parameters.

    Memory is that of one trajectory, in segments: all is computed again in the backward pass.

    Args:
        start: a system with the dynamics of NVE.
        length: steps of a window.
    """
    run = differentiable.trajectory_fn(start.compiled, length)
    masses = start.state.integrator.mass

    def one(variables, neighbors, frame: Frames, momenta):
        state = _started(start, frame, momenta, neighbors)
        end = run(variables, state)
        moved = differentiable.unwrapped(end.state) - frame.positions
        products = jnp.sum(momenta / masses * moved, axis=1)
        return products / (3.0 * units.TIME_UNIT), end.flags

    def coefficients(variables, frames: Frames, momenta, neighbors: DeviceNeighbors):
        number = momenta.shape[1]
        repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, number, axis=0), frames)
        starts = (repeated, momenta.reshape(-1, *momenta.shape[2:]))
        body = jax.checkpoint(lambda pair: one(variables, neighbors, *pair))
        found = jax.lax.map(body, starts)
        return Coefficients(*(leaf.reshape(-1, number, *leaf.shape[1:]) for leaf in found))

    return coefficients


def draw_momenta(
    masses: Float[np.ndarray, " atoms"],
    temperature: float,
    frames: int,
    trajectories: int,
    seed: int,
) -> Float[np.ndarray, "frames trajectories atoms 3"]:
    """Momenta [sqrt(amu eV)] to start with, of a temperature [K]; their sums are zero.

    Args:
        masses: amu.
        temperature: K.
        frames: of the ensemble.
        trajectories: of each frame.
        seed: of all of them.
    """
    drawn = [
        ensembles.maxwell_boltzmann((seed, index), masses, temperature)
        for index in range(frames * trajectories)
    ]
    return np.reshape(drawn, (frames, trajectories, len(masses), 3))


def with_room(
    start: Start,
    length: int,
    coefficients: CoefficientsFn,
    variables: Any,
    frames: Frames,
    momenta: Float[Array, "frames trajectories atoms 3"],
    neighbors: DeviceNeighbors,
) -> DeviceNeighbors:
    """The list, or one that is large enough for all trajectories, which are run to find it.

    Args:
        start: see `coefficients_fn`.
        length: steps of a window.
        coefficients: of `coefficients_fn`, compiled.
        variables: of the potential.
        frames: to start from.
        momenta: of each frame.
        neighbors: the list so far.
    """
    for _ in range(MAX_GROWTHS):
        flags = np.asarray(coefficients(variables, frames, momenta, neighbors).flags)
        if not flags.any():
            break
        frame, trajectory = np.argwhere(flags)[0]
        chosen = jax.tree.map(lambda leaf, i=frame: leaf[i], frames)
        state = _started(start, chosen, momenta[frame, trajectory], neighbors)
        neighbors = differentiable.with_room(start.compiled, variables, state, length).neighbors
    return neighbors


def _started(start: Start, frame: Frames, momenta: Any, neighbors: DeviceNeighbors):
    state = dataclasses.replace(start.state, neighbors=neighbors, cell=frame.cell)
    return differentiable.moved(state, frame.positions, momenta)
