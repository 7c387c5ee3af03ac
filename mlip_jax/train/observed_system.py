"""One system of observables: its compiled programs and its sample."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mlip_jax.data.structure import Structure
from mlip_jax.potential import Potential
from mlip_jax.train import free_energies, relaxed_observables, sampled_observables
from mlip_jax.train.free_energies import Place
from mlip_jax.train.observables import SystemConfig
from mlip_jax.train.observed_structures import other_phase
from mlip_jax.train.relaxed_observables import Values
from mlip_jax.train.sampled_observables import Sampler

ENOUGH = 0.5
"""Free energies are followed in steps at whose end this part of `sampling.smallest` counts."""


class ObservedSystem:
    """One system, its compiled programs, and the sample of the parameters `anchor`.

    Free energies are counted from `origin`, the parameters of the first sample.
    """

    def __init__(
        self,
        name: str,
        config: SystemConfig,
        structures: Mapping[str, Structure],
        potential: Potential,
    ):
        self.name, self.config = name, config
        self.sampler: Sampler | None = None
        self.sample: Any = None
        self.anchor: Any = None
        self.origin: Any = None
        self.compiled = ""
        if config.sampling is None:
            values = relaxed_observables.values_fn(potential, structures[name], config)
        else:
            other = structures.get(other_phase(name))
            self.sampler = sampled_observables.build(potential, structures[name], config, other)
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

    def renew(self, params: Any, constants: Any) -> None:
        """Draws the sample anew, at these parameters.

        Raises:
            UserError: where free energies cannot be followed there.
        """
        params = jax.tree.map(lambda leaf: np.array(leaf, copy=True), params)
        if self.sample is None or self.sampler is None or self.sampler.bridge is None:
            self.sample = self.draw(params, constants)
            self.origin = params
        else:
            self.sample = self._followed(Place(self.anchor, self.sample), params, constants)
        self.anchor = params

    def restore(self, stored: Mapping[str, Any], constants: Any) -> None:
        """Draws the sample of a checkpoint again, see `stored`."""
        self.anchor = stored["anchor"]
        self.sample = self.draw(self.anchor, constants)
        if "origin" in stored:
            self.origin = stored["origin"]
            self.sample = self.sample._replace(carried=jnp.asarray(stored["carried"]))

    def stored(self, params: Any) -> dict[str, Any]:
        """What a checkpoint has to hold; `params` where no sample has been drawn."""
        drawn = self.sample is not None
        found = {"anchor": self.anchor if drawn else params}
        if self.sampler is not None and self.sampler.bridge is not None:
            found["origin"] = self.origin if drawn else params
            found["carried"] = np.asarray(self.sample.carried if drawn else 0.0, np.float64)
        return found

    def independent(self, params: Any, constants: Any) -> Any:
        """A sample at these parameters with other random numbers, which nothing has been fitted to.

        With free energies there is one at the origin before, and where needed some between.
        """
        if self.sampler is None:
            return None
        assert self.config.sampling is not None
        seed = self.config.sampling.seed + 1
        if self.sampler.bridge is None or self.origin is None:
            return self.draw(params, constants, seed)
        start = Place(self.origin, self.draw(self.origin, constants, seed))
        return self._followed(start, params, constants, seed)

    def _followed(self, here: Place, params: Any, constants: Any, seed: int | None = None) -> Any:
        assert self.sampler is not None
        assert self.sampler.bridge is not None
        assert self.config.sampling is not None
        found = free_energies.follow(
            self.sampler.bridge,
            here,
            params,
            lambda place: self.draw(place, constants, seed),
            lambda place: {"params": place, **constants},
            ENOUGH * self.config.sampling.smallest,
        )
        return found.sample

    def known(self, params: Any, constants: Any, sample: Any) -> tuple[Array, Values]:
        """Loss and values, by a program that has been compiled already where there is one."""
        if self.compiled == "rows":
            _, (terms, values) = self.rows(params, constants, sample)
            return jnp.sum(terms**2), values
        if self.compiled == "slope":
            return self.slope(params, constants, sample)[0]
        return self.value(params, constants, sample)

    def stale(self, values: Values, *, early: bool = False) -> bool:
        """Whether too few frames of the sample still count, or a list has no room for them.

        Args:
            values: of the sample.
            early: too few is less than half-way between `sampling.smallest` and all of them.
        """
        if self.config.sampling is None:
            return False
        smallest = self.config.sampling.smallest
        smallest = 0.5 * (1.0 + smallest) if early else smallest
        return bool(values.flags) or not float(np.min(values.sizes)) >= smallest
