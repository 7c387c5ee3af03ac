"""Models that are linear in parameters: atom energies by parameter, and their slopes.

The energy of such a model is `Σ_i Σ_p θ_p N_p(G_i)` with descriptors G: a `Local` model with a
linear regressor, or a `Sum` of these and of terms without parameters.
"""

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
from mlip_jax.graph import AtomicGraph, pytree
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


def linear_terms(model: nn.Module, variables: Mapping[str, Any]) -> list[tuple[Path, Local]]:
    """Terms with a linear regressor, and where the regressor's parameters stand in `params`.

    Raises:
        UserError: where a parameter enters the energies in another way.
    """
    found = list(_terms(model, (), dict(variables.get("params", {}))))
    if not found:
        raise UserError("solver: the model has no parameters; there is nothing to solve for.")
    for path, local in found:
        _check_linear(local, submodule(variables, path[:-1]))
    return found


def fixed_part(model: nn.Module, variables: Mapping[str, Any]) -> Sum | None:
    """The terms of a sum that have no parameters, such as a short-range repulsion."""
    if not isinstance(model, Sum):
        return None
    trained = set(variables.get("params", {}))
    terms = [t for i, t in enumerate(model.terms) if f"terms_{i}" not in trained]
    return Sum(tuple(terms)) if terms else None


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
        alone: Any = local.apply(variables, species, raw.dtype, method="_isolated_features")
        values = values - jax.vmap(row)(alone, jnp.arange(len(species)))[element]
    return EnergyRows(values=values, slopes=slopes, pairs=pairs)


def _terms(model: nn.Module, path: Path, params: dict[str, Any]) -> Iterator[tuple[Path, Local]]:
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
    scaling = variables["constants"]
    elements = len(local.species or ())
    scale = 1.0 if local.energy_scale is None else local.energy_scale

    def row(raw: Array, element: Array) -> Array:
        shift, factor = (jnp.asarray(scaling[n], raw.dtype)[element] for n in ("shift", "factor"))
        features = ((raw - shift) * factor)[None]

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
    size = variables["constants"]["shift"].shape
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
