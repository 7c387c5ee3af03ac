"""High-dimensional neural network potentials of n2p2 and RuNNer.

Files: `input.nn`, `scaling.data`, and `weights.ZZZ.data` for each element; documentation of n2p2,
and Singraber, Behler & Dellago, J. Chem. Theory Comput. 15, 1827 (2019). With charge equilibration
(4G-HDNNP) also `weightse.ZZZ.data` and `hardness.ZZZ.data`.

There every element has symmetry functions of its own. Here the descriptor computes all that any
element has, and the scaling constants of those that an element lacks are zero.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlip_jax.config import UserError
from mlip_jax.descriptors.acsf import SymmetryFunctions
from mlip_jax.descriptors.symmetry_functions import Angular, Radial
from mlip_jax.interop.weights.lines import Lines
from mlip_jax.interop.weights.n2p2_charges import read_hardness
from mlip_jax.interop.weights.n2p2_settings import (
    ACTIVATIONS,
    Function,
    Settings,
    read_settings,
)
from mlip_jax.models.hdnnp_4g import HDNNP4G
from mlip_jax.models.local import Local
from mlip_jax.nn.mlp import ElementMLP
from mlip_jax.potential import Potential

LENGTHS = {"bohr": 1.0 / 1.8897261328, "angstrom": 1.0}
"""Units of length in Å, with the factor of published inputs for LAMMPS (`cflength`)."""

ENERGIES = {"hartree": 1.0 / 0.0367493254, "eV": 1.0}
"""Units of energy in eV, with the factor of published inputs for LAMMPS (`cfenergy`)."""

ACCURACY = 1e-12
"""Of sums in reciprocal space: published inputs leave errors of up to 1e-3 e in the charges."""

Layers = list[tuple[np.ndarray, np.ndarray]]
"""Kernel `[in, out]` and bias `[out]` of each layer."""


def read(files: Sequence[Path], length: str = "bohr", energy: str = "hartree") -> Potential:
    """Reads a potential of n2p2 or RuNNer, of the second or the fourth generation.

    Args:
        files: `input.nn`, `scaling.data` and a `weights.ZZZ.data` for each element; with charge
            equilibration a `weightse.ZZZ.data` and a `hardness.ZZZ.data`, too.
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
    scale = ev / settings.normalization.get("conv_energy", 1.0)
    charged = settings.generation == 4
    union, constants = _scaled_functions(settings, _path(paths, "scaling.data"))
    short = _networks(settings, paths, "weights", settings.widths, charged)
    network, parameters = _stacked(settings, settings.activations, union, short)
    local = Local(_descriptor(settings, union, angstrom), network, energy_scale=scale)
    mean = settings.normalization.get("mean_energy", 0.0) * ev
    alone = scale * _isolated_outputs(network, parameters, constants) + mean
    references = {
        z: float(e) + settings.offsets.get(z, 0.0) * ev
        for z, e in zip(settings.species, alone, strict=True)
    }
    model, variables = local, {"params": {"regressor": parameters}, "constants": constants}
    if charged:
        model, variables = _with_charges(
            settings, paths, union, local, variables, angstrom=angstrom, ev=ev
        )
    units = {"length": length, "energy": energy}
    card = {"imported": {"format": "n2p2", "files": sorted(paths), "units": units}}
    return Potential(model, variables, references, card)


def _with_charges(
    settings: Settings,
    paths: dict[str, Path],
    union: list[Function],
    short: Local,
    variables: dict[str, Any],
    angstrom: float,
    ev: float,
) -> tuple[HDNNP4G, dict[str, Any]]:
    """The model with charge equilibration, of the short-range part and further files."""
    said = settings.equilibration
    layers = _networks(settings, paths, "weightse", said.hidden, extra_input=False)
    network, parameters = _stacked(settings, said.activations, union, layers)
    hardness = [read_hardness(_path(paths, f"hardness.{z:03d}.data")) for z in settings.species]
    screening = None
    if said.screening is not None:
        screening = (said.screening[0] * angstrom, said.screening[1] * angstrom)
    model = HDNNP4G(
        electronegativity=Local(short.descriptor, network, energy_scale=ev, isolated_zero=False),
        short_range=short.regressor,
        widths=tuple(said.widths[z] * angstrom for z in settings.species),
        screening=screening,
        screening_form=said.screening_form,
        energy_scale=ev,
        accuracy=ACCURACY,
        coulomb=ev * angstrom / said.four_pi_epsilon,
    )
    return model, {
        "params": {
            "electronegativity": {"regressor": parameters},
            "short_range": variables["params"]["regressor"],
            "hardness_root": np.sqrt(np.array(hardness) * ev),
        },
        "constants": {"electronegativity": variables["constants"]},
    }


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


def read_network(path: Path, widths: Sequence[int], normalize_nodes: bool = False) -> Layers:
    """Reads the `weights.ZZZ.data` of an element.

    Indices in the lines say what is what; without indices values come layer by layer, weights
    before biases, the weights of one input together.

    Args:
        path: of the file.
        widths: nodes of each layer, inputs and output included.
        normalize_nodes: whether sums are divided by the number of inputs.

    Raises:
        UserError: naming file and line of what is damaged.
    """
    layers = [(np.full((n, m), np.nan), np.full(m, np.nan)) for n, m in itertools.pairwise(widths)]
    order = [
        (array, index) for layer in layers for array in layer for index in np.ndindex(array.shape)
    ]
    lines = Lines(path)
    count = 0
    while words := lines.next(None):
        value = lines.number(words[0])
        shape = "-".join(str(width) for width in widths)
        match words[1:]:
            case [] if count < len(order):
                array, index = order[count]
            case []:
                raise lines.error(f"got more than the {len(order)} values of a network of {shape}")
            case ["a", _, layer, start, _, end, *_]:
                place = [lines.integer(word) for word in (layer, start, end)]
                array, index = _layer(layers, place[0])[0], (place[1] - 1, place[2] - 1)
            case ["b", _, layer, end, *_]:
                number = lines.integer(layer) - 1
                array, index = _layer(layers, number)[1], (lines.integer(end) - 1,)
            case _:
                raise lines.error(f"got {' '.join(words)!r}; expected a value, a or b, and indices")
        if array.size == 0 or min(index) < 0 or any(np.array(index) >= array.shape):
            got = " ".join(words[1:])
            raise lines.error(f"got {got!r}, outside a network of {shape} nodes")
        array[index] = value
        count += 1
    _check_complete(lines, layers)
    if normalize_nodes:
        layers = [(kernel / len(kernel), bias / len(kernel)) for kernel, bias in layers]
    return layers


def _check_complete(lines: Lines, layers: Layers) -> None:
    for number, layer in enumerate(layers):
        missing = sum(int(np.isnan(array).sum()) for array in layer)
        if missing:
            raise UserError(
                f"{lines.path}, line {lines.number_of_line}: the file ends, and {missing} values "
                f"between layers {number} and {number + 1} are missing."
            )


def _layer(layers: Layers, number: int) -> tuple[np.ndarray, np.ndarray]:
    return layers[number] if 0 <= number < len(layers) else (np.empty((0, 0)), np.empty(0))


def _networks(
    settings: Settings,
    paths: dict[str, Path],
    name: str,
    hidden: Callable[[int], tuple[int, ...]],
    extra_input: bool,
) -> list[Layers]:
    """The networks `name.ZZZ.data` of all elements, with the charge as a last input or without."""
    return [
        read_network(
            _path(paths, f"{name}.{z:03d}.data"),
            (len(settings.functions[z]) + extra_input, *hidden(z), 1),
            settings.normalize_nodes,
        )
        for z in settings.species
    ]


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
    )


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


def _scaled_functions(
    settings: Settings, path: Path
) -> tuple[list[Function], dict[str, np.ndarray]]:
    """The functions that any element has, and the constants that scale those of each element."""
    listed = {f for functions in settings.functions.values() for f in functions}
    union = sorted(listed, key=lambda f: (not f.is_radial, f))
    shape = (len(settings.species), len(union))
    shift, factor = np.zeros(shape), np.zeros(shape)
    for e, scaling in enumerate(_scaling(settings, path)):
        columns = [union.index(f) for f in settings.functions[settings.species[e]]]
        shift[e, columns], factor[e, columns] = scaling
    return union, {"shift": shift, "factor": factor}


def _stacked(
    settings: Settings, activations: Sequence[str], union: list[Function], networks: list[Layers]
) -> tuple[ElementMLP, dict[str, np.ndarray]]:
    """Networks of all elements as one, padded to one shape with zeros, and its parameters.

    A network with one input more than its element has functions takes the charge last.
    """
    number = len(settings.species)
    extra = len(networks[0][0][0]) - len(settings.functions[settings.species[0]])
    parameters, hidden = {}, []
    for layer in range(len(networks[0])):
        widths = np.max([network[layer][0].shape for network in networks], axis=0)
        inputs = len(union) + extra if layer == 0 else widths[0]
        parameters[f"kernel_{layer}"] = np.zeros((number, inputs, widths[1]))
        parameters[f"bias_{layer}"] = np.zeros((number, widths[1]))
        hidden.append(int(widths[1]))
    for e, z in enumerate(settings.species):
        columns = [union.index(f) for f in settings.functions[z]]
        columns += [len(union)] * extra
        for layer, (kernel, bias) in enumerate(networks[e]):
            rows = columns if layer == 0 else list(range(len(kernel)))
            parameters[f"kernel_{layer}"][e, rows, : len(bias)] = kernel
            parameters[f"bias_{layer}"][e, : len(bias)] = bias
    names = tuple(ACTIVATIONS[letter] for letter in activations[:-1])
    return ElementMLP(tuple(hidden[:-1]), names), parameters


def _isolated_outputs(
    network: ElementMLP, parameters: dict[str, np.ndarray], constants: dict[str, np.ndarray]
) -> np.ndarray:
    """Output of each element's network for a neutral atom without neighbours, in float64."""
    features = -constants["shift"] * constants["factor"]
    number, inputs = len(features), parameters["kernel_0"].shape[1]
    features = np.pad(features, ((0, 0), (0, inputs - features.shape[1])))
    with jax.enable_x64(True):
        tree = {"params": jax.tree.map(jnp.asarray, parameters)}
        return np.asarray(network.apply(tree, jnp.asarray(features), jnp.arange(number), number))
