"""Potentials of SevenNet: a NequIP with linear self-connections and, mostly, without parity.

Y. Park et al., J. Chem. Theory Comput. 20, 4857 (2024). A checkpoint is a pickle, which runs
whatever it holds. Where torch and sevenn are installed, this turns one that is trusted into the two
files that are read:

    python -c "import json, sys, torch, safetensors.torch as s
    c = torch.load(sys.argv[1], weights_only=False, map_location='cpu')
    m = c['model_state_dict']
    s.save_file({k: v.contiguous() for k, v in m.items()}, 'weights.safetensors')
    json.dump({'config': c['config']}, open('config.json', 'w'), default=str)" checkpoint.pth
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.interop.weights import e3nn_weights, nequip, state_dict
from mlip_jax.interop.weights.state_dict import StateDict
from mlip_jax.models.nequip import NequIP, reachable
from mlip_jax.nn.convolution import middle_layout
from mlip_jax.nn.equivariant import SILU_NORM, gate_inputs
from mlip_jax.nn.irreps import (
    Layout,
    hidden_layout,
    parse_layout,
    product_paths,
)
from mlip_jax.nn.radial import SMOOTH_GAIN
from mlip_jax.potential import Potential

_FIXED = {
    "interaction_type": "nequip",
    "self_connection_type": "linear",
    "readout_as_fcn": False,
    "use_bias_in_linear": False,
    "act_radial": "silu",
    "act_gate": {"e": "silu", "o": "tanh"},
    "act_scalar": {"e": "silu", "o": "tanh"},
    "_normalize_sph": True,
    "use_modal_node_embedding": False,
    "use_modal_self_inter_intro": False,
    "use_modal_self_inter_outro": False,
    "use_modal_output_block": False,
}
"""Arguments that only these values are read of."""


def read(files: Sequence[Path]) -> Potential:
    """Reads a potential.

    Args:
        files: the config in JSON and the weights in safetensors, see above.

    Raises:
        UserError: for missing or damaged files, and for models that are not supported.
    """
    whole, state = state_dict.config_and_state(files, "sevennet")
    config = whole.get("config", whole)
    for name, value in _FIXED.items():
        if name in config and config[name] != value:
            raise UserError(
                f"sevennet: got {name} = {config[name]!r}; only {value!r} is supported. This model "
                "cannot be read."
            )
    model, layouts = _model(config, state)
    params = _params(state, model, layouts)
    scale = np.broadcast_to(state["rescale_atomic_energy.scale"], len(model.species or ()))
    shift = np.broadcast_to(state["rescale_atomic_energy.shift"], len(model.species or ()))
    params["scale"] = scale
    energies = shift + params["scale"] * nequip.isolated_energies(params)
    card = {"imported": {"format": "sevennet", "files": sorted(path.name for path in files)}}
    references = dict(zip(model.species or (), energies.tolist(), strict=True))
    return Potential(model, {"params": params}, references, card)


def _model(config: Mapping[str, Any], state: StateDict) -> tuple[NequIP, list[Layout]]:
    """The model, and the layouts of the features before and behind every block."""

    def given(name: str) -> Any:
        return state_dict.given(config, name, "sevennet")

    places = {int(i): int(z) for z, i in given("_type_map").items()}
    species = tuple(elements.atomic_number(places[i]) for i in range(len(places)))
    reflections = bool(given("is_parity"))
    layouts = [parse_layout(text) for text in given("irreps_manual")]
    l_max = int(given("lmax"))
    channels = tuple(c.channels for c in layouts[1])
    hidden = hidden_layout(channels, parity=False, reflections=reflections)
    inner = all(layout == hidden for layout in layouts[1:-1])
    if not inner or len(channels) != l_max + 1 or layouts[-1] != hidden[:1]:
        raise UserError(
            f"sevennet: got irreps_manual {given('irreps_manual')}; expected the same irreps of "
            "degrees 0 to lmax behind every convolution, and the scalars behind the last."
        )
    divisors = [float(state[f"{i}_convolution.denominator"][0]) for i in range(len(layouts) - 1)]
    if max(divisors) != min(divisors):
        raise UserError(f"sevennet: got the denominators {divisors}; expected equal ones.")
    basis, cutoff = given("radial_basis"), given("cutoff_function")
    if basis.get("radial_basis_name") != "bessel":
        raise UserError(f"sevennet: got the radial basis {basis}; expected bessel.")
    widths = list(given("weight_nn_hidden_neurons"))
    if len(set(widths)) != 1:
        raise UserError(f"sevennet: got hidden widths {widths}; expected equal ones.")
    xplor = cutoff["cutoff_function_name"] == "XPLOR"
    if not xplor and cutoff["cutoff_function_name"] != "poly_cut":
        raise UserError(f"sevennet: got the cutoff {cutoff}; expected XPLOR or poly_cut.")
    model = NequIP(
        species=species,
        cutoff=float(given("cutoff")),
        num_layers=len(layouts) - 1,
        l_max=l_max,
        parity=False,
        num_features=channels,
        type_embed_num_features=layouts[0][0].channels,
        num_bessels=int(basis["bessel_basis_num"]),
        bessel_trainable=True,
        polynomial_cutoff_p=6 if xplor else int(cutoff["poly_cut_p_value"]),
        radial_mlp_depth=len(widths),
        radial_mlp_width=widths[0],
        avg_num_neighbors=divisors[0] ** 2,
        energy_scale=1.0,
        self_connection="linear",
        first_self_connection=True,
        reflections=reflections,
        envelope_onset=float(cutoff["cutoff_on"]) if xplor else None,
    )
    return model, layouts


def _params(state: StateDict, model: NequIP, layouts: Sequence[Layout]) -> dict[str, Any]:
    count = len(model.species or ())
    embedding = state["onehot_to_feature_x.linear.weight"].reshape(count, -1)
    frequencies = state["edge_embedding.basis_function.coeffs"] * model.cutoff / math.pi
    params: dict[str, Any] = {
        "embedding": embedding / math.sqrt(count),
        "bessel": {"frequencies": frequencies},
    }
    for i, (inputs, outputs) in enumerate(itertools.pairwise(layouts)):
        params[f"block_{i}"] = _block(state, model, i, inputs, outputs)
    first = state["reduce_input_to_hidden.linear.weight"].reshape(layouts[-1][0].channels, -1)
    second = state["reduce_hidden_to_energy.linear.weight"].reshape(-1, 1)
    params["readout"] = first @ second / math.sqrt(len(second))
    return params


def _block(
    state: StateDict, model: NequIP, index: int, inputs: Layout, outputs: Layout
) -> dict[str, Any]:
    gated = gate_inputs(reachable(inputs, model.l_max, outputs, model.reflections))
    paths = product_paths(inputs, model.l_max, [c.irrep for c in gated], model.reflections)
    channels = [inputs[p.source].channels for p in paths]
    middle = sorted(middle_layout(paths, channels), key=lambda c: e3nn_weights.rank(c.irrep))
    radial = {}
    for k in range(model.radial_mlp_depth + 1):
        weight = state[f"{index}_convolution.weight_nn.layer{k}.weight"]
        radial[f"weight_{k}"] = weight * (SILU_NORM / SMOOTH_GAIN if k else 1.0)
    last = f"weight_{model.radial_mlp_depth}"
    radial[last] = e3nn_weights.by_path(radial[last], paths, channels)
    before, behind = (state[f"{index}_self_interaction_{n}.linear.weight"] for n in (1, 2))
    own = state[f"{index}_self_connection_intro.linear.weight"]
    return {
        "linear_in": e3nn_weights.split(before, inputs, inputs),
        "convolution": {
            "radial": radial,
            "linear_out": e3nn_weights.split(behind, middle, gated),
        },
        "self_connection": e3nn_weights.split(own, inputs, gated),
    }
