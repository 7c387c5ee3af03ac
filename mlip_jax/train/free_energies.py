"""Differences of free energy between two phases, carried along while the potential changes.

What is known is the difference ΔF of the potential that training starts with, θ_0. At others

    ΔF(θ) = ΔF(θ_0) + Σ_k [F(θ_k) - F(θ_k-1)] + [F(θ) - F(θ_K)]      each: other phase - first

where θ_1 … θ_K are the parameters that samples were drawn at. The last bracket is Zwanzig's
perturbation, whose slope is that of the loss; those of the sum are Bennett's estimates from two
samples each (see `simulate.free_energy`). Where two anchors lie so far apart that too few frames
count for both, samples are drawn at parameters between them, too.

The starting value is that of the potential at the temperature T of the sampling. At its melting
temperature T_m (`experiments/melting`) it is 0; nearby, with the heat of fusion ΔH per atom (the
difference of the mean enthalpies of the two phases), ΔF = ΔH (1 - T / T_m): Gibbs & Helmholtz, to
first order in T - T_m. A fit to ΔF = 0 at the temperature of the sampling makes it the melting one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlip_jax.config import UserError
from mlip_jax.simulate import free_energy, reweighting
from mlip_jax.simulate.differentiable import Start

MAX_HALVINGS = 5
"""How often a step between anchors is cut in two."""


class Place(NamedTuple):
    """Parameters, and a sample that was drawn at them."""

    params: Any
    sample: Any


class Bridge(NamedTuple):
    """What two phases say of a step from some parameters to others, on the host.

    Attributes:
        overlap: `(variables, sample) -> part of the frames that carries the weight`, the smaller
            one of the phases.
        change: `(old variables, old sample, variables, sample) -> eV per atom` by which the
            difference of the phases grows.
    """

    overlap: Callable[[Any, Any], float]
    change: Callable[[Any, Any, Any, Any], float]


def bridge(first: Start, second: Start, kT: float) -> Bridge:
    """Makes the functions of two phases.

    Args:
        first: the phase of `structure`.
        second: the other.
        kT: eV.
    """
    energies = [jax.jit(reweighting.energies_fn(start)) for start in (first, second)]

    def at(variables: Any, sample: Any) -> list[np.ndarray]:
        """U - U_sampled of the frames of both phases."""
        changes = []
        for function, part in zip(energies, (sample, sample.other), strict=True):
            frames = jax.tree.map(lambda leaf: leaf[0], part.frames)
            found = function(variables, frames, part.neighbors)
            changes.append(np.asarray(found - part.energies[0]))
        return changes

    def overlap(variables: Any, sample: Any) -> float:
        sizes = []
        for change in at(variables, sample):
            weights = reweighting.weights(jnp.asarray(change), jnp.zeros_like(change), kT)
            sizes.append(float(reweighting.effective_size(weights)) / len(change))
        return min(sizes)

    def change(old_variables: Any, old: Any, variables: Any, new: Any) -> float:
        steps = []
        for there, back, start in zip(
            at(variables, old), at(old_variables, new), (first, second), strict=True
        ):
            steps.append(free_energy.bennett(there, -back, kT) / len(start.system.masses))
        return steps[1] - steps[0]

    return Bridge(overlap, change)


def follow(
    bridge: Bridge,
    here: Place,
    params: Any,
    draw: Callable[[Any], Any],
    variables_of: Callable[[Any], Any],
    enough: float,
    halvings: int = MAX_HALVINGS,
) -> Place:
    """Samples at other parameters, whose `carried` difference includes the step there.

    Args:
        bridge: of the two phases.
        here: where the last sample was drawn.
        params: where to go.
        draw: `params -> sample`.
        variables_of: `params -> variables`.
        enough: part of the frames that has to carry the weight at the end of a step.
        halvings: how often a step may be cut in two.

    Raises:
        UserError: where the parameters are too far away.
    """
    if not bridge.overlap(variables_of(params), here.sample) >= enough:
        if halvings == 0:
            raise UserError(
                "its parameters have changed by so much in one step that the free energies of the "
                "phases cannot be followed. Lower the learning rate or observables.weight, or "
                "sample more frames."
            )
        middle = jax.tree.map(
            lambda a, b: 0.5 * (np.asarray(a) + np.asarray(b)), here.params, params
        )
        rest = (draw, variables_of, enough, halvings - 1)
        here = follow(bridge, here, middle, *rest)
        return follow(bridge, here, params, *rest)
    sample = draw(params)
    old, new = variables_of(here.params), variables_of(params)
    step = bridge.change(old, here.sample, new, sample)
    return Place(params, sample._replace(carried=here.sample.carried + step))
