"""Equivariant convolution on the neighbour matrix.

`Σ_j R(r_ij) Y(r_ij) ⊗ h_j` over a constant, then a linear map. Each path
(irrep of h, degree of Y, irrep of the result) has a radial weight of its own for every channel;
Batzner et al. (2022), eq. 8 and 9.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mlip_jax import graph as graphs
from mlip_jax.nn import angular, chebyshev, radial, radial_series
from mlip_jax.nn.equivariant import LinearKernels
from mlip_jax.nn.irreps import Channels, Features, Irrep, Layout, Path, product_paths

MAX_SUMMED_ELEMENTS = 4
"""Up to so many elements, `convolve_elements` is the cheaper way for a first layer."""


class Edges(NamedTuple):
    """What every layer needs to know of the pairs.

    Attributes:
        harmonics: spherical harmonics of degrees 0, 1, … side by side.
        basis: radial basis with its envelope, zero from the cutoff on.
        variable: of radial functions that are series, see `radial_series.variable`.
        envelope: of these, zero from the cutoff on.
    """

    harmonics: Float[Array, "atoms max_neighbors components"]
    basis: Float[Array, "atoms max_neighbors basis"] | None
    variable: Float[Array, "atoms max_neighbors"] | None = None
    envelope: Float[Array, "atoms max_neighbors"] | None = None


def make_edges(
    vectors: Float[Array, "atoms max_neighbors 3"],
    distances: Float[Array, "atoms max_neighbors"],
    l_max: int,
    cutoff: float,
    basis: Float[Array, "atoms max_neighbors basis"],
    envelope: Float[Array, "atoms max_neighbors"],
) -> Edges:
    """Edges of pair vectors and their lengths [Å], with a radial basis and its envelope."""
    directions = vectors / jnp.where(distances == 0.0, 1.0, distances)[..., None]
    harmonics = jnp.concatenate(angular.spherical_harmonics(directions, l_max), axis=-1)
    return Edges(harmonics, basis, radial_series.variable(distances, cutoff), envelope)


class Convolution(NamedTuple):
    """Weights of a convolution, ready for use.

    Attributes:
        inputs: layout of h.
        paths: products that are formed.
        hidden: kernels of the radial network but the last; `None`: polynomials take the place of
            its hidden units.
        last: last kernel of the radial network, or coefficients of the polynomials, one
            `[width, channels]` for each path.
        mixing: kernel of the linear map for each irrep, over the root of the number of neighbours;
            its inputs are the channels of all paths to this irrep, in order.
    """

    inputs: Layout
    paths: tuple[Path, ...]
    hidden: tuple[Float[Array, "_ _"], ...] | None
    last: tuple[Float[Array, "_ _"], ...]
    mixing: dict[Irrep, Float[Array, "_ _"]]


class ConvolutionKernels(nn.Module):
    """Parameters of a convolution.

    The constant `series`, where it is given, replaces the radial network, see `radial_series`.

    Attributes:
        inputs: layout of h.
        outputs: layout of the result; irreps that no path reaches are left out.
        l_max: highest degree of the harmonics.
        radial_widths: basis size and hidden widths of the radial network.
        divisor: of the sum over neighbours.
        reflections: whether parity counts, see `product_paths`.
    """

    inputs: Layout
    outputs: Layout
    l_max: int
    radial_widths: tuple[int, ...]
    divisor: float
    reflections: bool = True

    @nn.compact
    def __call__(self, dtype: jnp.dtype) -> Convolution:
        """Weights ready for use."""
        targets = [c.irrep for c in self.outputs]
        paths = product_paths(self.inputs, self.l_max, targets, self.reflections)
        channels = [self.inputs[path.source].channels for path in paths]
        widths = (*self.radial_widths, sum(channels))
        *kernels, last = radial.ScalarKernels(widths, name="radial")(dtype)
        hidden = tuple(kernels)
        if self.has_variable("constants", "series"):
            hidden, last = None, self.get_variable("constants", "series")
        splits = [sum(channels[: i + 1]) for i in range(len(paths) - 1)]
        mixing = LinearKernels(middle_layout(paths, channels), self.outputs, name="linear_out")
        return Convolution(
            self.inputs,
            paths,
            hidden,
            tuple(jnp.split(last, splits, axis=1)),
            {irrep: kernel / self.divisor for irrep, kernel in mixing(dtype).items()},
        )


def middle_layout(paths: tuple[Path, ...], channels: list[int]) -> Layout:
    """Layout before the linear map: the channels of all paths to one irrep side by side."""
    total: dict[Irrep, int] = {}
    for path, count in zip(paths, channels, strict=True):
        total[path.target] = total.get(path.target, 0) + count
    return tuple(Channels(irrep, count) for irrep, count in total.items())


def convolve(
    weights: Convolution, graph: graphs.AtomicGraph, edges: Edges, features: Features
) -> dict[Irrep, Float[Array, "atoms _ _"]]:
    """Convolution of any features; the result for each irrep that a path reaches.

    The sum over neighbours is one matrix product for each degree of the harmonics, contracted over
    j before harmonics and features are coupled: nothing of the size
    `[atoms, neighbours, (l + 1)^2, channels]` is formed.
    """
    groups = _paths_by_degree(weights.paths)
    last = {l: jnp.concatenate([weights.last[k] for k in group], 1) for l, group in groups.items()}

    def block(neighbors, harmonics, *radial_inputs):
        hidden = _radial_functions(weights, *radial_inputs)
        senders = [h[neighbors] for h in features]
        coupled: dict[int, Array] = {}
        for l, group in groups.items():
            paths = [weights.paths[k] for k in group]
            of_degree = harmonics[..., l**2 : (l + 1) ** 2]
            sums = _neighbor_sums(of_degree, hidden @ last[l], [senders[p.source] for p in paths])
            for k, path, summed in zip(group, paths, sums, strict=True):
                degree = weights.inputs[path.source].irrep.degree
                coupled[k] = couple(summed, degree, l, path.target.degree)
        return {
            irrep: jnp.concatenate([coupled[k] for k in group], axis=-1) @ weights.mixing[irrep]
            for irrep, group in _paths_by_target(weights.paths).items()
        }

    return graphs.map_atom_blocks(block, graph, graph.neighbors, *_needed(weights, edges))


def convolve_elements(
    weights: Convolution,
    graph: graphs.AtomicGraph,
    edges: Edges,
    features: Float[Array, "species channels"],
    species: Int[Array, " atoms"],
) -> dict[Irrep, Float[Array, "atoms _ _"]]:
    """Convolution of scalars that depend on the element only, as in a first layer.

    The same result as `convolve`, by another order of the sums: the hidden radial functions are
    summed over the neighbours of each element with the harmonics, and the last radial kernel, the
    features and the linear map, merged into one matrix per degree, act on the atom. Far cheaper for
    a few elements; the cost grows with their number.

    Args:
        weights: of a convolution whose inputs are scalars.
        graph: atoms and neighbours.
        edges: radial basis and harmonics of the pairs.
        features: of each element.
        species: element of each atom.
    """
    num_species = features.shape[0]
    merged = {}
    for path, last in zip(weights.paths, weights.last, strict=True):
        kernel = (features[:, None, :] * last[None]).reshape(-1, features.shape[1])
        merged[path.target] = kernel @ weights.mixing[path.target]

    def block(neighbors, harmonics, *radial_inputs):
        hidden = _radial_functions(weights, *radial_inputs)
        if num_species > 1:
            chosen = jax.nn.one_hot(species[neighbors], num_species, dtype=hidden.dtype)
            products = chosen[..., :, None] * hidden[..., None, :]
            hidden = products.reshape(*hidden.shape[:2], -1)
        sums = jnp.einsum("ijn,ijk->ink", harmonics, hidden)
        return {
            path.target: sums[:, path.degree**2 : (path.degree + 1) ** 2] @ merged[path.target]
            for path in weights.paths
        }

    return graphs.map_atom_blocks(block, graph, graph.neighbors, *_needed(weights, edges))


def fold_networks(
    variables: Mapping[str, Any], basis: Callable[[Array], tuple[Array, Array]], cutoff: float
) -> dict[str, Any]:
    """Variables in which the radial networks of convolutions are series, as constants.

    Args:
        variables: of a model, in float64, whose layers have a submodule `convolution`.
        basis: see `radial_series.series_of_networks`.
        cutoff: Å.
    """
    networks = {
        name: layer["convolution"]["radial"]
        for name, layer in variables["params"].items()
        if isinstance(layer, Mapping) and "convolution" in layer
    }
    series = radial_series.series_of_networks(networks, basis, cutoff)
    constants = {
        name: {"convolution": {"series": chebyshev.product_coefficients(values)}}
        for name, values in series.items()
    }
    return {**variables, "constants": {**variables.get("constants", {}), **constants}}


def couple(
    sums: Float[Array, "atoms n m channels"], l1: int, l2: int, l3: int
) -> Float[Array, "atoms k channels"]:
    """Couples features of degree l1 (m) and harmonics of degree l2 (n) to degree l3 (k).

    With component normalisation: `sqrt(2 l3 + 1)` times the tensor of unit norm.
    """
    tensor = math.sqrt(2 * l3 + 1) * angular.clebsch_gordan(l1, l2, l3)
    matrix = jnp.asarray(tensor.transpose(1, 0, 2).reshape(-1, 2 * l3 + 1), dtype=sums.dtype)
    flat = sums.reshape(sums.shape[0], -1, sums.shape[-1])
    return jnp.einsum("iqc,qk->ikc", flat, matrix)


def _needed(weights: Convolution, edges: Edges) -> Edges:
    """Without what the radial functions do not depend on."""
    if weights.hidden is None:
        return edges._replace(basis=None)
    return Edges(edges.harmonics, edges.basis)


def _radial_functions(
    weights: Convolution, basis: Array | None, variable: Array | None, envelope: Array | None
) -> Float[Array, "atoms max_neighbors _"]:
    """Hidden units of the radial network, or the polynomials that replace them."""
    if weights.hidden is not None:
        assert basis is not None
        return radial.hidden_network(weights.hidden, basis)
    assert variable is not None
    assert envelope is not None
    return chebyshev.products(variable, weights.last[0].shape[0], envelope)


def _neighbor_sums(
    harmonics: Float[Array, "atoms max_neighbors n"],
    weights: Float[Array, "atoms max_neighbors _"],
    senders: list[Array],
) -> list[Array]:
    """`Σ_j Y_jn R_jc h_jmc` for each of the senders `[atoms, max_neighbors, m, channels]`.

    One matrix product for every atom; the channels of `weights` are those of the senders in turn.
    """
    messages, start = [], 0
    for h in senders:
        weight = weights[:, :, None, start : start + h.shape[-1]]
        messages.append((weight * h).reshape(*h.shape[:2], -1))
        start += h.shape[-1]
    sums = jnp.einsum("ijn,ijx->inx", harmonics, jnp.concatenate(messages, axis=-1))
    parts, start = [], 0
    for h in senders:
        size = h.shape[2] * h.shape[3]
        parts.append(sums[:, :, start : start + size].reshape(*sums.shape[:2], *h.shape[2:]))
        start += size
    return parts


def _paths_by_degree(paths: tuple[Path, ...]) -> dict[int, list[int]]:
    """Indices of the paths of each degree of the harmonics."""
    groups: dict[int, list[int]] = {}
    for k, path in enumerate(paths):
        groups.setdefault(path.degree, []).append(k)
    return groups


def _paths_by_target(paths: tuple[Path, ...]) -> dict[Irrep, list[int]]:
    """Indices of the paths to each irrep."""
    groups: dict[Irrep, list[int]] = {}
    for k, path in enumerate(paths):
        groups.setdefault(path.target, []).append(k)
    return groups
