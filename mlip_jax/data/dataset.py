"""The section `data` of a config: from paths to checked training, validation and test sets."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from mlip_jax.config import UserError, to_plain
from mlip_jax.data import checks, formats
from mlip_jax.data.formats import LabelKeys
from mlip_jax.data.sources import OpenFile, StructureSet, check_keys, coverage
from mlip_jax.data.statistics import StatisticsConfig
from mlip_jax.data.structure import Structure, is_isolated_atom

SEARCH_PATH = "MLIP_JAX_DATA"
"""Environment variable with directories in which relative data paths are sought last."""

_CHECKED_FRAMES = 3000

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


@dataclasses.dataclass(frozen=True)
class FileConfig:
    """One file of structures.

    Attributes:
        path: absolute, or relative to the config, the working directory or a directory in the
            environment variable `MLIP_JAX_DATA`.
        index: frames, as a Python index or slice.
        source: level of theory, for reference energies per source.
        weight: factor on the weights of its structures.
        labels: its label keys and units, where they differ from those of the section.
    """

    path: str
    index: str = ":"
    source: str = ""
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    labels: LabelKeys | None = None


Files = str | FileConfig | tuple[str | FileConfig, ...]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The section `data`.

    Attributes:
        train: files of the training set.
        valid: files of the validation set, or the fraction of the training files that it gets.
        test: files of the test set, or a fraction like `valid`.
        split: whether fractions take single structures or whole groups (`labels.group`).
        train_size: structures to train on, of those that the split leaves; all where null. One seed
            gives nested sets: a larger one holds every smaller one.
        seed: of the split and of the choice of `train_size`.
        labels: keys, units and signs of the labels in all files.
        weights: factors on the weights of structures, by configuration type.
        source_weights: likewise, by source.
        statistics: how reference energies are found.
        checks: contradictions to accept, by the name of the check.
    """

    train: Files
    valid: Fraction | Files = 0.1
    test: Fraction | Files = 0.0
    split: Literal["random", "group"] = "random"
    train_size: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0
    labels: LabelKeys = dataclasses.field(default_factory=LabelKeys)
    weights: dict[str, Annotated[float, Field(ge=0.0)]] = dataclasses.field(default_factory=dict)
    source_weights: dict[str, Annotated[float, Field(ge=0.0)]] = dataclasses.field(
        default_factory=dict
    )
    statistics: StatisticsConfig = dataclasses.field(default_factory=StatisticsConfig)
    checks: dict[str, Literal["accept"]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Checked data, ready to be batched.

    Attributes:
        train: structures, lazy where their files are.
        valid: may be empty.
        test: may be empty.
        replay: structures of older data that are held out, with the targets of training, where
            `training.replay` asks for some.
        card: files with hashes, coverage of the labels, verdicts of the checks, the split.
    """

    train: Sequence[Structure]
    valid: Sequence[Structure]
    test: Sequence[Structure]
    card: dict[str, Any]
    replay: Sequence[Structure] = ()


def load(config: DataConfig, base: Path) -> Dataset:
    """Reads, checks and splits the data of a config.

    Args:
        config: the section.
        base: directory of the config.

    Raises:
        UserError: a file that is missing or unreadable, labels that are absent or contradict what
            the config says, or a split that leaves nothing to train on.
    """
    files = {"train": open_files(config.train, config.labels, base)}
    pool = StructureSet(files["train"], config.weights, config.source_weights)
    sets: dict[str, Sequence[Structure]] = {}
    fractions: dict[str, float] = {}
    for name in ("valid", "test"):
        value = getattr(config, name)
        if isinstance(value, float | int):
            fractions[name] = float(value)
        else:
            files[name] = open_files(value, config.labels, base)
            opened = StructureSet(files[name], config.weights, config.source_weights)
            sets[name] = opened.materialized()
    indices = split(pool.materialized(), fractions, config)
    indices["train"] = reduce(pool.materialized(), indices["train"], config)
    for name, chosen in indices.items():
        sets[name] = pool.select(chosen).materialized()
    verdicts = [check_keys(files["train"]), *checks.run(sample(sets["train"]), config.labels)]
    checks.enforce(verdicts, config.checks)
    return Dataset(**sets, card=_card(config, files, sets, verdicts))


def find(path: str, base: Path) -> Path:
    """Finds a data path: beside the config, in the working directory, then in `MLIP_JAX_DATA`.

    Raises:
        UserError: listing where it was sought.
    """
    if Path(path).is_absolute():
        candidates = [Path(path)]
    else:
        listed = [Path(d) for d in os.environ.get(SEARCH_PATH, "").split(os.pathsep) if d]
        candidates = [directory / path for directory in (base, Path.cwd(), *listed)]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    places = "\n".join(f"- {candidate}" for candidate in dict.fromkeys(candidates))
    raise UserError(
        f"data: {path!r} was found nowhere; looked for\n{places}\n"
        f"Correct the path, or add its directory to the environment variable {SEARCH_PATH}."
    )


def open_files(files: Files, labels: LabelKeys, base: Path) -> list[OpenFile]:
    """Opens files of a config.

    Args:
        files: as the config names them.
        labels: keys and units, for those that state none themselves.
        base: directory of the config.

    Raises:
        UserError: a file that is missing or unreadable.
    """
    several = files if isinstance(files, tuple) else (files,)
    return [_open(FileConfig(f) if isinstance(f, str) else f, labels, base) for f in several]


def split(
    structures: Sequence[Structure], fractions: Mapping[str, float], config: DataConfig
) -> dict[str, np.ndarray]:
    """Indices of the training set and of the sets that take a fraction of it.

    Isolated atoms stay in the training set: reference energies come from them.

    Raises:
        UserError: where nothing is left to train on.
    """
    groups = _groups(structures, config.split)
    result: dict[str, list[int]] = {name: [] for name in fractions}
    wanted = {name: round(f * len(structures)) for name, f in fractions.items()}
    for number in np.random.default_rng(config.seed).permutation(len(groups)):
        for name, members in result.items():
            if len(members) + len(groups[number]) <= wanted[name]:
                members.extend(groups[number])
                break
    chosen = {i for members in result.values() for i in members}
    train = [i for i in range(len(structures)) if i not in chosen]
    if not train:
        raise UserError(
            f"data: {len(structures)} structures leave none to train on with fractions "
            f"{dict(fractions)}."
        )
    return {"train": np.array(train)} | {n: np.array(sorted(m), int) for n, m in result.items()}


def reduce(structures: Sequence[Structure], train: np.ndarray, config: DataConfig) -> np.ndarray:
    """Indices of the `train_size` structures of a training set that are trained on.

    They are the head of one order of the training set, isolated atoms first, the others at random
    by the seed: for one seed a larger set holds every smaller one.

    Args:
        structures: all that the files hold.
        train: indices of the training set.
        config: the section.

    Raises:
        UserError: where there are fewer structures, or more isolated atoms.
    """
    if config.train_size is None:
        return train
    several = {i for group in _groups(structures, "random") for i in group}
    isolated = np.array([i for i in train if i not in several], dtype=np.int64)
    others = np.array([i for i in train if i in several], dtype=np.int64)
    if not len(isolated) <= config.train_size <= len(train):
        raise UserError(
            f"data.train_size: got {config.train_size}; expected {max(1, len(isolated))} to "
            f"{len(train)}: the training set has {len(train)} structures, {len(isolated)} of them "
            "isolated atoms, which are always kept."
        )
    # A stream of its own: the split draws from the seed alone.
    shuffled = np.random.default_rng([config.seed, 1]).permutation(others)
    return np.sort(np.concatenate([isolated, shuffled])[: config.train_size])


def sample(structures: Sequence[Structure]) -> list[Structure]:
    """At most 3000 structures, evenly spread: what the checks look at."""
    every = max(1, -(-len(structures) // _CHECKED_FRAMES))
    return [structures[i] for i in range(0, len(structures), every)]


def _groups(structures: Sequence[Structure], kind: str) -> list[list[int]]:
    """Indices that stay together; those of isolated atoms are left out."""
    groups: dict[str, list[int]] = {}
    sizes = getattr(structures, "num_atoms", None)
    for index in range(len(structures)):
        if kind == "random" and sizes is not None and sizes[index] > 1:
            # Of a lazy set, only single atoms need be read.
            groups[f"structure {index}"] = [index]
            continue
        structure = structures[index]
        if not is_isolated_atom(structure):
            single = kind == "random" or not structure.group
            name = f"structure {index}" if single else f"group {structure.group}"
            groups.setdefault(name, []).append(index)
    return list(groups.values())


def _open(file: FileConfig, labels: LabelKeys, base: Path) -> OpenFile:
    path = find(file.path, base)
    keys = file.labels or labels
    if file.index == ":":
        structures = formats.open_structures(path, keys=keys)
    else:
        structures = formats.read(path, keys=keys, index=file.index)
    return OpenFile(path, structures, keys, file.source, file.weight)


def _card(config: DataConfig, files, sets, verdicts) -> dict[str, Any]:
    return {
        "files": {name: describe_files(opened) for name, opened in files.items()},
        "structures": {name: len(members) for name, members in sets.items()},
        "labels": to_plain(config.labels),
        "coverage": coverage(sample(sets["train"])),
        "split": {"kind": config.split, "seed": config.seed, "train_size": config.train_size},
        "checks": [dataclasses.asdict(verdict) for verdict in verdicts],
        "accepted": dict(config.checks),
    }


def describe_files(files: Sequence[OpenFile]) -> list[dict[str, Any]]:
    """What a card says of files: names, checksums, numbers of structures."""
    return [
        {"path": str(f.path.name), "sha256": sha256(f.path), "structures": len(f.structures)}
        for f in files
    ]


def sha256(path: Path) -> str:
    """Checksum of a file, or of all files in a directory."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
