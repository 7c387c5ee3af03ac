"""Models that are linear in parameters: atom energies by parameter, and their slopes.

The energy of such a model is `Σ_i Σ_p θ_p N_p(G_i)` with descriptors G: a `Local` model with a
linear regressor, or a `Sum` of these and of terms without parameters.
"""

import functools
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.descriptors.jacobian import basis_jacobian, pair_jacobian
from mlip_jax.elements import species_index
from mlip_jax.graph import AtomicGraph, edge_vectors, pytree, volumes
from mlip_jax.models.local import Local
from mlip_jax.models.sum import Sum

Path = tuple[str, ...]


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
    """Derivatives of predictions by the parameters, in the order of `parameters`.

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
        model: see `linear_terms`, which tells whether it will do.
        variables: of the model; of parameters only the shapes count.
        graph: structures.
    """
    rows = [
        _summed(atom_rows(local, submodule(variables, path[:-1]), graph), graph)
        for path, local in _terms(model, (), variables["params"])
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


def parameters(model: nn.Module, variables: Mapping[str, Any]) -> Float[np.ndarray, " parameters"]:
    """The parameters that the energies are linear in, those of regressors, term by term."""
    leaves = [
        np.ravel(leaf)
        for path, _ in _terms(model, (), variables["params"])
        for leaf in jax.tree.leaves(_at(variables["params"], path))
    ]
    return np.concatenate(leaves)


def with_parameters(
    model: nn.Module, variables: Mapping[str, Any], values: Float[np.ndarray, " parameters"]
) -> dict[str, Any]:
    """Variables with other parameters, see `parameters`; those of descriptors stay."""
    params = dict(variables["params"])
    start = 0
    for path, _ in _terms(model, (), variables["params"]):
        leaves, structure = jax.tree.flatten(_at(params, path))
        ends = start + np.cumsum([np.size(leaf) for leaf in leaves])
        parts = [
            values[end - np.size(leaf) : end].reshape(np.shape(leaf))
            for end, leaf in zip(ends, leaves, strict=True)
        ]
        start = int(ends[-1])
        params = _replaced(params, path, jax.tree.unflatten(structure, parts))
    return {**variables, "params": params}


def linear_terms(model: nn.Module, variables: Mapping[str, Any]) -> list[tuple[Path, Local]]:
    """Terms with a linear regressor, and where the regressor's parameters stand in `params`.

    Parameters of descriptors, such as the radial functions of moment tensors, count as given.

    Raises:
        UserError: where a parameter enters the energies in another way.
    """
    found = list(_terms(model, (), dict(variables.get("params", {}))))
    if not found:
        raise UserError("solver: the model has no parameters; there is nothing to solve for.")
    for path, local in found:
        _check_linear(local, submodule(variables, path[:-1]))
    return found


def fixed_part(model: nn.Module, variables: Mapping[str, Any]) -> tuple[Sum, dict[str, Any]] | None:
    """The terms of a sum that have no parameters, such as a repulsion, and their variables."""
    if not isinstance(model, Sum):
        return None
    trained = set(variables.get("params", {}))
    names = [f"terms_{i}" for i in range(len(model.terms))]
    kept = [i for i, name in enumerate(names) if name not in trained]
    if not kept:
        return None
    own = {
        kind: {f"terms_{new}": tree[names[i]] for new, i in enumerate(kept) if names[i] in tree}
        for kind, tree in variables.items()
    }
    return Sum(tuple(model.terms[i] for i in kept)), own


def atom_rows(local: Local, variables: Mapping[str, Any], graph: AtomicGraph) -> AtomRows:
    """Rows of one term.

    Features of sums over neighbours are differentiated by these sums, for each function of the
    regressor and not for each feature: of many features, a kernel needs one derivative.

    Args:
        local: a model with a regressor that is linear in its parameters.
        variables: of the model; of the regressor's parameters only the shapes count.
        graph: structures.
    """
    species = local.species or ()
    element = species_index(graph.atomic_numbers, species)
    own = submodule(variables, ("descriptor",))
    functions, combine = _functions(local, variables)
    scale = 1.0 if local.energy_scale is None else local.energy_scale
    alone = jnp.zeros(())
    if local.isolated_zero:
        raw: Any = local.apply(variables, species, edge_vectors(graph).dtype, method="isolated")
        one = jnp.arange(len(species))
        features = scaled(local, variables, raw, one)
        alone = jax.vmap(lambda x, e: functions(x, e)[0])(features, one)

    def less_alone(values: Array, e: Array) -> Array:
        return values - alone[e] if local.isolated_zero else values

    def through_sums(atom: Any) -> tuple[Array, Array]:
        e, vectors, neighbor = atom
        basis, moved = basis_jacobian(local.descriptor, own, vectors, neighbor, e)

        def describe(basis: Array) -> Array:
            raw = local.descriptor.apply(own, basis[None], method="from_atomic_basis")
            return scaled(local, variables, raw[0], e)  # pyright: ignore

        features, pull = jax.vjp(describe, basis)
        values, slopes = functions(features, e)
        (by_basis,) = jax.vmap(pull)(slopes)
        return less_alone(values, e), jnp.einsum("kdb,pb->kdp", moved, by_basis)

    def of_features(atom: Any) -> tuple[Array, Array]:
        e, raw, pairs = atom
        features, stretch = jax.linearize(lambda x: scaled(local, variables, x, e), raw)
        values, slopes = functions(features, e)
        pairs = jax.vmap(jax.vmap(stretch))(pairs)
        return less_alone(values, e), jnp.einsum("kdf,pf->kdp", pairs, slopes)

    def finish(rows: Array) -> Array:
        return scale * combine(rows)

    if hasattr(local.descriptor, "atomic_basis"):
        arrays = (element, edge_vectors(graph), element[graph.neighbors])
        return AtomRows(arrays, through_sums, finish)
    raw, pairs = pair_jacobian(local.descriptor, own, graph)
    return AtomRows((element, raw, pairs), of_features, finish)


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


def scaled(local: Local, variables: Mapping[str, Any], raw: Array, element: Array) -> Array:
    """Features as the regressor sees them.

    Args:
        local: the model.
        variables: of it.
        raw: features of one or several atoms, as the descriptor gives them.
        element: index of the element of each.
    """
    if local.scaling == "none":
        return raw
    shift, factor = (jnp.asarray(variables["constants"][n], raw.dtype) for n in ("shift", "factor"))
    return (raw - shift[element]) * factor[element]


def _at(tree: Any, path: Path) -> Any:
    return functools.reduce(operator.getitem, path, tree)


def _replaced(tree: Mapping[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """A copy of a tree with another value at one place."""
    rest = path[1:]
    new = _replaced(tree[path[0]], rest, value) if rest else value
    return {**tree, path[0]: new}


def _terms(model: nn.Module, path: Path, params: Mapping[str, Any]) -> Iterator[tuple[Path, Local]]:
    if not params:
        return
    if isinstance(model, Sum):
        for index, term in enumerate(model.terms):
            name = f"terms_{index}"
            yield from _terms(term, (*path, name), params.get(name, {}))
    elif isinstance(model, Local) and "regressor" in params:
        yield (*path, "regressor"), model
    else:
        raise _not_linear(type(model).__name__)


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


def _check_linear(local: Local, variables: Mapping[str, Any]) -> None:
    """Refuses a regressor whose output is not proportional to its parameters."""
    own = submodule(variables, ("regressor",))
    constants = {name: tree for name, tree in own.items() if name != "params"}
    species = local.species or ()
    alone: Any = jax.eval_shape(
        lambda: local.apply(variables, species, np.dtype("float32"), method="isolated")
    )
    size = alone.shape
    features = jnp.asarray(np.random.default_rng(0).uniform(0.1, 1.0, size))
    element = jnp.arange(size[0])
    draws = [
        jax.tree.map(
            lambda x, s=s: np.random.default_rng(s).normal(size=np.shape(x)), own["params"]
        )
        for s in (1, 2)
    ]
    draws.append(jax.tree.map(lambda a, b: a - 3.0 * b, *draws))

    def output(params: Any) -> Array:
        return local.regressor.apply({"params": params, **constants}, features, element, size[0])  # pyright: ignore

    first, second, both = (np.asarray(jax.jit(output)(params)) for params in draws)
    scale = max(np.abs(first).max(), np.abs(second).max())
    if not np.allclose(both, first - 3.0 * second, atol=1e-4 * scale):
        raise _not_linear(type(local.regressor).__name__)


def submodule(variables: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The variables of a submodule."""
    own = dict(variables)
    for name in path:
        own = {c: tree[name] for c, tree in own.items() if name in tree}
    return own


def _not_linear(name: str) -> UserError:
    return UserError(
        f"solver: the energies of {name} are not linear in its parameters. Use `optimizer`, or a "
        "local model with a regressor such as linear or quadratic."
    )
