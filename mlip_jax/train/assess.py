"""Errors of a fitted potential on its own data, for its card and the report."""

import dataclasses
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlip_jax import inference, storage
from mlip_jax.data.collate import Bucket
from mlip_jax.data.dataset import Dataset
from mlip_jax.data.structure import Structure
from mlip_jax.inference import uncertainty
from mlip_jax.potential import Potential
from mlip_jax.train import reliability, report
from mlip_jax.train.settings import TrainingConfig

MAX_EVALUATED = 2000
"""Training structures whose errors go into the report, evenly spread over the set."""


def assess(
    potential: Potential,
    data: Dataset,
    training: TrainingConfig,
    output: Path,
    facts: report.RunFacts,
    room: Bucket | None = None,
    before: Potential | None = None,
) -> tuple[Potential, str]:
    """Measures errors on all sets; writes them, the potential with them in its card, the report.

    Args:
        potential: as fitted.
        data: training, validation and test sets, and what is held out of `training.replay`.
        training: section.
        output: directory of the run.
        facts: about the run, for the report.
        room: a compiled shape of single structures, see `shapes.single_buckets`.
        before: the potential that training began with, with the reference energies of this run:
            its errors go beside the others, as `before`; those on training data only where there
            are no new structures in the other sets.

    Returns:
        The potential with its errors, and what was written.
    """
    comparisons = _compare(potential, data, training.precision)
    errors = {name: inference.summarize(c, s) for name, (s, c) in comparisons.items()}
    said = ""
    if before is not None:
        unseen = dataclasses.replace(data, train=())
        chosen = unseen if len(data.valid) or len(data.test) else data
        for name, (s, c) in _compare(before, chosen, training.precision).items():
            errors[name]["before"] = inference.summarize(c, s)["total"]
        said = describe_fine_tuning(errors) + "\n"
    if "posterior" in potential.variables:
        for name in ("valid", "test"):
            if name in comparisons:
                structures, pairs = comparisons[name]
                sigmas = uncertainty.uncertainties(potential, structures, room=room)
                errors[name]["uncertainty"] = reliability.write(
                    reliability.deviations(pairs, structures, sigmas), output, name
                )
    (output / "errors.json").write_text(json.dumps(errors, indent=1), encoding="utf-8")
    card = potential.card
    potential = dataclasses.replace(potential, card={**card, "errors": _totals(errors)})
    storage.save(potential, output / "potential")
    if not training.report:
        return potential, f"{said}potential: {output / 'potential'}"
    return potential, said + report.write(output, comparisons, errors, card=card, facts=facts)


def describe_fine_tuning(errors: Mapping[str, Any]) -> str:
    """Mean absolute errors before and after, of the sets that have both, a line each."""
    lines = []
    for name, values in errors.items():
        parts = (
            f"{p} {old['mae']:.4g} -> {values['total'][p]['mae']:.4g} {values['units'][p]}"
            for p, old in values.get("before", {}).items()
        )
        if "before" in values:
            lines.append(f"{name}: mean absolute errors before and after: {', '.join(parts)}")
    return "\n".join(lines)


def _compare(potential: Potential, data: Dataset, precision: str) -> dict[str, report.Compared]:
    """Labels against predictions for each of the sets that is not empty."""
    sets: dict[str, list[Structure]] = {}
    for name in ("train", "valid", "test", "replay"):
        everything = getattr(data, name)
        stride = max(-(-len(everything) // MAX_EVALUATED), 1)
        sets[name] = [everything[i] for i in range(0, len(everything), stride)]
    # All at once, so that they share compiled programs.
    every = [structure for structures in sets.values() for structure in structures]
    predictions = iter(inference.predict(potential, every, precision=precision))
    references = inference.source_references(potential)
    compared = {}
    for name, structures in sets.items():
        own = list(itertools.islice(predictions, len(structures)))
        if structures:
            pairs = inference.compare(structures, own, potential, references)
            compared[name] = (structures, pairs)
    return compared


def _totals(errors: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values["total"] for name, values in errors.items()}
