"""What a compilation and a triplet are worth, in slots of pairs, by the operations of a model.

A network of 4 layers takes 60 µs a slot, a bispectrum 2: padding that is cheaper than another
program for the one is not for the other.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import DTypeLike

from mlip_jax import models
from mlip_jax.data.collate import collate, exact_bucket, largest_range
from mlip_jax.data.lists import NeighborLists
from mlip_jax.data.shapes import SLOTS_PER_COMPILATION
from mlip_jax.data.structure import Structure
from mlip_jax.graph import AtomicGraph

OPERATIONS_PER_COMPILATION = 3e10
"""Of energies, whose derivatives cost as much again. Measured on a core: 20 to 50 GFLOP/s with
derivatives; 5 to 20 s for a compilation, 1 to 3 s where its result is found in the cache."""


class Price(NamedTuple):
    """What shapes cost.

    Attributes:
        compilation: slots of pairs that are evaluated in about the time of a compilation.
        triplet: cost of a pair of slots of a prefix, in slots of pairs.
    """

    compilation: float = SLOTS_PER_COMPILATION
    triplet: float = 1.0


def price_of(
    model: nn.Module,
    variables: Any,
    structures: Sequence[Structure],
    lists: NeighborLists,
    dtype: DTypeLike = np.float32,
) -> Price:
    """The price of shapes for a model.

    The operations are those that XLA counts in the energy of the structure with most slots, which
    is traced for it (some 0.5 s, twice with prefixes), and not compiled. Nothing is timed, so that
    the answer is always the same.

    Args:
        model: the model.
        variables: of the model.
        structures: the set.
        lists: their neighbour lists.
        dtype: of the variables.
    """
    sizes = lists.sizes
    index = int((sizes.num_atoms * sizes.max_neighbors).argmax())
    needs = models.requirements(model)
    pairs, structure = [lists[index]], [structures[index]]
    k_range = largest_range(structure, needs.reciprocal_cutoff)
    bucket = exact_bucket(pairs, needs.prefix_cutoffs, 0, k_range)
    graph = collate(
        structure,
        pairs,
        bucket,
        dtype=dtype,
        reverse=needs.reverse,
        inputs=lists.inputs,
        heads=lists.heads,
    )
    slots = bucket.atoms * bucket.max_neighbors
    whole = _operations(model, variables, graph)
    if whole == 0.0:
        return Price()
    compilation = min(SLOTS_PER_COMPILATION, OPERATIONS_PER_COMPILATION * slots / whole)
    halved = tuple((cutoff, -(-length // 2)) for cutoff, length in graph.prefixes)
    triplets = [k * k - h * h for (_, k), (_, h) in zip(graph.prefixes, halved, strict=True)]
    if sum(triplets) == 0:
        return Price(compilation)
    less = _operations(model, variables, dataclasses.replace(graph, prefixes=halved))
    triplet = max(whole - less, 0.0) / (bucket.atoms * sum(triplets))
    of_prefixes = triplet * bucket.atoms * sum(k * k for _, k in graph.prefixes)
    of_pairs = max(whole - of_prefixes, 0.1 * whole) / slots
    return Price(compilation, triplet / of_pairs)


def _operations(model: nn.Module, variables: Any, graph: AtomicGraph) -> float:
    counted = _energy(model).lower(variables, graph).cost_analysis() or {}
    return float(counted.get("flops", 0.0))


@functools.lru_cache(maxsize=8)
def _energy(model: nn.Module) -> Any:
    return jax.jit(model.apply)
