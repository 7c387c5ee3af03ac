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
from mlip_jax.data import formats
from mlip_jax.data.dataset import find
from mlip_jax.data.structure import Structure
from mlip_jax.potential import Potential
from mlip_jax.properties.cubic import is_cubic
from mlip_jax.simulate.system import replicate
from mlip_jax.train import relaxed_observables, sampled_observables
from mlip_jax.train.observables import ELASTIC, UNITS, ObservablesConfig, SystemConfig
from mlip_jax.train.relaxed_observables import Values
from mlip_jax.train.sampled_observables import Sampler


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


class _System:
    """One system, its compiled programs, and the sample of the parameters `anchor`."""

    def __init__(self, name: str, config: SystemConfig, structure: Structure, potential: Potential):
        self.name, self.config = name, config
        self.sampler: Sampler | None = None
        self.sample: Any = None
        self.anchor: Any = None
        self.compiled = ""
        names, copies = tuple(config.targets), config.supercell[0]
        structure = replicate(structure, config.supercell)
        if config.sampling is None:
            values = relaxed_observables.values_fn(potential, structure, names, copies)
        else:
            self.sampler = sampled_observables.build(
                potential, structure, config.sampling, names, copies
            )
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
            _System(name, system, structures[name], potential)
            for name, system in config.systems.items()
        ]

    @property
    def sampled(self) -> bool:
        """Whether a system is sampled: the loss then depends on the samples, too."""
        return any(system.sampler is not None for system in self._systems)

    def evaluate(self, params: Any, constants: Any) -> Found:
        """Loss and gradient; samples of which too little still counts are drawn anew."""
        return self._gather([self._renewed(s, params, constants) for s in self._systems])

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
                self._draw(system, params, constants)
            system.compiled = "rows"
            slopes, (terms, values) = system.rows(params, constants, system.sample)
            if not fresh and system.stale(values):
                self._draw(system, params, constants)
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
            sampling = system.config.sampling
            seed = None if sampling is None else sampling.seed + 1
            sample = system.draw(params, constants, seed)
            found.append((*system.known(params, constants, sample), None, None))
        return self._gather(found)

    def anchors(self, params: Any) -> dict[str, Any]:
        """The parameters of the samples, for a checkpoint; `params` where none has been drawn."""
        return {
            system.name: params if system.anchor is None else system.anchor
            for system in self._systems
            if system.sampler is not None
        }

    def restore(self, anchors: Mapping[str, Any], constants: Any) -> None:
        """Draws the samples of a checkpoint again."""
        for system in self._systems:
            if system.sampler is not None:
                system.anchor = anchors[system.name]
                system.sample = system.draw(system.anchor, constants)

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
                    "unit": UNITS[name],
                }
        return {"loss": found.loss, "values": values, "effective_frames": found.sizes}

    def _renewed(self, system: _System, params: Any, constants: Any):
        fresh = system.sampler is not None and system.sample is None
        try:
            if fresh:
                self._draw(system, params, constants)
            system.compiled = "slope"
            (loss, values), gradient = system.slope(params, constants, system.sample)
            if not fresh and system.stale(values):
                self._draw(system, params, constants)
                (loss, values), gradient = system.slope(params, constants, system.sample)
        except UserError as error:
            return math.nan, None, None, str(error).rstrip(".")
        return loss, values, gradient, None

    def _measured(self, system: _System, params: Any, constants: Any):
        if system.sampler is not None and system.sample is None:
            self._draw(system, params, constants)
        return (*system.known(params, constants, system.sample), None, None)

    @staticmethod
    def _draw(system: _System, params: Any, constants: Any) -> None:
        system.sample = system.draw(params, constants)
        system.anchor = jax.tree.map(lambda leaf: np.array(leaf, copy=True), params)

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
    elastic = [target for target in config.targets if target in ELASTIC]
    if elastic and not is_cubic(structure):
        raise UserError(
            f"{where}.targets: got {', '.join(elastic)} for {path}, which is no ideal cubic "
            "crystal with its axes along x, y and z; expected one. Give the crystal without "
            "displacements, or leave these targets out."
        )
    return structure


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
