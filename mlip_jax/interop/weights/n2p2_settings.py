"""`input.nn` of n2p2 and RuNNer: elements, symmetry functions, networks, normalisation.

Formats: documentation of n2p2, "Keywords"; symmetry functions, cutoff functions and scaling:
Singraber, Behler & Dellago, J. Chem. Theory Comput. 15, 1827 (2019), sections 2.2 and 2.3.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.descriptors.envelopes import EnvelopeName
from mlip_jax.descriptors.symmetry_functions import Angular, Radial
from mlip_jax.interop.weights.lines import Lines
from mlip_jax.interop.weights.n2p2_charges import GENERATIONS, Equilibration

T = TypeVar("T")

CUTOFF_TYPES: dict[int, EnvelopeName] = {1: "cosine", 2: "tanh_cubed", 6: "polynomial"}
ACTIVATIONS = {
    "t": "tanh",
    "p": "softplus",
    "l": "linear",
    "s": "sigmoid",
    "g": "gaussian",
    "c": "cosine",
}
ARGUMENTS = {
    2: "neighbour eta r_shift cutoff",
    3: "neighbour neighbour eta lambda zeta cutoff [r_shift]",
    9: "neighbour neighbour eta lambda zeta cutoff [r_shift]",
    12: "eta r_shift cutoff",
    13: "eta r_shift lambda zeta cutoff",
}
"""Types of symmetry functions and what their lines hold after element and type."""

SCALINGS = (
    "scale_symmetry_functions",
    "center_symmetry_functions",
    "scale_symmetry_functions_sigma",
)


class Function(NamedTuple):
    """A symmetry function as the file has it; its order is n2p2's.

    Attributes:
        kind: type, see `ARGUMENTS`.
        cutoff: in the unit of length of the file, as `r_shift`; `eta` in its inverse square.
        neighbors: increasing atomic numbers; empty for weighted functions.
    """

    kind: int
    cutoff: float
    eta: float
    r_shift: float
    zeta: float
    lam: float
    neighbors: tuple[int, ...]

    @property
    def is_radial(self) -> bool:
        """Whether it has one neighbour."""
        return self.kind in (2, 12)

    def converted(self, length: float) -> Radial | Angular:
        """The function in Å, with `length` Å in the unit of the file."""
        eta, shift, cutoff = self.eta / length**2, self.r_shift * length, self.cutoff * length
        weighted = not self.neighbors
        if self.is_radial:
            neighbor = None if weighted else self.neighbors[0]
            return Radial(eta, shift, cutoff, neighbor, weighted)
        neighbors = None if weighted else (self.neighbors[0], self.neighbors[1])
        narrow = self.kind != 9
        return Angular(eta, shift, self.lam, self.zeta, cutoff, narrow, neighbors, weighted)


@dataclasses.dataclass
class Settings:
    """What an `input.nn` says.

    Attributes:
        path: of the file.
        species: atomic numbers, increasing: n2p2's order.
        functions: by element of the centre, in n2p2's order.
        envelope: cutoff function.
        plateau: share of the cutoff below which it is 1.
        scalings: keywords that are present, of `SCALINGS`.
        limits: of scaled symmetry functions.
        nodes: widths of the hidden layers.
        element_nodes: other widths, by element and number of the layer.
        activations: letters of the hidden layers and of the output.
        normalize_nodes: whether sums are divided by the number of inputs.
        offsets: energies of free atoms.
        normalization: `mean_energy` and `conv_energy`, where there are any, and `conv_length`.
        generation: 2 (short range) or 4 (charge equilibration).
        equilibration: what is said of charges.
    """

    path: Path
    species: tuple[int, ...] = ()
    functions: dict[int, list[Function]] = dataclasses.field(default_factory=dict)
    envelope: EnvelopeName = "cosine"
    plateau: float = 0.0
    scalings: set[str] = dataclasses.field(default_factory=set)
    limits: list[float] = dataclasses.field(default_factory=lambda: [0.0, 1.0])
    nodes: tuple[int, ...] = ()
    element_nodes: dict[tuple[int, int], int] = dataclasses.field(default_factory=dict)
    activations: tuple[str, ...] = ()
    normalize_nodes: bool = False
    offsets: dict[int, float] = dataclasses.field(default_factory=dict)
    normalization: dict[str, float] = dataclasses.field(default_factory=dict)
    generation: int = 2
    equilibration: Equilibration = dataclasses.field(default_factory=Equilibration)

    def widths(self, species: int) -> tuple[int, ...]:
        """Widths of the hidden layers of an element."""
        return tuple(
            self.element_nodes.get((species, layer), width)
            for layer, width in enumerate(self.nodes, 1)
        )


def read_settings(path: Path) -> Settings:
    """Reads an `input.nn`; keywords of training are passed over.

    Raises:
        UserError: naming file and line of what is damaged or not supported.
    """
    settings = Settings(path)
    lines = Lines(path, comments="#!")
    while words := lines.next(None):
        _read_line(settings, lines, words)
    _check(settings)
    for z in settings.species:
        settings.functions[z].sort()
    return settings


def _read_line(settings: Settings, lines: Lines, words: list[str]) -> None:
    match words:
        case ["elements", *symbols] if symbols:
            settings.species = tuple(sorted(_element(lines, symbol) for symbol in symbols))
        case ["symfunction_short" | "symfunction", center, kind, *arguments]:
            known = settings.functions.setdefault(_element(lines, center), [])
            function = _function(lines, kind, arguments)
            if function in known:
                raise lines.error(f"got {' '.join(words)!r} for the second time")
            known.append(function)
        case ["atom_energy", symbol, value, *_]:
            settings.offsets[_element(lines, symbol)] = lines.number(value)
        case ["cutoff_type", kind, *parameters]:
            settings.envelope = _choice(lines, "cutoff_type", kind, CUTOFF_TYPES)
            settings.plateau = lines.number(parameters[0]) if parameters else 0.0
            if not 0.0 <= settings.plateau < 1.0:
                raise lines.error(f"got the inner cutoff {settings.plateau}; expected 0 to below 1")
        case ["global_hidden_layers_short" | "number_of_elements", count, *_]:
            lines.integer(count)
        case ["global_nodes_short", *widths] if widths:
            settings.nodes = tuple(lines.integer(width) for width in widths)
        case ["element_nodes_short", symbol, layer, width, *_]:
            key = (_element(lines, symbol), lines.integer(layer))
            settings.element_nodes[key] = lines.integer(width)
        case ["global_activation_short", *letters] if letters:
            settings.activations = tuple(letters)
            _check_activations(lines, letters)
        case ["normalize_nodes", *_]:
            settings.normalize_nodes = True
        case [keyword, *_] if keyword in SCALINGS:
            settings.scalings.add(keyword)
        case ["scale_min_short" | "scale_max_short" as keyword, value, *_]:
            settings.limits[keyword == "scale_max_short"] = lines.number(value)
        case ["mean_energy" | "conv_energy" | "conv_length" as keyword, value, *_]:
            settings.normalization[keyword] = lines.number(value)
        case ["nnp_generation" | "nnp_type" | "nn_type", kind, *_]:
            if kind not in GENERATIONS:
                raise lines.error(
                    f"got {' '.join(words)!r}; supported are short-range potentials (2) and charge "
                    "equilibration (4)"
                )
            settings.generation = GENERATIONS[kind]
        case ["global_activation_electrostatic", *letters] if letters:
            _check_activations(lines, letters)
            settings.equilibration.activations = tuple(letters)
        case [keyword, *_] if keyword in REQUIRED or keyword in ("atom_energy", "symfunction"):
            raise lines.error(f"got {' '.join(words)!r}, which is incomplete")
        case _:
            settings.equilibration.read_line(lines, words, lambda word: _element(lines, word))


REQUIRED = {
    "elements": "species",
    "symfunction_short": "functions",
    "global_nodes_short": "nodes",
    "global_activation_short": "activations",
}
"""Keywords without which there is no potential, and what they set."""


def _check(settings: Settings) -> None:
    for keyword, field in REQUIRED.items():
        if not getattr(settings, field):
            raise UserError(f"{settings.path}: {keyword} is missing; it has no default.")
    for used in (settings.functions, settings.offsets):
        _check_elements(settings, used)
    counted = {z for list_ in settings.functions.values() for f in list_ for z in f.neighbors}
    _check_elements(settings, counted)
    without = [z for z in settings.species if z not in settings.functions]
    if without:
        names = ", ".join(elements.symbols(without))
        raise UserError(f"{settings.path}: there are no symmetry functions for {names}.")
    if len(settings.activations) != len(settings.nodes) + 1:
        raise UserError(
            f"{settings.path}: got {len(settings.activations)} activations for "
            f"{len(settings.nodes)} hidden layers; expected one for each and one for the output."
        )
    if len(settings.normalization) not in (0, 3):
        raise UserError(
            f"{settings.path}: got {', '.join(sorted(settings.normalization))}; expected all or "
            "none of mean_energy, conv_energy and conv_length."
        )
    if settings.generation == 4:
        normalized = bool(settings.normalization)
        settings.equilibration.check(settings.path, settings.species, normalized)
    if settings.limits[0] == settings.limits[1]:
        raise UserError(f"{settings.path}: scale_min_short equals scale_max_short.")


def _check_elements(settings: Settings, used: Iterable[int]) -> None:
    unknown = sorted(set(used) - set(settings.species))
    if unknown:
        names, known = (", ".join(elements.symbols(z)) for z in (unknown, settings.species))
        raise UserError(f"{settings.path}: {names} is used, and `elements` names {known}.")


def _element(lines: Lines, symbol: str) -> int:
    if symbol not in elements.SYMBOLS[1:]:
        raise lines.error(f"got {symbol!r}; expected the symbol of an element")
    return elements.atomic_number(symbol)


def _choice(lines: Lines, what: str, word: str, known: dict[int, T]) -> T:
    if not word.isdigit() or int(word) not in known:
        names = ", ".join(str(key) for key in known)
        raise lines.error(f"got {what} {word}; supported are {names}")
    return known[int(word)]


def _check_activations(lines: Lines, letters: list[str]) -> None:
    for letter in letters[:-1]:
        if letter not in ACTIVATIONS:
            names = ", ".join(f"{key} ({name})" for key, name in ACTIVATIONS.items())
            raise lines.error(f"got the activation {letter!r}; supported are {names}")
    if letters[-1] != "l":
        raise lines.error(f"got the activation {letters[-1]!r} of the output; supported is l")


def _function(lines: Lines, kind: str, words: list[str]) -> Function:
    """A symmetry function of its words after element and type."""
    names = _choice(lines, "a symmetry function of type", kind, ARGUMENTS).split()
    if len(words) < len([name for name in names if name[0] != "["]):
        raise lines.error(f"got {' '.join(words)!r}; expected {' '.join(names)}")
    neighbors = sorted(
        _element(lines, word)
        for name, word in zip(names, words, strict=False)
        if name == "neighbour"
    )
    values = {
        name.strip("[]"): lines.number(word)
        for name, word in zip(names, words, strict=False)
        if name != "neighbour"
    }
    zeta, lam = values.get("zeta", 0.0), values.get("lambda", 0.0)
    diverges = zeta < 0.0 and zeta.is_integer()  # some published potentials have such functions
    if int(kind) not in (2, 12) and ((zeta < 1.0 and not diverges) or abs(lam) != 1.0):
        raise lines.error(f"got lambda {lam} and zeta {zeta}; expected +1 or -1, and at least 1")
    if values["cutoff"] <= 0.0:
        raise lines.error(f"got the cutoff {values['cutoff']}; expected a positive one")
    shift = values.get("r_shift", 0.0)
    key = tuple(neighbors)
    return Function(int(kind), values["cutoff"], values["eta"], shift, zeta, lam, key)
