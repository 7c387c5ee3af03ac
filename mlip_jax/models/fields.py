"""Fields of models: those that training fills in from the data, and those that are positive."""

from typing import Any

import flax.linen as nn

from mlip_jax.config import UserError


def from_data(module: nn.Module, name: str) -> Any:
    """The value of a field that statistics of the training data fill in.

    Args:
        module: a model, whose name in configs is that of its class in small letters.
        name: of the field.

    Raises:
        UserError: where it is `None`.
    """
    value = getattr(module, name)
    if value is None:
        raise UserError(
            f"{type(module).__name__.lower()}.{name}: not given. It is computed from the training "
            "data; outside of training, set it."
        )
    return value


def require_positive(module: nn.Module, *names: str) -> None:
    """Refuses fields that are not positive.

    Args:
        module: a model, whose name in configs is that of its class in small letters.
        names: of fields that are numbers.

    Raises:
        UserError: naming the field.
    """
    for name in names:
        value = getattr(module, name)
        if not value > 0:
            where = f"{type(module).__name__.lower()}.{name}"
            raise UserError(f"{where}: got {value}; expected a positive number.")
