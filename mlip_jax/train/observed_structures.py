"""The structures of the systems of observables, read and checked."""

from pathlib import Path

import numpy as np

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.data import formats
from mlip_jax.data.dataset import find
from mlip_jax.data.structure import Structure
from mlip_jax.properties.cubic import is_cubic
from mlip_jax.train.observables import (
    ELASTIC,
    ObservablesConfig,
    PhaseConfig,
    SystemConfig,
    Target,
)


def read_structures(config: ObservablesConfig, base: Path) -> dict[str, Structure]:
    """The structures of the systems, by their names; see `other_phase` for those of other phases.

    Raises:
        UserError: for a file or a frame that is not there, a structure without three periodic
            directions, elastic constants of a crystal that is not cubic, elements that a structure
            lacks, or phases of different compositions.
    """
    structures = {name: _read(name, system, base) for name, system in config.systems.items()}
    for name, system in config.systems.items():
        if system.other_phase is not None:
            key = other_phase(name)
            structures[key] = _read_frame(f"observables.systems.{key}", system.other_phase, base)
            _check_composition(name, structures[name], structures[key])
    return structures


def other_phase(name: str) -> str:
    """Under which name the other phase of a system stands."""
    return f"{name}.other_phase"


def _read_frame(where: str, config: SystemConfig | PhaseConfig, base: Path) -> Structure:
    try:
        path = find(config.structure, base)
    except UserError as error:
        raise UserError(f"{where}.structure: {error}") from None
    frames = formats.read(path)
    if not -len(frames) <= config.index < len(frames):
        raise UserError(
            f"{where}.index: got {config.index}; {path} has {len(frames)} frames. Correct it."
        )
    structure = frames[config.index]
    if not np.all(structure.pbc):
        raise UserError(
            f"{where}.structure: got pbc {np.asarray(structure.pbc).tolist()}; expected a "
            "structure that is periodic in three directions."
        )
    return structure


def _read(name: str, config: SystemConfig, base: Path) -> Structure:
    where = f"observables.systems.{name}"
    structure = _read_frame(where, config, base)
    for key, target in config.targets.items():
        _check_target(f"{where}.targets.{key}", target, structure)
    elastic = [observable for observable in config.observables if observable in ELASTIC]
    if elastic and not is_cubic(structure):
        raise UserError(
            f"{where}.targets: got {', '.join(elastic)} for {config.structure}, which is no ideal "
            "cubic crystal with its axes along x, y and z; expected one. Give the crystal without "
            "displacements, or leave these targets out."
        )
    return structure


def _check_target(where: str, target: Target, structure: Structure) -> None:
    modes = 3 * structure.num_atoms
    if target.branch is not None and not -modes <= target.branch < modes:
        raise UserError(
            f"{where}.branch: got {target.branch}; expected one of the {modes} modes of the file's "
            f"cell, 0 to {modes - 1}. Correct it."
        )
    named = [("pair", symbol) for symbol in target.pair or ()]
    named += [] if target.element is None else [("element", target.element)]
    for key, symbol in named:
        if elements.atomic_number(symbol) not in structure.atomic_numbers:
            raise UserError(
                f"{where}.{key}: got {symbol}; expected elements of the structure: "
                f"{', '.join(elements.symbols(sorted(set(structure.atomic_numbers.tolist()))))}."
            )


def _check_composition(name: str, first: Structure, other: Structure) -> None:
    counts = [np.bincount(s.atomic_numbers, minlength=120) for s in (first, other)]
    if np.any(counts[0] * other.num_atoms != counts[1] * first.num_atoms):
        raise UserError(
            f"observables.systems.{name}.other_phase: has other parts of the elements than the "
            "first phase; expected the same composition, of which free energies per atom can be "
            "compared. Correct one of the files."
        )
