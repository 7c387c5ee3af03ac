"""One system of observables: its compiled programs and its sample; the structures of all."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.data import formats
from mlip_jax.data.dataset import find
from mlip_jax.data.structure import Structure
from mlip_jax.potential import Potential
from mlip_jax.properties.cubic import is_cubic
from mlip_jax.train import relaxed_observables, sampled_observables
from mlip_jax.train.observables import ELASTIC, ObservablesConfig, SystemConfig, Target
from mlip_jax.train.relaxed_observables import Values
from mlip_jax.train.sampled_observables import Sampler


class ObservedSystem:
    """One system, its compiled programs, and the sample of the parameters `anchor`."""

    def __init__(self, name: str, config: SystemConfig, structure: Structure, potential: Potential):
        self.name, self.config = name, config
        self.sampler: Sampler | None = None
        self.sample: Any = None
        self.anchor: Any = None
        self.compiled = ""
        if config.sampling is None:
            values = relaxed_observables.values_fn(potential, structure, config)
        else:
            self.sampler = sampled_observables.build(potential, structure, config)
            values = self.sampler.values

        def residuals(params: Any, constants: Any, sample: Any) -> tuple[Array, Values]:
            found = values({"params": params, **constants}, sample)
            terms = [
                np.sqrt(target.weight) * (found.named[name] - target.value) / target.tolerance
                for name, target in config.targets.items()
            ]
            return jnp.stack(terms), found

        def rows(params: Any, constants: Any, sample: Any):
            terms, found = residuals(params, constants, sample)
            return terms, (terms, found)

        def objective(params: Any, constants: Any, sample: Any) -> tuple[Array, Values]:
            terms, found = residuals(params, constants, sample)
            return jnp.sum(terms**2), found

        self.value = jax.jit(objective)
        self.slope = jax.jit(jax.value_and_grad(objective, has_aux=True))
        self.rows = jax.jit(jax.jacrev(rows, has_aux=True))

    def draw(self, params: Any, constants: Any, seed: int | None = None) -> Any:
        """A sample of the ensembles, from the seed of the config or another."""
        if self.sampler is None:
            return None
        assert self.config.sampling is not None
        seed = self.config.sampling.seed if seed is None else seed
        return self.sampler.draw({"params": params, **constants}, seed)

    def known(self, params: Any, constants: Any, sample: Any) -> tuple[Array, Values]:
        """Loss and values, by a program that has been compiled already where there is one."""
        if self.compiled == "rows":
            _, (terms, values) = self.rows(params, constants, sample)
            return jnp.sum(terms**2), values
        if self.compiled == "slope":
            return self.slope(params, constants, sample)[0]
        return self.value(params, constants, sample)

    def stale(self, values: Values) -> bool:
        """Whether too few frames of the sample still count."""
        if self.config.sampling is None:
            return False
        return not float(np.min(values.sizes)) >= self.config.sampling.smallest


def read_structures(config: ObservablesConfig, base: Path) -> dict[str, Structure]:
    """The structures of the systems.

    Raises:
        UserError: for a file or a frame that is not there, a structure without three periodic
            directions, or elastic constants of a crystal that is not cubic.
    """
    return {name: _read(name, system, base) for name, system in config.systems.items()}


def _read(name: str, config: SystemConfig, base: Path) -> Structure:
    where = f"observables.systems.{name}"
    try:
        path = find(config.structure, base)
    except UserError as error:
        raise UserError(f"{where}.structure: {error}") from None
    frames = formats.read(path)
    if not -len(frames) <= config.index < len(frames):
        raise UserError(
            f"{where}.index: got {config.index}; {path} has {len(frames)} frames. Correct it."
        )
    structure = frames[config.index]
    if not np.all(structure.pbc):
        raise UserError(
            f"{where}.structure: got pbc {np.asarray(structure.pbc).tolist()}; expected a crystal, "
            "periodic in three directions."
        )
    for key, target in config.targets.items():
        _check_target(f"{where}.targets.{key}", target, structure)
    elastic = [observable for observable in config.observables if observable in ELASTIC]
    if elastic and not is_cubic(structure):
        raise UserError(
            f"{where}.targets: got {', '.join(elastic)} for {path}, which is no ideal cubic "
            "crystal with its axes along x, y and z; expected one. Give the crystal without "
            "displacements, or leave these targets out."
        )
    return structure


def _check_target(where: str, target: Target, structure: Structure) -> None:
    modes = 3 * structure.num_atoms
    if target.branch is not None and not -modes <= target.branch < modes:
        raise UserError(
            f"{where}.branch: got {target.branch}; expected one of the {modes} modes of the file's "
            f"cell, 0 to {modes - 1}. Correct it."
        )
    for symbol in target.pair or ():
        if elements.atomic_number(symbol) not in structure.atomic_numbers:
            raise UserError(
                f"{where}.pair: got {symbol}; expected elements of the structure: "
                f"{', '.join(elements.symbols(sorted(set(structure.atomic_numbers.tolist()))))}."
            )
