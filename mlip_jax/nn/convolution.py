"""Equivariant convolution on the neighbour matrix."""

import math
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlip_jax import graph as graphs
from mlip_jax.nn import angular, radial
from mlip_jax.nn.equivariant import LinearKernels
from mlip_jax.nn.irreps import Channels, Features, Irrep, Layout, Path, product_paths


class Edges(NamedTuple):
    """What every layer needs to know of the pairs.

    Attributes:
        basis: radial basis with its envelope, zero from the cutoff on.
        harmonics: spherical harmonics by degree.
    """

    basis: Float[Array, "atoms max_neighbors basis"]
    harmonics: tuple[Float[Array, "atoms max_neighbors _"], ...]


class Convolution(nn.Module):
    """`Σ_j R(r_ij) Y(r_ij) ⊗ h_j / sqrt(average number of neighbours)`, then a linear map.

    Each path (irrep of h, degree of Y, irrep of the result) has a radial weight of its own per
    channel; Batzner et al. (2022), eq. 8 and 9. The sum over neighbours is one matrix product per
    path, contracted over j before harmonics and features are coupled: nothing of the size
    `[atoms, neighbours, (l + 1)^2, channels]` is formed.

    Attributes:
        inputs: layout of h.
        outputs: layout of the result; irreps that no path reaches are left out.
        l_max: highest degree of the harmonics.
        radial_widths: basis size and hidden widths of the radial network.
        avg_num_neighbors: normalises the sum.
    """

    inputs: Layout
    outputs: Layout
    l_max: int
    radial_widths: tuple[int, ...]
    avg_num_neighbors: float

    @nn.compact
    def __call__(
        self, graph: graphs.AtomicGraph, edges: Edges, features: Features
    ) -> dict[Irrep, Float[Array, "atoms _ _"]]:
        """Result for each irrep of `outputs` that a path reaches."""
        dtype = edges.basis.dtype
        paths = product_paths(self.inputs, self.l_max, [c.irrep for c in self.outputs])
        channels = [self.inputs[path.source].channels for path in paths]
        widths = (*self.radial_widths, sum(channels))
        *hidden, last = radial.ScalarKernels(widths, name="radial")(dtype)
        mixing = LinearKernels(middle_layout(paths, channels), self.outputs, name="linear_out")
        norm = 1.0 / math.sqrt(self.avg_num_neighbors)
        kernels = {irrep: norm * kernel for irrep, kernel in mixing(dtype).items()}
        splits = [sum(channels[: i + 1]) for i in range(len(paths) - 1)]

        def block(basis, harmonics, neighbors):
            weights = radial.hidden_network(tuple(hidden), basis) @ last
            senders = [h[neighbors] for h in features]
            middle: dict[Irrep, list[Array]] = {}
            for path, weight in zip(paths, jnp.split(weights, splits, axis=-1), strict=True):
                sums = neighbor_sum(harmonics[path.degree], weight, senders[path.source])
                degree = self.inputs[path.source].irrep.degree
                coupled = couple(sums, degree, path.degree, path.target.degree)
                middle.setdefault(path.target, []).append(coupled)
            return {
                irrep: jnp.concatenate(parts, axis=-1) @ kernels[irrep]
                for irrep, parts in middle.items()
            }

        return graphs.map_atom_blocks(block, graph, edges.basis, edges.harmonics, graph.neighbors)


def middle_layout(paths: tuple[Path, ...], channels: list[int]) -> Layout:
    """Layout before the linear map: the channels of all paths to one irrep side by side."""
    total: dict[Irrep, int] = {}
    for path, count in zip(paths, channels, strict=True):
        total[path.target] = total.get(path.target, 0) + count
    return tuple(Channels(irrep, count) for irrep, count in total.items())


def neighbor_sum(
    harmonics: Float[Array, "atoms max_neighbors n"],
    weights: Float[Array, "atoms max_neighbors channels"],
    senders: Float[Array, "atoms max_neighbors m channels"],
) -> Float[Array, "atoms n m channels"]:
    """`Σ_j Y_jn R_jc h_jmc`, a matrix product for every atom."""
    messages = weights[:, :, None, :] * senders
    return jnp.einsum("ijn,ijmc->inmc", harmonics, messages)


def couple(
    sums: Float[Array, "atoms n m channels"], l1: int, l2: int, l3: int
) -> Float[Array, "atoms k channels"]:
    """Couples features of degree l1 (m) and harmonics of degree l2 (n) to degree l3 (k)."""
    tensor = math.sqrt(2 * l3 + 1) * angular.clebsch_gordan(l1, l2, l3)
    matrix = jnp.asarray(tensor.transpose(1, 0, 2).reshape(-1, 2 * l3 + 1), dtype=sums.dtype)
    flat = sums.reshape(sums.shape[0], -1, sums.shape[-1])
    return jnp.einsum("iqc,qk->ikc", flat, matrix)
