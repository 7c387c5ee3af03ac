"""Potentials of nequix: `.nqx` files, a line of JSON and then one array in numpy's format a weight.

The same may come as two files: the line with `parameter_shapes`, a mapping that names the arrays in
the order of the `.nqx` file, in JSON; and the arrays under these names in safetensors.

T. Koker et al., "Training a foundation model for materials on a budget", arXiv:2508.16067 (2025).
"""

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.interop.weights import e3nn_weights, nequip, state_dict
from mlip_jax.models.nequip import NequIP, reachable
from mlip_jax.nn.convolution import middle_layout
from mlip_jax.nn.equivariant import SILU_NORM, gate_inputs
from mlip_jax.nn.irreps import (
    SCALAR,
    Channels,
    Layout,
    hidden_layout,
    parse_layout,
    product_paths,
)
from mlip_jax.nn.radial import SMOOTH_GAIN
from mlip_jax.potential import Potential

_GAIN = 1.6765620560798837 / SILU_NORM
"""Of their activation over ours: e3nn-jax integrates the second moment, e3nn estimates it."""


def read(files: Sequence[Path]) -> Potential:
    """Reads a potential.

    Args:
        files: one `.nqx` file, or a `.json` and a `.safetensors` file, see above.

    Raises:
        UserError: for missing or damaged files, and for models that are not supported.
    """
    suffixes = sorted(path.suffix for path in files)
    if suffixes == [".json", ".safetensors"]:
        config, state = state_dict.config_and_state(files, "nequix")
        names = state_dict.given(config, "parameter_shapes", "nequix")
        model, energies, params = _contents(config, _Arrays(state.path, (state[n] for n in names)))
        state.check_all_taken()
    elif len(files) == 1:
        path = files[0]
        try:
            with path.open("rb") as file:
                config = _config(path, file.readline())
                model, energies, params = _contents(config, _Arrays(path, _stored(file)))
        except OSError as error:
            raise UserError(f"{path}: {error}.") from None
    else:
        raise UserError(
            f"nequix: got {len(files)} files {suffixes}; expected one .nqx file, or a .json and a "
            ".safetensors file."
        )
    shift = float(state_dict.given(config, "shift", "nequix"))
    references = energies + shift + model.energy_scale * nequip.isolated_energies(params)
    card = {"imported": {"format": "nequix", "files": sorted(path.name for path in files)}}
    energies = dict(zip(model.species or (), references.tolist(), strict=True))
    return Potential(model, {"params": params}, energies, card)


_DAMAGED = "The file is damaged or of another version."


class _Arrays:
    """The weights of a file, one after the other."""

    def __init__(self, path: Path, arrays: Iterator[np.ndarray]):
        self.path, self.arrays = path, arrays

    def take(self, what: str, shape: tuple[int, ...]) -> np.ndarray:
        """The next array.

        Raises:
            UserError: where it is not there or not of the shape.
        """
        try:
            array = next(self.arrays)
        except StopIteration:
            raise UserError(f"{self.path}: {what}: the file ends before it. {_DAMAGED}") from None
        except (ValueError, EOFError, OSError) as error:
            raise UserError(f"{self.path}: {what}: {error}. {_DAMAGED}") from None
        if array.shape != shape or array.dtype.kind != "f":
            raise UserError(
                f"{self.path}: {what}: got an array {list(array.shape)} of {array.dtype}; expected "
                f"{list(shape)} of floats. {_DAMAGED}"
            )
        return array.astype(np.float64)

    def linear(
        self, what: str, rows: Sequence[Channels], columns: Layout, *leading: int
    ) -> dict[str, np.ndarray]:
        """Kernels of a linear map, one for each irrep that rows and columns share."""
        widths = dict(columns)
        return {
            f"weight_{irrep}": self.take(f"{what} of {irrep}", (*leading, size, widths[irrep]))
            for irrep, size in rows
            if irrep in widths
        }

    def end(self) -> None:
        """Raises: UserError where something is left."""
        try:
            next(self.arrays)
        except StopIteration:
            return
        except (ValueError, EOFError, OSError):
            pass  # not an array, but not the end either
        raise UserError(f"{self.path}: got more than the weights of the model. {_DAMAGED}")


def _stored(file: BufferedReader) -> Iterator[np.ndarray]:
    """The arrays of an open `.nqx` file after its first line."""
    while file.peek(1):
        yield np.load(file, allow_pickle=False)


def _contents(config: dict[str, Any], arrays: _Arrays) -> tuple[NequIP, np.ndarray, dict[str, Any]]:
    """The model, the energies [eV] that it adds to each element's, and its parameters."""
    model, hidden = _model(config)
    energies = arrays.take("atomic energies", (len(model.species or ()),))
    params = _params(arrays, model, hidden)
    arrays.end()
    return model, energies, params


def _config(path: Path, line: bytes) -> dict[str, Any]:
    try:
        config = json.loads(line)
    except (UnicodeDecodeError, json.JSONDecodeError):
        config = None
    if not isinstance(config, dict):
        raise UserError(
            f"{path}, line 1: expected the config of a nequix model in JSON. {_DAMAGED}"
        )
    return config


def _model(config: dict[str, Any]) -> tuple[NequIP, Layout]:
    def given(name: str) -> Any:
        return state_dict.given(config, name, "nequix")

    hidden = parse_layout(given("hidden_irreps"))
    channels = tuple(c.channels for c in hidden)
    if hidden != hidden_layout(channels, parity=False) or len(channels) != given("lmax") + 1:
        raise UserError(
            f"nequix: got the irreps {given('hidden_irreps')} with lmax {given('lmax')}; expected "
            "one of each degree from 0e to lmax, of the parity of the harmonics."
        )
    species = tuple(elements.atomic_number(int(z)) for z in given("atomic_numbers"))
    exponent = float(given("radial_polynomial_p"))
    if exponent != int(exponent):
        raise UserError(f"nequix: got radial_polynomial_p = {exponent}; expected a whole number.")
    model = NequIP(
        species=species,
        cutoff=float(given("cutoff")),
        num_layers=int(given("n_layers")),
        l_max=int(given("lmax")),
        parity=False,
        num_features=channels,
        type_embed_num_features=len(species),
        num_bessels=int(given("radial_basis_size")),
        polynomial_cutoff_p=int(exponent),
        radial_mlp_depth=int(given("radial_mlp_layers")),
        radial_mlp_width=int(given("radial_mlp_size")),
        avg_num_neighbors=float(given("avg_n_neighbors")),
        energy_scale=float(given("scale")),
        self_connection="element" if config.get("index_weights", False) else "linear",
        first_self_connection=True,
        layer_norm=bool(config.get("layer_norm", False)),
    )
    return model, hidden


def _params(arrays: _Arrays, model: NequIP, hidden: Layout) -> dict[str, Any]:
    """Parameters, in the order of the file."""
    count = len(model.species or ())
    params: dict[str, Any] = {"embedding": np.eye(count)}
    layout: Layout = (Channels(SCALAR, count),)
    for i in range(model.num_layers):
        last = i == model.num_layers - 1
        outputs = reachable(layout, model.l_max, hidden[:1] if last else hidden)
        params[f"block_{i}"] = _block(arrays, model, layout, outputs, f"block {i}")
        for name in ("linear_in", "self_connection") if i else ():
            for weight in params[f"block_{i}"][name].values():
                weight *= _GAIN
        layout = outputs
    params["readout"] = _GAIN * arrays.take("readout", (layout[0].channels, 1))
    params["scale"] = np.full(count, model.energy_scale)
    return params


def _block(
    arrays: _Arrays, model: NequIP, inputs: Layout, outputs: Layout, where: str
) -> dict[str, Any]:
    """Parameters of a block, whose inputs come from activations like ours."""
    gated = gate_inputs(outputs)
    paths = product_paths(inputs, model.l_max, [c.irrep for c in gated])
    channels = [inputs[p.source].channels for p in paths]
    middle = sorted(middle_layout(paths, channels), key=lambda c: e3nn_weights.rank(c.irrep))
    hidden = [model.radial_mlp_width] * model.radial_mlp_depth
    radial: dict[str, np.ndarray] = {}
    shapes = itertools.pairwise([model.num_bessels, *hidden, sum(channels)])
    for k, shape in enumerate(shapes):
        weight = arrays.take(f"{where}, radial network", shape)
        radial[f"weight_{k}"] = weight * math.sqrt(shape[0]) / (SMOOTH_GAIN if k else 1.0)
    last = f"weight_{len(hidden)}"
    radial[last] = e3nn_weights.by_path(radial[last], paths, channels)
    linear_in = arrays.linear(f"{where}, first map", inputs, inputs)
    linear_out = arrays.linear(f"{where}, second map", middle, gated)
    params: dict[str, Any] = {
        "linear_in": linear_in,
        "convolution": {"radial": radial, "linear_out": linear_out},
        "self_connection": _self_connection(arrays, model, inputs, gated, where),
    }
    if model.layer_norm:
        params["layer_norm"] = {
            f"weight_{irrep}": arrays.take(f"{where}, layer norm", (size,)) for irrep, size in gated
        }
    return params


def _self_connection(
    arrays: _Arrays, model: NequIP, inputs: Layout, gated: Layout, where: str
) -> dict[str, np.ndarray]:
    what = f"{where}, skip connection"
    if model.self_connection == "linear":
        return arrays.linear(what, inputs, gated)
    count = len(model.species or ())  # [species, in, out] there, not over the root of their number
    kernels = arrays.linear(what, inputs, gated, count)
    return {name: math.sqrt(count) * x.swapaxes(0, 1) for name, x in kernels.items()}
