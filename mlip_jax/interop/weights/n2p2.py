"""High-dimensional neural network potentials of n2p2 and RuNNer.

Files: `input.nn`, `scaling.data`, and `weights.ZZZ.data` for each element; documentation of n2p2,
and Singraber, Behler & Dellago, J. Chem. Theory Comput. 15, 1827 (2019). With charge equilibration
(4G-HDNNP) also `weightse.ZZZ.data` and `hardness.ZZZ.data`.

There every element has symmetry functions of its own. Here the descriptor computes all that any
element has, and the scaling constants of those that an element lacks are zero.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlip_jax.config import UserError
from mlip_jax.descriptors.acsf import SymmetryFunctions
from mlip_jax.descriptors.symmetry_functions import Angular, Radial
from mlip_jax.interop.weights.lines import Lines
from mlip_jax.interop.weights.n2p2_charges import read_hardness
from mlip_jax.interop.weights.n2p2_networks import (
    isolated_outputs,
    read_networks,
    required_path,
    stacked,
)
from mlip_jax.interop.weights.n2p2_settings import (
    Function,
    Settings,
    read_settings,
)
from mlip_jax.models.hdnnp_4g import HDNNP4G
from mlip_jax.models.local import Local
from mlip_jax.potential import Potential

LENGTHS = {"bohr": 1.0 / 1.8897261328, "angstrom": 1.0}
"""Units of length in Å, with the factor of published inputs for LAMMPS (`cflength`)."""

ENERGIES = {"hartree": 1.0 / 0.0367493254, "eV": 1.0}
"""Units of energy in eV, with the factor of published inputs for LAMMPS (`cfenergy`)."""

ACCURACY = 1e-12
"""Of sums in reciprocal space: published inputs leave errors of up to 1e-3 e in the charges."""

_SMALL = -6.0
"""Logarithm of a Gaussian's size in the data below which it gets another unit."""


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
    settings = read_settings(required_path(paths, "input.nn"))
    scale = ev / settings.normalization.get("conv_energy", 1.0)
    charged = settings.generation == 4
    union, constants = _scaled_functions(settings, required_path(paths, "scaling.data"))
    descriptor, constants = _representable(_descriptor(settings, union, angstrom), constants)
    short = read_networks(settings, paths, "weights", settings.widths, charged)
    network, parameters = stacked(settings, settings.activations, union, short)
    local = Local(descriptor, network, energy_scale=scale)
    mean = settings.normalization.get("mean_energy", 0.0) * ev
    alone = scale * isolated_outputs(network, parameters, constants) + mean
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
    layers = read_networks(settings, paths, "weightse", said.hidden, extra_input=False)
    network, parameters = stacked(settings, said.activations, union, layers)
    hardness = [
        read_hardness(required_path(paths, f"hardness.{z:03d}.data")) for z in settings.species
    ]
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


def _unit(what: str, name: str, known: dict[str, float]) -> float:
    if name not in known:
        raise UserError(f"n2p2: got the {what} unit {name!r}; expected one of {', '.join(known)}.")
    return known[name]


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
