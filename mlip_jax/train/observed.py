"""Observables while a potential is trained: samples, values, the loss and its gradient."""

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure
from mlip_jax.potential import Potential
from mlip_jax.train.observables import UNITS, ObservablesConfig
from mlip_jax.train.observed_structures import read_structures
from mlip_jax.train.observed_system import ObservedSystem


class Added(NamedTuple):
    """What observables add to a step: their loss, and its gradient by the parameters."""

    loss: Float[Array, ""]
    gradient: Any


class Found(NamedTuple):
    """Observables at some parameters.

    Attributes:
        loss: their part of the loss; NaN with a fault.
        gradient: of it by the parameters; `None` where it was not asked for.
        values: by `system.observable`, in the units of `observables.UNITS`.
        sizes: smallest part of the frames that carries the weight, of each sampled system.
        fault: why there are no numbers.
    """

    loss: float
    gradient: Any
    values: dict[str, float]
    sizes: dict[str, float]
    fault: str | None

    def require(self) -> "Found":
        """Itself.

        Raises:
            UserError: with the fault, where there is one.
        """
        if self.fault is not None:
            raise UserError(f"observables.systems.{self.fault}.")
        return self


class Linearised(NamedTuple):
    """Observables near some parameters: their loss there is the sum of the squared residuals.

    Attributes:
        found: values there.
        residuals: r, a target each.
        slopes: dr/dθ, a tree like the parameters for each.
    """

    found: Found
    residuals: Float[np.ndarray, " targets"]
    slopes: list[Any]


class Observables:
    """The observables of a run.

    Samples are functions of the parameters that they were drawn at, the anchors: a checkpoint holds
    these, and a resumed run draws the same samples.

    Args:
        config: the section.
        structures: of the systems, see `read_structures`.
        potential: the model that is trained; its variables do not matter.
    """

    def __init__(
        self, config: ObservablesConfig, structures: Mapping[str, Structure], potential: Potential
    ):
        self.config = config
        self._systems = [
            ObservedSystem(name, system, structures, potential)
            for name, system in config.systems.items()
        ]

    @property
    def sampled(self) -> bool:
        """Whether a system is sampled: the loss then depends on the samples, too."""
        return any(system.sampler is not None for system in self._systems)

    def evaluate(self, params: Any, constants: Any, early: bool = False) -> Found:
        """Loss and gradient; samples of which too little still counts are drawn anew.

        Args:
            params: of the model.
            constants: variables that are not trained.
            early: draws anew where less than half-way between `sampling.smallest` and all counts.
        """
        return self._gather([self._renewed(s, params, constants, early) for s in self._systems])

    def reweighted(self, params: Any, constants: Any) -> Found:
        """Loss and gradient of the samples that there are; a fault where too little counts."""
        return self._gather([self._kept(s, params, constants) for s in self._systems])

    def linearised(self, params: Any, constants: Any) -> Linearised:
        """Residuals and their slopes; samples of which too little still counts are drawn anew.

        Raises:
            UserError: for a system without values.
        """
        parts, residuals, rows = [], [], []
        scale = float(np.sqrt(self.config.weight))
        for system in self._systems:
            fresh = system.sampler is not None and system.sample is None
            if fresh:
                system.renew(params, constants)
            system.compiled = "rows"
            slopes, (terms, values) = system.rows(params, constants, system.sample)
            if not fresh and system.stale(values):
                system.renew(params, constants)
                slopes, (terms, values) = system.rows(params, constants, system.sample)
            parts.append((jnp.sum(terms**2), values, None, None))
            residuals.append(scale * np.asarray(terms))
            rows += [jax.tree.map(partial(_row, scale, i), slopes) for i in range(len(terms))]
        found = self._gather(parts).require()
        return Linearised(found, np.concatenate(residuals), rows)

    def measure(self, params: Any, constants: Any) -> Found:
        """Values without slopes, of the samples that there are."""
        return self._gather([self._measured(s, params, constants) for s in self._systems])

    def independent(self, params: Any, constants: Any) -> Found:
        """Values from samples of their own, drawn at these parameters with other random numbers."""
        found = []
        for system in self._systems:
            sample = system.independent(params, constants)
            found.append((*system.known(params, constants, sample), None, None))
        return self._gather(found)

    def anchors(self, params: Any) -> dict[str, Any]:
        """The parameters of the samples, for a checkpoint; `params` where none has been drawn.

        With them stands what free energies are counted from.
        """
        return {s.name: s.stored(params) for s in self._systems if s.sampler is not None}

    def restore(self, anchors: Mapping[str, Any], constants: Any) -> None:
        """Draws the samples of a checkpoint again."""
        for system in self._systems:
            if system.sampler is not None:
                system.restore(anchors[system.name], constants)

    def record(self, found: Found) -> dict[str, Any]:
        """Values beside their targets, as plain numbers."""
        values = {}
        for system in self._systems:
            for name, target in system.config.targets.items():
                key = f"{system.name}.{name}"
                values[key] = {
                    "value": found.values[key],
                    "target": target.value,
                    "tolerance": target.tolerance,
                    "unit": UNITS[target.observable(name)],
                }
        return {"loss": found.loss, "values": values, "effective_frames": found.sizes}

    def _renewed(self, system: ObservedSystem, params: Any, constants: Any, early: bool):
        fresh = system.sampler is not None and system.sample is None
        try:
            if fresh:
                system.renew(params, constants)
            system.compiled = "slope"
            (loss, values), gradient = system.slope(params, constants, system.sample)
            if not fresh and system.stale(values, early=early):
                system.renew(params, constants)
                (loss, values), gradient = system.slope(params, constants, system.sample)
        except UserError as error:
            return math.nan, None, None, str(error).rstrip(".")
        return loss, values, gradient, None

    def _kept(self, system: ObservedSystem, params: Any, constants: Any):
        (loss, values), gradient = system.slope(params, constants, system.sample)
        far = "too few frames of its sample still count" if system.stale(values) else None
        return loss, None if far else values, gradient, far

    def _measured(self, system: ObservedSystem, params: Any, constants: Any):
        if system.sampler is not None and system.sample is None:
            system.renew(params, constants)
        loss, values = system.known(params, constants, system.sample)
        if system.sampler is not None and bool(values.flags):
            system.renew(params, constants)
            loss, values = system.known(params, constants, system.sample)
        return loss, values, None, None

    def _gather(self, parts: list[tuple[Any, Any, Any, str | None]]) -> Found:
        total, gradient, named, sizes, fault = 0.0, None, {}, {}, None
        for system, (loss, values, slope, failed) in zip(self._systems, parts, strict=True):
            values = None if values is None else jax.device_get(values)
            own = failed if values is None else values.fault()
            if own is not None:
                fault = fault or f"{system.name}: {own}"
                total = math.nan
                continue
            assert values is not None
            total += self.config.weight * float(loss)
            named |= {f"{system.name}.{k}": float(v) for k, v in values.named.items()}
            if system.sampler is not None:
                sizes[system.name] = float(np.min(values.sizes))
            if slope is not None:
                slope = jax.tree.map(lambda leaf: self.config.weight * leaf, slope)
                gradient = slope if gradient is None else jax.tree.map(jnp.add, gradient, slope)
        return Found(total, gradient if fault is None else None, named, sizes, fault)


def _row(scale: float, index: int, leaf: Array) -> Array:
    return scale * leaf[index]


def build(
    config: ObservablesConfig | None, base: Path, potential: Potential, devices: int
) -> Observables | None:
    """The observables of a run, if the config has any.

    Args:
        config: the section.
        base: directory of the config.
        potential: what training begins with.
        devices: of training.

    Raises:
        UserError: for several devices, and see `read_structures`.
    """
    if config is None:
        return None
    if devices > 1:
        raise UserError("observables: are evaluated on one device. Set training.devices: 1.")
    return Observables(config, read_structures(config, base), potential)


def conclude(observables: Observables, variables: Any, output: Path) -> dict[str, Any]:
    """Values of the fitted potential, of samples of their own; writes `observables.json`.

    Raises:
        UserError: where there are none.
    """
    constants = {name: tree for name, tree in variables.items() if name != "params"}
    constants.pop("posterior", None)
    found = observables.independent(variables["params"], constants).require()
    record = observables.record(found)
    (output / "observables.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    return record
