"""Do the labels mean what the config says? Three verdicts, of which only one stops a run.

`holds` and `contradicted` need evidence; without any the verdict is `cannot tell`. The evidence,
the strongest first: energies of strained pairs (dE = V σ:ε), energies of frames whose atoms moved
a little (dE = -F·dx), and a pair force fitted to the forces.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from mlip_jax import units
from mlip_jax.config import UserError
from mlip_jax.data import evidence, pair_force
from mlip_jax.data.evidence import MIN_SAMPLES, ORDERS, STRAINED, Evidence
from mlip_jax.data.formats.labels import LabelKeys
from mlip_jax.data.strained_pairs import StrainedPairs, displaced_pairs, strained_pairs
from mlip_jax.data.structure import Structure

Verdict = Literal["holds", "contradicted", "cannot tell"]

NAMES = (
    "keys",
    "zero_forces",
    "stress_sign",
    "stress_order",
    "stress_unit",
    "stress_offset",
    "energy_force_unit",
)

_SHEAR_NAMES = ("yz", "xz", "xy")
_NO_STRESS_EVIDENCE = "no strained pairs, and no pair force that explains the stress."
_MIN_SIGNAL = 1e-3
"""Root mean square energy difference [eV/atom] below which strained pairs are noise."""

_MIN_OFFSET = 0.5 * units.PRESSURE["GPa"]
"""Of the stress; forces and stresses of well converged calculations agree to much less."""


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
    by_order = [evidence.fitted_shear(fit, order) for order in ORDERS]
    fit_stress = evidence.fitted_stress(fit)
    usable = len(strained) >= MIN_SAMPLES and evidence.rms(strained.energy) > _MIN_SIGNAL
    best = evidence.best_strained(strained) if usable else None
    candidates = [best, fit_stress]
    strong = [e for e in candidates if e is not None and abs(e.correlation) > 0.7]
    found = strong[0] if strong else None
    return [
        _sign(found),
        _order(strained if usable else None, by_order, keys),
        _unit(found, keys),
        _offset(strained if usable else None, found, keys),
    ]


def _sign(found: Evidence | None) -> Check:
    name = "stress_sign"
    if found is None:
        return Check(name, "cannot tell", _NO_STRESS_EVIDENCE)
    if found.correlation > 0.0:
        return Check(name, "holds", _describe(found))
    return Check(
        name,
        "contradicted",
        f"{_describe(found)}: the stress has the opposite sign. Set data.labels.stress_sign to "
        "the other of tension_positive (ASE) and compression_positive (VASP).",
    )


def _unit(found: Evidence | None, keys: LabelKeys) -> Check:
    name = "stress_unit"
    if found is None:
        return Check(name, "cannot tell", _NO_STRESS_EVIDENCE)
    close, far = (2.0, 3.0) if found.kind == STRAINED else (5.0, 20.0)
    size = abs(np.log(found.ratio))
    if size < np.log(close):
        return Check(name, "holds", _describe(found))
    if size < np.log(far):
        return Check(name, "cannot tell", _describe(found))
    stress = _nearest(units.PRESSURE, units.PRESSURE[keys.units.stress] * found.ratio)
    energy = _nearest(units.ENERGY, units.ENERGY[keys.units.energy] / found.ratio)
    advice = [f"data.labels.units.stress: {stress}"] if stress else []
    advice += [f"data.labels.units.energy: {energy}"] if energy else []
    return Check(
        name,
        "contradicted",
        f"{_describe(found)}: the stress should be {found.ratio:.3g} times as large. "
        + (f"Set {' or '.join(advice)}." if advice else "Correct data.labels.units."),
    )


def _offset(strained: StrainedPairs | None, found: Evidence | None, keys: LabelKeys) -> Check:
    name = "stress_offset"
    fits = found is not None and found.correlation > 0.0 and abs(np.log(found.ratio)) < np.log(2.0)
    offset = evidence.strained_offset(strained) if strained is not None and fits else None
    if offset is None:
        return Check(name, "cannot tell", "no pairs of little strain whose stress has a meaning.")
    gpa = offset.stress / units.PRESSURE["GPa"]
    what = (
        f"{offset.samples} pairs of little strain: a constant of {gpa:.2f} GPa, correlation "
        f"{abs(offset.correlation):.2f}"
    )
    if abs(offset.stress) < _MIN_OFFSET or abs(offset.correlation) < 0.9:
        return Check(name, "holds", what)
    sign = 1.0 if keys.stress_sign == "tension_positive" else -1.0
    stated = keys.stress_offset + sign * offset.stress / units.PRESSURE[keys.units.stress]
    return Check(
        name,
        "contradicted",
        f"{what}: the stresses are not the derivatives of the energies, as with too few plane "
        f"waves (Pulay stress). Set data.labels.stress_offset: {stated:.4g} to take it off; or "
        "loss.stress: null and accept this; or data.labels.stress: null.",
    )


def _order(strained: StrainedPairs | None, by_order: list[Evidence | None], keys) -> Check:
    name = "stress_order"
    sources = [[evidence.strained_shear(strained, order) for order in ORDERS], by_order]
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
            f"stress_order: {_reordered(keys.stress_order, ORDERS[best])!r}; if it has a matrix, "
            "that was filled in a wrong order.",
        )
    return Check(name, "cannot tell", _NO_STRESS_EVIDENCE)


def _energy_force_unit(frames: Sequence[Structure], fit, keys: LabelKeys) -> Check:
    name = "energy_force_unit"
    pairs = displaced_pairs(frames)
    moved = evidence.compare(pairs.work, pairs.energy, "pairs of nearby frames (dE = -F·dx)")
    fitted = evidence.fitted_energy(fit)
    limits = ((moved, 0.85, 3.0), (fitted, 0.55, 8.0))
    for found, least, close in limits:
        if found is None or abs(found.correlation) < least:
            continue
        if found.correlation < 0.0:
            return Check(
                name,
                "contradicted",
                f"{_describe(found)}: energies and forces disagree in sign; the file holds "
                "gradients instead of forces. Negate them.",
            )
        if abs(np.log(found.ratio)) < np.log(close):
            return Check(name, "holds", _describe(found))
        if abs(np.log(found.ratio)) > np.log(8.0):
            unit = _nearest(units.ENERGY, units.ENERGY[keys.units.energy] / found.ratio)
            force = _nearest(units.FORCE, keys.units.force_factor * found.ratio)
            advice = [f"data.labels.units.energy: {unit}"] if unit else []
            advice += [f"data.labels.units.forces: {force}"] if force else []
            return Check(
                name,
                "contradicted",
                f"{_describe(found)}: energies are {found.ratio:.3g} times as large as the "
                f"forces say. Set {' or '.join(advice) or 'data.labels.units'}.",
            )
    return Check(name, "cannot tell", "too few nearby frames, and no pair force explains them.")


def _reordered(stated: str, order: Sequence[int]) -> str:
    """The order of six numbers that turns the stated shear components into the permuted ones."""
    correct = {_SHEAR_NAMES[source]: _SHEAR_NAMES[k] for k, source in enumerate(order)}
    names = ("".join(sorted(name)) for name in stated.split())
    return " ".join(correct.get(name, name) for name in names)


def _nearest(table: Mapping[str, float], factor: float) -> str | None:
    """The unit whose factor is within 40 % of the given one."""
    name = min(table, key=lambda unit: abs(np.log(table[unit] / factor)))
    return name if abs(np.log(table[name] / factor)) < np.log(1.4) else None


def _describe(found: Evidence) -> str:
    return (
        f"{found.samples} values from {found.kind}: correlation {found.correlation:.2f}, "
        f"ratio {found.ratio:.3g}"
    )
