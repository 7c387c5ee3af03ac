"""Schedules of the learning rate by their optax names."""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import optax

from mlip_jax import config as configs
from mlip_jax.config import UserError

Schedule = Callable[[Any], Any]

WHOLE_RUN = {
    "cosine_decay_schedule": ("decay_steps",),
    "warmup_cosine_decay_schedule": ("decay_steps",),
    "linear_schedule": ("transition_steps",),
    "polynomial_schedule": ("transition_steps",),
    "cosine_onecycle_schedule": ("transition_steps",),
    "linear_onecycle_schedule": ("transition_steps",),
}
"""Arguments that are the length of the whole run where they are not given."""


def names() -> list[str]:
    """Names of optax's schedules."""
    names = [n for n in dir(optax) if n.endswith("_schedule") or n == "exponential_decay"]
    return sorted(set(names) - {"join_schedules", "scale_by_schedule", "sgdr_schedule"})


def resolve(
    mapping: Mapping[str, Any], steps: int, steps_per_epoch: int
) -> tuple[Callable[..., Schedule], dict[str, Any]]:
    """The optax schedule that a mapping names, and its arguments in steps.

    Args:
        mapping: `{schedule: name, argument: value, ...}`.
        steps: of the whole run.
        steps_per_epoch: what arguments in epochs are multiplied by.

    Raises:
        UserError: for an unknown name, unknown arguments or missing ones.
    """
    where = "learning_rate"
    arguments = dict(mapping)
    name = arguments.pop("schedule", None)
    if name not in names():
        raise configs.unknown_name(where, "schedule", name, names())
    function = getattr(optax, name)
    for key in [k for k in arguments if k.endswith("_epochs")]:
        in_steps = key.removesuffix("_epochs") + "_steps"
        arguments[in_steps] = max(1, round(arguments.pop(key) * steps_per_epoch))
    for key in WHOLE_RUN.get(name, ()):
        arguments.setdefault(key, steps)
    if "boundaries_and_scales" in arguments:
        scales = arguments["boundaries_and_scales"]
        arguments["boundaries_and_scales"] = {int(k): float(v) for k, v in scales.items()}
    check_arguments(function, arguments, f"{where} ({name})", more=["schedule"])
    parameters = inspect.signature(function).parameters.values()
    missing = [
        p.name
        for p in parameters
        if p.default is inspect.Parameter.empty and p.name not in arguments
    ]
    if missing:
        raise UserError(f"{where} ({name}): missing {', '.join(missing)}; set it.")
    return function, arguments


def build(learning_rate: float | Mapping[str, Any], steps: int, steps_per_epoch: int) -> Schedule:
    """The learning rate of a step, of a number or a mapping (see `resolve`)."""
    if not isinstance(learning_rate, Mapping):
        return optax.constant_schedule(float(learning_rate))
    function, arguments = resolve(learning_rate, steps, steps_per_epoch)
    try:
        return function(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer.learning_rate: optax refuses {arguments}: {error}") from None


def check_arguments(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    where: str,
    more: Collection[str] = (),
) -> None:
    """Refuses arguments that an optax function does not have.

    Raises:
        UserError: with the nearest name that it has, or that is in `more`.
    """
    known = set(inspect.signature(function).parameters) - {"learning_rate", "mask"}
    for key in arguments:
        if key not in known:
            raise configs.unknown_name(where, "key", key, known | set(more))
