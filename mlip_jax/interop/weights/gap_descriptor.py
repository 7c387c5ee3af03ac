"""Descriptor strings of QUIP, such as `soap l_max=6 n_max=8 species_Z={14 8}`."""

import dataclasses
import re
from typing import Any, NamedTuple

from mlip_jax.config import UserError

_SOAP = {
    "cutoff": float,
    "n_max": int,
    "l_max": int,
    "atom_sigma": float,
    "cutoff_transition_width": float,
    "central_weight": float,
    "normalise": bool,
    "covariance_sigma0": float,
    "basis_error_exponent": float,
}
_SOAP_DEFAULTS = {
    "cutoff_transition_width": 0.5,
    "central_weight": 1.0,
    "normalise": True,
    "covariance_sigma0": 0.0,
    "basis_error_exponent": 10.0,
}
_DISTANCE = {"cutoff": float, "cutoff_transition_width": float}
_DISTANCE_DEFAULTS = {"cutoff_transition_width": 0.5}

_NEUTRAL = {
    "average": "F",
    "central_reference_all_species": "F",
    "cutoff_dexp": "0",
    "cutoff_rate": "1",
    "cutoff_scale": "1",
    "diagonal_radial": "F",
    "exponents": "1",
    "only_inter": "F",
    "only_intra": "F",
    "tail_exponent": "0",
}
"""Options that are supported only where they do nothing."""

_OF_THE_FIT = (
    "add_species",
    "config_type_n_sparse",
    "covariance_type",
    "delta",
    "f0",
    "n_sparse",
    "n_species",
    "sparse_method",
    "theta_fac",
    "theta_uniform",
    "unique_descriptor_tolerance",
    "unique_hash_tolerance",
    "zeta",
)
"""Options without influence on the descriptor."""


class Arguments(NamedTuple):
    """A descriptor string.

    Attributes:
        kind: `soap` or `distance_2b`.
        settings: names and values, as fields of our descriptors are named.
        centres: atomic number of the centre, or of both atoms of the pair.
        species: atomic numbers that the descriptor sees.
    """

    kind: str
    settings: tuple[tuple[str, Any], ...]
    centres: tuple[int, ...]
    species: tuple[int, ...]

    def settings_of(self, descriptor: type) -> dict[str, Any]:
        """Fields of one of our descriptors."""
        names = {field.name for field in dataclasses.fields(descriptor)}
        return {name: value for name, value in self.settings if name in names}


def parse(text: str, where: str) -> Arguments:
    """Reads a descriptor string.

    Args:
        text: the string.
        where: file and line, for messages.

    Raises:
        UserError: for a descriptor or an option that is not supported.
    """
    kind, _, rest = text.partition(" ")
    if kind not in ("soap", "distance_2b"):
        raise UserError(
            f"{where}: got the descriptor {kind!r}; supported are soap and distance_2b."
        )
    words = dict(re.findall(r"(\w+)\s*=\s*(\{[^}]*\}|\S+)", rest))
    known, defaults = (_SOAP, _SOAP_DEFAULTS) if kind == "soap" else (_DISTANCE, _DISTANCE_DEFAULTS)
    atoms = ("Z", "species_Z") if kind == "soap" else ("Z1", "Z2")
    settings = dict(defaults)
    for key, word in words.items():
        if key in known:
            settings[key] = _value(known[key], key, word, where)
        elif key in _NEUTRAL:
            if not _same(word, _NEUTRAL[key]):
                raise UserError(f"{where}: {kind}: {key}={word} is not supported.")
        elif key not in (*_OF_THE_FIT, *atoms):
            raise UserError(f"{where}: {kind}: got the option {key!r}, which is not supported.")
    missing = [key for key in (*known, *atoms) if key not in settings and key not in words]
    if missing:
        raise UserError(f"{where}: {kind}: {missing[0]} is missing.")
    numbers = [_integers(words[key], where) for key in atoms]
    if kind == "soap":
        centres, species = numbers
    else:
        centres = species = numbers[0] + numbers[1]
    if len(centres) != len(atoms) - (kind == "soap") or not set(centres) <= set(species):
        raise UserError(f"{where}: {kind}: got the atomic numbers {numbers} for {atoms}.")
    return Arguments(kind, tuple(sorted(settings.items())), centres, tuple(dict.fromkeys(species)))


def _value(kind: type, key: str, word: str, where: str) -> Any:
    try:
        if kind is bool:
            return {"T": True, "F": False}[word.strip(".").upper()[:1]]
        return kind(word)
    except (ValueError, KeyError):
        raise UserError(f"{where}: got {key}={word}; expected a {kind.__name__}.") from None


def _integers(word: str, where: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in word.strip("{} ").split())
    except ValueError:
        raise UserError(f"{where}: got {word}; expected atomic numbers.") from None


def _same(word: str, neutral: str) -> bool:
    try:
        return float(word) == float(neutral)
    except ValueError:
        return word.strip(".").upper()[:1] == neutral
