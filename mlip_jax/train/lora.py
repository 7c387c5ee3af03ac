"""Low-rank adaptation (LoRA): kernels W stay, and W + (α/r) A B stands in their place.

E. J. Hu et al., "LoRA: Low-rank adaptation of large language models", arXiv:2106.09685 (2021),
eq. 3. There h = W x + (α/r) B A x for columns x; kernels here are `[in, out]`, which transposes and
swaps the two factors: A is `[in, r]` and random, B is `[r, out]` and zero. Of a stack of kernels,
as that of the elements, `[elements, in, out]`, each one has factors of its own.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float
from pydantic import Field

from mlip_jax.config import UserError
from mlip_jax.graph import AtomicGraph
from mlip_jax.potential import PredictFn, Prediction, Variables

FROZEN = "frozen"
"""Collection of the parameters that are not trained; a constant like the model's own."""

_A, _B = "lora_a", "lora_b"

_Path = tuple[str, ...]
_Leaves = dict[_Path, Any]

Merge = Callable[[Variables], Variables]
"""From the variables of a task to those of its model."""


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """The key `training.lora`: few parameters are trained, the others stay what they are.

    Attributes:
        match: regular expression searched in the paths of parameters
            (`interaction_0/linear/kernel`). Those with two axes `[in, out]`, or stacks of such,
            get a term `(alpha / rank) A B` with trained A and B.
        rank: r, the number of columns of A; less than both sizes of every kernel.
        alpha: α. Adam's steps hardly depend on it, beside the learning rate of A and B.
        trained: regular expression of parameters that are trained as they are, which goes before
            `match` (biases, a readout that is too narrow for the rank); none where null.
    """

    match: str
    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[float, Field(gt=0)] = 8.0
    trained: str | None = None

    def __post_init__(self):
        for key in ("match", "trained"):
            try:
                re.compile(getattr(self, key) or "")
            except re.error as error:
                raise UserError(
                    f"{key}: got {getattr(self, key)!r}; expected a regular expression: {error}"
                ) from None

    @property
    def scale(self) -> float:
        """α/r."""
        return self.alpha / self.rank


def split(variables: Variables, config: LoraConfig, seed: int) -> dict[str, Any]:
    """Sorts the parameters of a model into trained ones and constants.

    The elements of A are normal, with the root mean square of the elements of W as their deviation
    (`1 / sqrt(in)` where W is zero), so that steps of B change layers of every normalisation alike.
    B is zero: `merged` gives back the parameters that there were.

    Args:
        variables: of the model.
        config: which parameters.
        seed: of A.

    Returns:
        Variables whose `params` are what is trained, A and B in the place of their kernels
        (`interaction_0/linear/kernel/lora_a`), and whose collection `frozen` is the rest.

    Raises:
        UserError: where nothing is matched, or a kernel is too small for the rank.
    """
    leaves: _Leaves = traverse_util.flatten_dict(variables["params"])
    whole, kernels = _chosen(leaves, config)
    trained: _Leaves = {}
    for number, (path, leaf) in enumerate(sorted(leaves.items())):
        if path in whole:
            trained[path] = leaf
        elif path in kernels:
            generator = np.random.default_rng([seed, number])
            trained[*path, _A], trained[*path, _B] = _factors(leaf, config.rank, generator)
    frozen = {path: leaf for path, leaf in leaves.items() if path not in whole}
    return {
        **variables,
        "params": traverse_util.unflatten_dict(trained),
        FROZEN: traverse_util.unflatten_dict(frozen),
    }


def merged(variables: Variables, scale: float) -> dict[str, Any]:
    """Variables of the model from those of `split`: kernels W + scale * A B.

    Args:
        variables: with the collection `frozen`.
        scale: α/r.
    """
    trained: _Leaves = traverse_util.flatten_dict(variables["params"])
    params: _Leaves = traverse_util.flatten_dict(variables[FROZEN])
    for path, leaf in trained.items():
        if path[-1] == _A:
            kernel = path[:-1]
            # The default precision of a GPU has ten bits.
            product = jnp.matmul(leaf, trained[*kernel, _B], precision=jax.lax.Precision.HIGHEST)
            params[kernel] = params[kernel] + scale * product
        elif path[-1] != _B:
            params[path] = leaf
    rest = {name: tree for name, tree in variables.items() if name != FROZEN}
    return {**rest, "params": traverse_util.unflatten_dict(params)}


def merge_fn(config: LoraConfig | None) -> Merge:
    """`merged` for a config; without one the variables are the model's already."""
    if config is None:
        return lambda variables: variables
    return lambda variables: merged(variables, config.scale)


def merging(predict: PredictFn, merge: Merge) -> PredictFn:
    """Makes `(variables of a task, graph) -> Prediction` of that of a model."""

    def predict_merged(variables: Any, graph: AtomicGraph) -> Prediction:
        return predict(merge(variables), graph)

    return predict_merged


def counts(variables: Variables) -> tuple[int, int]:
    """How many parameters are trained, and how many the model has."""
    trained: _Leaves = traverse_util.flatten_dict(variables["params"])
    own = {path: leaf for path, leaf in trained.items() if path[-1] not in (_A, _B)}
    frozen = jax.tree.leaves(variables.get(FROZEN, {}))
    sizes = [sum(int(np.size(leaf)) for leaf in tree) for tree in (trained.values(), frozen)]
    return sizes[0], sizes[1] + sum(int(np.size(leaf)) for leaf in own.values())


def _chosen(leaves: Mapping[_Path, Any], config: LoraConfig) -> tuple[set[_Path], set[_Path]]:
    """Paths of what is trained as a whole, and of the kernels that get two factors."""
    whole = _found(leaves, config.trained, "trained")
    matched = _found(leaves, config.match, "match") - whole
    kernels = {path for path in matched if np.ndim(leaves[path]) >= 2}
    if not kernels:
        listed = _listed(leaves, matched)
        raise UserError(
            f"training.lora.match: got {config.match!r}; expected some parameter with axes "
            f"[in, out] that is not trained as a whole. It matches {listed or 'no other'}."
        )
    small = {path for path in kernels if config.rank >= min(leaves[path].shape[-2:])}
    if small:
        listed = _listed(leaves, small)
        raise UserError(
            f"training.lora.rank: got {config.rank}; expected less than both sizes of every kernel "
            f"that training.lora.match finds. Too small: {listed}. Lower the rank, let match leave "
            "them out, or name them in training.lora.trained, which trains them as they are."
        )
    return whole, kernels


def _found(leaves: Mapping[_Path, Any], pattern: str | None, key: str) -> set[_Path]:
    if pattern is None:
        return set()
    found = {path for path in leaves if re.search(pattern, "/".join(path))}
    if not found:
        raise UserError(
            f"training.lora.{key}: {pattern!r} matches no parameter; the parameters are "
            f"{', '.join(sorted('/'.join(path) for path in leaves))}."
        )
    return found


def _listed(leaves: Mapping[_Path, Any], paths: set[_Path]) -> str:
    return ", ".join(f"{'/'.join(path)} {list(leaves[path].shape)}" for path in sorted(paths))


def _factors(
    kernel: Float[Array | np.ndarray, "*stack inputs outputs"],
    rank: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A and B of a kernel, or of a stack of them."""
    *stack, inputs, outputs = kernel.shape
    size = float(np.sqrt(np.mean(np.square(np.asarray(kernel, np.float64)))))
    first = generator.normal(0.0, size or 1.0 / math.sqrt(inputs), (*stack, inputs, rank))
    return first.astype(kernel.dtype), np.zeros((*stack, rank, outputs), kernel.dtype)
