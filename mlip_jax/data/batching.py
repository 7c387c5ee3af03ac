"""Batches: padded graphs with their labels, built by number, so that a run can resume anywhere."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket, collate
from mlip_jax.data.lists import LABELS, NeighborLists, Requirements
from mlip_jax.data.planning import (
    BatchConfig,
    BatchPlan,
    Waste,
    choose_shapes,
    measure_waste,
    plan,
)
from mlip_jax.data.shapes import single_buckets
from mlip_jax.data.structure import Structure
from mlip_jax.elements import SYMBOLS
from mlip_jax.graph import AtomicGraph, pytree

__all__ = [
    "Batch",
    "BatchConfig",
    "BatchPlan",
    "BatchSource",
    "Label",
    "Labels",
    "make_labels",
    "plan",
    "reference_energy",
]

ReferenceEnergies = Mapping[int, float] | Mapping[str, Mapping[int, float]]
"""eV by atomic number; or by source, then by atomic number."""

_PER_ATOM = {"forces": (3,), "charges": (), "magmoms": ()}
_PER_GRAPH = {"energy": (), "stress": (3, 3)}


@pytree
class Label:
    """Values of one label and where they are known.

    Attributes:
        value: 0 where it is not known; leading axis graphs or atoms.
        mask: True where it is known.
    """

    value: Float[Array | np.ndarray, "..."]
    mask: Bool[Array | np.ndarray, "..."]


@pytree
class Labels:
    """Labels of a batch; `None` where no structure of the whole set has the label.

    Attributes:
        energy: eV, less the reference energies, `[graphs]`.
        forces: eV/Å, `[atoms 3]`, with a mask `[atoms]`.
        stress: eV/Å^3, `[graphs 3 3]`, with a mask `[graphs]`.
        charges: e, `[atoms]`.
        magmoms: absolute values of the magnetic moments, μ_B, `[atoms]`.
        weight: of each structure in the loss, `[graphs]`; 0 for padding.
    """

    energy: Label | None
    forces: Label | None
    stress: Label | None
    charges: Label | None
    magmoms: Label | None
    weight: Float[Array | np.ndarray, "*devices graphs"]


@pytree
class Batch:
    """Inputs and labels; with several devices every leaf has a leading axis devices."""

    graph: AtomicGraph
    labels: Labels


class BatchSource:
    """The batches of a set, by epoch and number.

    Attributes:
        config: batch size, devices, seed.
        fields: labels that the batches have.
    """

    def __init__(
        self,
        structures: Sequence[Structure],
        lists: NeighborLists,
        config: BatchConfig,
        reference_energies: ReferenceEnergies,
        dtype: DTypeLike = np.float32,
        requirements: Requirements | None = None,
        fields: Sequence[str] | None = None,
    ):
        """Chooses the shapes of the batches.

        Args:
            structures: the set, in memory or lazy.
            lists: its neighbour lists, with the cutoff and prefix cutoffs of the model.
            config: batch size, devices, seed.
            reference_energies: subtracted from the energies, in float64.
            dtype: of the floating-point leaves.
            requirements: of the model; checked against `lists`.
            fields: labels that batches have; by default those that some structure has.

        Raises:
            UserError: batch larger than the set.
        """
        if requirements is not None:
            _check_lists(lists, requirements)
        self._structures, self._lists = structures, lists
        self._reference_energies, self._dtype = reference_energies, np.dtype(dtype)
        self._reverse = requirements is not None and requirements.reverse
        self.config = config
        present = [name for name in LABELS if lists.coverage[name]]
        self.fields = tuple(present if fields is None else fields)
        self._shapes = choose_shapes(lists.sizes, config)
        self._planned: tuple[int, list[BatchPlan]] = (0, self._plan(0))

    def with_reference_energies(self, energies: ReferenceEnergies) -> "BatchSource":
        """The same batches with other reference energies subtracted."""
        other = copy.copy(self)
        other._reference_energies = energies
        return other

    def num_batches(self, epoch: int = 0) -> int:
        """Batches in an epoch (the same in each)."""
        del epoch
        return -(-len(self._lists) // self.config.batch_size)

    def batch(self, epoch: int, index: int) -> Batch:
        """Builds one batch; leaves are numpy arrays."""
        planned = self.plan(epoch)[index]
        parts = [self._sub_batch(members, planned.bucket) for members in planned.members]
        if self.config.devices == 1:
            return parts[0]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *parts)

    @property
    def room(self) -> Bucket:
        """The largest shape of `singles`."""
        return max(single_buckets(self._lists.sizes), key=lambda bucket: bucket.atoms)

    def singles(self) -> Iterator[Batch]:
        """The structures one at a time, in `planning.single_buckets`."""
        for index, bucket in enumerate(single_buckets(self._lists.sizes)):
            yield self._sub_batch(np.array([index]), bucket)

    def plan(self, epoch: int) -> list[BatchPlan]:
        """The plan of an epoch: indices of structures and the shape, batch by batch."""
        planned = self._planned
        if planned[0] != epoch:
            planned = (epoch, self._plan(epoch))
            self._planned = planned
        return planned[1]

    @property
    def waste(self) -> Waste:
        """Padding of the first epoch."""
        return measure_waste(self._plan(0), self._lists.sizes)

    def _plan(self, epoch: int) -> list[BatchPlan]:
        return plan(self.config.seed, epoch, self._lists.sizes, self.config, self._shapes)

    def _sub_batch(self, members: np.ndarray, bucket: Bucket) -> Batch:
        structures = [self._structures[int(i)] for i in members]
        lists = [self._lists[int(i)] for i in members]
        graph = collate(
            structures,
            lists,
            bucket,
            dtype=self._dtype,
            reverse=self._reverse,
            inputs=self._lists.inputs,
            heads=self._lists.heads,
        )
        labels = make_labels(structures, bucket, self._reference_energies, self.fields, self._dtype)
        return Batch(graph, labels)


def make_labels(
    structures: Sequence[Structure],
    bucket: Bucket,
    reference_energies: ReferenceEnergies,
    fields: Sequence[str] = LABELS,
    dtype: DTypeLike = np.float32,
) -> Labels:
    """Gathers the labels of structures into padded arrays with masks.

    Args:
        structures: in the order of the batch.
        bucket: the padded size.
        reference_energies: subtracted from the energies in float64, before the cast.
        fields: labels to gather; the others are `None`.
        dtype: of the values.
    """
    arrays: dict[str, Any] = dict.fromkeys(LABELS)
    for name in fields:
        size, shape = (
            (bucket.atoms, _PER_ATOM[name])
            if name in _PER_ATOM
            else (bucket.graphs, _PER_GRAPH[name])
        )
        arrays[name] = Label(np.zeros((size, *shape), dtype), np.zeros(size, bool))
    weight = np.zeros(bucket.graphs, dtype)
    start = 0
    for index, structure in enumerate(structures):
        atoms = slice(start, start + structure.num_atoms)
        start = atoms.stop
        weight[index] = structure.weight
        for name in fields:
            value = structure.trainable_label(name)
            if value is None:
                continue
            if name == "energy":
                value = value - reference_energy(
                    structure.atomic_numbers, reference_energies, structure.source, structure.name
                )
            where = atoms if name in _PER_ATOM else index
            arrays[name].value[where] = value
            arrays[name].mask[where] = True
    return Labels(**arrays, weight=weight)


def reference_energy(
    atomic_numbers: Int[np.ndarray, " atoms"],
    reference_energies: ReferenceEnergies,
    source: str = "",
    name: str = "structure",
) -> float:
    """Sum of the reference energies [eV] of atoms, in float64.

    Args:
        atomic_numbers: Z.
        reference_energies: for all, or by source.
        source: of the structure, where reference energies are by source.
        name: of the structure, for messages.

    Raises:
        UserError: for an element or a source that has none.
    """
    energies: Any = reference_energies
    if energies and isinstance(next(iter(energies)), str):
        if source not in energies:
            raise UserError(
                f"{name}: source {source!r} has no reference energies; known: {sorted(energies)}."
            )
        energies = energies[source]
    numbers, counts = np.unique(atomic_numbers, return_counts=True)
    missing = [SYMBOLS[z] for z in numbers if int(z) not in energies]
    if missing:
        raise UserError(
            f"{name}: no reference energy for {', '.join(missing)}; known: "
            f"{', '.join(SYMBOLS[z] for z in sorted(energies))}. The element is not in the "
            "training data."
        )
    return float(sum(energies[int(z)] * c for z, c in zip(numbers, counts, strict=True)))


def _check_lists(lists: NeighborLists, requirements: Requirements) -> None:
    needed = (float(requirements.cutoff), tuple(map(float, requirements.prefix_cutoffs)))
    got = (float(lists.cutoff), lists.sizes.prefix_cutoffs)
    if needed != got:
        raise ValueError(
            f"lists: made for cutoff and prefix cutoffs {got} Å; the model needs {needed} Å."
        )
    if tuple(map(float, requirements.pair_cutoffs)) != lists.sizes.pair_cutoffs:
        raise ValueError(
            f"lists: made for pairs within {lists.sizes.pair_cutoffs} Å; the model needs "
            f"{requirements.pair_cutoffs} Å."
        )
    if requirements.reciprocal_cutoff > lists.reciprocal_cutoff:
        raise ValueError(
            f"lists: made for a reciprocal cutoff of {lists.reciprocal_cutoff} 1/Å; the model "
            f"needs {requirements.reciprocal_cutoff} 1/Å."
        )
