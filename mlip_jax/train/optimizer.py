"""Optimisers and schedules by their optax names, clipping and parameter groups.

Whatever optax calls an optimiser or a schedule is known here by the same name with the same
arguments; nothing is renamed and no default is repeated.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import optax
import optax.contrib
from pydantic import Field

from mlip_jax import config as configs
from mlip_jax.config import UserError
from mlip_jax.train import gauss_newton, parameter_groups, schedule
from mlip_jax.train.parameter_groups import ParameterGroup
from mlip_jax.train.schedule import Schedule

Params = Any

_UNSUPPORTED = {
    "sophia": "needs Hessian estimates",
    "cocob": "ignores the learning rate's schedule",
    "dpsgd": "needs gradients of every structure",
    "differentially_private_aggregate": "needs gradients of every structure",
    "mechanize": "wraps another optimiser",
    "sam": "wraps another optimiser",
    "galore": "needs dimensions of every parameter",
    "noisy_sgd": "needs a random key",
}
"""Names that take a learning rate but cannot be driven by one gradient a step, and why."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The section `optimizer`. Further keys are arguments of the optax function `name`.

    Attributes:
        name: of a function in `optax` or `optax.contrib` that makes an optimiser.
        learning_rate: a number, or `{schedule: name of an optax schedule, argument: value, ...}`.
            Arguments in steps may be given in epochs (`decay_epochs` for `decay_steps`); the
            length of a decay that is not given is the run's.
        arguments: of the optax function, by its own names. Further rates (`adam_learning_rate` of
            `muon`, for all that is no matrix) may be schedules, too.
        clip_by_global_norm: largest norm of the gradient.
        clip: largest magnitude of a component of the gradient.
        adaptive_grad_clip: largest ratio of the norms of gradient and parameter.
        reduce_on_plateau: arguments of `optax.contrib.reduce_on_plateau`, which is shown the
            validation loss after each validation.
        groups: parameters with rules of their own.
        curvature_batches: of `lbfgs`: batches whose Gauss-Newton matrix at the first parameters
            scales them (see `gauss_newton`; for some hundred parameters); 0: none.

    `lbfgs` takes one step an epoch, with the gradient of all data (see `full_batch`).
    """

    name: str = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] | dict[str, Any] = 1e-3
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    clip_by_global_norm: Annotated[float, Field(gt=0)] | None = None
    clip: Annotated[float, Field(gt=0)] | None = None
    adaptive_grad_clip: Annotated[float, Field(gt=0)] | None = None
    reduce_on_plateau: dict[str, Any] | None = None
    groups: tuple[ParameterGroup, ...] = ()
    curvature_batches: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self):
        if self.curvature_batches and not self.full_batch:
            raise UserError(f"curvature_batches: is for lbfgs; got {self.name}.")
        schedule.check_arguments(
            _optimizer_function(self.name, "name"),
            self.arguments,
            self.name,
            more=[f.name for f in dataclasses.fields(self)],
        )
        if "base_optimizer" in self.arguments:
            parse(self.arguments["base_optimizer"], "base_optimizer")
        for rate in (self.learning_rate, *_schedules(self.arguments).values()):
            if isinstance(rate, Mapping):
                schedule.resolve(rate, 1, 1)
        if self.reduce_on_plateau is not None:
            plateau = optax.contrib.reduce_on_plateau
            schedule.check_arguments(plateau, self.reduce_on_plateau, "reduce_on_plateau")
        scaled = self.groups or self.reduce_on_plateau is not None
        if self.name.startswith("schedule_free") and scaled:
            raise UserError(
                f"{self.name} averages its own steps, which groups and "
                "reduce_on_plateau would scale behind its back. Remove them, or choose adamw."
            )

    @property
    def full_batch(self) -> bool:
        """Whether a step takes the gradient of all data."""
        return self.name == "lbfgs"


class Optimizer(NamedTuple):
    """An optimiser ready for use.

    Attributes:
        transformation: takes gradients, gives updates; its `update` is passed `value`, the loss.
        learning_rate: of a step.
        plateau: `reduce_on_plateau`, or the identity.
        eval_params: (state, params) -> the parameters to evaluate, which for schedule-free
            optimisers are not those at which gradients are taken.
    """

    transformation: optax.GradientTransformationExtraArgs
    learning_rate: Schedule
    plateau: optax.GradientTransformationExtraArgs
    eval_params: Callable[[Any, Params], Params]


def parse(mapping: Mapping[str, Any] | None, where: str = "optimizer") -> OptimizerConfig:
    """Reads the section; keys that are not its own become `arguments`.

    Raises:
        UserError: for names and keys that optax does not know, with the nearest that it does.
    """
    mapping = dict(mapping or {})
    own = {f.name for f in dataclasses.fields(OptimizerConfig)}
    arguments = dict(mapping.get("arguments") or {})
    arguments |= {key: value for key, value in mapping.items() if key not in own}
    known = {key: value for key, value in mapping.items() if key in own}
    if known.get("name") == "lbfgs" and {"learning_rate", "linesearch"} & set(mapping):
        raise UserError(
            f"{where}: lbfgs finds the lengths of its steps itself; remove learning_rate and "
            "linesearch."
        )
    return configs.parse(OptimizerConfig, known | {"arguments": arguments}, where)


def build(
    config: OptimizerConfig,
    params: Params,
    steps: int,
    steps_per_epoch: int,
    whitening: np.ndarray | None = None,
) -> Optimizer:
    """Makes the optimiser of a config.

    Args:
        config: the section.
        params: the parameters, for their paths.
        steps: of the whole run.
        steps_per_epoch: of the first epoch.
        whitening: of `gauss_newton.whitening`, for `lbfgs`.

    Raises:
        UserError: for a group that matches no parameter, or arguments that optax refuses.
    """
    groups = parameter_groups.of_each(config.groups, params)
    if config.full_batch:
        config = dataclasses.replace(config, learning_rate=1.0)
    schedule_of = functools.partial(schedule.build, steps=steps, steps_per_epoch=steps_per_epoch)
    chain = [
        parameter_groups.scale(params, groups, lambda group: 0.0 if group.frozen else 1.0),
        *_clipping(config),
        _base(config, schedule_of, groups, whitening),
        parameter_groups.scale(params, groups, lambda group: group.factor),
    ]
    transformation = optax.with_extra_args_support(optax.chain(*chain))
    plateau = optax.with_extra_args_support(optax.identity())
    if config.reduce_on_plateau is not None:
        plateau = optax.contrib.reduce_on_plateau(**config.reduce_on_plateau)
    rate = schedule_of(config.learning_rate)
    return Optimizer(transformation, rate, plateau, _eval_params(config))


def _schedules(arguments: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Further rates among the arguments that have a schedule."""
    return {
        name: value
        for name, value in arguments.items()
        if name.endswith("_learning_rate") and isinstance(value, Mapping)
    }


def optimizer_names() -> list[str]:
    """Names of optax's optimisers (those of `optax.contrib` too)."""
    names = []
    for module in (optax, optax.contrib):
        for name in vars(module):
            function = getattr(module, name)
            if name.startswith(("_", "scale_by")) or not inspect.isfunction(function):
                continue
            if "learning_rate" in inspect.signature(function).parameters:
                names.append(name)
    return sorted(set(names) - set(_UNSUPPORTED))


def _optimizer_function(name: str, where: str) -> Callable[..., Any]:
    if name in _UNSUPPORTED:
        raise UserError(f"{where}: {name} {_UNSUPPORTED[name]}; choose another (adamw, muon, …).")
    if name not in optimizer_names():
        raise configs.unknown_name(where, "optimiser", name, optimizer_names())
    return getattr(optax, name, None) or getattr(optax.contrib, name)


def _clipping(config: OptimizerConfig) -> list[optax.GradientTransformation]:
    names = ("clip_by_global_norm", "clip", "adaptive_grad_clip")
    limits = {name: getattr(config, name) for name in names}
    return [getattr(optax, name)(limit) for name, limit in limits.items() if limit is not None]


def _base(
    config: OptimizerConfig,
    schedule_of: Callable[[float | Mapping[str, Any]], Schedule],
    groups,
    whitening: np.ndarray | None = None,
) -> optax.GradientTransformation:
    function = _optimizer_function(config.name, "optimizer.name")
    arguments = dict(config.arguments)
    if config.full_batch:
        return gauss_newton.lbfgs(arguments, whitening)
    if "base_optimizer" in arguments:
        inner = parse(arguments["base_optimizer"], "optimizer.base_optimizer")
        arguments["base_optimizer"] = _base(inner, schedule_of, groups)
    for name, value in _schedules(arguments).items():
        arguments[name] = schedule_of(value)
    if any(not g.weight_decay for g in jax.tree.leaves(groups, is_leaf=parameter_groups.is_group)):
        arguments[_mask_name(config.name, function)] = jax.tree.map(
            lambda group: group.weight_decay, groups, is_leaf=parameter_groups.is_group
        )
    rate: Any = config.learning_rate
    rate = schedule_of(rate) if isinstance(rate, Mapping) else float(rate)
    try:
        return function(learning_rate=rate, **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer: {config.name} refuses {config.arguments}: {error}") from None


def _mask_name(name: str, function) -> str:
    for mask in ("mask", "weight_decay_mask"):
        if mask in inspect.signature(function).parameters:
            return mask
    raise UserError(f"optimizer.groups: {name} has no weight decay to switch off; remove the key.")


def _eval_params(config: OptimizerConfig) -> Callable[[Any, Params], Params]:
    if not config.name.startswith("schedule_free"):
        return lambda state, params: params
    kind = optax.contrib.ScheduleFreeState

    def evaluate(state, params):
        leaves = jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, kind))
        found = next(leaf for leaf in leaves if isinstance(leaf, kind))
        return optax.contrib.schedule_free_eval_params(found, params)

    return evaluate
