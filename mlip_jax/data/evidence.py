"""How labels compare with what other labels say they should be: the evidence for the checks."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mlip_jax.data.pair_force import PairFit
from mlip_jax.data.strained_pairs import StrainedPairs

MIN_SAMPLES = 6

_SMALL_STRAIN = 0.025

_SHEAR = ((1, 2), (0, 2), (0, 1))
ORDERS = tuple(itertools.permutations(range(3)))
"""Permutations q: the true shear component k (of yz, xz, xy) is labelled as component q[k]."""


class Evidence(NamedTuple):
    """How two quantities that should be equal compare over many samples.

    Attributes:
        correlation: about zero, in [-1, 1].
        ratio: scale of the label's partner over the label's own; 1 where units agree.
        samples: how many.
        kind: where it comes from.
    """

    correlation: float
    ratio: float
    samples: int
    kind: str


STRAINED = "strained pairs (dE = V σ:ε)"
FITTED = "stress of a fitted pair force"


def compare(expected: np.ndarray, label: np.ndarray, kind: str) -> Evidence | None:
    """Compares a label with what is expected of it; None where there is too little."""
    if len(label) < MIN_SAMPLES or rms(expected) == 0.0 or rms(label) == 0.0:
        return None
    correlation = float(np.mean(expected * label) / (rms(expected) * rms(label)))
    return Evidence(correlation, rms(label) / rms(expected), len(label), kind)


def _strained_work(pairs: StrainedPairs, order: Sequence[int]) -> np.ndarray:
    work = np.einsum("paa,paa->p", pairs.stress, pairs.strain)
    for k, source in enumerate(order):
        work = work + 2.0 * pairs.stress[:, *_SHEAR[source]] * pairs.strain[:, *_SHEAR[k]]
    return pairs.volume * work


def best_strained(pairs: StrainedPairs) -> Evidence | None:
    """Work of strained pairs against their energies, in the order that correlates best."""
    found = (compare(_strained_work(pairs, o), pairs.energy, STRAINED) for o in ORDERS)
    return max(found, key=lambda e: abs(e.correlation) if e else 0.0)


class Offset(NamedTuple):
    """A pressure by which all stresses differ from the derivatives of the energies.

    Attributes:
        stress: label less derivative, eV/Å^3.
        correlation: of what the labels leave unexplained of the energies with the change of volume.
        samples: how many pairs.
    """

    stress: float
    correlation: float
    samples: int


def strained_offset(pairs: StrainedPairs) -> Offset | None:
    """Looks for a constant in the trace of the stresses of pairs that differ by little strain.

    There the trapezoidal rule is exact enough; None where there are too few of these.
    """
    near = pairs.select(np.abs(pairs.strain).max(axis=(1, 2), initial=0.0) < _SMALL_STRAIN)
    if len(near) < MIN_SAMPLES:
        return None
    rest = near.energy - _strained_work(near, ORDERS[0])
    swelling = near.volume * np.einsum("paa->p", near.strain)
    size = rms(rest) * rms(swelling)
    if size == 0.0:
        return None
    product = float(np.mean(rest * swelling))
    return Offset(-product / rms(swelling) ** 2, product / size, len(near))


def strained_shear(pairs: StrainedPairs | None, order: Sequence[int]) -> Evidence | None:
    """The same for pairs that differ by shear above all, in one of `ORDERS`."""
    if pairs is None:
        return None
    shear = np.stack([pairs.strain[:, a, b] for a, b in _SHEAR], axis=1)
    diagonal = np.einsum("paa->pa", pairs.strain)
    sheared = pairs.select(np.linalg.norm(shear, axis=1) > np.linalg.norm(diagonal, axis=1))
    return compare(_strained_work(sheared, order), sheared.energy, STRAINED)


def _fit_columns(fit: PairFit | None, columns: Callable[[np.ndarray], np.ndarray]) -> tuple | None:
    if fit is None:
        return None
    chosen = [i for i, s in enumerate(fit.frames) if s.labels.stress is not None and s.pbc.all()]
    if len(chosen) < 3:
        return None
    labels = np.stack([np.asarray(fit.frames[i].labels.stress) for i in chosen])
    return columns(fit.stress[chosen]), columns(labels)


def fitted_stress(fit: PairFit | None) -> Evidence | None:
    """The deviatoric diagonal, which no order of the shear components touches."""

    def deviatoric(stress):
        diagonal = np.einsum("faa->fa", stress)
        return (diagonal - diagonal.mean(axis=1, keepdims=True)).ravel()

    columns = _fit_columns(fit, deviatoric)
    # The label stands to the pair force as the expected stress to the label of strained pairs.
    return None if columns is None else compare(columns[1], columns[0], FITTED)


def fitted_shear(fit: PairFit | None, order: Sequence[int]) -> Evidence | None:
    """Shear stress of the pair force against the labels, in one of `ORDERS`."""
    columns = _fit_columns(fit, lambda s: np.stack([s[:, a, b] for a, b in _SHEAR], axis=1))
    if columns is None:
        return None
    predicted, labelled = columns
    return compare(labelled[:, list(order)].ravel(), predicted.ravel(), FITTED)


def fitted_energy(fit: PairFit | None) -> Evidence | None:
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
    return compare(
        np.concatenate(predicted), np.concatenate(labelled), "energies of a fitted pair force"
    )


def rms(values: np.ndarray) -> float:
    """Root mean square; 0 of nothing."""
    return float(np.sqrt(np.mean(values**2))) if len(values) else 0.0
