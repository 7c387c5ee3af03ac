"""Moment tensor potentials as MLIP writes them: `.mtp` and `.almtp`.

Format: I. S. Novikov et al., Mach. Learn.: Sci. Technol. 2, 025002 (2021), and files of MLIP-2 and
MLIP-3. What follows the potential in an `.almtp` file (the state of active learning) is left out.
"""

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.descriptors.moment_contractions import Schedule, Vertex, schedule
from mlip_jax.descriptors.moment_tensor import MomentTensors
from mlip_jax.interop.weights.lines import Lines
from mlip_jax.models.local import Local
from mlip_jax.nn.linear import Linear
from mlip_jax.potential import Potential

ACTIVE_SET = "#MVS"
"""What follows this mark is not part of the potential."""

TEXTS = {
    "version": "1.1.0",
    "radial_basis_type": "RBChebyshev",
    "potential_name": None,
    "potential_tag": None,
}
"""Keywords and the value that is supported; `None` for any."""

INTEGERS = (
    "species_count",
    "radial_basis_size",
    "radial_funcs_count",
    "alpha_moments_count",
    "alpha_index_basic_count",
    "alpha_index_times_count",
    "alpha_scalar_moments",
)
NUMBERS = ("scaling", "min_dist", "max_dist")

TABLES = {
    "alpha_index_basic": ("alpha_index_basic_count", 4, []),
    "alpha_index_times": ("alpha_index_times_count", 4, [0, 1, 3]),
    "alpha_moment_mapping": ("alpha_scalar_moments", 1, [0]),
}
"""Tables of integers: which keyword counts the rows, their length, and where moments stand."""

COEFFICIENTS = {"species_coeffs": "species_count", "moment_coeffs": "alpha_scalar_moments"}
"""Lists of numbers, and which keyword counts them."""

Fields = dict[str, Any]


class Moment(NamedTuple):
    """What the rules of a file make: a value for random components, level, number of factors."""

    value: int
    level: int
    factors: int


def read(files: Sequence[Path], species: Sequence[str | int]) -> Potential:
    """Reads a moment tensor potential.

    The scalars of the file are found among those of `MomentTensors` by their exact values for
    random moments; the file may leave out some of them.

    Args:
        files: one `.mtp` or `.almtp`.
        species: symbols or atomic numbers of the file's 0, 1, ….

    Raises:
        UserError: naming file and line of what is damaged, missing or not supported.
    """
    if len(files) != 1:
        names = ", ".join(Path(path).name for path in files) or "no files"
        raise UserError(f"mtp: got {names}; expected one .mtp or .almtp file.")
    path = Path(files[0])
    fields = read_fields(path)
    numbers = _atomic_numbers(species)
    if len(numbers) != fields["species_count"]:
        raise UserError(
            f"{path}: has {fields['species_count']} species; got {len(numbers)}: "
            f"{', '.join(elements.symbols(numbers))}. Name them in the order of the file."
        )
    descriptor, coefficients = _scalars(path, fields)
    width = (fields["max_dist"] - fields["min_dist"]) ** 2
    descriptor = descriptor.clone(
        species=numbers,
        cutoff=fields["max_dist"],
        min_dist=fields["min_dist"],
        radial_basis_size=fields["radial_basis_size"],
    )
    radial = fields.get("scaling", 1.0) * width * fields["radial_coeffs"]
    radial = radial[:, :, : descriptor.radial_functions]
    ones = np.ones((len(numbers), len(coefficients)))
    variables = {
        "params": {
            "descriptor": {"radial": radial},
            "regressor": {"coefficients": coefficients * ones},
        },
        "constants": {"shift": 0.0 * ones, "factor": ones},
    }
    energies = dict(zip(numbers, fields["species_coeffs"].tolist(), strict=True))
    card = {"imported": {"format": "mtp", "files": [path.name]}}
    return Potential(Local(descriptor, Linear(), energy_scale=1.0), variables, energies, card)


def _atomic_numbers(species: Sequence[str | int]) -> tuple[int, ...]:
    try:
        return tuple(elements.atomic_number(symbol) for symbol in species)
    except ValueError as error:
        raise UserError(f"mtp: {error}") from None


def read_fields(path: Path) -> Fields:
    """Reads the keywords of a file; `radial_coeffs` is `[species, species, functions, basis]`."""
    lines = Lines(path, end=ACTIVE_SET)
    if lines.next("the word MTP")[0] != "MTP":
        raise lines.error("the file does not begin with the word MTP")
    fields: Fields = {}
    while words := lines.next(None):
        key, *rest = words
        if key == "radial_coeffs":
            fields[key] = _radial(lines, fields)
            continue
        if not rest or rest[0] != "=":
            raise lines.error(f"got {' '.join(words)[:40]!r}; expected a keyword, = and its value")
        fields[key] = _field(lines, fields, key, rest[1:])
    required = {*INTEGERS, *NUMBERS, *TABLES, *COEFFICIENTS, "radial_basis_type", "radial_coeffs"}
    missing = sorted(required - {"scaling"} - set(fields))
    if missing:
        raise UserError(
            f"{path}: {', '.join(missing)} is missing. Is the file cut off, or the potential not "
            "trained?"
        )
    return fields


def _field(lines: Lines, fields: Fields, key: str, words: list[str]) -> Any:
    """The value of a keyword, checked against the counts before it."""
    values = _split(lines, words, braces=key in COEFFICIENTS or key in TABLES)
    if key in TEXTS:
        if TEXTS[key] not in (None, " ".join(values)):
            raise lines.error(f"got {key} = {' '.join(values)}; only {TEXTS[key]} is supported")
        return " ".join(values)
    if key in INTEGERS or key in NUMBERS:
        _check_size(lines, key, values, 1)
        return lines.integer(values[0]) if key in INTEGERS else lines.number(values[0])
    if key in COEFFICIENTS:
        _check_size(lines, key, values, _count(lines, fields, COEFFICIENTS[key]))
        return np.array([lines.number(value) for value in values])
    if key in TABLES:
        count, width, indices = TABLES[key]
        _check_size(lines, key, values, _count(lines, fields, count) * width)
        table = np.array([lines.integer(value) for value in values]).reshape(-1, width)
        number = _count(lines, fields, "alpha_moments_count")
        largest = int(table[:, indices].max(initial=0))
        if largest >= number:
            raise lines.error(f"{key} names the moment {largest}; there are {number}, from 0 on")
        return table.tolist()
    raise lines.error(f"got the keyword {key!r}, which is not known")


def _radial(lines: Lines, fields: Fields) -> np.ndarray:
    """Coefficients of the radial functions, `[species, species, functions, basis]`."""
    sizes = ("species_count", "radial_funcs_count", "radial_basis_size")
    species, functions, size = (_count(lines, fields, key) for key in sizes)
    table = np.zeros((species, species, functions, size))
    for i, j in np.ndindex(species, species):
        found = lines.next(f"the pair {i}-{j}")
        if found != [f"{i}-{j}"]:
            raise lines.error(f"got {' '.join(found)[:40]!r}; expected the pair {i}-{j}")
        for function in range(functions):
            words = lines.next(f"radial function {function} of the pair {i}-{j}")
            values = _split(lines, words, braces=True)
            _check_size(lines, "radial_coeffs", values, size)
            table[i, j, function] = [lines.number(value) for value in values]
    return table


def _split(lines: Lines, words: list[str], braces: bool) -> list[str]:
    """Values without braces and commas; braces, where expected, have to open and close."""
    text = " ".join(words)
    if braces and not (text.startswith("{") and text.count("{") == text.count("}")):
        raise lines.error(f"got {text[:20]!r} … {text[-20:]!r}; expected a list in braces")
    return re.findall(r"[^\s{},]+", text)


def _count(lines: Lines, fields: Fields, key: str) -> int:
    if key not in fields:
        raise lines.error(f"{key} is missing before this line")
    return fields[key]


def _check_size(lines: Lines, key: str, values: list[str], expected: int) -> None:
    if len(values) != expected:
        raise lines.error(f"{key} has {len(values)} numbers; expected {expected}")


def _scalars(path: Path, fields: Fields) -> tuple[MomentTensors, np.ndarray]:
    """A descriptor that has the scalars of the file, and the coefficients of its own."""
    draws = random.Random(0)
    components: dict[Vertex, int] = {}

    def component(mu: int, x: int, y: int, z: int) -> int:
        return components.setdefault((mu, x, y, z), draws.getrandbits(60))

    moments = _by_rules(fields, component)
    chosen = [moments[m] for (m,) in fields["alpha_moment_mapping"]]
    level, factors = (max(getattr(m, key) for m in chosen) for key in ("level", "factors"))
    values = _by_schedule(schedule(level, factors), component)
    place = {value: k for k, value in enumerate(values)}
    coefficients = np.zeros(len(values))
    for moment, coefficient in zip(chosen, fields["moment_coeffs"], strict=True):
        if moment.value not in place:
            raise UserError(
                f"{path}: the scalar {chosen.index(moment)} of alpha_moment_mapping is not a "
                "contraction of moments; only such files are supported."
            )
        coefficients[place[moment.value]] += coefficient
    return MomentTensors(level=level, max_moments=factors), coefficients


def _by_rules(fields: Fields, component: Callable[..., int]) -> list[Moment]:
    """Carries out `alpha_index_times`, in integers."""
    basic = fields["alpha_index_basic"]
    moments = [Moment(component(*k), 2 + 4 * k[0] + sum(k[1:]), 1) for k in basic]
    moments += [Moment(0, 0, 0)] * (fields["alpha_moments_count"] - len(basic))
    for a, b, number, target in fields["alpha_index_times"]:
        one, two = moments[a], moments[b]
        value = moments[target].value + number * one.value * two.value
        moments[target] = Moment(value, one.level + two.level, one.factors + two.factors)
    return moments


def _by_schedule(plan: Schedule, component: Callable[..., int]) -> list[int]:
    """Values of the scalars of our schedule, in integers."""
    values = [component(*vertex) for vertex in plan.basic]
    for stage in plan.stages:
        new = []
        for rows in stage:
            for left, right, numbers in zip(*rows, strict=True):
                terms = zip(left, right, numbers, strict=True)
                new.append(sum(int(c) * values[a] * values[b] for a, b, c in terms))
        values += new
    return [values[place] for place in plan.scalars]
