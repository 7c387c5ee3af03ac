"""Opened files of a set, and views of several of them as one sequence."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from mlip_jax.data import formats
from mlip_jax.data.checks import Check
from mlip_jax.data.formats import LabelKeys
from mlip_jax.data.lists import LABELS
from mlip_jax.data.structure import Structure

_LOOK_ALIKE = {"energy": "energ", "forces": "forc", "stress": "stress|virial"}
_SAMPLED = 500


@dataclasses.dataclass(frozen=True, eq=False)
class OpenFile:
    """A file of structures and what a config says of it.

    Attributes:
        path: where it was found.
        structures: in memory or lazy.
        keys: names, units and signs of its labels.
        source: level of theory; empty leaves what the file says.
        weight: factor on the weights of its structures.
    """

    path: Path
    structures: Sequence[Structure]
    keys: LabelKeys
    source: str
    weight: float


class StructureSet(Sequence[Structure]):
    """Chosen structures of several files, with weights and sources filled in when one is read."""

    def __init__(
        self,
        files: Sequence[OpenFile],
        weights: Mapping[str, float],
        source_weights: Mapping[str, float],
        chosen: np.ndarray | None = None,
    ):
        """Joins files.

        Args:
            files: in the order of the set.
            weights: factors by configuration type.
            source_weights: factors by source.
            chosen: indices into the joined files; all by default.
        """
        self._files, self._weights, self._source_weights = tuple(files), weights, source_weights
        self._starts = np.cumsum([0, *(len(f.structures) for f in files)])
        self._chosen = np.arange(self._starts[-1]) if chosen is None else np.asarray(chosen)

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> Structure: ...
    @overload
    def __getitem__(self, index: slice) -> list[Structure]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        position = int(self._chosen[index])
        number = int(np.searchsorted(self._starts, position, side="right")) - 1
        file = self._files[number]
        structure = file.structures[position - int(self._starts[number])]
        source = file.source or structure.source
        factor = file.weight * self._weights.get(structure.config_type, 1.0)
        factor *= self._source_weights.get(source, 1.0)
        return dataclasses.replace(structure, weight=structure.weight * factor, source=source)

    def __iter__(self) -> Iterator[Structure]:
        return (self[i] for i in range(len(self)))

    def select(self, chosen: np.ndarray) -> "StructureSet":
        """The structures with the given indices."""
        chosen = self._chosen[chosen]
        return StructureSet(self._files, self._weights, self._source_weights, chosen)

    def materialized(self) -> Sequence[Structure]:
        """A list where every file is in memory; otherwise a lazy set with sizes in `num_atoms`."""
        if not any(hasattr(f.structures, "num_atoms") for f in self._files):
            return list(self)
        return LazyStructureSet(self._files, self._weights, self._source_weights, self._chosen)


class LazyStructureSet(StructureSet):
    """A set of which some files are read by index."""

    @property
    def num_atoms(self) -> np.ndarray:
        """Size of each structure, without reading it where the file states sizes."""
        sizes = [_sizes(file.structures) for file in self._files]
        return np.concatenate(sizes)[self._chosen]


def check_keys(files: Sequence[OpenFile]) -> Check:
    """Finds stated label keys that no frame has, and labels under keys that were not stated."""
    problems = []
    sampled = [s for f in files for s in f.structures[:: max(1, len(f.structures) // _SAMPLED)]]
    available = list(dict.fromkeys(k for f in files for k in formats.available_keys(f.path)))
    counts = coverage(sampled)
    defaults = LabelKeys()
    own_layout = all(f.path.suffix.lower() in (".h5", ".hdf5") for f in files)
    for name in LABELS:
        stated = list(dict.fromkeys(getattr(f.keys, name) for f in files))
        if counts[name] or own_layout or any(k is None or k in available for k in stated):
            continue
        alike = [k for k in available if re.search(_LOOK_ALIKE.get(name, "^$"), k, re.IGNORECASE)]
        if any(k != getattr(defaults, name) for k in stated) or alike:
            there = ", ".join(available) or "none"
            problems.append(
                f"data.labels.{name}: no frame has the key {' or '.join(map(repr, stated))}. Keys "
                f"that are there: {there}. State data.labels.{name}: "
                f"{alike[0] if alike else 'one of them'}, or null to leave it out."
            )
    if not (counts["energy"] or counts["forces"]):
        problems.append(
            f"no frame has an energy or forces. Keys that are there: {', '.join(available)}."
        )
    if problems:
        return Check("keys", "contradicted", " ".join(problems))
    return Check("keys", "holds", ", ".join(f"{k}: {n}" for k, n in counts.items() if n))


def coverage(structures: Sequence[Structure]) -> dict[str, int]:
    """How many structures have each label."""
    counts = dict.fromkeys(LABELS, 0)
    for structure in structures:
        for name in LABELS:
            counts[name] += getattr(structure.labels, name) is not None
    return counts


def _sizes(structures: Sequence[Structure]) -> np.ndarray:
    known = getattr(structures, "num_atoms", None)
    return np.array([s.num_atoms for s in structures]) if known is None else np.asarray(known)
