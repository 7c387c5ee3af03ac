"""Active sets: the training environments that span the features best, for extrapolation grades.

E. V. Podryabinkin, A. V. Shapeev, Comput. Mater. Sci. 140, 171 (2017); the search for a submatrix
of large volume: S. A. Goreinov et al., in "Matrix Methods" (2010), p. 247 (maxvol).
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.elements import species_index
from mlip_jax.graph import AtomicGraph
from mlip_jax.models.linear_terms import scaled, submodule
from mlip_jax.models.local import Local, compiled_features

_TOLERANCE = 1.001
"""Rows are exchanged while one gains more volume than this factor."""

_RANK = 1e-10
"""Singular values below this share of the largest are no direction of the data."""

_MOST_BYTES = 4 * 2**30


def with_active_sets(
    terms: Iterable[tuple[tuple[str, ...], Local]],
    variables: Mapping[str, Any],
    graphs: Iterable[AtomicGraph],
) -> dict[str, Any]:
    """Variables with an active set in the constants of the first local model.

    Args:
        terms: local models and their places, see `linear_terms`.
        variables: of the whole model.
        graphs: the training data.

    Raises:
        UserError: where the features of the training atoms do not fit into memory.
    """
    path, local = next(iter(terms))
    own = submodule(variables, path[:-1])
    rows = _features(local, own, graphs)
    inverses = [inverse_of_active_set(part) for part in rows]
    width = max(inverse.shape[1] for inverse in inverses)
    padded = [np.pad(i, ((0, 0), (0, width - i.shape[1]))) for i in inverses]
    return _with_constant(variables, path[:-1], "active", np.stack(padded))


def inverse_of_active_set(
    rows: Float[np.ndarray, "environments features"],
) -> Float[np.ndarray, "features rank"]:
    """The matrix that turns features into coefficients of the active environments.

    The grade of features g is `max |g @ inverse|`: at most 1 for all rows. The inverse is divided
    by the largest grade of a row, which the search leaves below 1.001.

    Args:
        rows: features of the training environments.
    """
    if len(rows) == 0:
        return np.zeros((rows.shape[1], 0))
    triangle = np.linalg.qr(rows, mode="r")
    _, values, right = np.linalg.svd(triangle)
    rank = int(np.sum(values > _RANK * values[0])) if values[0] > 0.0 else 0
    if rank == 0:
        return np.zeros((rows.shape[1], 0))
    whitening = right[:rank].T / values[:rank]
    whitened = rows @ whitening
    chosen = _maxvol(whitened)
    inverse = whitening @ np.linalg.inv(whitened[chosen])
    return inverse / np.abs(rows @ inverse).max()


def _maxvol(rows: np.ndarray) -> np.ndarray:
    """Indices of rows whose square submatrix no exchange of one row makes much larger."""
    rank = rows.shape[1]
    order: Any = scipy.linalg.qr(rows.T, mode="r", pivoting=True)[-1]
    chosen = order[:rank].copy()
    coefficients = rows @ np.linalg.inv(rows[chosen])
    while True:
        i, j = np.unravel_index(np.argmax(np.abs(coefficients)), coefficients.shape)
        largest = coefficients[i, j]
        if abs(largest) <= _TOLERANCE:
            return chosen
        change = coefficients[i].copy()
        change[j] -= 1.0
        coefficients -= np.outer(coefficients[:, j] / largest, change)
        chosen[j] = i


def _features(local: Local, variables: Any, graphs: Iterable[AtomicGraph]) -> list[np.ndarray]:
    """Features of the training atoms of each element, less those of the isolated atom."""
    species = local.species or ()

    own = submodule(variables, ("descriptor",))

    @jax.jit
    def compare(variables: Any, raw: Array, atomic_numbers: Array) -> tuple[Array, Array]:
        element = species_index(atomic_numbers, species)
        alone: Any = local.apply(variables, species, raw.dtype, method="isolated")
        away = scaled(local, variables, raw, element) - scaled(
            local, variables, alone[element], element
        )
        return away, element

    parts: list[list[np.ndarray]] = [[] for _ in species]
    size = 0
    for graph in graphs:
        raw = compiled_features(local.descriptor, own, graph)
        away, element = map(np.asarray, compare(variables, raw, graph.atomic_numbers))
        for e, part in enumerate(parts):
            part.append(away[np.asarray(graph.atom_mask) & (element == e)].astype(np.float64))
        size += away.size * 8
        if size > _MOST_BYTES:
            raise UserError(
                "solver.grades: the features of the training atoms need more than 4 GiB. Set "
                "solver.grades: false, or take fewer structures."
            )
    return [np.concatenate(part) for part in parts]


def _with_constant(tree: Mapping[str, Any], path: tuple[str, ...], name: str, value: Any) -> Any:
    """A copy of variables with one more array among the constants of a submodule."""

    def placed(branch: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
        if not keys:
            return {**branch, name: value}
        return {**branch, keys[0]: placed(branch.get(keys[0], {}), keys[1:])}

    return {**tree, "constants": placed(tree["constants"], path)}
