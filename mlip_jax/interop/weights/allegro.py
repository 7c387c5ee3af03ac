"""Potentials of the program nequip-allegro (0.8): weights in safetensors, and arguments in JSON.

The arrays are those of the state dict of an `AllegroModel`; the arguments are the ones it was made
with, below its name in the program's config. Widths of networks are those of the arrays.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.interop.weights import state_dict
from mlip_jax.interop.weights.state_dict import StateDict
from mlip_jax.models.allegro import Allegro
from mlip_jax.models.allegro_tensors import coupling, layer_paths, tensor_layouts
from mlip_jax.nn import irreps
from mlip_jax.nn.irreps import Layout
from mlip_jax.potential import Potential

_PREFIX = "model.func."
_EMBEDDING = f"{_PREFIX}radial_chemical_embed."

_FIXED = {
    "scalar_embed_mlp_nonlinearity": "silu",
    "allegro_mlp_nonlinearity": "silu",
    "readout_mlp_nonlinearity": "silu",
    "per_edge_type_cutoff": None,
    "pair_potential": None,
    "weight_individual_irreps": True,
    "forward_normalize": True,
}
"""Arguments that only these values are read of."""

_BASIS = "allegro.nn.TwoBodyBesselScalarEmbed"

_ROUNDING = 1e-5
"""Relative difference of constants in the files, which may be in float32."""


def read(files: Sequence[Path]) -> Potential:
    """Reads a potential.

    Args:
        files: the arguments in JSON and the weights in safetensors, see above.

    Raises:
        UserError: for missing or damaged files, and for models that are not supported.
    """
    config, state = state_dict.config_and_state(files, "allegro")
    model = _model(config, state)
    params = _params(state, model)
    energies = _per_species(state, "shifts", model, 0.0)
    params["scale"] = _per_species(state, "scales", model, 1.0)
    state.ignore(["model._empty"])
    state.check_all_taken()
    card = {"imported": {"format": "allegro", "files": sorted(path.name for path in files)}}
    references = dict(zip(model.species or (), map(float, energies), strict=True))
    return Potential(model, {"params": params}, references, card)


def _model(config: Mapping[str, Any], state: StateDict) -> Allegro:
    """The model of a config, with the widths of the arrays."""

    def given(name: str) -> Any:
        return state_dict.given(config, name, "allegro")

    for name, value in _FIXED.items():
        if config.get(name, value) != value:
            raise UserError(
                f"allegro: got {name} = {config[name]!r}; only {value!r} is supported. This model "
                "cannot be read."
            )
    radial = given("radial_chemical_embed")
    if radial.get("_target_") != _BASIS:
        raise UserError(
            f"allegro: got radial_chemical_embed {radial.get('_target_')}; only {_BASIS} is "
            "supported. This model cannot be read."
        )
    names = given("type_names")
    neighbors = given("avg_num_neighbors")
    if isinstance(neighbors, Mapping):
        neighbors = tuple(float(neighbors[name]) for name in names)
    return Allegro(
        species=tuple(elements.atomic_number(name) for name in names),
        cutoff=float(given("r_max")),
        num_layers=int(given("num_layers")),
        l_max=int(given("l_max")),
        parity=bool(config.get("parity", True)),
        num_scalar_features=int(given("num_scalar_features")),
        num_tensor_features=int(given("num_tensor_features")),
        embedding_features=state[f"{_EMBEDDING}type_embed.basis_linear.mlp.0.weight"].shape[1],
        num_bessels=int(radial.get("num_bessels", 8)),
        bessel_trainable=bool(radial.get("bessel_trainable", False)),
        polynomial_cutoff_p=int(radial.get("polynomial_cutoff_p", 6)),
        two_body_mlp=_hidden_widths(state, "scalar_embed_mlp.mlp_module"),
        latent_mlp=_hidden_widths(state, "allegro.latents.0"),
        readout_mlp=_hidden_widths(state, "edge_readout.mlp_module"),
        tp_path_channel_coupling=bool(config.get("tp_path_channel_coupling", True)),
        avg_num_neighbors=neighbors if isinstance(neighbors, tuple) else float(neighbors),
        energy_scale=1.0,
    )


def _layers(state: StateDict, name: str) -> list[str]:
    """Names of the kernels of a network, in order."""
    prefix = f"{_PREFIX}{name}.mlp."
    found = [n for n in state.names(prefix) if n.endswith(".weight")]
    return sorted(found, key=lambda n: int(n.removeprefix(prefix).partition(".")[0]))


def _hidden_widths(state: StateDict, name: str) -> tuple[int, ...]:
    return tuple(state[kernel].shape[1] for kernel in _layers(state, name)[:-1])


def _network(
    state: StateDict, name: str, *widths: int, weights: int = 0, channels: int = 1
) -> dict[str, np.ndarray]:
    """Kernels of a network.

    Args:
        state: arrays by name.
        name: of the network.
        *widths: numbers of inputs, hidden units and outputs.
        weights: so many outputs at the end are weights of harmonics.
        channels: whose degrees they have side by side there; here a degree has its channels.
    """
    names = _layers(state, name)
    if len(names) != len(widths) - 1:
        raise UserError(
            f"{state.path}: {name}: got {len(names)} layers; expected {len(widths) - 1}. Do the "
            "weights belong to this config?"
        )
    shapes = itertools.pairwise(widths)
    arrays = [state.take(n, shape) for n, shape in zip(names, shapes, strict=True)]
    if weights:
        first = widths[-1] - weights
        own, of_harmonics = arrays[-1][:, :first], arrays[-1][:, first:]
        by_channel = of_harmonics.reshape(len(own), channels, -1)
        by_degree = by_channel.swapaxes(1, 2).reshape(len(own), -1)
        arrays[-1] = np.concatenate([own, by_degree], axis=1)
    return {f"weight_{i}": array for i, array in enumerate(arrays)}


def _params(state: StateDict, model: Allegro) -> dict[str, Any]:
    """All parameters but the scales."""
    size, channels = model.num_scalar_features, model.num_tensor_features
    weights = (model.l_max + 1) * channels
    width = model.embedding_features or size
    kinds = (len(model.species or ()), width // 2)
    params: dict[str, Any] = _frequencies(state, model)
    params["centre"] = state.take(f"{_EMBEDDING}type_embed.center_embed.weight", kinds)
    params["neighbor"] = state.take(f"{_EMBEDDING}type_embed.neighbor_embed.weight", kinds)
    basis = "radial_chemical_embed.type_embed.basis_linear"
    params["basis"] = _network(state, basis, model.num_bessels, width)
    two_body = "scalar_embed_mlp.mlp_module"
    params["two_body"] = _network(state, two_body, width, *model.two_body_mlp, size)
    to_harmonics = {"weights": weights, "channels": channels}
    tensors = "tensor_embed.env_embed_linear"
    params["tensors"] = _network(state, tensors, size, weights, **to_harmonics)
    projection = "allegro.first_layer_env_embed_projection"
    params["projection"] = _network(state, projection, size, size + weights, **to_harmonics)
    for i in range(model.num_layers):
        inputs = (i + 1) * size + channels
        own = {} if i == model.num_layers - 1 else to_harmonics
        widths = (inputs, *model.latent_mlp, size + own.get("weights", 0))
        params[f"layer_{i}"] = _network(state, f"allegro.latents.{i}", *widths, **own)
    readout = ((model.num_layers + 1) * size, *model.readout_mlp, 1)
    params["readout"] = _network(state, "edge_readout.mlp_module", *readout)
    return params | _products(state, model)


def _products(state: StateDict, model: Allegro) -> dict[str, np.ndarray]:
    """Weights of the products, which the program has in the order of the results.

    Its table of couplings says which path a weight belongs to; it is compared with ours.
    """
    channels = model.num_tensor_features
    layouts = tensor_layouts(model.l_max, channels, model.parity, model.num_layers)
    params = {}
    for i in range(model.num_layers):
        inputs, outputs = layouts[i], layouts[i + 1]
        paths = layer_paths(inputs, outputs, model.l_max)
        targets = [c.irrep for c in outputs]
        order = sorted(range(len(paths)), key=lambda k, p=paths, t=targets: t.index(p[k].target))
        prefix = f"{_PREFIX}allegro.tps.{i}."
        table = _table([paths[k] for k in order], inputs, outputs, model.l_max)
        found = state[f"{prefix}w3j"]
        if found.size != table.size:  # the program keeps a diagonal in two components alone
            table = np.einsum("piik->pik", table)
        if found.size != table.size or not np.allclose(
            found.reshape(table.shape), table, atol=_ROUNDING
        ):
            raise UserError(
                f"{state.path}: {prefix}w3j: got other products of irreps than those of l_max = "
                f"{model.l_max}, parity = {model.parity}. Do the weights belong to this config?"
            )
        shape = (*([channels] if model.tp_path_channel_coupling else []), len(paths))
        weights = state.take(f"{prefix}weights", shape if len(paths) > 1 else shape[:-1])
        by_path = weights.reshape(-1, len(paths)).T
        params[f"product_{i}"] = by_path[np.argsort(order)]
    return params


def _table(paths: Sequence[irreps.Path], inputs: Layout, outputs: Layout, l_max: int) -> np.ndarray:
    """Couplings `[paths, components of inputs, of harmonics, of outputs]`."""
    starts = [
        np.cumsum([0, *(c.irrep.dim for c in layout)]).tolist() for layout in (inputs, outputs)
    ]
    targets = [c.irrep for c in outputs]
    table = np.zeros((len(paths), starts[0][-1], (l_max + 1) ** 2, starts[1][-1]))
    for row, path in zip(table, paths, strict=True):
        source, target = inputs[path.source].irrep, path.target
        s, t, l = starts[0][path.source], starts[1][targets.index(target)], path.degree
        block = coupling(source.degree, l, target.degree)
        row[s : s + source.dim, l * l : (l + 1) ** 2, t : t + target.dim] = block
    return table


def _frequencies(state: StateDict, model: Allegro) -> dict[str, np.ndarray]:
    """Frequencies of the radial basis, where they are trained.

    Raises:
        UserError: where constants are not those of the config.
    """
    frequencies = state.take(f"{_EMBEDDING}bessel_encode.bessel_weights", (1, model.num_bessels))[0]
    expected = {f"{_PREFIX}edge_norm._rmax_recip": np.array(1.0 / model.cutoff)}
    if not model.bessel_trainable:
        name = f"{_EMBEDDING}bessel_encode.bessel_weights"
        expected[name] = np.arange(1, model.num_bessels + 1)[None]
    for name, value in expected.items():
        found = state.take(name, value.shape)
        if not np.allclose(found, value, rtol=_ROUNDING):
            raise UserError(
                f"{state.path}: {name}: got {found.tolist()}; expected {value.tolist()}, as the "
                "config says. Do the weights belong to this config?"
            )
    return {"frequencies": frequencies} if model.bessel_trainable else {}


def _per_species(state: StateDict, name: str, model: Allegro, default: float) -> np.ndarray:
    """Scales or shifts [eV] of the energies of each element; the program may have one, or none."""
    count = len(model.species or ())
    found = state[f"{_PREFIX}per_type_energy_scale_shift.{name}"].ravel()
    if found.size not in (0, 1, count):
        raise UserError(
            f"{state.path}: {name}: got {found.size} numbers for {count} elements. Do the weights "
            "belong to this config?"
        )
    return np.broadcast_to(found if found.size else np.array(default), (count,)).copy()
