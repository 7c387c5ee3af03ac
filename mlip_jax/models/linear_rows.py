"""What exact solvers need of models that are linear in parameters: derivatives of predictions.

A term says of one atom what its energy is for unit parameters, and how that changes with its pair
vectors (`AtomRows`); sums over atoms are rows of energies, forces and stresses (`PredictionRows`).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from mlip_jax.descriptors.jacobian import basis_jacobian, pair_jacobian
from mlip_jax.elements import species_index
from mlip_jax.graph import AtomicGraph, edge_vectors, pytree, volumes
from mlip_jax.models.linear_terms import local_terms, scaled, submodule
from mlip_jax.models.local import Local


class AtomRows(NamedTuple):
    """What a term says of atoms one by one.

    Attributes:
        arrays: a tree with a leading axis atoms.
        function: arrays of one atom -> energies for unit parameters `[functions]` [eV], and their
            derivatives by its pair vectors, `[max_neighbors, 3, functions]` [eV/Å].
        finish: sums of these, of any leading axes -> the same for the parameters of the term.
    """

    arrays: Any
    function: Callable[[Any], tuple[Array, Array]]
    finish: Callable[[Array], Array]


@pytree
class PredictionRows:
    """Derivatives of predictions by the parameters, ordered as by `linear_terms.parameters`.

    Attributes:
        energy: of energies, without reference energies [eV].
        forces: eV/Å.
        stress: eV/Å^3.
    """

    energy: Float[Array, "graphs parameters"]
    forces: Float[Array, "atoms 3 parameters"]
    stress: Float[Array, "graphs 3 3 parameters"]


def prediction_rows(
    model: nn.Module, variables: Mapping[str, Any], graph: AtomicGraph
) -> PredictionRows:
    """Derivatives of all predictions of a model by its parameters.

    Args:
        model: see `linear_terms.linear_terms`, which tells whether it will do.
        variables: of the model; of parameters only the shapes count.
        graph: structures.
    """
    rows = [
        _summed(atom_rows(local, submodule(variables, path[:-1]), graph), graph)
        for path, local in local_terms(model, variables["params"])
    ]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=-1), *rows)


def compiled_rows(
    model: nn.Module, variables: Mapping[str, Any], graph: AtomicGraph
) -> PredictionRows:
    """`prediction_rows`, compiled once for each model and shape; active sets play no part."""
    return _program(model)(_without(dict(variables), "active"), graph)


@functools.lru_cache(maxsize=8)
def _program(model: nn.Module) -> Any:
    return jax.jit(functools.partial(prediction_rows, model))


def _without(tree: Any, name: str) -> Any:
    leaf = not isinstance(tree, Mapping)
    return tree if leaf else {k: _without(v, name) for k, v in tree.items() if k != name}


def atom_rows(local: Local, variables: Mapping[str, Any], graph: AtomicGraph) -> AtomRows:
    """Rows of one term.

    Features of sums over neighbours are differentiated by these sums, for each function of the
    regressor and not for each feature: of many features, a kernel needs one derivative. Where a
    descriptor has a method `basis_slopes`, that is a product of matrices, else a reverse pass.

    Args:
        local: a model with a regressor that is linear in its parameters.
        variables: of the model; of the regressor's parameters only the shapes count.
        graph: structures.
    """
    species = local.species or ()
    element = species_index(graph.atomic_numbers, species)
    functions, combined = _functions(local, variables)
    vectors = edge_vectors(graph)
    scale = 1.0 if local.energy_scale is None else local.energy_scale
    alone = jnp.zeros((len(species), 1), vectors.dtype)
    if local.isolated_zero:
        raw: Any = local.apply(variables, species, vectors.dtype, method="isolated")
        one = jnp.arange(len(species))
        features = scaled(local, variables, raw, one)
        alone = jax.vmap(lambda x, e: functions(x, e)[0])(features, one)
    if hasattr(local.descriptor, "atomic_basis"):
        arrays = (element, vectors, element[graph.neighbors])
        differentiate = _through_sums(local, variables, functions)
    else:
        own = submodule(variables, ("descriptor",))
        arrays = (element, *pair_jacobian(local.descriptor, own, graph))
        differentiate = _of_features(local, variables, functions)

    def function(atom: Any) -> tuple[Array, Array]:
        values, slopes = differentiate(*atom)
        return values - alone[atom[0]], slopes

    return AtomRows(arrays, function, lambda rows: scale * combined(rows))


def _through_sums(local: Local, variables: Mapping[str, Any], functions: Any) -> Any:
    """`(element, vectors, neighbor) -> (values, slopes)` of an atom, by its sums."""
    own = submodule(variables, ("descriptor",))

    def differentiate(e: Array, vectors: Array, neighbor: Array) -> tuple[Array, Array]:
        basis, moved = basis_jacobian(local.descriptor, own, vectors, neighbor, e)

        def describe(basis: Array) -> Array:
            return local.descriptor.apply(own, basis[None], method="from_atomic_basis")[0]  # pyright: ignore

        raw, pull = jax.vjp(describe, basis)
        features, stretch = jax.vjp(lambda raw: scaled(local, variables, raw, e), raw)
        values, slopes = functions(features, e)
        (by_raw,) = jax.vmap(stretch)(slopes)
        if hasattr(local.descriptor, "basis_slopes"):
            given: Any = local.descriptor.apply(own, basis[None], method="basis_slopes")
            by_basis = by_raw @ given[0]
        else:
            (by_basis,) = jax.vmap(pull)(by_raw)
        return values, jnp.einsum("kdb,pb->kdp", moved, by_basis)

    return differentiate


def _of_features(local: Local, variables: Mapping[str, Any], functions: Any) -> Any:
    """`(element, raw features, their derivatives) -> (values, slopes)` of an atom."""

    def differentiate(e: Array, raw: Array, pairs: Array) -> tuple[Array, Array]:
        features, stretch = jax.linearize(lambda x: scaled(local, variables, x, e), raw)
        values, slopes = functions(features, e)
        return values, jnp.einsum("kdf,pf->kdp", jax.vmap(jax.vmap(stretch))(pairs), slopes)

    return differentiate


def _summed(found: AtomRows, graph: AtomicGraph) -> PredictionRows:
    """Rows of one term: an atom adds to its own forces and to those of its neighbours."""
    number, vectors = graph.num_atoms, edge_vectors(graph)
    share = graph.energy_mask.astype(vectors.dtype)

    def of_atom(i: Any) -> tuple[Array, Array]:
        return found.function(jax.tree.map(lambda array: array[i], found.arrays))

    def add(i: Any, totals: Any) -> Any:
        energies, forces, strains = totals
        structure, neighbors = graph.graph_index[i], graph.neighbors[i]
        values, slope = of_atom(i)
        slope = share[i] * slope
        forces = forces.at[i].add(jnp.sum(slope, axis=0)).at[neighbors].add(-slope)
        strains = strains.at[structure].add(jnp.einsum("kc,kdp->cdp", vectors[i], slope))
        return energies.at[structure].add(share[i] * values), forces, strains

    size = jax.eval_shape(of_atom, 0)[0].shape[0]
    start = (
        jnp.zeros((graph.num_graphs, size), vectors.dtype),
        jnp.zeros((number, 3, size), vectors.dtype),
        jnp.zeros((graph.num_graphs, 3, 3, size), vectors.dtype),
    )
    # Padded atoms stand last.
    last = jnp.max(jnp.where(graph.atom_mask, jnp.arange(1, number + 1), 0))
    sums = jax.lax.fori_loop(0, last, add, start)
    energy, forces, strains = (found.finish(part) for part in sums)
    symmetric = 0.5 * (strains + jnp.swapaxes(strains, 1, 2))
    stress = symmetric / volumes(graph.cell)[:, None, None, None]
    return PredictionRows(energy, forces, stress)


def _functions(local: Local, variables: Mapping[str, Any]) -> tuple[Any, Callable[[Array], Array]]:
    """What a regressor adds up: functions of features, and how the parameters combine them.

    A regressor with the methods `functions(features, element, elements)`, values and derivatives of
    some functions, and `combined`, which turns their sums into those for its parameters, has them
    combined once; of others the functions are the outputs for unit parameters.

    Returns:
        `(features [features], element []) -> ([functions], [functions, features])`, and
        `[..., functions] -> [..., parameters]`.
    """
    regressor, own = local.regressor, submodule(variables, ("regressor",))
    elements = len(local.species or ())
    if hasattr(regressor, "functions"):
        return (
            lambda x, e: regressor.apply(own, x, e, elements, method="functions"),
            lambda rows: regressor.apply(own, rows, method="combined"),  # pyright: ignore
        )
    constants = {name: tree for name, tree in own.items() if name != "params"}
    zeros, unravel = ravel_pytree(jax.tree.map(lambda x: np.zeros(np.shape(x)), own["params"]))

    def row(features: Array, element: Array) -> Array:
        def output(parameters: Array) -> Array:
            collections = {"params": unravel(parameters), **constants}
            found = regressor.apply(collections, features[None], element[None], elements)
            return jnp.sum(jnp.asarray(found))

        return jax.grad(output)(zeros.astype(features.dtype))

    return lambda x, e: (row(x, e), jax.jacfwd(row)(x, e)), lambda rows: rows
