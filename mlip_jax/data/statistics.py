"""What is computed from training data, never pasted: reference energies, scale, neighbours."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from mlip_jax.config import UserError
from mlip_jax.data.batching import ReferenceEnergies, reference_energy
from mlip_jax.data.lists import NeighborLists
from mlip_jax.data.structure import Structure, is_isolated_atom
from mlip_jax.elements import COHESIVE_ENERGIES, SYMBOLS

_RIDGE = 1e-10
"""Ridge on deviations from the mean energy, relative to the largest squared singular value."""

_RANK_TOLERANCE = 1e-4
"""Singular values below this, relative to the largest, count as zero."""


@dataclasses.dataclass(frozen=True)
class StatisticsConfig:
    """How reference energies are found.

    Attributes:
        reference_energies: `isolated` takes them from single atoms in the training data (an
            element without one is an error); `least_squares` fits them; `auto` takes isolated
            atoms where there are some and fits the rest; `cohesive`, too, but adds the cohesive
            energies of the solid elements to what is fitted; `zero` subtracts nothing. An isolated
            atom has its reference energy in every model: fitted to crystals or liquids alone, it
            is that of a bound atom, which networks can meet only by a barrier on the way there.
            `cohesive` puts it about where free atoms are (solvers of linear models find it
            themselves).
        per_source: whether every source (level of theory) gets its own.
    """

    reference_energies: Literal["auto", "isolated", "least_squares", "cohesive", "zero"] = "auto"
    per_source: bool = False


@dataclasses.dataclass(frozen=True)
class RankReport:
    """Which reference energies the data determine.

    Attributes:
        rank: number of independent compositions among the structures that were fitted.
        num_elements: number of energies that were fitted.
        undetermined: combinations of elements' energies that the data leave open, as text; the fit
            puts these at the mean energy per atom.
        isolated: elements whose energy comes from an isolated atom.
    """

    rank: int
    num_elements: int
    undetermined: tuple[str, ...] = ()
    isolated: tuple[str, ...] = ()

    def __str__(self) -> str:
        isolated = f"from isolated atoms: {', '.join(self.isolated)}; " if self.isolated else ""
        text = f"{isolated}fitted: rank {self.rank} of {self.num_elements}"
        if self.undetermined:
            text += f"; not determined by these compositions: {'; '.join(self.undetermined)}"
        return text


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Statistics of the training data; models take fields of these names that they leave open.

    Attributes:
        species: atomic numbers, increasing.
        reference_energies: eV by atomic number (with several sources: of the largest that has the
            element).
        avg_num_neighbors: mean number of neighbours of an atom within the cutoff.
        energy_scale: root mean square of the force components, eV/Å; where there are no forces,
            the standard deviation of the energy per atom, eV.
        source_reference_energies: eV by source and atomic number; empty for one set for all.
        reports: on the rank of each fit, by source ("" for one set for all).
        num_structures: number of structures.
        num_atoms: number of atoms.
        energy_per_atom_std: of the energy per atom less the reference energies, eV.
        min_distance: shortest distance of two atoms, Å, and at most half the cutoff.
    """

    species: tuple[int, ...]
    reference_energies: dict[int, float]
    avg_num_neighbors: float
    energy_scale: float
    source_reference_energies: dict[str, dict[int, float]] = dataclasses.field(default_factory=dict)
    reports: dict[str, RankReport] = dataclasses.field(default_factory=dict)
    num_structures: int = 0
    num_atoms: int = 0
    energy_per_atom_std: float = 0.0
    min_distance: float = 1.0

    @property
    def references(self) -> ReferenceEnergies:
        """What batches subtract: by source where sources differ."""
        return self.source_reference_energies or self.reference_energies


def compute(
    structures: Sequence[Structure],
    cutoff: float,
    config: StatisticsConfig | None = None,
    lists: NeighborLists | None = None,
) -> Statistics:
    """Computes the statistics of a training set, in one or two passes over it.

    Args:
        structures: in memory or lazy.
        cutoff: of the model, Å.
        config: how reference energies are found.
        lists: neighbour lists with that cutoff, where they exist already.

    Raises:
        UserError: `isolated` without an isolated atom of some element.
    """
    config = config or StatisticsConfig()
    lists = NeighborLists(structures, cutoff) if lists is None else lists
    sizes = lists.sizes
    summaries = [_summary(s) for s in structures]
    species = tuple(sorted({int(z) for summary in summaries for z in summary.numbers}))
    by_source = _group_by_source(summaries) if config.per_source else {"": summaries}
    fits = {source: fit_reference_energies(g, config) for source, g in by_source.items()}
    references = {source: energies for source, (energies, _) in fits.items()}
    order = sorted(by_source, key=lambda source: -len(by_source[source]))
    merged = {z: next(references[s][z] for s in order if z in references[s]) for z in species}
    residuals = _residuals(summaries, references if config.per_source else merged)
    return Statistics(
        species=species,
        reference_energies=merged,
        avg_num_neighbors=float(sizes.num_neighbors.sum() / max(1, sizes.num_atoms.sum())),
        energy_scale=_energy_scale(summaries, residuals),
        source_reference_energies=references if config.per_source else {},
        reports={source: report for source, (_, report) in fits.items()},
        num_structures=len(summaries),
        num_atoms=int(sizes.num_atoms.sum()),
        energy_per_atom_std=float(np.std(residuals)) if len(residuals) else 0.0,
        min_distance=min(lists.min_distance, 0.5 * cutoff),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Summary:
    """What statistics need of a structure; keeps a lazy set out of memory."""

    numbers: np.ndarray
    counts: np.ndarray
    energy: float | None
    isolated: bool
    source: str
    name: str
    squared_force: float
    num_forces: int

    @property
    def num_atoms(self) -> int:
        return int(self.counts.sum())


def fit_reference_energies(
    structures: Iterable[Structure | _Summary], config: StatisticsConfig
) -> tuple[dict[int, float], RankReport]:
    """Energies of the elements, from isolated atoms and by ridge regression of the others.

    The regression is on energies per atom, and its ridge pulls towards their mean: what the data
    do not determine gets the mean energy per atom, so that a set of one composition leaves small
    residuals whatever its energies are.

    Returns:
        eV by atomic number, and what the data determine.
    """
    summaries = [s if isinstance(s, _Summary) else _summary(s) for s in structures]
    species = sorted({int(z) for summary in summaries for z in summary.numbers})
    if config.reference_energies == "zero":
        return dict.fromkeys(species, 0.0), RankReport(0, 0)
    isolated: dict[int, float] = {}
    if config.reference_energies != "least_squares":
        for summary in summaries:
            if summary.isolated and summary.energy is not None:
                number = int(summary.numbers[0])
                isolated[number] = min(summary.energy, isolated.get(number, np.inf))
    names = tuple(SYMBOLS[z] for z in sorted(isolated))
    unknown = [z for z in species if z not in isolated]
    if unknown and config.reference_energies == "isolated":
        raise UserError(
            "data.statistics.reference_energies: isolated, but there is no isolated atom of "
            f"{', '.join(SYMBOLS[z] for z in unknown)} with an energy in the training data. Add "
            "it, or say auto or least_squares."
        )
    labelled = [s for s in summaries if s.energy is not None and not _covered(s, isolated)]
    if not unknown:
        return isolated, RankReport(0, 0, isolated=names)
    if not labelled:
        return isolated | dict.fromkeys(unknown, 0.0), RankReport(0, len(unknown), isolated=names)
    fractions, targets = _regression(labelled, isolated, unknown)
    fitted, rank, undetermined = _ridge(fractions, targets, [SYMBOLS[z] for z in unknown])
    if config.reference_energies == "cohesive":
        fitted = fitted + _cohesive_energies(unknown)
    energies = isolated | dict(zip(unknown, fitted.tolist(), strict=True))
    return energies, RankReport(rank, len(unknown), undetermined, names)


def _cohesive_energies(species: list[int]) -> np.ndarray:
    """Of the solid elements [eV/atom]."""
    table = np.full(len(SYMBOLS), np.nan)
    table[1 : len(COHESIVE_ENERGIES) + 1] = COHESIVE_ENERGIES
    energies = table[species]
    if np.isnan(energies).any():
        missing = ", ".join(SYMBOLS[z] for z in np.array(species)[np.isnan(energies)])
        raise UserError(
            f"data.statistics.reference_energies: cohesive, but that of {missing} is not known. "
            "Add isolated atoms of it to the training data, or say auto."
        )
    return energies


def _regression(labelled: list[_Summary], isolated: dict[int, float], unknown: list[int]):
    columns = {z: k for k, z in enumerate(unknown)}
    fractions = np.zeros((len(labelled), len(unknown)))
    targets = np.zeros(len(labelled))
    for row, summary in enumerate(labelled):
        assert summary.energy is not None
        rest = summary.energy
        for z, count in zip(summary.numbers.tolist(), summary.counts.tolist(), strict=True):
            if z in isolated:
                rest -= count * isolated[z]
            else:
                fractions[row, columns[z]] = count / summary.num_atoms
        targets[row] = rest / summary.num_atoms
    return fractions, targets


def _ridge(fractions: np.ndarray, targets: np.ndarray, names: list[str]):
    mean = float(targets.sum() / fractions.sum())
    deviations = targets - fractions.sum(axis=1) * mean
    values, vectors = np.linalg.eigh(fractions.T @ fractions)
    determined = values > _RANK_TOLERANCE**2 * values[-1]
    projected = vectors.T @ (fractions.T @ deviations)
    solution = vectors @ np.where(determined, projected / (values + _RIDGE * values[-1]), 0.0)
    undetermined = tuple(_combination(row, names) for row in vectors.T[~determined])
    return mean + solution, int(determined.sum()), undetermined


def _combination(coefficients: np.ndarray, names: list[str]) -> str:
    order = np.argsort(-np.abs(coefficients), kind="stable")
    terms = [f"{coefficients[k]:+.2f} {names[k]}" for k in order if abs(coefficients[k]) > 0.05]
    return " ".join(terms[:6]) + (" …" if len(terms) > 6 else "")


def _covered(summary: _Summary, isolated: dict[int, float]) -> bool:
    return all(int(z) in isolated for z in summary.numbers)


def _summary(structure: Structure) -> _Summary:
    numbers, counts = np.unique(structure.atomic_numbers, return_counts=True)
    forces = structure.labels.forces
    return _Summary(
        numbers=numbers,
        counts=counts,
        energy=structure.labels.energy,
        isolated=is_isolated_atom(structure),
        source=structure.source,
        name=structure.name,
        squared_force=0.0 if forces is None else float(np.sum(forces**2)),
        num_forces=0 if forces is None else forces.size,
    )


def _group_by_source(summaries: list[_Summary]) -> dict[str, list[_Summary]]:
    groups: dict[str, list[_Summary]] = {}
    for summary in summaries:
        groups.setdefault(summary.source, []).append(summary)
    return groups


def _residuals(summaries: list[_Summary], references: ReferenceEnergies) -> np.ndarray:
    residuals = []
    for summary in summaries:
        if summary.energy is not None:
            numbers = np.repeat(summary.numbers, summary.counts)
            expected = reference_energy(numbers, references, summary.source, summary.name)
            residuals.append((summary.energy - expected) / summary.num_atoms)
    return np.array(residuals)


def _energy_scale(summaries: list[_Summary], residuals: np.ndarray) -> float:
    count = sum(s.num_forces for s in summaries)
    if count:
        scale = float(np.sqrt(sum(s.squared_force for s in summaries) / count))
    else:
        scale = float(np.std(residuals)) if len(residuals) else 0.0
    # A set of perfect crystals has no forces, one structure no spread.
    return scale if scale > 0.0 else 1.0
