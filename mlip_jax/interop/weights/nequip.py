"""Potentials of the program nequip (0.19): weights in safetensors, and arguments in JSON.

The arrays are those of the state dict of a `NequIPGNNModel`; the arguments are the ones it was
made with, below its name in nequip's own config.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlip_jax import elements
from mlip_jax.interop.weights import e3nn_weights, state_dict
from mlip_jax.interop.weights.state_dict import StateDict
from mlip_jax.models.nequip import NequIP, reachable
from mlip_jax.nn.convolution import middle_layout
from mlip_jax.nn.equivariant import LAYER_NORM_EPSILON, SILU_NORM, gate_inputs
from mlip_jax.nn.irreps import SCALAR, Channels, Layout, hidden_layout, product_paths
from mlip_jax.potential import Potential

_ARGUMENTS = (
    *("type_names", "r_max", "num_layers", "l_max", "parity", "num_features", "num_bessels"),
    *("bessel_trainable", "polynomial_cutoff_p", "radial_mlp_depth", "radial_mlp_width"),
    "avg_num_neighbors",
)


def read(files: Sequence[Path]) -> Potential:
    """Reads a potential.

    Args:
        files: the arguments in JSON and the weights in safetensors, see above.

    Raises:
        UserError: for missing or damaged files.
    """
    config, state = state_dict.config_and_state(files, "nequip")
    for name in _ARGUMENTS:
        state_dict.given(config, name, "nequip")
    model, variables, energies = _convert(state, config)
    card = {"imported": {"format": "nequip", "files": sorted(path.name for path in files)}}
    return Potential(model, variables, energies, card)


def _convert(
    state: StateDict, config: Mapping[str, Any]
) -> tuple[NequIP, dict[str, Any], dict[int, float]]:
    """Model, variables and reference energies [eV] by atomic number.

    The program's energy shift for each type becomes the reference energy.

    Args:
        state: arrays by their names in the program (`NequIPGNNModel`).
        config: the model's constructor arguments.
    """
    species = tuple(elements.atomic_number(name) for name in config["type_names"])
    features = config["num_features"]
    embedding = state["model.func.type_embed.embed_module.weight"]
    model = NequIP(
        species=species,
        cutoff=float(config["r_max"]),
        num_layers=config["num_layers"],
        l_max=config["l_max"],
        parity=config["parity"],
        num_features=features if isinstance(features, int) else tuple(features),
        type_embed_num_features=embedding.shape[1],
        num_bessels=config["num_bessels"],
        bessel_trainable=config["bessel_trainable"],
        polynomial_cutoff_p=config["polynomial_cutoff_p"],
        radial_mlp_depth=config["radial_mlp_depth"],
        radial_mlp_width=config["radial_mlp_width"],
        avg_num_neighbors=float(config["avg_num_neighbors"]),
        energy_scale=1.0,
    )
    params: dict[str, Any] = {
        "embedding": embedding,
        "readout": state["model.func.per_atom_energy_readout.mlp_module.mlp.0.weight"],
        "scale": state["model.func.per_type_energy_scale_shift.scales"][:, 0],
    }
    if model.bessel_trainable:
        params["bessel"] = {"frequencies": state["model.func.bessel_encode.bessel_weights"][0]}
    params |= _blocks(model, state)
    shifts = state["model.func.per_type_energy_scale_shift.shifts"][:, 0]
    return model, {"params": params}, dict(zip(species, map(float, shifts), strict=True))


def _blocks(model: NequIP, state: StateDict) -> dict[str, Any]:
    """Parameters of all interaction blocks."""
    channels = model.num_features
    if isinstance(channels, int):
        channels = (channels,) * (model.l_max + 1)
    attributes = model.type_embed_num_features or channels[0]
    layout: Layout = (Channels(SCALAR, attributes),)
    blocks = {}
    for i in range(model.num_layers):
        last = i == model.num_layers - 1
        hidden = hidden_layout(channels[:1] if last else channels, model.parity and not last)
        outputs = reachable(layout, model.l_max, hidden)
        prefix = f"model.func.layer{i}_convnet.conv."
        blocks[f"block_{i}"] = _block(state, prefix, layout, outputs, model.l_max, attributes)
        layout = outputs
    return blocks


def _block(
    state: StateDict, prefix: str, inputs: Layout, outputs: Layout, l_max: int, attributes: int
) -> dict[str, Any]:
    """Parameters of one interaction block, whose arrays' names begin with a prefix."""
    gated = gate_inputs(outputs)
    paths = product_paths(inputs, l_max, [c.irrep for c in gated])
    middle = middle_layout(paths, [inputs[path.source].channels for path in paths])
    in_e3nn_order = sorted(middle, key=lambda c: e3nn_weights.rank(c.irrep))
    names = [n for n in state.names(f"{prefix}edge_mlp.mlp.") if n.endswith("weight")]
    before, behind = (state[f"{prefix}linear_{n}.weight"] for n in (1, 2))
    params = {
        "linear_in": e3nn_weights.split(before, inputs, inputs),
        "convolution": {
            "radial": {f"weight_{i}": state[name] for i, name in enumerate(names)},
            "linear_out": e3nn_weights.split(behind, in_e3nn_order, gated),
        },
    }
    if f"{prefix}sc.weight" in state:
        params["self_connection"] = e3nn_weights.split(
            state[f"{prefix}sc.weight"], inputs, gated, attributes
        )
    return params


def isolated_energies(params: Mapping[str, Any]) -> np.ndarray:
    """Energies of an isolated atom of each element, without scale, which our model subtracts.

    Args:
        params: of a model whose first block has a self-connection, too.
    """
    x = params["embedding"]
    width = len(params["readout"])
    for i in range(sum(name.startswith("block_") for name in params)):
        block = params[f"block_{i}"]
        weight = block["self_connection"][f"weight_{SCALAR}"]
        if weight.ndim == 3:
            x = np.einsum("zu,uzw->zw", x, weight) / math.sqrt(weight.shape[0] * weight.shape[1])
        else:
            x = x @ weight / math.sqrt(len(weight))
        if "layer_norm" in block:
            norm = block["layer_norm"]
            squares = np.sum(x * x, axis=1, keepdims=True) / len(norm)
            x = x / np.sqrt(squares + LAYER_NORM_EPSILON) * norm[f"weight_{SCALAR}"]
        x = SILU_NORM * x[:, :width] / (1.0 + np.exp(-x[:, :width]))
    return (x @ params["readout"])[:, 0] / math.sqrt(width)
