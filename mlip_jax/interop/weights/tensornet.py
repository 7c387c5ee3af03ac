"""TensorNet of matgl 2 as our `TensorNet`: a config and a state dict, see `weights.matgl`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mlip_jax.interop.weights import matgl
from mlip_jax.interop.weights.matgl import ACTIVATIONS, Arguments
from mlip_jax.interop.weights.state_dict import StateDict, config_and_weights
from mlip_jax.models.tensornet import TensorNet
from mlip_jax.models.tensornet_layers import Readout
from mlip_jax.potential import Potential

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
    model = _model(Arguments(config_path))
    state = StateDict(weights_path)
    scale, energies = matgl.scale_and_energies(state, len(model.species or ()))
    params = _params(model, state)
    alone = energies + scale * _readout_of_nothing(model, params)
    species = model.species or ()
    card = {"imported": {"format": "tensornet", "files": [config_path.name, weights_path.name]}}
    references = dict(zip(species, alone.tolist(), strict=True))
    return Potential(model.clone(energy_scale=scale), {"params": params}, references, card)


def _model(arguments: Arguments) -> TensorNet:
    """The model without its scale."""
    basis = str(arguments.get("rbf_type")).lower()
    # A sum of energies of atoms, and nothing else.
    expected = {"is_intensive": (False,), "include_state": (False,), "ntargets": (1,)}
    expected["equivariance_invariance_group"] = ("O(3)", "SO(3)")
    expected["activation_type"] = tuple(ACTIVATIONS)
    if basis == "sphericalbessel":
        expected["use_smooth"] = (True,)
    arguments.require(expected)
    names = {"sphericalbessel": "smooth_bessel", "gaussian": "gaussian", "expnorm": "exp_normal"}
    if basis not in names:
        raise arguments.unsupported("rbf_type", names)
    cutoff = float(arguments["cutoff"])
    return TensorNet(
        species=arguments.species(),
        cutoff=cutoff,
        num_layers=int(arguments["nblocks"]),
        num_features=int(arguments["units"]),
        radial_basis=names[basis],  # pyright: ignore[reportArgumentType]
        num_radial=int(arguments["max_n" if basis == "sphericalbessel" else "num_rbf"]),
        radial_trainable=basis == "expnorm",
        gaussian_range=cutoff + 1.0,
        gaussian_width=float(arguments.get("width", 0.5)),
        group=arguments["equivariance_invariance_group"],
        activation=ACTIVATIONS[arguments["activation_type"]],
        readout="gated",
    )


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
    state.ignore(matgl.IN_CONFIG)
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
    size = model.num_features
    widths = (size, size, size, size, 1)
    return {
        "norm": _norm(state, "model.out_norm", 3 * size),
        "linear": state.linear("model.linear", 3 * size, size),
        **matgl.gated(state, "model.final_layer.gated", widths),
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
