"""Potentials of mace-torch: weights in safetensors and the model's arguments in JSON.

A `.model` file is a pickle, which runs whatever it holds. Where torch and mace-torch are installed,
this turns one that is trusted into the two files:

    python -c "import json, sys, torch, safetensors.torch as s
    from mace.tools.scripts_utils import extract_config_mace_model as config
    m = torch.load(sys.argv[1], weights_only=False, map_location='cpu')
    s.save_file({k: v.contiguous() for k, v in m.state_dict().items()}, 'weights.safetensors')
    text = lambda x: x.tolist() if hasattr(x, 'tolist') else getattr(x, '__name__', str(x))
    json.dump(config(m), open('config.json', 'w'), default=text)" X.model

Symmetric contractions are kept in a basis without redundant couplings: the file's tensors U tell
how its weights translate.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlip_jax.config import UserError
from mlip_jax.interop.weights import e3nn_weights, mace_config, state_dict
from mlip_jax.interop.weights.state_dict import StateDict
from mlip_jax.models.mace import MACE
from mlip_jax.nn.equivariant import SILU_NORM
from mlip_jax.nn.irreps import SCALAR, Channels, Layout, harmonic, product_paths
from mlip_jax.nn.product_basis import product_table
from mlip_jax.nn.radial import SMOOTH_GAIN
from mlip_jax.potential import Potential

_ROUNDING = 1e-5
"""Largest remainder of tensors U outside of our couplings; files may be in float32."""


def read(files: Sequence[Path], head: str | None = None) -> Potential:
    """Reads a potential.

    Args:
        files: the config in JSON and the weights in safetensors, see above.
        head: which one of a model with several heads.

    Raises:
        UserError: for missing or damaged files, and for models that are not supported.
    """
    config, state = state_dict.config_and_state(files, "mace")
    model = mace_config.model(config)
    number, count = mace_config.head(config, head)
    layout = model.layout()
    num_species = len(model.species or ())
    width = layout[0].channels
    embedding = state["node_embedding.linear.weight"].reshape(num_species, width)
    mace_config.check_constants(state, model)
    params: dict[str, Any] = {"embedding": embedding / math.sqrt(num_species)}
    inputs: Layout = (Channels(SCALAR, width),)
    for i in range(model.num_layers):
        outputs = layout[:1] if i == model.num_layers - 1 else layout
        params[f"layer_{i}"] = _layer(state, i, model, inputs, outputs)
        deep = model.num_layers > 1 and i == model.num_layers - 1
        params[f"readout_{i}"] = _readout(state, f"readouts.{i}.", width, deep, number, count)
        inputs = outputs
    scale = float(np.atleast_1d(state["scale_shift.scale"])[number if count > 1 else 0])
    shift = float(np.atleast_1d(state["scale_shift.shift"])[number if count > 1 else 0])
    model = model.clone(energy_scale=scale, repulsion=scale * model.repulsion)
    free = np.atleast_2d(state["atomic_energies_fn.atomic_energies"])[number if count > 1 else 0]
    energies = free + shift + scale * _isolated(params, model)
    card = {"imported": {"format": "mace", "files": sorted(path.name for path in files)}}
    if count > 1:
        card["imported"]["head"] = config["heads"][number]
    references = dict(zip(model.species or (), map(float, energies), strict=True))
    return Potential(model, {"params": params}, references, card)


def _layer(
    state: StateDict, index: int, model: MACE, inputs: Layout, outputs: Layout
) -> dict[str, Any]:
    """Parameters of one interaction with its products."""
    interaction, products = f"interactions.{index}.", f"products.{index}."
    width = inputs[0].channels
    num_species = len(model.species or ())
    middle = tuple(Channels(harmonic(l), width) for l in range(model.max_ell + 1))
    paths = product_paths(inputs, model.max_ell, [c.irrep for c in middle])
    arriving = [0] * len(middle)
    for path in paths:
        arriving[path.target.degree] += width
    sums = tuple(Channels(c.irrep, n) for c, n in zip(middle, arriving, strict=True) if n)
    params = {
        "linear_in": e3nn_weights.split(state[interaction + "linear_up.weight"], inputs, inputs),
        "convolution": {
            "radial": _radial(state, interaction + "conv_tp_weights.", paths, width),
            "linear_out": e3nn_weights.split(state[interaction + "linear.weight"], sums, middle),
        },
        "products": _products(
            state, products + "symmetric_contractions.contractions.", model, len(outputs)
        ),
        "linear_products": e3nn_weights.split(state[products + "linear.weight"], outputs, outputs),
    }
    flat = state[interaction + "skip_tp.weight"]
    if index > 0 or model.residual_first:
        params["self_connection"] = e3nn_weights.split(flat, inputs, outputs, num_species)
    else:
        params["element_map"] = e3nn_weights.split(flat, middle, middle, num_species)
    if model.density_normalization:
        params["density"] = state[interaction + "density_fn.layer0.weight"][:, 0]
    return params


def _radial(state: StateDict, prefix: str, paths, width: int) -> dict[str, np.ndarray]:
    """Kernels of the radial network.

    Its activation has another gain here; its outputs are in the order of the targets there; and
    pair vectors point from the neighbour to the atom there, which turns harmonics by (-1)^l.
    """
    names = [name for name in state.names(prefix) if name.endswith("weight")]
    kernels = {}
    for i, name in enumerate(names):
        kernels[f"weight_{i}"] = state[name] * (SILU_NORM / SMOOTH_GAIN if i else 1.0)
    last = f"weight_{len(names) - 1}"
    kernel = e3nn_weights.by_path(kernels[last], paths, [width] * len(paths))
    signs = np.repeat([(-1.0) ** path.degree for path in paths], width)
    return {**kernels, last: kernel * signs}


def _products(state: StateDict, prefix: str, model: MACE, degrees: int) -> dict[str, np.ndarray]:
    """Weights of the symmetric contractions, translated into our couplings."""
    params = {}
    for order in range(1, model.correlation + 1):
        table = product_table(model.max_ell, order, tuple(range(degrees)))
        below = model.correlation - order - 1
        kind = "weights_max" if below < 0 else f"weights.{below}"
        for degree in range(degrees):
            part = f"{prefix}{degree}."
            tensor = state[f"{part}U_matrix_{order}"]
            ours = table.coefficients[degree].swapaxes(1, 2)
            theirs = _polynomials(tensor.reshape(-1, *tensor.shape[-order - 1 :]), table.factors)
            size = ours.shape[0] * ours.shape[1]
            ours, theirs = ours.reshape(size, -1), theirs.reshape(size, -1)
            translation = np.linalg.lstsq(ours, theirs)[0]
            if np.max(np.abs(ours @ translation - theirs), initial=0.0) > _ROUNDING:
                raise UserError(
                    f"{state.path}: got a {part}U_matrix_{order} that is not a sum of equivariant "
                    "couplings. The file is damaged or of another version."
                )
            params[f"weight_{degree}_{order}"] = np.einsum(
                "kp,zpc->zkc", translation, state[part + kind]
            )
    return params


def _polynomials(tensor: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Coefficients `[2 L + 1, products, couplings]` of tensors `[2 L + 1, …, couplings]`.

    Entries whose indices are the same but for their order belong to the same product.
    """
    components = tensor.shape[1]
    order = tensor.ndim - 2
    indices = np.indices((components,) * order).reshape(order, -1)
    weights = components ** np.arange(order)[::-1]
    keys = weights @ np.sort(indices, axis=0)
    known = {int(weights @ row): n for n, row in enumerate(factors)}
    places = np.array([known.get(int(key), len(factors)) for key in keys])
    entries = tensor.reshape(tensor.shape[0], -1, tensor.shape[-1])
    result = np.zeros((len(factors) + 1, tensor.shape[0], tensor.shape[-1]))
    np.add.at(result, places, entries.swapaxes(0, 1))
    return result[:-1].swapaxes(0, 1)


def _readout(
    state: StateDict, prefix: str, width: int, deep: bool, head: int, heads: int
) -> dict[str, np.ndarray]:
    """Kernels of the readout of one head."""
    if not deep:
        return {"weight_0": state[prefix + "linear.weight"].reshape(width, heads)[:, head, None]}
    hidden = state[prefix + "linear_1.weight"].reshape(width, heads, -1)[:, head]
    last = state[prefix + "linear_2.weight"].reshape(heads, -1, heads)[head, :, head, None]
    return {"weight_0": hidden, "weight_1": last / math.sqrt(heads)}


def _isolated(params: dict[str, Any], model: MACE) -> np.ndarray:
    """Energies of an isolated atom of each element, without scale; our model subtracts them."""
    features = params["embedding"]
    energies = np.zeros(len(features))
    for i in range(model.num_layers):
        layer, readout = params[f"layer_{i}"], params[f"readout_{i}"]
        if "self_connection" in layer:
            weight = layer["self_connection"][f"weight_{SCALAR}"]
            norm = math.sqrt(weight.shape[0] * weight.shape[1])
            features = np.einsum("zu,uzw->zw", features, weight) / norm
        else:
            features = np.zeros_like(features)
        x = features
        for k in range(len(readout)):
            weight = readout[f"weight_{k}"]
            x = SILU_NORM * x / (1.0 + np.exp(-x)) if k else x
            x = x @ weight / math.sqrt(len(weight))
        energies = energies + x[:, 0]
    return energies
