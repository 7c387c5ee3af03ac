"""Stochastic velocity rescaling: Bussi, Donadio & Parrinello (2007), J. Chem. Phys. 126, 014101.

All momenta are scaled by one random number, drawn such that the kinetic energy follows its own
Langevin equation and so becomes canonical. Directions of momenta, and a vanishing total momentum,
are left alone: transport is disturbed little.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax_md import dataclasses
from jaxtyping import Array, Float


@dataclasses.dataclass
class CSVRState:
    """A state as jax-md's, with what the thermostat adds: arrays, or their shapes.

    Attributes:
        position: Å, [atoms 3].
        momentum: sqrt(amu eV), [atoms 3].
        force: eV/Å, [atoms 3].
        mass: amu, [atoms 1].
        rng: random key.
        heat: eV, what the thermostat has given to the atoms so far.
    """

    position: Any
    momentum: Any
    force: Any
    mass: Any
    rng: Any
    heat: Any


def scale_factor(
    key: Array, kinetic: Float[Array, ""], kT: Any, decay: Any, degrees_of_freedom: int
) -> Float[Array, ""]:
    """Factor of the momenta in one step: eq. A7, with the sign of Bussi & Parrinello (2008).

    Args:
        key: random key.
        kinetic: eV, before the step.
        kT: eV.
        decay: `exp(-step / relaxation time)`.
        degrees_of_freedom: of the momenta.
    """
    normal_key, gamma_key = jax.random.split(key)
    dtype = kinetic.dtype
    first = jax.random.normal(normal_key, (), dtype)
    # The sum of the squares of the other degrees_of_freedom - 1 normal numbers.
    others = 2.0 * jax.random.gamma(gamma_key, 0.5 * (degrees_of_freedom - 1), (), dtype)
    # Momenta that vanish stay zero, whatever the factor.
    share = 0.5 * kT * (1.0 - decay) / jnp.maximum(kinetic, jnp.finfo(dtype).tiny ** 0.5)
    size = jnp.sqrt((jnp.sqrt(decay) + jnp.sqrt(share) * first) ** 2 + share * others)
    return jnp.where(first + jnp.sqrt(decay / share) < 0.0, -size, size)
