"""Groups of parameters with rules of their own: frozen, slower, without weight decay."""

import dataclasses
import re
from collections.abc import Callable
from typing import Annotated, Any

import jax
import numpy as np
import optax
from pydantic import Field

from mlip_jax.config import UserError

Params = Any


@dataclasses.dataclass(frozen=True)
class ParameterGroup:
    """Parameters whose path matches, with rules of their own; the first match counts.

    Attributes:
        match: regular expression searched in the path (`interaction_0/linear/kernel`).
        learning_rate_factor: times the learning rate.
        frozen: not trained at all.
        weight_decay: whether the optimiser's weight decay applies.
    """

    match: str
    learning_rate_factor: Annotated[float, Field(ge=0)] = 1.0
    frozen: bool = False
    weight_decay: bool = True

    def __post_init__(self):
        try:
            re.compile(self.match)
        except re.error as error:
            raise UserError(f"got {self.match!r}; expected a regular expression: {error}") from None

    @property
    def factor(self) -> float:
        """Times the learning rate, 0 where frozen."""
        return 0.0 if self.frozen else self.learning_rate_factor


def path_name(path: Any) -> str:
    """Path of a leaf, as groups see it: `interaction_0/linear/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def is_group(value: object) -> bool:
    """Whether a node of a tree is a group, for `jax.tree.map`."""
    return isinstance(value, ParameterGroup)


def of_each(groups: tuple[ParameterGroup, ...], params: Params) -> Params:
    """The group of every parameter, as a tree."""
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for group in groups:
        if not any(re.search(group.match, path) for path in paths):
            raise UserError(
                f"optimizer.groups: {group.match!r} matches no parameter; "
                f"the parameters are {', '.join(paths)}."
            )
    rest = ParameterGroup(match="")

    def find(path, _):
        return next((g for g in groups if re.search(g.match, path_name(path))), rest)

    return jax.tree_util.tree_map_with_path(find, params)


def scale(params, groups, factor: Callable[[ParameterGroup], float]):
    """Multiplies every leaf by the factor of its group; nothing at all where all are 1."""
    factors = jax.tree.map(factor, groups, is_leaf=is_group)
    if all(f == 1.0 for f in jax.tree.leaves(factors)):
        return optax.identity()
    assert jax.tree.structure(factors) == jax.tree.structure(params)
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda u, f: u * np.asarray(f, u.dtype), updates, factors)
    )
