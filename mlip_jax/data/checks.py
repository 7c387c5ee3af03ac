"""Do the labels mean what the config says? Three verdicts, of which only one stops a run.

`holds` and `contradicted` need evidence; without any the verdict is `cannot tell`. The evidence,
the strongest first: energies of strained pairs (dE = V σ:ε), energies of frames whose atoms moved
a little (dE = -F·dx), and a pair force fitted to the forces.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from mlip_jax import units
from mlip_jax.config import UserError
from mlip_jax.data import pair_force
from mlip_jax.data.formats.labels import LabelKeys
from mlip_jax.data.strained_pairs import StrainedPairs, displaced_pairs, strained_pairs
from mlip_jax.data.structure import Structure

Verdict = Literal["holds", "contradicted", "cannot tell"]

NAMES = ("keys", "zero_forces", "stress_sign", "stress_order", "stress_unit", "energy_force_unit")

_SHEAR = ((1, 2), (0, 2), (0, 1))
_SHEAR_NAMES = ("yz", "xz", "xy")
_ORDERS = tuple(itertools.permutations(range(3)))
_MIN_PAIRS = 6
_MIN_SIGNAL = 1e-3
"""Root mean square energy difference [eV/atom] below which strained pairs are noise."""


@dataclasses.dataclass(frozen=True)
class Check:
    """Outcome of one check.

    Attributes:
        name: one of `NAMES`; `checks: {name: accept}` overrides it.
        verdict: what the data say about what the config says.
        message: the evidence and, where contradicted, what to change.
    """

    name: str
    verdict: Verdict
    message: str


class Evidence(NamedTuple):
    """How two quantities that should be equal compare over many samples.

    Attributes:
        correlation: about zero, in [-1, 1].
        ratio: scale of the label's partner over the label's own; 1 where units agree.
        count: number of samples.
        kind: where it comes from.
    """

    correlation: float
    ratio: float
    count: int
    kind: str


def run(structures: Iterable[Structure], keys: LabelKeys) -> list[Check]:
    """Checks labels against each other.

    Args:
        structures: training data, or a sample of some thousand frames of it.
        keys: what the config says, for advice.
    """
    frames = list(structures)
    fit = pair_force.fit(frames)
    strained = strained_pairs(frames)
    return [
        zero_forces(frames),
        *_stress_checks(strained, fit, keys),
        _energy_force_unit(frames, fit, keys),
    ]


def enforce(checks: Sequence[Check], accepted: Mapping[str, str]) -> None:
    """Stops at contradictions that the config does not accept by name.

    Raises:
        UserError: listing every contradiction with what to change; or an unknown name.
    """
    unknown = sorted(set(accepted) - set(NAMES))
    if unknown:
        raise UserError(f"data.checks: unknown name {unknown[0]!r}; known: {', '.join(NAMES)}.")
    found = [c for c in checks if c.verdict == "contradicted" and c.name not in accepted]
    if found:
        lines = [f"- {c.name}: {c.message}" for c in found]
        names = ", ".join(f"{c.name}: accept" for c in found)
        raise UserError(
            "The data contradict what the config says of them:\n"
            + "\n".join(lines)
            + f"\nIf the data are right nevertheless: data.checks: {{{names}}}."
        )


def zero_forces(frames: Sequence[Structure]) -> Check:
    """Forces that are zero in every frame of several atoms were not read, or not computed."""
    largest = [
        float(np.abs(s.labels.forces).max())
        for s in frames
        if s.labels.forces is not None and s.num_atoms > 1
    ]
    if not largest:
        return Check("zero_forces", "cannot tell", "no frame of several atoms has forces.")
    if max(largest) == 0.0:
        return Check(
            "zero_forces",
            "contradicted",
            f"the forces are exactly zero in all {len(largest)} frames of several atoms. Look for "
            "another key of the forces, or set data.labels.forces: null to train without them.",
        )
    zero = sum(f == 0.0 for f in largest)
    return Check("zero_forces", "holds", f"{zero} of {len(largest)} frames have zero forces.")


def _stress_checks(strained: StrainedPairs, fit, keys: LabelKeys) -> list[Check]:
    by_order = [_fit_shear(fit, order) for order in _ORDERS]
    fit_stress = _fit_stress(fit)
    usable = len(strained) >= _MIN_PAIRS and _rms(strained.energy) > _MIN_SIGNAL
    best = _best_order(strained) if usable else None
    candidates = [best, fit_stress]
    strong = [e for e in candidates if e is not None and abs(e.correlation) > 0.7]
    evidence = strong[0] if strong else None
    return [
        _sign(evidence),
        _order(strained if usable else None, by_order, keys),
        _unit(evidence, keys),
    ]


def _sign(evidence: Evidence | None) -> Check:
    name = "stress_sign"
    if evidence is None:
        return Check(name, "cannot tell", _NO_STRESS_EVIDENCE)
    if evidence.correlation > 0.0:
        return Check(name, "holds", _describe(evidence))
    return Check(
        name,
        "contradicted",
        f"{_describe(evidence)}: the stress has the opposite sign. Set data.labels.stress_sign to "
        "the other of tension_positive (ASE) and compression_positive (VASP).",
    )


def _unit(evidence: Evidence | None, keys: LabelKeys) -> Check:
    name = "stress_unit"
    if evidence is None:
        return Check(name, "cannot tell", _NO_STRESS_EVIDENCE)
    close, far = (2.0, 3.0) if evidence.kind == _STRAINED else (5.0, 20.0)
    size = abs(np.log(evidence.ratio))
    if size < np.log(close):
        return Check(name, "holds", _describe(evidence))
    if size < np.log(far):
        return Check(name, "cannot tell", _describe(evidence))
    stress = _nearest(units.PRESSURE, units.PRESSURE[keys.units.stress] * evidence.ratio)
    energy = _nearest(units.ENERGY, units.ENERGY[keys.units.energy] / evidence.ratio)
    advice = [f"data.labels.units.stress: {stress}"] if stress else []
    advice += [f"data.labels.units.energy: {energy}"] if energy else []
    return Check(
        name,
        "contradicted",
        f"{_describe(evidence)}: the stress should be {evidence.ratio:.3g} times as large. "
        + (f"Set {' or '.join(advice)}." if advice else "Correct data.labels.units."),
    )


def _order(strained: StrainedPairs | None, by_order: list[Evidence | None], keys) -> Check:
    name = "stress_order"
    sources = [[_strained_order(strained, order) for order in _ORDERS], by_order]
    for found in sources:
        scores = [abs(e.correlation) if e else 0.0 for e in found]
        best, stated = int(np.argmax(scores)), found[0]
        # Too weak, or every order explains the energies as well (shear that is alike in all).
        if stated is None or scores[best] < 0.8 or scores[best] - min(scores) < 0.2:
            continue
        if scores[0] > scores[best] - 0.1:
            return Check(name, "holds", _describe(stated))
        return Check(
            name,
            "contradicted",
            f"{stated.kind}: correlation {scores[0]:.2f} as stated, {scores[best]:.2f} with the "
            "shear components permuted. If the file has six numbers, set data.labels."
            f"stress_order: {_reordered(keys.stress_order, _ORDERS[best])!r}; if it has a matrix, "
            "that was filled in a wrong order.",
        )
    return Check(name, "cannot tell", _NO_STRESS_EVIDENCE)


def _energy_force_unit(frames: Sequence[Structure], fit, keys: LabelKeys) -> Check:
    name = "energy_force_unit"
    pairs = displaced_pairs(frames)
    moved = _compare(pairs.work, pairs.energy, "pairs of nearby frames (dE = -F·dx)")
    fitted = _fit_energy(fit)
    limits = ((moved, 0.85, 3.0), (fitted, 0.55, 8.0))
    for evidence, least, close in limits:
        if evidence is None or abs(evidence.correlation) < least:
            continue
        if evidence.correlation < 0.0:
            return Check(
                name,
                "contradicted",
                f"{_describe(evidence)}: energies and forces disagree in sign; the file holds "
                "gradients instead of forces. Negate them.",
            )
        if abs(np.log(evidence.ratio)) < np.log(close):
            return Check(name, "holds", _describe(evidence))
        if abs(np.log(evidence.ratio)) > np.log(8.0):
            unit = _nearest(units.ENERGY, units.ENERGY[keys.units.energy] / evidence.ratio)
            force = _nearest(units.FORCE, keys.units.force_factor * evidence.ratio)
            advice = [f"data.labels.units.energy: {unit}"] if unit else []
            advice += [f"data.labels.units.forces: {force}"] if force else []
            return Check(
                name,
                "contradicted",
                f"{_describe(evidence)}: energies are {evidence.ratio:.3g} times as large as the "
                f"forces say. Set {' or '.join(advice) or 'data.labels.units'}.",
            )
    return Check(name, "cannot tell", "too few nearby frames, and no pair force explains them.")


_STRAINED = "strained pairs (dE = V σ:ε)"
_FITTED = "stress of a fitted pair force"
_NO_STRESS_EVIDENCE = "no strained pairs, and no pair force that explains the stress."


def _compare(expected: np.ndarray, label: np.ndarray, kind: str) -> Evidence | None:
    """Compares a label with what is expected of it; None where there is too little."""
    if len(label) < _MIN_PAIRS or _rms(expected) == 0.0 or _rms(label) == 0.0:
        return None
    correlation = float(np.mean(expected * label) / (_rms(expected) * _rms(label)))
    return Evidence(correlation, _rms(label) / _rms(expected), len(label), kind)


def _strained_work(pairs: StrainedPairs, order: Sequence[int]) -> np.ndarray:
    work = np.einsum("paa,paa->p", pairs.stress, pairs.strain)
    for k, source in enumerate(order):
        work = work + 2.0 * pairs.stress[:, *_SHEAR[source]] * pairs.strain[:, *_SHEAR[k]]
    return pairs.volume * work


def _best_order(pairs: StrainedPairs) -> Evidence | None:
    found = (_compare(_strained_work(pairs, o), pairs.energy, _STRAINED) for o in _ORDERS)
    return max(found, key=lambda e: abs(e.correlation) if e else 0.0)


def _strained_order(pairs: StrainedPairs | None, order: Sequence[int]) -> Evidence | None:
    if pairs is None:
        return None
    shear = np.stack([pairs.strain[:, a, b] for a, b in _SHEAR], axis=1)
    diagonal = np.einsum("paa->pa", pairs.strain)
    sheared = pairs.select(np.linalg.norm(shear, axis=1) > np.linalg.norm(diagonal, axis=1))
    return _compare(_strained_work(sheared, order), sheared.energy, _STRAINED)


def _fit_columns(fit, columns: Callable[[np.ndarray], np.ndarray]) -> tuple | None:
    if fit is None:
        return None
    chosen = [
        i for i, s in enumerate(fit.frames) if s.labels.stress is not None and s.pbc.all()
    ]
    if len(chosen) < 3:
        return None
    labels = np.stack([np.asarray(fit.frames[i].labels.stress) for i in chosen])
    return columns(fit.stress[chosen]), columns(labels)


def _fit_stress(fit) -> Evidence | None:
    """The deviatoric diagonal, which no order of the shear components touches."""

    def deviatoric(stress):
        diagonal = np.einsum("faa->fa", stress)
        return (diagonal - diagonal.mean(axis=1, keepdims=True)).ravel()

    columns = _fit_columns(fit, deviatoric)
    # The label stands to the pair force as the expected stress to the label of strained pairs.
    return None if columns is None else _compare(columns[1], columns[0], _FITTED)


def _fit_shear(fit, order: Sequence[int]) -> Evidence | None:
    columns = _fit_columns(fit, lambda s: np.stack([s[:, a, b] for a, b in _SHEAR], axis=1))
    if columns is None:
        return None
    predicted, labelled = columns
    return _compare(labelled[:, list(order)].ravel(), predicted.ravel(), _FITTED)


def _fit_energy(fit) -> Evidence | None:
    """Energies about the median of each composition, per atom."""
    if fit is None:
        return None
    groups: dict[tuple, list[int]] = {}
    for i, s in enumerate(fit.frames):
        if s.labels.energy is not None:
            key = (s.source, s.config_type, np.sort(s.atomic_numbers).tobytes())
            groups.setdefault(key, []).append(i)
    predicted, labelled = [np.zeros(0)], [np.zeros(0)]
    for members in groups.values():
        atoms = fit.frames[members[0]].num_atoms
        label = np.array([fit.frames[i].labels.energy for i in members])
        labelled.append((label - np.median(label)) / atoms)
        predicted.append((fit.energy[members] - np.median(fit.energy[members])) / atoms)
    return _compare(
        np.concatenate(predicted), np.concatenate(labelled), "energies of a fitted pair force"
    )


def _reordered(stated: str, order: Sequence[int]) -> str:
    """The order of six numbers that turns the stated shear components into the permuted ones."""
    correct = {_SHEAR_NAMES[source]: _SHEAR_NAMES[k] for k, source in enumerate(order)}
    names = ("".join(sorted(name)) for name in stated.split())
    return " ".join(correct.get(name, name) for name in names)


def _nearest(table: Mapping[str, float], factor: float) -> str | None:
    """The unit whose factor is within 40 % of the given one."""
    name = min(table, key=lambda unit: abs(np.log(table[unit] / factor)))
    return name if abs(np.log(table[name] / factor)) < np.log(1.4) else None


def _describe(evidence: Evidence) -> str:
    return (
        f"{evidence.count} values from {evidence.kind}: correlation {evidence.correlation:.2f}, "
        f"ratio {evidence.ratio:.3g}"
    )


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2))) if len(values) else 0.0
