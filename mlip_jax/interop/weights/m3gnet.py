"""M3GNet of matgl as our `M3GNet`: a config and a state dict, see `weights.matgl`.

The weights have to be those of versions up to 4.0: later ones send messages the other way, with the
same config. Where these versions sum over triplets they mix up bonds within the three-body cutoff
with all bonds, so that their energies depend on the order of the neighbours, by up to some meV an
atom; ours do not.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mlip_jax.interop.weights import matgl
from mlip_jax.interop.weights.matgl import Arguments
from mlip_jax.interop.weights.state_dict import StateDict, config_and_weights
from mlip_jax.models.m3gnet import M3GNet, readout_widths
from mlip_jax.nn import dense
from mlip_jax.nn.dense import GatedKernels
from mlip_jax.potential import Potential

SUPPORTED = {
    "activation_type": ("swish",),
    "include_state": (False,),
    "is_intensive": (False,),
    "ntargets": (1,),
    "rbf_type": ("SphericalBessel",),
    "readout_type": ("weighted_atom",),
    "task_type": ("regression",),
    "use_phi": (False,),
}
"""Arguments of which others mean no sum of energies of atoms, or functions that are not ours."""


def read(files: Sequence[Path]) -> Potential:
    """Reads an M3GNet.

    Args:
        files: one `.json`, the config, and one `.safetensors`, the weights.

    Returns:
        The potential; an isolated atom has the energy that the program gives it, as reference
        energy.

    Raises:
        UserError: naming the file and what in it is damaged, missing or not supported.
    """
    config_path, weights_path = config_and_weights(files, "m3gnet")
    model = _model(Arguments(config_path))
    state = StateDict(weights_path)
    species = model.species or ()
    scale, energies = matgl.scale_and_energies(state, len(species))
    params = _params(model, state)
    alone = energies + scale * _readout_of_elements(model, params)
    card = {"imported": {"format": "m3gnet", "files": [config_path.name, weights_path.name]}}
    references = dict(zip(species, alone.tolist(), strict=True))
    return Potential(model.clone(energy_scale=scale), {"params": params}, references, card)


def _model(arguments: Arguments) -> M3GNet:
    """The model without its scale."""
    arguments.require(SUPPORTED)
    basis = "smooth_bessel" if arguments["use_smooth"] else "spherical_bessel"
    return M3GNet(
        species=arguments.species(),
        cutoff=float(arguments["cutoff"]),
        threebody_cutoff=float(arguments["threebody_cutoff"]),
        num_blocks=int(arguments["nblocks"]),
        max_n=int(arguments["max_n"]),
        max_l=int(arguments["max_l"]),
        num_features=int(arguments["dim_node_embedding"]),
        num_bond_features=int(arguments["dim_edge_embedding"]),
        width=int(arguments["units"]),
        triplets_at="sender",
        radial_basis=basis,
        threebody_basis=basis,
    )


def _params(model: M3GNet, state: StateDict) -> dict[str, Any]:
    """Parameters of our model; every array of the file is one of them or repeats the config."""
    number, size = len(model.species or ()), model.num_features
    radial = model.max_n * (1 if model.radial_basis == "smooth_bessel" else model.max_l)
    embedding, widths = "model.embedding", readout_widths(size, model.width)
    params: dict[str, Any] = {
        "embedding": state.take(f"{embedding}.layer_node_embedding.weight", (number, size)),
        "bond_embedding": state.linear(
            f"{embedding}.layer_edge_embedding.layers.0", radial, model.num_bond_features
        ),
        "readout": matgl.gated(state, "model.final_layer.gated", widths),
    }
    for i in range(model.num_blocks):
        params[f"block_{i}"] = _block(model, state, i, radial)
    state.ignore(matgl.IN_CONFIG)
    state.check_all_taken()
    return params


def _block(model: M3GNet, state: StateDict, index: int, radial: int) -> dict[str, Any]:
    size, of_bond, width = model.num_features, model.num_bond_features, model.width
    functions = model.max_n * model.max_l
    triplets = f"model.three_body_interactions.{index}"
    convolution = f"model.graph_layers.{index}.conv"
    inputs = (2 * size + of_bond, width, width)
    return {
        "sender": state.linear(f"{triplets}.update_network_atom.layers.0", size, functions),
        "triplets": matgl.gated(
            state, f"{triplets}.update_network_bond", (functions, of_bond), bias=False
        ),
        "bond": matgl.gated(state, f"{convolution}.edge_update_func", (*inputs, of_bond)),
        "atom": matgl.gated(state, f"{convolution}.node_update_func", (*inputs, size)),
        "bond_filter": state.linear(f"{convolution}.edge_weight_func", radial, of_bond, bias=False),
        "atom_filter": state.linear(f"{convolution}.node_weight_func", radial, size, bias=False),
    }


def _readout_of_elements(model: M3GNet, params: dict[str, Any]) -> np.ndarray:
    """The readout's output for an atom of each element without neighbours, in float64."""
    kernels = GatedKernels(readout_widths(model.num_features, model.width))

    def outputs(features: Any) -> Any:
        weights: Any = kernels.apply({"params": params["readout"]}, features.dtype)
        return dense.gated_network(weights, features, jax.nn.silu)[:, 0]

    with jax.enable_x64(True):
        return np.asarray(jax.jit(outputs)(params["embedding"]))
