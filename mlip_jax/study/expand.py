"""From a study to its runs: the configs of all combinations, checked before anything runs."""

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlip_jax import config, train
from mlip_jax.config import UserError, to_plain
from mlip_jax.data import dataset
from mlip_jax.data.dataset import DataConfig
from mlip_jax.study.axes import Choice
from mlip_jax.study.sections import Study
from mlip_jax.train.settings import FREE_ON_RESUME

_LONGEST_NAME = 200


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
    """A run of a study.

    Attributes:
        name: of its directory: `model=snap,train_size=20,seed=0`.
        values: label by axis.
        config: the whole config, as `train.parse` takes it.
        base: directory beside which the paths of its data are looked up.
    """

    name: str
    values: Mapping[str, Any]
    config: Mapping[str, Any]
    base: Path


def expand(
    study: Study, read: Callable[[Path], Mapping[str, Any]] = config.load_yaml
) -> list[Variant]:
    """The runs of a study, in order: the product of the axes less what is excluded.

    Args:
        study: validated.
        read: gives the config at a path.

    Raises:
        UserError: where nothing is left, two runs have one name, or a change has no place.
    """
    names = [axis.name for axis in study.axes]
    variants = []
    for choices in itertools.product(*(axis.choices for axis in study.axes)):
        values = {name: choice.label for name, choice in zip(names, choices, strict=True)}
        if not any(_matches(values, combination) for combination in study.exclude):
            mapping, base = _configure(study, values, choices, read)
            variants.append(Variant(directory_name(values), values, mapping, base))
    if not variants:
        raise UserError("study.exclude: leaves no run.")
    _check_names(variants)
    return variants


def plan(study: Study) -> list[Variant]:
    """The runs of a study, each with a config that parses and data files that are there.

    Raises:
        UserError: with every fault, and the first run that has it.
    """
    variants = expand(study)
    faults: dict[str, str] = {}
    for variant in variants:
        try:
            sections = train.parse(variant.config)
            for path in data_paths(sections.data):
                dataset.find(path, variant.base)
        except UserError as error:
            faults.setdefault(str(error), variant.name)
    if faults:
        raise UserError("\n".join(f"run {name}: {fault}" for fault, name in faults.items()))
    return variants


def data_paths(section: DataConfig, sets: Sequence[str] = ("train", "valid", "test")) -> list[str]:
    """Paths of the files of some sets; a set that is a fraction has none."""
    paths = []
    for name in sets:
        files = getattr(section, name)
        if not isinstance(files, float | int):
            several = files if isinstance(files, tuple) else (files,)
            paths += [file if isinstance(file, str) else file.path for file in several]
    return paths


def identity(variant: Variant, checksums: dict[Path, str]) -> dict[str, Any]:
    """What decides a run's numbers: its config and the checksums of its data.

    Args:
        variant: the run.
        checksums: of files already read; those that are read here are added.
    """
    files = {}
    for path in data_paths(train.parse(variant.config).data):
        found = dataset.find(path, variant.base).absolute()
        if found not in checksums:
            checksums[found] = dataset.sha256(found)
        files[path] = checksums[found]
    return {"config": decisive(variant), "files": dict(sorted(files.items()))}


def decisive(variant: Variant) -> dict[str, Any]:
    """The config of a run as JSON has it, without the keys that no number depends on."""
    mapping = dict(variant.config)
    if isinstance(mapping.get("training"), Mapping):
        mapping["training"] = {
            key: value for key, value in mapping["training"].items() if key not in FREE_ON_RESUME
        }
    return json.loads(json.dumps(to_plain(mapping)))


def digest(identity: Mapping[str, Any]) -> str:
    """SHA-256 of an `identity`."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def directory_name(values: Mapping[str, Any]) -> str:
    """`axis=value,…`, with a dash for whatever file systems and shells may not like."""
    return ",".join(f"{_plain(name)}={_plain(value)}" for name, value in values.items())


def _plain(value: Any) -> str:
    return re.sub(r"[^\w.+-]+", "-", str(value)).strip("-") or "none"


def _matches(values: Mapping[str, Any], combination: Mapping[str, Any]) -> bool:
    return all(
        values[name] in value if isinstance(value, list) else values[name] == value
        for name, value in combination.items()
    )


def _configure(
    study: Study,
    values: Mapping[str, Any],
    choices: Sequence[Choice],
    read: Callable[[Path], Mapping[str, Any]],
) -> tuple[dict[str, Any], Path]:
    """The config of a combination, and the directory of its section `data`."""
    base = study.directory
    mapping = dict(study.base) if not isinstance(study.base, str) else {}
    if isinstance(study.base, str):
        path = study.directory / _filled(study.base, values)
        mapping, base = dict(read(path)), path.parent
    for axis, choice in zip(study.axes, choices, strict=True):
        where = f"study.axes.{axis.name}: {choice.label}"
        if choice.config is not None:
            path = study.directory / _filled(choice.config, values)
            sections = read(path)
            base = path.parent if "data" in sections else base
            mapping = _replaced(mapping, sections)
        whole = {key: value for key, value in choice.changes.items() if "." not in key}
        mapping = _replaced(mapping, whole)
        for key, value in choice.changes.items():
            if "." in key:
                mapping = config.with_key(mapping, key, value, where)
    return mapping, base


def _replaced(mapping: Mapping[str, Any], sections: Mapping[str, Any]) -> dict[str, Any]:
    """Whole sections replaced; a solver takes the place of an optimiser, and the reverse."""
    result = {**mapping, **sections}
    for name, other in (("solver", "optimizer"), ("optimizer", "solver")):
        if sections.get(name) is not None and other not in sections:
            result.pop(other, None)
    return result


def _filled(path: str, values: Mapping[str, Any]) -> str:
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", str(value))
    return path


def _check_names(variants: Sequence[Variant]) -> None:
    seen: set[str] = set()
    for variant in variants:
        if variant.name in seen or len(variant.name) > _LONGEST_NAME:
            reason = "two runs have" if variant.name in seen else "too long is"
            raise UserError(
                f"study.axes: {reason} the directory name {variant.name!r}. Give the values of "
                "the axes short names: a mapping of names to changes."
            )
        seen.add(variant.name)
