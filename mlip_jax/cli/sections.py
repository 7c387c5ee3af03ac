"""The sections of the configs that commands take."""

import dataclasses
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlip_jax import config
from mlip_jax.cli import template as text
from mlip_jax.config import UserError


@dataclasses.dataclass(frozen=True)
class StructureConfig:
    """The section `structure` of a simulation.

    Attributes:
        file: what to start from, beside the config or in the working directory.
        index: frame of the file.
    """

    file: Path
    index: int = -1


TRAIN = {
    "data": "mlip_jax.data.dataset:DataConfig",
    "loss": "mlip_jax.train.loss:LossConfig",
    "optimizer": "mlip_jax.train.optimizer:OptimizerConfig",
    "solver": "mlip_jax.train.solver:SolverConfig",
    "training": "mlip_jax.train.settings:TrainingConfig",
    "observables": "mlip_jax.train.observables:ObservablesConfig",
}
MD = {
    "structure": "mlip_jax.cli.sections:StructureConfig",
    "ensemble": "mlip_jax.simulate.settings:EnsembleConfig",
    "simulation": "mlip_jax.simulate.settings:SimulationConfig",
}
"""Dataclasses of the sections; beside them stand `model`, and `potential` (a path)."""

_SILICON = {
    "train": "experiments/silicon_pbe/train.extxyz.gz",
    "test": "experiments/silicon_pbe/test.extxyz.gz",
    "labels": {"energy": "REF_energy", "forces": "REF_forces", "stress": "REF_stress"},
}

_EXAMPLES = {
    "d3": {"functional": "pbe"},
    "hdnnp_4g": {
        "electronegativity": {
            "local": {
                "descriptor": {"acsf": {"cutoff": 6.0}},
                "regressor": {"mlp": {"hidden": [32, 32]}},
                "isolated_zero": False,
            }
        },
        "short_range": {"mlp": {"hidden": [32, 32]}},
        "widths": [1.11],
    },
    "local": {"descriptor": {"acsf": {"cutoff": 6.0}}, "regressor": {"mlp": {"hidden": [32, 32]}}},
    "sum": {"terms": [{"zbl": {"cutoff": 2.0}}, {"nequip": {"cutoff": 5.0}}]},
}
"""What a template puts into fields that have no default."""


def load(path: Path, overrides: Sequence[str], known: Sequence[str]) -> dict[str, Any]:
    """Reads a config, applies the overrides and refuses unknown sections.

    Raises:
        UserError: for an unreadable file, a malformed override or an unknown section.
    """
    mapping = config.apply_overrides(config.load_yaml(path), overrides)
    for name in mapping:
        if name not in known:
            raise config.unknown_name(str(path), "section", name, known)
    return mapping


def parse(name: str, mapping: Any) -> Any:
    """One section of a simulation's config as its dataclass.

    Raises:
        UserError: for unknown keys and wrong values.
    """
    return config.parse(_resolve(MD[name]), mapping, name)


def find(path: Path, base: Path, key: str) -> Path:
    """A path of a config: absolute, beside the config, or in the working directory.

    Raises:
        UserError: where it is found nowhere.
    """
    for candidate in (base / path, Path.cwd() / path):
        if candidate.exists():
            return candidate
    raise UserError(f"{key}: {path} is neither in {base.absolute()} nor in {Path.cwd()}.")


def schema(kind: str) -> dict[str, Any]:
    """JSON schema of a whole config: `train` or `md`."""
    from mlip_jax import models

    sections = TRAIN if kind == "train" else MD
    properties: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    for name, target in sections.items():
        properties[name] = config.json_schema(_resolve(target))
        definitions.update(properties[name].pop("$defs", {}))
    if kind == "train":
        properties["model"] = models.json_schema()
        definitions.update(properties["model"].pop("$defs"))
        # Further keys of the optimiser are arguments of the optax function.
        properties["optimizer"]["additionalProperties"] = True
        required = ["data", "model"]
    else:
        properties["potential"] = {"type": "string", "description": "Directory of a potential."}
        properties["head"] = {"type": "string", "description": "Which one of its heads."}
        required = ["potential", "structure"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"mlip-jax {kind}",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
        "$defs": definitions,
    }


def template(name: str) -> str:
    """A commented config that trains the model `name` on the silicon data of the repository."""
    from mlip_jax import models

    if name not in models.MODELS:
        raise config.unknown_name("template", "model", name, models.MODELS)
    parts = [
        f"# mlip-jax train config.yaml --output runs/{name}\n"
        "# Every key stands here with its default; delete what you do not change.",
        text.section("data", _resolve(TRAIN["data"]), _SILICON),
        text.model(
            name, models.resolve(name), models.default_fields(name) | _EXAMPLES.get(name, {})
        ),
    ]
    for section in ("loss", "optimizer", "training"):
        parts.append(text.section(section, _resolve(TRAIN[section]), {}))
    return "\n\n".join(parts) + "\n"


def _resolve(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
