"""Mistakes of the user's, and the words in which they are told."""

import difflib
from collections.abc import Collection
from typing import Any


class UserError(ValueError):
    """A mistake of the user's: the message says what was got, what was expected and what to do.

    The command line shows it without a traceback.
    """


def unknown_name(where: str, what: str, name: object, known: Collection[str]) -> UserError:
    """The error for a name that is not among the known ones, with the nearest of them."""
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UserError(f"{where}: unknown {what} {name!r}; {hint}Known: {', '.join(sorted(known))}.")


def kind_of(value: Any) -> str:
    """What a plain value is, in words."""
    names = {dict: "mapping", list: "list", str: "text", bool: "true or false", int: "integer"}
    return names.get(
        type(value), {float: "number", type(None): "nothing"}.get(type(value), "value")
    )
