"""Models that are linear in parameters: atom energies by parameter, and their slopes.

The energy of such a model is `Σ_i Σ_p θ_p N_p(G_i)` with descriptors G: a `Local` model with a
linear regressor, or a `Sum` of these and of terms without parameters.
"""

import functools
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.descriptors.jacobian import pair_jacobian
from mlip_jax.elements import species_index
from mlip_jax.graph import AtomicGraph, edge_vectors, pytree, volumes
from mlip_jax.models.local import Local
from mlip_jax.models.sum import Sum

Path = tuple[str, ...]


@pytree
class EnergyRows:
    """Atom energies of a term for unit parameters, and what their derivatives are made of.

    `dE_i/dr_ij` by parameter p is `Σ_f pairs[i, j, :, f] slopes[i, p, f]`.

    Attributes:
        values: N_p(G_i) [eV].
        slopes: dN_p/dG_f at G_i [eV].
        pairs: dG_if/dr_ij [1/Å].
    """

    values: Float[Array, "atoms parameters"]
    slopes: Float[Array, "atoms parameters features"]
    pairs: Float[Array, "atoms max_neighbors 3 features"]


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
        _summed(energy_rows(local, submodule(variables, path[:-1]), graph), graph)
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


def energy_rows(local: Local, variables: Mapping[str, Any], graph: AtomicGraph) -> EnergyRows:
    """Rows of one term.

    Args:
        local: a model with a regressor that is linear in its parameters.
        variables: of the model; of the regressor's parameters only the shapes count.
        graph: structures.
    """
    species = local.species or ()
    element = species_index(graph.atomic_numbers, species)
    raw, pairs = pair_jacobian(local.descriptor, submodule(variables, ("descriptor",)), graph)
    row = _parameter_row(local, variables)
    values, slopes = jax.vmap(lambda g, e: (row(g, e), jax.jacfwd(row)(g, e)))(raw, element)
    if local.isolated_zero:
        alone: Any = local.apply(variables, species, raw.dtype, method="isolated")
        values = values - jax.vmap(row)(alone, jnp.arange(len(species)))[element]
    return EnergyRows(values=values, slopes=slopes, pairs=pairs)


def _summed(found: EnergyRows, graph: AtomicGraph) -> PredictionRows:
    """Rows of one term: an atom adds to its own forces and to those of its neighbours."""
    number, size = found.values.shape
    dtype = found.values.dtype

    def add(totals: Any, atom: Any) -> tuple[Any, None]:
        energies, forces, strains = totals
        i, structure, neighbors, around, share, values, slopes, pairs = atom
        slope = share * jnp.einsum("kdf,pf->kdp", pairs, slopes)
        forces = forces.at[i].add(jnp.sum(slope, axis=0)).at[neighbors].add(-slope)
        strains = strains.at[structure].add(jnp.einsum("kc,kdp->cdp", around, slope))
        return (energies.at[structure].add(share * values), forces, strains), None

    start = (
        jnp.zeros((graph.num_graphs, size), dtype),
        jnp.zeros((number, 3, size), dtype),
        jnp.zeros((graph.num_graphs, 3, 3, size), dtype),
    )
    share = graph.energy_mask.astype(dtype)
    atoms = (jnp.arange(number), graph.graph_index, graph.neighbors, edge_vectors(graph), share)
    (energy, forces, strains), _ = jax.lax.scan(add, start, (*atoms, *jax.tree.leaves(found)))
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


def _parameter_row(local: Local, variables: Mapping[str, Any]):
    """`(raw features [features], element []) -> [parameters]`: the energy for unit parameters."""
    own = submodule(variables, ("regressor",))
    constants = {name: tree for name, tree in own.items() if name != "params"}
    zeros, unravel = ravel_pytree(jax.tree.map(lambda x: np.zeros(np.shape(x)), own["params"]))
    elements = len(local.species or ())
    scale = 1.0 if local.energy_scale is None else local.energy_scale

    def row(raw: Array, element: Array) -> Array:
        features = scaled(local, variables, raw, element)[None]

        def energy(parameters: Array) -> Array:
            collections = {"params": unravel(parameters), **constants}
            output = local.regressor.apply(collections, features, element[None], elements)
            return scale * jnp.sum(jnp.asarray(output))

        return jax.grad(energy)(zeros.astype(raw.dtype))

    return row


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
