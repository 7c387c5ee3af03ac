"""The sections of a training config, validated together; and the resolved config of a run."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn

from mlip_jax import config as configs
from mlip_jax import models
from mlip_jax.config import UserError
from mlip_jax.data.dataset import DataConfig
from mlip_jax.train import full_batch, settings
from mlip_jax.train import optimizer as optimizers
from mlip_jax.train.loss import LossConfig
from mlip_jax.train.observables import ObservablesConfig
from mlip_jax.train.optimizer import OptimizerConfig
from mlip_jax.train.settings import TrainingConfig
from mlip_jax.train.solver import SolverConfig

SECTIONS = ("data", "model", "loss", "optimizer", "solver", "training", "observables")


@dataclasses.dataclass(frozen=True, eq=False)
class Sections:
    """A validated config of a training run.

    Attributes:
        data: where the structures are.
        model: with `None` in fields that the data will fill.
        loss: what is minimised.
        optimizer: how; where neither this nor `solver` is given, the default optimiser.
        solver: how where the model is linear in parameters. With both, the solver begins and ends,
            and between the optimiser trains all parameters, those that are not linear too.
        training: how long.
        observables: what is fitted beside the labels.
    """

    data: DataConfig
    model: nn.Module
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optimizer: OptimizerConfig | None = None
    solver: SolverConfig | None = None
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    observables: ObservablesConfig | None = None

    def __post_init__(self):
        if self.optimizer is None and self.solver is None:
            object.__setattr__(self, "optimizer", OptimizerConfig())


def parse(mapping: Mapping[str, Any]) -> Sections:
    """Validates a config, strictly, before anything runs.

    Raises:
        UserError: for unknown sections, keys and names, and for values of a wrong type or range.
    """
    for name in mapping:
        if name not in SECTIONS:
            raise configs.unknown_name("config", "section", name, SECTIONS)
    for name in ("data", "model"):
        if mapping.get(name) is None:
            raise UserError(f"config: the section {name!r} is missing; it has no default.")
    sections = Sections(
        data=configs.parse(DataConfig, mapping["data"], "data"),
        model=models.build_model(mapping["model"]),
        loss=configs.parse(LossConfig, mapping.get("loss"), "loss"),
        optimizer=None
        if mapping.get("optimizer") is None
        else optimizers.parse(mapping["optimizer"]),
        solver=None
        if mapping.get("solver") is None
        else configs.parse(SolverConfig, mapping["solver"], "solver"),
        training=configs.parse(TrainingConfig, mapping.get("training"), "training"),
        observables=None
        if mapping.get("observables") is None
        else configs.parse(ObservablesConfig, mapping["observables"], "observables"),
    )
    _check_together(sections)
    return sections


def resolved(sections: Sections) -> dict[str, Any]:
    """The config with every key written out."""
    plain = {
        name: configs.to_plain(getattr(sections, name))
        for name in SECTIONS
        if name != "model" and getattr(sections, name) is not None
    }
    return {**plain, "model": models.module_to_config(sections.model)}


def write_config(config: dict[str, Any], output: Path, resume: bool) -> None:
    """Writes `config.yaml`; a resumed run has to be the same one.

    Raises:
        UserError: naming the keys that differ from those of the run that is resumed.
    """
    path = output / "config.yaml"
    if resume and path.exists():
        old, new = _flat(configs.load_yaml(path)), _flat(configs.to_plain(config))
        free = {f"training.{name}" for name in settings.FREE_ON_RESUME}
        differing = [
            f"{key}: {old.get(key)!r} before, {new.get(key)!r} now"
            for key in sorted((set(old) | set(new)) - free)
            if old.get(key) != new.get(key)
        ]
        if differing:
            raise UserError(
                f"{path}: --resume with another config. Differing keys:\n  "
                + "\n  ".join(differing)
                + "\nRestore them, or train anew in another --output."
            )
    output.mkdir(parents=True, exist_ok=True)
    configs.dump_yaml(config, path)


def write_data(files: Mapping[str, Any], output: Path, resume: bool) -> None:
    """Writes `data.json`, the checksums of the data; a resumed run has to read the same files.

    Args:
        files: of each set, as the card of the data lists them.
        output: directory of the run.
        resume: whether the run goes on.

    Raises:
        UserError: naming the files that are not those of the run that is resumed.
    """
    path = output / "data.json"
    plain = configs.to_plain(files)
    if resume and path.exists():
        old = json.loads(path.read_text(encoding="utf-8"))
        differing = [
            f"{name}: {_listed(old.get(name))} before, {_listed(plain.get(name))} now"
            for name in sorted(set(old) | set(plain))
            if old.get(name) != plain.get(name)
        ]
        if differing:
            raise UserError(
                f"{path}: --resume with other data (name, first digits of sha256):\n  "
                + "\n  ".join(differing)
                + "\nRestore the files, or train anew in another --output."
            )
    output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain, indent=1), encoding="utf-8")


def _listed(files: list[dict[str, Any]] | None) -> str:
    return ", ".join(f"{f['path']} {f['sha256'][:8]}" for f in files or []) or "none"


def _check_together(sections: Sections) -> None:
    heads = getattr(sections.model, "heads", ())
    if len(set(heads)) != len(heads) or "" in heads:
        raise UserError(f"model: heads: got {list(heads)}; expected names, each of them once.")
    if (heads or sections.data.source_weights) and not sections.data.statistics.per_source:
        raise UserError(
            "data.statistics.per_source: got false with heads of the model, or weights of sources; "
            "levels of theory have energies of atoms of their own. Set it to true."
        )
    if sections.observables is not None:
        _check_observables(sections, sections.observables)
    if None not in (sections.solver, sections.training.start) and sections.observables is None:
        raise UserError(
            "training.start: got a potential together with solver, which does not depend on where "
            "it begins. Remove one of the two."
        )
    if sections.training.lora is not None:
        _check_lora(sections)
    if None not in (sections.training.replay, sections.solver):
        raise UserError(
            "training.replay: got it together with solver, which does not forget step by step. "
            "Remove one of the two, or name the older files in data.train."
        )
    if sections.optimizer is None:
        return
    if sections.optimizer.full_batch:
        full_batch.check(sections.optimizer, sections.loss, sections.training)
    name, decay = sections.optimizer.name, sections.training.ema
    if name.startswith("schedule_free") and decay is not None:
        raise UserError(
            f"training.ema: got {decay} with {name}, which averages its own steps; expected one "
            "average. Set training.ema: null."
        )


def _check_lora(sections: Sections) -> None:
    optimizer = sections.optimizer
    for name, given in (
        ("solver", sections.solver is not None),
        ("observables", sections.observables is not None),
        ("optimizer.curvature_batches", optimizer is not None and optimizer.curvature_batches > 0),
    ):
        if given:
            raise UserError(
                f"training.lora: got it together with {name}, which works with the parameters of "
                "the model themselves. Remove one of the two."
            )


def _check_observables(sections: Sections, observables: ObservablesConfig) -> None:
    solver = sections.solver
    if solver is not None and (
        solver.name != "ridge"
        or solver.posterior
        or solver.nonlinear_iterations
        or sections.optimizer is not None
    ):
        raise UserError(
            "observables: go with a solver whose penalty is given and that searches nothing else. "
            "Set solver.name: ridge, solver.posterior: false and solver.nonlinear_iterations: 0; "
            "leave optimizer out."
        )
    if sections.training.precision != "float64":
        raise UserError(
            "observables: got training.precision: float32; expected float64, which derivatives of "
            "minima and small differences of energies want."
        )
    phases = [n for n, system in observables.systems.items() if system.other_phase is not None]
    if phases and sections.training.start is None:
        raise UserError(
            f"observables.systems.{phases[0]}: got free_energy without training.start; expected "
            "the potential whose difference of free energies targets.free_energy.start is."
        )
    optimizer = sections.optimizer
    if optimizer is not None and optimizer.full_batch and observables.interval != 1:
        raise UserError(
            f"observables.interval: got {observables.interval} with lbfgs, whose loss has to stay "
            "the same; expected 1."
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings by their dotted keys."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    leaves = {}
    for key, item in value.items():
        leaves |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return leaves
