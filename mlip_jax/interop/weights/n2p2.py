"""High-dimensional neural network potentials of n2p2 and RuNNer.

Files: `input.nn`, `scaling.data`, and `weights.ZZZ.data` for each element; documentation of n2p2,
and Singraber, Behler & Dellago, J. Chem. Theory Comput. 15, 1827 (2019).

There every element has symmetry functions of its own. Here the descriptor computes all that any
element has, and the scaling constants of those that an element lacks are zero.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlip_jax.config import UserError
from mlip_jax.descriptors.acsf import SymmetryFunctions
from mlip_jax.descriptors.symmetry_functions import Angular, Radial
from mlip_jax.interop.weights.lines import Lines
from mlip_jax.interop.weights.n2p2_settings import (
    ACTIVATIONS,
    Function,
    Settings,
    read_settings,
)
from mlip_jax.models.local import Local
from mlip_jax.nn.mlp import ElementMLP
from mlip_jax.potential import Potential

LENGTHS = {"bohr": 1.0 / 1.8897261328, "angstrom": 1.0}
"""Units of length in Å, with the factor of published inputs for LAMMPS (`cflength`)."""

ENERGIES = {"hartree": 1.0 / 0.0367493254, "eV": 1.0}
"""Units of energy in eV, with the factor of published inputs for LAMMPS (`cfenergy`)."""

_SMALL = -6.0
"""Logarithm of a Gaussian's size in the data below which it gets another unit."""

Layers = list[tuple[np.ndarray, np.ndarray]]
"""Kernel `[in, out]` and bias `[out]` of each layer."""


def read(files: Sequence[Path], length: str = "bohr", energy: str = "hartree") -> Potential:
    """Reads a short-range potential of n2p2 or RuNNer.

    Args:
        files: `input.nn`, `scaling.data` and a `weights.ZZZ.data` for each element.
        length: unit of the files, see `LENGTHS`; they do not say.
        energy: likewise, see `ENERGIES`.

    Returns:
        The potential. The energy that the network gives an isolated atom, `mean_energy` and
        `atom_energy` are in the reference energies.

    Raises:
        UserError: naming file and line of what is damaged, missing or not supported.
    """
    angstrom, ev = _unit("length", length, LENGTHS), _unit("energy", energy, ENERGIES)
    paths = {Path(file).name: Path(file) for file in files}
    settings = read_settings(_path(paths, "input.nn"))
    scaling = _scaling(settings, _path(paths, "scaling.data"))
    networks = [
        read_network(_path(paths, f"weights.{z:03d}.data"), settings, z) for z in settings.species
    ]
    listed = {f for functions in settings.functions.values() for f in functions}
    union = sorted(listed, key=lambda f: (not f.is_radial, f))
    descriptor = _descriptor(settings, union, angstrom)
    variables = _variables(settings, union, scaling, networks)
    descriptor, variables["constants"] = _representable(descriptor, variables["constants"])
    hidden = tuple(np.max([settings.widths(z) for z in settings.species], axis=0).tolist())
    network = ElementMLP(hidden, tuple(ACTIVATIONS[a] for a in settings.activations[:-1]))
    scale = ev / settings.normalization.get("conv_energy", 1.0)
    model = Local(descriptor, network, energy_scale=scale)
    mean = settings.normalization.get("mean_energy", 0.0) * ev
    alone = scale * _isolated_outputs(network, variables) + mean
    references = {
        z: float(e) + settings.offsets.get(z, 0.0) * ev
        for z, e in zip(settings.species, alone, strict=True)
    }
    units = {"length": length, "energy": energy}
    card = {"imported": {"format": "n2p2", "files": sorted(paths), "units": units}}
    return Potential(model, variables, references, card)


def read_scaling(path: Path, counts: Sequence[int]) -> list[np.ndarray]:
    """Reads a `scaling.data`.

    Args:
        path: of the file.
        counts: number of symmetry functions of each element.

    Returns:
        Minimum, maximum, mean and, where the file has it, deviation of the functions of each
        element, `[functions, 3 or 4]`.
    """
    lines = Lines(path)
    tables = []
    for element, count in enumerate(counts, 1):
        rows = []
        for function in range(1, count + 1):
            expected = f"function {function} of {count} of element {element}"
            words = lines.next(f"{expected}: minimum, maximum, mean, deviation", 5)
            if words[:2] != [str(element), str(function)]:
                raise lines.error(f"got {' '.join(words[:2])!r}; expected {expected}")
            rows.append([lines.number(word) for word in words[2:6]])
            if rows[-1][0] >= rows[-1][1]:
                raise lines.error(f"got the range {words[2]} to {words[3]}; expected a wider one")
        tables.append(np.array(rows))
    return tables


def read_network(path: Path, settings: Settings, species: int) -> Layers:
    """Reads the `weights.ZZZ.data` of an element; the indices in the lines say what is what."""
    widths = (len(settings.functions[species]), *settings.widths(species), 1)
    layers = [(np.full((n, m), np.nan), np.full(m, np.nan)) for n, m in itertools.pairwise(widths)]
    lines = Lines(path)
    while words := lines.next(None):
        value = lines.number(words[0])
        match words[1:]:
            case ["a", _, layer, start, _, end, *_]:
                place = [lines.integer(word) for word in (layer, start, end)]
                array, index = _layer(layers, place[0])[0], (place[1] - 1, place[2] - 1)
            case ["b", _, layer, end, *_]:
                array, index = (
                    _layer(layers, lines.integer(layer) - 1)[1],
                    (lines.integer(end) - 1,),
                )
            case _:
                raise lines.error(f"got {' '.join(words)!r}; expected a value, a or b, and indices")
        if array.size == 0 or min(index) < 0 or any(np.array(index) >= array.shape):
            shape = "-".join(str(width) for width in widths)
            raise lines.error(f"got {' '.join(words[1:])!r}, outside a network of {shape} nodes")
        array[index] = value
    for number, layer in enumerate(layers):
        missing = sum(int(np.isnan(array).sum()) for array in layer)
        if missing:
            raise UserError(
                f"{path}, line {lines.number_of_line}: the file ends, and {missing} values between "
                f"layers {number} and {number + 1} are missing."
            )
    if settings.normalize_nodes:
        layers = [(kernel / len(kernel), bias / len(kernel)) for kernel, bias in layers]
    return layers


def _layer(layers: Layers, number: int) -> tuple[np.ndarray, np.ndarray]:
    return layers[number] if 0 <= number < len(layers) else (np.empty((0, 0)), np.empty(0))


def _unit(what: str, name: str, known: dict[str, float]) -> float:
    if name not in known:
        raise UserError(f"n2p2: got the {what} unit {name!r}; expected one of {', '.join(known)}.")
    return known[name]


def _path(paths: dict[str, Path], name: str) -> Path:
    if name not in paths:
        got = ", ".join(sorted(paths)) or "no files"
        raise UserError(f"n2p2: got {got}; {name} is missing.")
    return paths[name]


def _descriptor(settings: Settings, union: list[Function], length: float) -> SymmetryFunctions:
    functions = [f.converted(length) for f in union]
    return SymmetryFunctions(
        tuple(f for f in functions if isinstance(f, Radial)),
        tuple(f for f in functions if isinstance(f, Angular)),
        settings.species,
        settings.envelope,
        settings.plateau if settings.envelope != "tanh_cubed" else 0.0,
        double_sums=True,
    )


def _representable(
    descriptor: SymmetryFunctions, constants: dict[str, np.ndarray]
) -> tuple[SymmetryFunctions, dict[str, np.ndarray]]:
    """Functions that are tiny in the data, with Gaussians in a unit in which float32 holds them.

    Functions of one radial part keep one in common.
    """
    functions = [*descriptor.radial, *descriptor.angular]
    logarithms = -np.log(np.maximum(constants["factor"].max(axis=0), 1e-300))
    powers = np.array([_powers(f) for f in functions])
    largest: dict[tuple, float] = {}
    for f, logarithm, power in zip(functions, logarithms, powers, strict=True):
        key = (power, f.eta, f.r_shift, f.cutoff)
        largest[key] = max(largest.get(key, -np.inf), logarithm / power)
    exponents = np.zeros(len(functions))
    for k, (f, power) in enumerate(zip(functions, powers, strict=True)):
        found = largest[(power, f.eta, f.r_shift, f.cutoff)]
        if found < _SMALL and f.eta > 0.0:
            exponents[k] = -found
            unit = f.r_shift + float(np.sqrt(-found / f.eta))
            functions[k] = dataclasses.replace(f, r_unit=unit)
    scale = np.exp(powers * exponents)
    number = len(descriptor.radial)
    rescaled = descriptor.clone(radial=tuple(functions[:number]), angular=tuple(functions[number:]))
    return rescaled, {"shift": constants["shift"] * scale, "factor": constants["factor"] / scale}


def _powers(function: Radial | Angular) -> int:
    """How many Gaussians a function multiplies."""
    if isinstance(function, Radial):
        return 1
    return 3 if function.narrow else 2


def _scaling(settings: Settings, path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Shift and factor of the functions of each element: Singraber et al. (2019), section 2.3."""
    low, high = settings.limits
    scaled, centred, sigma = (
        keyword in settings.scalings
        for keyword in (
            "scale_symmetry_functions",
            "center_symmetry_functions",
            "scale_symmetry_functions_sigma",
        )
    )
    result = []
    for table in read_scaling(path, [len(settings.functions[z]) for z in settings.species]):
        lowest, highest, mean = table[:, 0], table[:, 1], table[:, 2]
        origin, spread = np.zeros_like(mean), np.ones_like(mean)
        if scaled:
            origin, spread = mean if centred else lowest, highest - lowest
        elif centred:
            origin = mean
        elif sigma:
            if table.shape[1] < 4 or (table[:, 3] <= 0.0).any():
                raise UserError(f"{path}: expected a deviation, above 0, in column 6.")
            origin, spread = mean, table[:, 3]
        if scaled or sigma:
            spread = spread / (high - low)
            origin = origin - low * spread
        result.append((origin, 1.0 / spread))
    return result


def _variables(
    settings: Settings,
    union: list[Function],
    scaling: list[tuple[np.ndarray, np.ndarray]],
    networks: list[Layers],
) -> dict[str, Any]:
    """Variables of the local model: networks of all elements, padded to one shape with zeros."""
    number = len(settings.species)
    shift, factor = np.zeros((number, len(union))), np.zeros((number, len(union)))
    parameters = {}
    for layer in range(len(networks[0])):
        widths = np.max([network[layer][0].shape for network in networks], axis=0)
        inputs = len(union) if layer == 0 else widths[0]
        parameters[f"kernel_{layer}"] = np.zeros((number, inputs, widths[1]))
        parameters[f"bias_{layer}"] = np.zeros((number, widths[1]))
    for e, z in enumerate(settings.species):
        columns = [union.index(f) for f in settings.functions[z]]
        shift[e, columns], factor[e, columns] = scaling[e]
        for layer, (kernel, bias) in enumerate(networks[e]):
            rows = columns if layer == 0 else list(range(len(kernel)))
            parameters[f"kernel_{layer}"][e, rows, : len(bias)] = kernel
            parameters[f"bias_{layer}"][e, : len(bias)] = bias
    return {
        "params": {"regressor": parameters},
        "constants": {"shift": shift, "factor": factor},
    }


def _isolated_outputs(network: ElementMLP, variables: dict[str, Any]) -> np.ndarray:
    """Output of each element's network for an atom without neighbours, in float64."""
    constants = variables["constants"]
    features = -constants["shift"] * constants["factor"]
    number = len(features)
    with jax.enable_x64(True):
        parameters = {"params": variables["params"]["regressor"]}
        outputs = network.apply(parameters, jnp.asarray(features), jnp.arange(number), number)
        return np.asarray(outputs)
