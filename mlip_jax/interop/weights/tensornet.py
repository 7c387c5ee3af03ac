"""TensorNet of matgl 2 as our `TensorNet`: a config and the arrays of its state dict.

The config is `model.json` as matgl saves a potential, or a mapping with the arguments of its model,
`init_args`. The arrays are those of `state.pt`, made safe to open with

    safetensors.torch.save_file(torch.load("state.pt", map_location="cpu"), "weights.safetensors")
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.interop.weights.state_dict import StateDict, config_and_weights, read_config
from mlip_jax.models.tensornet import TensorNet
from mlip_jax.models.tensornet_layers import Readout
from mlip_jax.potential import Potential

ACTIVATIONS = {"swish": "silu", "tanh": "tanh", "sigmoid": "sigmoid", "softplus": "softplus"}
"""Activations of the program that have a counterpart here."""

PARTS = ("scalar", "vector", "symmetric")


def read(files: Sequence[Path]) -> Potential:
    """Reads a TensorNet.

    Args:
        files: one `.json`, the config, and one `.safetensors`, the weights.

    Returns:
        The potential; an isolated atom has the energy that the program gives it, as reference
        energy.

    Raises:
        UserError: naming the file and what in it is damaged, missing or not supported.
    """
    config_path, weights_path = config_and_weights(files, "tensornet")
    model = _model(_arguments(read_config(config_path), config_path), config_path)
    state = StateDict(weights_path)
    scale, energies = _scale_and_energies(model, state)
    params = _params(model, state)
    alone = energies + scale * _readout_of_nothing(model, params)
    species = model.species or ()
    card = {"imported": {"format": "tensornet", "files": [config_path.name, weights_path.name]}}
    references = dict(zip(species, alone.tolist(), strict=True))
    return Potential(model.clone(energy_scale=scale), {"params": params}, references, card)


def _model(arguments: Mapping[str, Any], path: Path) -> TensorNet:
    """The model without its scale."""
    _check_supported(arguments, path)
    activation = _value(arguments, "activation_type", path)
    if activation not in ACTIVATIONS:
        raise _unsupported(path, "activation_type", activation, ACTIVATIONS)
    basis = str(_value(arguments, "rbf_type", path)).lower()
    number = _value(arguments, "max_n" if basis == "sphericalbessel" else "num_rbf", path)
    names = {"sphericalbessel": "smooth_bessel", "gaussian": "gaussian", "expnorm": "exp_normal"}
    if basis not in names:
        raise _unsupported(path, "rbf_type", arguments["rbf_type"], names)
    cutoff = float(_value(arguments, "cutoff", path))
    try:
        species = tuple(map(elements.atomic_number, _value(arguments, "element_types", path)))
    except ValueError as error:
        raise UserError(f"{path}: init_args.element_types: {error}") from None
    return TensorNet(
        species=species,
        cutoff=cutoff,
        num_layers=int(_value(arguments, "nblocks", path)),
        num_features=int(_value(arguments, "units", path)),
        radial_basis=names[basis],  # pyright: ignore[reportArgumentType]
        num_radial=int(number),
        radial_trainable=basis == "expnorm",
        gaussian_range=cutoff + 1.0,
        gaussian_width=float(arguments.get("width", 0.5)),
        group=_value(arguments, "equivariance_invariance_group", path),
        activation=ACTIVATIONS[activation],
        readout="gated",
    )


def _check_supported(arguments: Mapping[str, Any], path: Path) -> None:
    """Refuses models that give something else than a sum of energies of atoms."""
    expected = {"is_intensive": (False,), "include_state": (False,), "ntargets": (1,)}
    expected["equivariance_invariance_group"] = ("O(3)", "SO(3)")
    if str(arguments.get("rbf_type")).lower() == "sphericalbessel":
        expected["use_smooth"] = (True,)
    for key, values in expected.items():
        if _value(arguments, key, path) not in values:
            raise _unsupported(path, key, arguments[key], values)


def _scale_and_energies(model: TensorNet, state: StateDict) -> tuple[float, np.ndarray]:
    """Factor of the model's output [eV], and the energy [eV] of each element."""
    mean = float(state.take("data_mean", ()))
    if mean != 0.0:
        raise UserError(
            f"{state.path}: data_mean: got {mean}; only 0 is supported, since the energy of a "
            "structure has to be a sum over its atoms."
        )
    number = len(model.species or ())
    energies = state.take("element_refs.property_offset", (number,))
    return float(state.take("data_std", ())), energies


def _params(model: TensorNet, state: StateDict) -> dict[str, Any]:
    """Parameters of our model; every array of the file is one of them or repeats the config."""
    params: dict[str, Any] = {
        "embedding": _embedding(model, state),
        "readout": _readout(model, state),
    }
    for i in range(model.num_layers):
        params[f"interaction_{i}"] = _interaction(model, state, f"model.layers.{i}")
    if model.radial_trainable:
        shape = (model.num_radial,)
        params["radial"] = {
            "centres": state.take("model.bond_expansion.rbf.means", shape),
            "widths": state.take("model.bond_expansion.rbf.betas", shape),
        }
    state.ignore(
        [
            "element_refs.onehot",
            "model.bond_expansion.rbf.cutoff",
            "model.bond_expansion.rbf.centers",
        ]
    )
    state.check_all_taken()
    return params


def _embedding(model: TensorNet, state: StateDict) -> dict[str, Any]:
    size, prefix = model.num_features, "model.tensor_embedding"
    number = len(model.species or ())
    projections = [
        state.linear(f"{prefix}.distance_proj{k}", model.num_radial, size) for k in (1, 2, 3)
    ]
    return {
        "elements": state.take(f"{prefix}.emb.weight", (number, size)),
        # The neighbour's element comes first, then the atom's own.
        "pair": state.linear(f"{prefix}.emb2", 2 * size, size),
        "radial": {
            key: np.concatenate([p[key] for p in projections], axis=-1) for key in projections[0]
        },
        "mixing": _tensor_kernels(state, f"{prefix}.linears_tensor", 0, size),
        "norm": _norm(state, f"{prefix}.init_norm", size),
        "factors": state.linear(f"{prefix}.linears_scalar.0", size, 2 * size)
        | _by_part(state.linear(f"{prefix}.linears_scalar.1", 2 * size, 3 * size, 1)),
    }


def _interaction(model: TensorNet, state: StateDict, prefix: str) -> dict[str, Any]:
    size = model.num_features
    return {
        "radial": state.linear(f"{prefix}.linears_scalar.0", model.num_radial, size)
        | state.linear(f"{prefix}.linears_scalar.1", size, 2 * size, 1)
        | _by_part(state.linear(f"{prefix}.linears_scalar.2", 2 * size, 3 * size, 2)),
        "before": _tensor_kernels(state, f"{prefix}.linears_tensor", 0, size),
        "after": _tensor_kernels(state, f"{prefix}.linears_tensor", 3, size),
    }


def _readout(model: TensorNet, state: StateDict) -> dict[str, Any]:
    size, prefix = model.num_features, "model.final_layer.gated"
    networks: dict[str, dict[str, np.ndarray]] = {"network": {}, "gate": {}}
    for ours, theirs in (("network", "layers"), ("gate", "gates")):
        for i, outputs in enumerate((size, size, size, 1)):
            networks[ours] |= state.linear(f"{prefix}.{theirs}.{2 * i}", size, outputs, i)
    return {
        "norm": _norm(state, "model.out_norm", 3 * size),
        "linear": state.linear("model.linear", 3 * size, size),
        **networks,
    }


def _by_part(layer: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs `part, channel` of a layer whose outputs are `channel, part`."""

    def reorder(array: np.ndarray) -> np.ndarray:
        shaped = array.reshape(*array.shape[:-1], -1, 3)
        return np.swapaxes(shaped, -1, -2).reshape(array.shape)

    return {key: reorder(array) for key, array in layer.items()}


def _tensor_kernels(state: StateDict, prefix: str, first: int, size: int) -> dict[str, Any]:
    return {
        part: state.linear(f"{prefix}.{first + k}", size, size, bias=False)
        for k, part in enumerate(PARTS)
    }


def _norm(state: StateDict, name: str, size: int) -> dict[str, np.ndarray]:
    return {
        "scale": state.take(f"{name}.weight", (size,)),
        "shift": state.take(f"{name}.bias", (size,)),
    }


def _readout_of_nothing(model: TensorNet, params: Mapping[str, Any]) -> float:
    """The readout's output for an atom without neighbours, in float64."""
    readout = Readout(model.num_features, model.readout, model.activation)
    with jax.enable_x64(True):
        zero = np.zeros((1, 3 * model.num_features))
        return float(jax.jit(readout.apply)({"params": params["readout"]}, zero)[0])


def _arguments(section: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Arguments of the program's model: at the top, or inside those of a potential."""
    if "kwargs" in section:
        section = _mapping(_mapping(section, "kwargs", path), "model", path)
    return _mapping(section, "init_args", path)


def _mapping(section: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = _value(section, key, path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: {key}: got {value!r}; expected a mapping.")
    return value


def _value(section: Mapping[str, Any], key: str, path: Path) -> Any:
    if key not in section:
        raise UserError(f"{path}: {key} is missing; expected the config of a TensorNet of matgl.")
    return section[key]


def _unsupported(path: Path, key: str, got: Any, known: Any) -> UserError:
    return UserError(
        f"{path}: init_args.{key}: got {got!r}; supported: {', '.join(map(repr, known))}."
    )
