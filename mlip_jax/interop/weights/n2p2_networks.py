"""Networks of n2p2 and RuNNer: files of weights, and the networks of all elements as one."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mlip_jax.config import UserError
from mlip_jax.interop.weights.lines import Lines
from mlip_jax.interop.weights.n2p2_settings import ACTIVATIONS, Function, Settings
from mlip_jax.nn.mlp import ElementMLP

Layers = list[tuple[np.ndarray, np.ndarray]]
"""Kernel `[in, out]` and bias `[out]` of each layer."""


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
    places = [
        (array, index) for layer in layers for array in layer for index in np.ndindex(array.shape)
    ]
    shape = "-".join(str(width) for width in widths)
    lines = Lines(path)
    plain, count = False, 0
    while words := lines.next(None):
        value = lines.number(words[0])
        plain = plain or (count == 0 and len(words) == 1)
        if plain and (len(words) > 1 or count == len(places)):
            got = f"got {' '.join(words)!r} after {count} values"
            raise lines.error(f"{got}; expected {len(places)} of a network of {shape} nodes")
        array, index = places[count] if plain else _place(lines, layers, words, shape)
        array[index] = value
        count += 1
    if plain and count < len(places):
        raise UserError(
            f"{path}, line {lines.number_of_line}: the file ends after {count} values; expected "
            f"{len(places)} of a network of {shape} nodes, which input.nn describes."
        )
    _check_complete(lines, layers)
    if normalize_nodes:
        layers = [(kernel / len(kernel), bias / len(kernel)) for kernel, bias in layers]
    return layers


def _place(
    lines: Lines, layers: Layers, words: list[str], shape: str
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Where the value of a line with indices belongs."""
    match words[1:]:
        case ["a", _, layer, start, _, end, *_]:
            number, row, column = (lines.integer(word) for word in (layer, start, end))
            array, index = _layer(layers, number)[0], (row - 1, column - 1)
        case ["b", _, layer, end, *_]:
            number = lines.integer(layer) - 1
            array, index = _layer(layers, number)[1], (lines.integer(end) - 1,)
        case _:
            raise lines.error(f"got {' '.join(words)!r}; expected a value, a or b, and indices")
    if array.size == 0 or min(index) < 0 or any(np.array(index) >= array.shape):
        got = " ".join(words[1:])
        raise lines.error(f"got {got!r}, outside a network of {shape} nodes")
    return array, index


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


def read_networks(
    settings: Settings,
    paths: Mapping[str, Path],
    name: str,
    hidden: Callable[[int], tuple[int, ...]],
    extra_input: bool,
) -> list[Layers]:
    """Reads the files `NAME.ZZZ.data` of all elements.

    Args:
        settings: elements and their functions.
        paths: of all files, by name.
        name: `weights` or `weightse`.
        hidden: widths of the hidden layers of an element.
        extra_input: whether there is one input more than functions, the charge.
    """
    return [
        read_network(
            required_path(paths, f"{name}.{z:03d}.data"),
            (len(settings.functions[z]) + extra_input, *hidden(z), 1),
            settings.normalize_nodes,
        )
        for z in settings.species
    ]


def required_path(paths: Mapping[str, Path], name: str) -> Path:
    """The path of a file.

    Raises:
        UserError: where it is not among the files.
    """
    if name not in paths:
        got = ", ".join(sorted(paths)) or "no files"
        raise UserError(f"n2p2: got {got}; {name} is missing.")
    return paths[name]


def stacked(
    settings: Settings, activations: Sequence[str], union: list[Function], networks: list[Layers]
) -> tuple[ElementMLP, dict[str, np.ndarray]]:
    """Networks of all elements as one, padded to one shape with zeros, and its parameters.

    Args:
        settings: elements and their functions.
        activations: letters of the hidden layers and of the output.
        union: functions that any element has.
        networks: of the elements.

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


def isolated_outputs(
    network: ElementMLP, parameters: dict[str, np.ndarray], constants: dict[str, np.ndarray]
) -> np.ndarray:
    """Output of each element's network for a neutral atom without neighbours, in float64.

    Args:
        network: of all elements.
        parameters: of the network.
        constants: shift and factor of the functions.
    """
    features = -constants["shift"] * constants["factor"]
    number, inputs = len(features), parameters["kernel_0"].shape[1]
    features = np.pad(features, ((0, 0), (0, inputs - features.shape[1])))
    with jax.enable_x64(True):
        tree = {"params": jax.tree.map(jnp.asarray, parameters)}
        return np.asarray(network.apply(tree, jnp.asarray(features), jnp.arange(number), number))
