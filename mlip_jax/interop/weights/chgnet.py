"""CHGNet as our `CHGNet`: a config and the arrays of its state dict.

The config is a JSON file with the arguments of the model, `model_args`. Both files are made, where
the package chgnet is installed, with

    model = chgnet.model.CHGNet.load(model_name="0.3.0")
    json.dump({"model_args": dict(model.model_args)}, open("config.json", "w"))
    safetensors.torch.save_file(model.cpu().state_dict(), "weights.safetensors")
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from mlip_jax.config import UserError
from mlip_jax.interop.weights.state_dict import StateDict, config_and_weights, given, read_config
from mlip_jax.models.chgnet import CHGNet
from mlip_jax.potential import Potential

ABSENT = (84, 85, 86, 87, 88)
"""Po, At, Rn, Fr and Ra: no structure of MPtrj has them, their features were never trained."""

NO_ENERGY = 1e-9
"""Elements whose reference energy [eV] is below this were not in the data it was fitted to."""

_SUPPORTED = {
    "read_out": ("ave",),
    "mlp_first": (True,),
    "is_intensive": (True,),
    "non_linearity": ("silu",),
    "update_bond": (True,),
    "update_angle": (True,),
    "angle_layer_hidden_dim": (0, None),
}
_SUPPORTED_IF_GIVEN = {"conv_norm": (None,), "final_mlp": ("MLP", "normal"), "num_heads": ()}
_WIDTHS = (
    "bond_fea_dim",
    "angle_fea_dim",
    "atom_conv_hidden_dim",
    "bond_conv_hidden_dim",
)


def read(files: Sequence[Path]) -> Potential:
    """Reads a CHGNet.

    Elements that the weights were not trained on are left out: those that the data set MPtrj lacks,
    and those without a reference energy.

    Args:
        files: one `.json`, the config, and one `.safetensors`, the weights.

    Returns:
        The potential; an isolated atom has the energy that the network gives it and the program's
        reference energy of its element, as reference energy.

    Raises:
        UserError: naming the file and what in it is damaged, missing or not supported.
    """
    config_path, weights_path = config_and_weights(files, "chgnet")
    arguments = _arguments(config_path)
    state = StateDict(weights_path)
    energies = state["composition_model.fc.weight"].reshape(-1)
    known = np.abs(energies) > NO_ENERGY
    species = tuple(z for z in (np.flatnonzero(known) + 1).tolist() if z not in ABSENT)
    rows = np.array(species) - 1
    model = _model(arguments, config_path).clone(species=species)
    params = _params(model, state, len(energies), rows)
    with jax.enable_x64(True):
        dtype = np.dtype(np.float64)
        alone = jax.jit(lambda v: model.apply(v, dtype, method="isolated_energies"))(
            {"params": params}
        )
    references = energies[rows] + np.asarray(alone)
    card = {"imported": {"format": "chgnet", "files": [config_path.name, weights_path.name]}}
    of_species = dict(zip(species, references.tolist(), strict=True))
    return Potential(model, {"params": params}, of_species, card)


def _arguments(path: Path) -> Mapping[str, Any]:
    """Arguments of the program's model, all of which are supported."""
    section = given(read_config(path), "model_args", "chgnet")
    if not isinstance(section, dict):
        raise UserError(f"{path}: model_args: got {section!r}; expected a mapping.")
    size = given(section, "atom_fea_dim", "chgnet")
    norm = given(section, "gMLP_norm", "chgnet")
    expected = _SUPPORTED | dict.fromkeys(_WIDTHS, (size,))
    expected |= {"gMLP_norm": (None, "layer"), "readout_norm": (norm,)}
    expected |= {key: values for key, values in _SUPPORTED_IF_GIVEN.items() if key in section}
    for key, values in expected.items():
        got = given(section, key, "chgnet")
        if got not in values:
            raise UserError(
                f"{path}: model_args.{key}: got {got!r}; supported: "
                f"{', '.join(map(repr, values)) or 'nothing'}."
            )
    return section


def _model(arguments: Mapping[str, Any], path: Path) -> CHGNet:
    """The model without its elements."""

    def number(key: str) -> Any:
        value = given(arguments, key, "chgnet")
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise UserError(f"{path}: model_args.{key}: got {value!r}; expected a number > 0.")
        return value

    hidden = given(arguments, "mlp_hidden_dims", "chgnet")
    return CHGNet(
        cutoff=float(number("atom_graph_cutoff")),
        bond_cutoff=float(number("bond_graph_cutoff")),
        num_layers=number("n_conv"),
        num_features=number("atom_fea_dim"),
        num_radial=number("num_radial"),
        num_angular=number("num_angular"),
        polynomial_cutoff_p=number("cutoff_coeff"),
        readout_hidden=tuple(hidden) if isinstance(hidden, list) else (hidden,),
        layer_norm=arguments["gMLP_norm"] == "layer",
        mlp_out_bias=bool(arguments.get("mlp_out_bias", False)),
        predict_magmoms=True,
        energy_scale=1.0,
    )


def _params(model: CHGNet, state: StateDict, number: int, rows: np.ndarray) -> dict[str, Any]:
    """Parameters of our model; every array of the file is one of them, or not used by the program.

    Args:
        model: with its elements.
        state: the file.
        number: of elements in it.
        rows: those of the model.
    """
    size, radial, layers = model.num_features, model.num_radial, model.num_layers
    basis = "bond_basis_expansion.rbf_expansion"
    params: dict[str, Any] = {
        "embedding": state.take("atom_embedding.embedding.weight", (number, size))[rows],
        # Theirs are multiplied by π already.
        "atom_frequencies": state.take(f"{basis}_ag.frequencies", (radial,)) / math.pi,
        "bond_frequencies": state.take(f"{basis}_bg.frequencies", (radial,)) / math.pi,
        "angle_frequencies": state.take(
            "angle_basis_expansion.fourier_expansion.frequencies", (model.num_angular // 2,)
        ),
        "bond_embedding": state.linear("bond_embedding", radial, size, bias=False),
        "atom_weights": state.linear("bond_weights_ag", radial, size, bias=False),
        "bond_weights": state.linear("bond_weights_bg", radial, size, bias=False),
        "angle_embedding": state.linear("angle_embedding", model.num_angular, size, bias=False),
        "moment": state.linear("site_wise", size, 1),
        "readout": _readout(model, state),
    }
    if model.layer_norm:
        params["norm"] = _norm(state, "readout_norm", size)
    for i in range(layers):
        prefix = f"atom_conv_layers.{i}"
        params[f"atoms_{i}"] = _convolution(model, state, prefix, "twoBody_atom", 3)
    for i in range(layers - 1):
        prefix = f"bond_conv_layers.{i}"
        params[f"bonds_{i}"] = _convolution(model, state, prefix, "twoBody_bond", 4)
    for i in range(layers - 2):
        name = f"angle_layers.{i}.twoBody_bond"
        params[f"angles_{i}"] = _gated(model, state, name, 4, deep=False)
    # The program evaluates a last update of angles, whose result nothing reads.
    state.ignore(state.names(f"angle_layers.{layers - 2}."))
    state.check_all_taken()
    return params


def _convolution(
    model: CHGNet, state: StateDict, prefix: str, name: str, parts: int
) -> dict[str, Any]:
    size = model.num_features
    return {
        "message": _gated(model, state, f"{prefix}.{name}", parts, deep=True),
        "output": state.linear(f"{prefix}.mlp_out.layers.1", size, size, bias=model.mlp_out_bias),
    }


def _gated(model: CHGNet, state: StateDict, name: str, parts: int, *, deep: bool) -> dict[str, Any]:
    """A gated network; the first layers of core and gate are one of ours."""
    size = model.num_features
    names = {"core": f"{name}.mlp_core.layers", "gate": f"{name}.mlp_gate.layers"}
    first = [state.linear(f"{n}.{0 if deep else 1}", parts * size, size) for n in names.values()]
    network: dict[str, Any] = {
        "first": {key: np.concatenate([f[key] for f in first], axis=-1) for key in first[0]}
    }
    if deep:
        network |= {part: state.linear(f"{n}.3", size, size) for part, n in names.items()}
    if model.layer_norm:
        network["core_norm"] = _norm(state, f"{name}.bn1", size)
        network["gate_norm"] = _norm(state, f"{name}.bn2", size)
    return network


def _readout(model: CHGNet, state: StateDict) -> dict[str, Float[np.ndarray, "..."]]:
    widths = (model.num_features, *model.readout_hidden, 1)
    last = len(widths) - 2
    layers: dict[str, np.ndarray] = {}
    for i in range(last + 1):
        # A layer and an activation each; a layer of dropout stands before the last one.
        name = f"mlp.layers.{2 * i + (i == last)}"
        layers |= state.linear(name, widths[i], widths[i + 1], i)
    return layers


def _norm(state: StateDict, name: str, size: int) -> dict[str, np.ndarray]:
    return {
        "scale": state.take(f"{name}.weight", (size,)),
        "shift": state.take(f"{name}.bias", (size,)),
    }
