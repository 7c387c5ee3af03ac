"""Models that are linear in parameters, and where these parameters stand.

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
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.models import feature_scaling
from mlip_jax.models.local import Local
from mlip_jax.models.sum import Sum

Path = tuple[str, ...]


def parameters(model: nn.Module, variables: Mapping[str, Any]) -> Float[np.ndarray, " parameters"]:
    """The parameters that the energies are linear in, those of regressors, term by term."""
    leaves = [
        np.ravel(leaf)
        for path, _ in local_terms(model, variables["params"])
        for leaf in jax.tree.leaves(_at(variables["params"], path))
    ]
    return np.concatenate(leaves)


def with_parameters(
    model: nn.Module, variables: Mapping[str, Any], values: Float[np.ndarray, " parameters"]
) -> dict[str, Any]:
    """Variables with other parameters, see `parameters`; those of descriptors stay."""
    params = dict(variables["params"])
    start = 0
    for path, _ in local_terms(model, variables["params"]):
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
    found = list(local_terms(model, dict(variables.get("params", {}))))
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
    constants = variables["constants"]
    return feature_scaling.scaled(raw, element, (constants["shift"], constants["factor"]))


def _at(tree: Any, path: Path) -> Any:
    return functools.reduce(operator.getitem, path, tree)


def _replaced(tree: Mapping[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """A copy of a tree with another value at one place."""
    rest = path[1:]
    new = _replaced(tree[path[0]], rest, value) if rest else value
    return {**tree, path[0]: new}


def local_terms(
    model: nn.Module, params: Mapping[str, Any], path: Path = ()
) -> Iterator[tuple[Path, Local]]:
    """Local models with parameters in their regressors, and where these stand in `params`.

    Raises:
        UserError: for a model of another kind with parameters.
    """
    if not params:
        return
    if isinstance(model, Sum):
        for index, term in enumerate(model.terms):
            name = f"terms_{index}"
            yield from local_terms(term, params.get(name, {}), (*path, name))
    elif isinstance(model, Local) and "regressor" in params:
        yield (*path, "regressor"), model
    else:
        raise _not_linear(type(model).__name__)


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
