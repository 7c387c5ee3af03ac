"""Tensor features of pairs in Allegro, through products of the environments of atoms.

The tensors of a pair are multiplied by the environment A of its centre, again and again:
`V^n_ij = (… (V^0_ij ⊗ A^1_i) ⊗ …) ⊗ A^n_i`; only scalars of them are read. These are linear in
`V^0_ij`, with coefficients that all pairs of a centre share. So the products are formed from the
right, once for each atom: `u^n_i` is the tensor with `scalars of V^n_ij = V^0_ij · u^n_i`. For each
pair a product with the harmonics is left, whatever the number of layers.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.nn import angular
from mlip_jax.nn.irreps import SCALAR, Channels, Irrep, Layout, Path, hidden_layout, product_paths


class Product(NamedTuple):
    """A product of the tensors of a pair with the environment of its centre.

    Attributes:
        inputs: layout of the tensors.
        paths: products of irreps that are formed.
        weights: of every path, for each channel or for all.
    """

    inputs: Layout
    paths: tuple[Path, ...]
    weights: Float[Array, "paths _"]


def tensor_layouts(l_max: int, channels: int, parity: bool, num_layers: int) -> list[Layout]:
    """Layouts of the tensors before the first layer and behind every one.

    Irreps that products cannot reach, and those that no scalar of a later layer depends on, are
    left out.

    Args:
        l_max: highest degree.
        channels: of each irrep.
        parity: irreps of both parities; otherwise only those of the harmonics.
        num_layers: products.
    """
    layouts = [hidden_layout([channels] * (l_max + 1), False)]
    for i in range(num_layers):
        allowed = hidden_layout([channels] * (l_max + 1), parity)
        wanted = [c.irrep for c in allowed] if i < num_layers - 1 else [SCALAR]
        reached = {path.target for path in product_paths(layouts[-1], l_max, wanted)}
        layouts.append(tuple(Channels(i, channels) for i in wanted if i in reached))
    for i in reversed(range(num_layers)):
        targets = [c.irrep for c in layouts[i + 1]]
        used = {path.source for path in product_paths(layouts[i], l_max, targets)}
        layouts[i] = tuple(layouts[i][source] for source in sorted(used))
    return layouts


def layer_paths(inputs: Layout, outputs: Layout, l_max: int) -> tuple[Path, ...]:
    """Products of the tensors before a layer with the environment that it forms."""
    return product_paths(inputs, l_max, [c.irrep for c in outputs])


def environments(
    harmonics: Float[Array, "atoms max_neighbors components"],
    hidden: Float[Array, "atoms max_neighbors width"],
    kernel: Float[Array, "width degrees channels"],
    norms: Float[Array, " atoms"],
) -> dict[int, Float[Array, "atoms _ channels"]]:
    """`A_lm = c_i Σ_j w_l(ij) Y_lm(r_ij)` of each degree, with weights that are linear in `hidden`.

    The sum over neighbours is taken before the linear map: as long as there are more channels than
    degrees this takes fewer operations.

    Args:
        harmonics: Y, its degrees side by side.
        hidden: what the weights of the pairs are linear in.
        kernel: of this map.
        norms: factor of each atom.
    """
    sums = jnp.einsum("ijm,ijh->imh", harmonics, hidden) * norms[:, None, None]
    return {l: sums[:, l * l : (l + 1) ** 2] @ kernel[:, l] for l in range(kernel.shape[1])}


def scalar_coefficients(
    products: Sequence[Product], environments: Sequence[Mapping[int, Array]]
) -> dict[Irrep, Float[Array, "atoms _ channels"]]:
    """How the scalars behind the last product depend on the tensors before the first: `u^n_i`.

    Args:
        products: of the layers up to this one.
        environments: of these layers, by degree.
    """
    a = environments[-1][0]
    coefficients: dict[Irrep, Array] = {SCALAR: jnp.ones_like(a)}
    for product, environment in zip(reversed(products), reversed(environments), strict=True):
        coefficients = pull_back(product, environment, coefficients)
    return coefficients


def pull_back(
    product: Product, environment: Mapping[int, Array], coefficients: Mapping[Irrep, Array]
) -> dict[Irrep, Float[Array, "atoms _ channels"]]:
    """Coefficients of the inputs of a product in a linear function of its outputs.

    `u'_s = Σ_paths w C_slt A_l u_t` with component normalisation: C is `sqrt(2t + 1)` times the
    tensor of unit norm.

    Args:
        product: whose inputs have the irreps s.
        environment: A of each degree l.
        coefficients: u of each irrep t of the outputs; absent ones are zero.
    """
    groups: dict[tuple[int, Irrep], list[int]] = {}
    for k, path in enumerate(product.paths):
        if path.target in coefficients:
            groups.setdefault((path.degree, path.target), []).append(k)
    result: dict[Irrep, Array] = {}
    for (degree, target), group in groups.items():
        a, u = environment[degree], coefficients[target]
        outer = (a[:, :, None, :] * u[:, None, :, :]).reshape(a.shape[0], -1, a.shape[-1])
        sources = [product.inputs[product.paths[k].source].irrep for k in group]
        tables = [coupling(s.degree, degree, target.degree) for s in sources]
        matrix = np.concatenate([table.reshape(len(table), -1) for table in tables])
        coupled = jnp.einsum("sq,aqc->asc", jnp.asarray(matrix, a.dtype), outer)
        start = 0
        for k, source in zip(group, sources, strict=True):
            term = coupled[:, start : start + source.dim] * product.weights[k][None, None, :]
            result[source] = result[source] + term if source in result else term
            start += source.dim
    return result


def pair_scalars(
    weights: Float[Array, "atoms max_neighbors _"],
    harmonics: Float[Array, "atoms max_neighbors components"],
    coefficients: Mapping[Irrep, Array],
) -> Float[Array, "atoms max_neighbors channels"]:
    """`Σ_l w_l(ij) Σ_m Y_lm(r_ij) u_lm(i)`: scalars of tensors `V_lm = w_l Y_lm` of pairs.

    Args:
        weights: w, the channels of one degree after those of the other.
        harmonics: Y, the degrees side by side.
        coefficients: u of each irrep.
    """
    terms = []
    for (l, _), u in coefficients.items():
        channels = u.shape[-1]
        along = jnp.einsum("ijm,imc->ijc", harmonics[..., l * l : (l + 1) ** 2], u)
        terms.append(weights[..., l * channels : (l + 1) * channels] * along)
    return sum(terms[1:], start=terms[0])


def coupling(source: int, degree: int, target: int) -> np.ndarray:
    """Clebsch-Gordan coefficients of a product, with component normalisation: `[s, l, t]`."""
    return math.sqrt(2 * target + 1) * angular.clebsch_gordan(source, degree, target)
