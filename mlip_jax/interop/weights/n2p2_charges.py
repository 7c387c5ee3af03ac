"""Keywords of `input.nn` that belong to charge equilibration (4G-HDNNP) of n2p2.

Documentation of n2p2, "Keywords"; Ko, Finkler, Goedecker & Behler, Nat. Commun. 12, 398 (2021).
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.descriptors.envelopes import EnvelopeName
from mlip_jax.interop.weights.lines import Lines

GENERATIONS = {"2": 2, "2G-HDNNP": 2, "4": 4, "4G-HDNNP": 4}
SCREENINGS: dict[str, EnvelopeName] = {"c": "cosine", "p2": "polynomial"}


@dataclasses.dataclass
class Equilibration:
    """What an `input.nn` says of charges, in its own units.

    Attributes:
        widths: of the Gaussian charges, by element.
        screening: inner and outer radius, where interactions are screened.
        screening_form: how the screening passes from 1 to 0.
        four_pi_epsilon: 4πε0.
        nodes: widths of the hidden layers of the electronegativity networks.
        element_nodes: other widths, by element and number of the layer.
        activations: letters of the hidden layers and of the output.
    """

    widths: dict[int, float] = dataclasses.field(default_factory=dict)
    screening: tuple[float, float] | None = None
    screening_form: EnvelopeName = "cosine"
    four_pi_epsilon: float = 1.0
    nodes: tuple[int, ...] = ()
    element_nodes: dict[tuple[int, int], int] = dataclasses.field(default_factory=dict)
    activations: tuple[str, ...] = ()

    def hidden(self, species: int) -> tuple[int, ...]:
        """Widths of the hidden layers of an element."""
        return tuple(
            self.element_nodes.get((species, layer), width)
            for layer, width in enumerate(self.nodes, 1)
        )

    def read_line(self, lines: Lines, words: list[str], element: Callable[[str], int]) -> None:
        """Takes what a line says; other keywords are passed over.

        Args:
            lines: for errors.
            words: of the line.
            element: atomic number of a symbol.
        """
        match words:
            case ["fixed_gausswidth", symbol, width, *_]:
                self.widths[element(symbol)] = _positive(lines, "width", width)
            case ["screen_electrostatics", inner, outer, *form]:
                self._read_screening(lines, inner, outer, form[0] if form else "c")
            case ["four_pi_epsilon", value, *_]:
                self.four_pi_epsilon = _positive(lines, "four_pi_epsilon", value)
            case ["global_nodes_electrostatic", *widths] if widths:
                self.nodes = tuple(lines.integer(width) for width in widths)
            case ["element_nodes_electrostatic", symbol, layer, width, *_]:
                key = (element(symbol), lines.integer(layer))
                self.element_nodes[key] = lines.integer(width)
            case [keyword, *_] if keyword in REQUIRED or keyword in OPTIONAL:
                raise lines.error(f"got {' '.join(words)!r}, which is incomplete")
            case _:
                pass

    def check(self, path: Path, species: tuple[int, ...], normalized: bool) -> None:
        """Refuses what is missing for the elements of a file.

        Raises:
            UserError: naming the file and the keyword.
        """
        for keyword, field in REQUIRED.items():
            if not getattr(self, field):
                raise UserError(f"{path}: {keyword} is missing; it has no default.")
        without = [z for z in species if z not in self.widths]
        if without:
            names = ", ".join(elements.symbols(without))
            raise UserError(f"{path}: fixed_gausswidth is missing for {names}.")
        if len(self.activations) != len(self.nodes) + 1:
            raise UserError(
                f"{path}: got {len(self.activations)} electrostatic activations for "
                f"{len(self.nodes)} hidden layers; expected one for each and one for the output."
            )
        if normalized:
            raise UserError(
                f"{path}: got mean_energy, conv_energy and conv_length with nnp_generation 4; "
                "normalised potentials are supported for the second generation only."
            )

    def _read_screening(self, lines: Lines, inner: str, outer: str, form: str) -> None:
        radii = lines.number(inner), lines.number(outer)
        if not 0.0 <= radii[0] < radii[1]:
            raise lines.error(
                f"got the screening radii {inner} and {outer}; expected inner < outer"
            )
        if form not in SCREENINGS:
            known = ", ".join(f"{key} ({name})" for key, name in SCREENINGS.items())
            raise lines.error(f"got the screening function {form!r}; supported are {known}")
        self.screening, self.screening_form = radii, SCREENINGS[form]


REQUIRED = {
    "fixed_gausswidth": "widths",
    "global_nodes_electrostatic": "nodes",
    "global_activation_electrostatic": "activations",
}
"""Keywords without which there is no equilibration, and what they set."""

OPTIONAL = ("screen_electrostatics", "four_pi_epsilon", "element_nodes_electrostatic")


def read_hardness(path: Path) -> float:
    """Reads a `hardness.ZZZ.data`.

    Raises:
        UserError: naming the line, for anything but one number that is not negative.
    """
    lines = Lines(path)
    value = lines.number(lines.next("the hardness of the element")[0])
    if value < 0.0:
        raise lines.error(f"got the hardness {value}; expected one that is not negative")
    if words := lines.next(None):
        raise lines.error(f"got {' '.join(words)!r}; expected one number in the file")
    return value


def _positive(lines: Lines, what: str, word: str) -> float:
    value = lines.number(word)
    if value <= 0.0:
        raise lines.error(f"got the {what} {word}; expected a positive one")
    return value
