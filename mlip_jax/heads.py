"""One head of a potential that has several, as a potential like any other."""

import dataclasses

from mlip_jax import config, models
from mlip_jax.config import UserError
from mlip_jax.potential import Potential


def choose(potential: Potential, head: str) -> Potential:
    """The potential of one head: its readouts, its reference energies, its elements.

    Args:
        potential: with several heads.
        head: the name of one, the source of the data that it was trained on.

    Returns:
        A potential without heads, for every use; `Potential.head` says which one it is.

    Raises:
        UserError: for a potential without heads, or an unknown one.
    """
    known = models.requirements(potential.model).heads
    if not known:
        has = f"it is the head {potential.head!r} of one" if potential.head else "it has none"
        raise UserError(
            f"head: got {head!r}; expected a potential with several heads, and {has}. "
            "Leave the head out."
        )
    if head not in known:
        raise config.unknown_name("head", "head", head, known)
    model, variables = potential.model.one_head(potential.variables, head)  # pyright: ignore
    statistics = dict(potential.card.get("statistics") or {})
    statistics.pop("source_reference_energies", None)
    return dataclasses.replace(
        potential,
        model=model,
        variables=variables,
        reference_energies=potential.head_energies[head],
        card={**potential.card, "statistics": statistics},
        head_energies={},
        head=head,
    )
