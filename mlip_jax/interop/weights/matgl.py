"""What the potentials of matgl have in common: their config, scale, and gated networks.

The config is `model.json` as matgl saves a potential, or a mapping with the arguments of its model,
`init_args`. The arrays are those of `state.pt`, made safe to open with

    safetensors.torch.save_file(torch.load("state.pt", map_location="cpu"), "weights.safetensors")
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.interop.weights.state_dict import StateDict, read_config

ACTIVATIONS = {"swish": "silu", "tanh": "tanh", "sigmoid": "sigmoid", "softplus": "softplus"}
"""Activations of the program that have a counterpart here."""

IN_CONFIG = (
    "element_refs.onehot",
    "model.basis_expansion.sbf.cutoff",
    "model.bond_expansion.rbf.centers",
    "model.bond_expansion.rbf.cutoff",
)
"""Arrays that repeat what the config says."""


class Arguments:
    """Arguments of the program's model.

    Attributes:
        path: the config.
    """

    def __init__(self, path: Path):
        """Reads them: at the top of the config, or inside those of a potential.

        Raises:
            UserError: where they are missing or damaged.
        """
        self.path = path
        section: Mapping[str, Any] = read_config(path)
        if "kwargs" in section:
            section = self._mapping(self._mapping(section, "kwargs"), "model")
        self._arguments = self._mapping(section, "init_args")

    def __getitem__(self, key: str) -> Any:
        """An argument.

        Raises:
            UserError: where it is missing.
        """
        return self._value(self._arguments, key)

    def get(self, key: str, default: Any = None) -> Any:
        """An argument, or the default where it is missing."""
        return self._arguments.get(key, default)

    def require(self, expected: Mapping[str, Collection[Any]]) -> None:
        """Refuses values that are not supported.

        Args:
            expected: supported values of arguments.

        Raises:
            UserError: naming the argument, and its supported values.
        """
        for key, values in expected.items():
            if self[key] not in values:
                raise self.unsupported(key, values)

    def unsupported(self, key: str, known: Collection[Any]) -> UserError:
        """The error that an argument has none of the values known."""
        return UserError(
            f"{self.path}: init_args.{key}: got {self[key]!r}; supported: "
            f"{', '.join(map(repr, known))}."
        )

    def species(self) -> tuple[int, ...]:
        """Atomic numbers of the elements, in order.

        Raises:
            UserError: for an unknown symbol.
        """
        try:
            return tuple(map(elements.atomic_number, self["element_types"]))
        except ValueError as error:
            raise UserError(f"{self.path}: init_args.element_types: {error}") from None

    def _mapping(self, section: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        value = self._value(section, key)
        if not isinstance(value, dict):
            raise UserError(f"{self.path}: {key}: got {value!r}; expected a mapping.")
        return value

    def _value(self, section: Mapping[str, Any], key: str) -> Any:
        if key not in section:
            raise UserError(
                f"{self.path}: {key} is missing; expected the config of a potential of matgl."
            )
        return section[key]


def scale_and_energies(state: StateDict, num_species: int) -> tuple[float, np.ndarray]:
    """Factor of the model's output [eV], and the energy [eV] of each element.

    Raises:
        UserError: where a structure has an energy of its own.
    """
    mean = float(state.take("data_mean", ()))
    if mean != 0.0:
        raise UserError(
            f"{state.path}: data_mean: got {mean}; only 0 is supported, since the energy of a "
            "structure has to be a sum over its atoms."
        )
    energies = state.take("element_refs.property_offset", (num_species,))
    return float(state.take("data_std", ())), energies


def gated(state: StateDict, name: str, widths: Sequence[int], bias: bool = True) -> dict[str, Any]:
    """A gated network as parameters of `nn.dense.GatedKernels`.

    Args:
        state: the arrays.
        name: of the network.
        widths: numbers of inputs, hidden units and outputs.
        bias: its layers have biases.
    """
    params: dict[str, dict[str, np.ndarray]] = {"network": {}, "gate": {}}
    for ours, theirs in (("network", "layers"), ("gate", "gates")):
        for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            # Activations stand between the layers.
            layer = state.linear(f"{name}.{theirs}.{2 * i}", inputs, outputs, i, bias)
            params[ours] |= layer
    return params
