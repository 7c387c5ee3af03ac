"""The data doctor: what is in a set, whether its labels make sense, what training on it costs."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlip_jax.config import UserError
from mlip_jax.data import checks, statistics
from mlip_jax.data.batching import reference_energy
from mlip_jax.data.checks import Check
from mlip_jax.data.findings import Outlier, Overlap, duplicates, outliers, overlaps
from mlip_jax.data.formats import LabelKeys
from mlip_jax.data.lists import NeighborLists
from mlip_jax.data.planning import BatchConfig, Waste, measure_waste, plan
from mlip_jax.data.sources import coverage
from mlip_jax.data.statistics import RankReport, StatisticsConfig
from mlip_jax.data.structure import Structure, is_isolated_atom
from mlip_jax.elements import SYMBOLS

_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class NeighborStatistics:
    """Neighbours within a cutoff, and batches of such graphs.

    Attributes:
        cutoff: Å.
        mean: neighbours of an atom.
        longest: most neighbours of any atom.
        waste: padding in batches; `None` where the set is smaller than a batch.
        batch_megabytes: inputs of the largest batch in float32.
        pair_megabytes: one array of 32 channels over all pairs of the largest batch in float32; a
            graph model holds some tens of these while it trains.
    """

    cutoff: float
    mean: float
    longest: int
    waste: Waste | None
    batch_megabytes: float
    pair_megabytes: float


@dataclasses.dataclass(frozen=True)
class Report:
    """What the doctor found.

    Attributes:
        num_structures: in all.
        num_atoms: in all.
        atoms_per_structure: smallest, mean, largest.
        elements: atoms of each element.
        config_types: structures of each configuration type.
        periodicity: structures by number of periodic directions.
        coverage: structures with each label.
        checks: signs, orders and units.
        reference_energies: eV by element, computed.
        rank: which of them the data determine.
        isolated_atoms: structures of one isolated atom.
        duplicates: pairs of structures with the same atoms at the same places.
        overlapping: atoms too close to each other.
        energy_outliers: energy per atom less reference energies, eV, the farthest first.
        force_outliers: largest force, eV/Å, the largest first.
        neighbors: for each cutoff.
        energies: per atom less reference energies, eV.
        forces: lengths, eV/Å.
    """

    num_structures: int
    num_atoms: int
    atoms_per_structure: tuple[int, float, int]
    elements: dict[str, int]
    config_types: dict[str, int]
    periodicity: dict[int, int]
    coverage: dict[str, int]
    checks: tuple[Check, ...]
    reference_energies: dict[str, float]
    rank: RankReport
    isolated_atoms: tuple[int, ...]
    duplicates: tuple[tuple[int, int], ...]
    overlapping: tuple[Overlap, ...]
    energy_outliers: tuple[Outlier, ...]
    force_outliers: tuple[Outlier, ...]
    neighbors: tuple[NeighborStatistics, ...]
    energies: np.ndarray = dataclasses.field(repr=False)
    forces: np.ndarray = dataclasses.field(repr=False)


def inspect(
    structures: Sequence[Structure],
    *,
    keys: LabelKeys | None = None,
    cutoffs: Sequence[float] = (4.0, 5.0, 6.0),
    batch_size: int = 8,
) -> Report:
    """Examines a set.

    Args:
        structures: the set.
        keys: what the config says of the labels, for advice.
        cutoffs: Å.
        batch_size: structures in a batch, for waste and memory.
    """
    overlapping = tuple(o for i, s in enumerate(structures) for o in overlaps(i, s))
    config = StatisticsConfig()
    references, rank = statistics.fit_reference_energies(structures, config)
    sizes = np.array([s.num_atoms for s in structures])
    isolated = [i for i, s in enumerate(structures) if is_isolated_atom(s)]
    labelled = [
        (i, (s.labels.energy - reference_energy(s.atomic_numbers, references)) / s.num_atoms)
        for i, s in enumerate(structures)
        if s.labels.energy is not None and i not in isolated
    ]
    norms = {
        i: np.linalg.norm(s.labels.forces, axis=1)
        for i, s in enumerate(structures)
        if s.labels.forces is not None
    }
    largest = [(i, float(lengths.max())) for i, lengths in norms.items()]
    coincident = {o.frame for o in overlapping if o.distance < 1e-3}
    distinct = [s for i, s in enumerate(structures) if i not in coincident]
    return Report(
        num_structures=len(structures),
        num_atoms=int(sizes.sum()),
        atoms_per_structure=(int(sizes.min()), float(sizes.mean()), int(sizes.max())),
        elements=_elements(structures),
        config_types=dict(Counter(s.config_type for s in structures).most_common()),
        periodicity=dict(sorted(Counter(int(s.pbc.sum()) for s in structures).items())),
        coverage=coverage(structures),
        checks=tuple(checks.run(distinct, keys or LabelKeys())),
        reference_energies={SYMBOLS[z]: e for z, e in sorted(references.items())},
        rank=rank,
        isolated_atoms=tuple(isolated),
        duplicates=duplicates(structures),
        overlapping=overlapping,
        energy_outliers=outliers(structures, labelled, by_distance=True),
        force_outliers=outliers(structures, largest, by_distance=False),
        neighbors=tuple(_neighbors(distinct, cutoff, batch_size) for cutoff in cutoffs),
        energies=np.array([energy for _, energy in labelled]),
        forces=np.concatenate([np.zeros(0), *norms.values()]),
    )


def plot(report: Report, directory: Path) -> list[Path]:
    """Writes histograms of energies and forces as PNG files.

    Raises:
        UserError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            "histograms need matplotlib: pip install 'mlip_jax[report]', or leave out the plots."
        ) from error
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, values, label in (
        ("energies", report.energies, "energy per atom, less reference energies (eV)"),
        ("forces", report.forces, "force (eV/Å)"),
    ):
        if len(values):
            figure = Figure(figsize=(5.0, 3.2), layout="constrained")
            axes = figure.add_subplot()
            axes.hist(values, bins=80, log=True, color="#4477aa")
            axes.set(xlabel=label, ylabel="structures" if name == "energies" else "atoms")
            written.append(directory / f"{name}.png")
            figure.savefig(written[-1], dpi=150)
    return written


def tables(report: Report) -> dict[str, list[tuple[str, str]]]:
    """The report as titled tables of two columns, for a terminal."""
    smallest, mean, largest = report.atoms_per_structure
    content = {
        "structures": str(report.num_structures),
        "atoms": f"{report.num_atoms} ({smallest} to {largest}, {mean:.1f} on average)",
        "elements": ", ".join(f"{k} {n}" for k, n in report.elements.items()),
        "periodic directions": ", ".join(f"{k}: {n}" for k, n in report.periodicity.items()),
        "configuration types": ", ".join(f"{k or '-'} {n}" for k, n in _top(report.config_types)),
        "labels": ", ".join(f"{k} {n}" for k, n in report.coverage.items() if n) or "none",
        "reference energies (eV)": ", ".join(
            f"{k} {e:.4f}" for k, e in list(report.reference_energies.items())[:_SHOWN]
        ),
        "their rank": str(report.rank),
    }
    findings = {
        "isolated atoms": _listed(report.isolated_atoms),
        "duplicates": _listed(report.duplicates),
        "overlapping atoms": _listed(
            [
                f"{o.frame} (atoms {o.atoms[0]}, {o.atoms[1]}: {o.distance:.2f} Å)"
                for o in report.overlapping
            ]
        ),
        "energy outliers (eV/atom)": _listed(
            [f"{o.frame} ({o.value:.3f})" for o in report.energy_outliers]
        ),
        "force outliers (eV/Å)": _listed(
            [f"{o.frame} ({o.value:.1f})" for o in report.force_outliers]
        ),
    }
    cost = {f"cutoff {n.cutoff:g} Å": _cost(n) for n in report.neighbors}
    return {
        "Content": list(content.items()),
        "Checks": [(c.name, f"{c.verdict}: {c.message}") for c in report.checks],
        "Findings": list(findings.items()),
        "Neighbours and batches": list(cost.items()),
    }


def _cost(n: NeighborStatistics) -> str:
    text = f"{n.mean:.1f} neighbours on average, at most {n.longest}"
    if n.waste is None:
        return text
    return (
        f"{text}; {n.waste.shapes} shapes, padding {100 * n.waste.slots:.0f} %; largest batch "
        f"{n.batch_megabytes:.1f} MB, {n.pair_megabytes:.1f} MB for 32 channels of pairs"
    )


def _listed(items: Sequence[object]) -> str:
    shown = ", ".join(str(item) for item in items[:_SHOWN])
    return f"{len(items)}: {shown}{' …' if len(items) > _SHOWN else ''}" if items else "none"


def _top(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: -item[1])[:_SHOWN]


def _elements(structures: Sequence[Structure]) -> dict[str, int]:
    counts = Counter[int]()
    for structure in structures:
        counts.update(structure.atomic_numbers.tolist())
    return {SYMBOLS[z]: n for z, n in sorted(counts.items())}


def _neighbors(structures, cutoff: float, batch_size: int) -> NeighborStatistics:
    sizes = NeighborLists(structures, cutoff, keep=False).sizes
    waste, batch, pair = None, 0.0, 0.0
    if batch_size <= len(sizes):
        config = BatchConfig(batch_size=batch_size)
        waste = measure_waste(plan(0, 0, sizes, config), sizes)
        slots = waste.largest.atoms * waste.largest.max_neighbors
        # neighbours and shifts (16 bytes), a mask; labels and positions are small beside them.
        batch, pair = slots * 17 / 1e6, slots * 32 * 4 / 1e6
    return NeighborStatistics(
        cutoff=cutoff,
        mean=float(sizes.num_neighbors.sum() / max(1, sizes.num_atoms.sum())),
        longest=int(sizes.max_neighbors.max()),
        waste=waste,
        batch_megabytes=batch,
        pair_megabytes=pair,
    )
