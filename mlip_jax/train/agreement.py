"""Refusals, and hints, where config, data and model do not agree."""

from collections.abc import Sequence
from typing import Any

import jax

from mlip_jax.config import UserError
from mlip_jax.data.statistics import Statistics
from mlip_jax.elements import SYMBOLS
from mlip_jax.train.engine import Task
from mlip_jax.train.loss import PROPERTIES, LossConfig
from mlip_jax.train.parameter_groups import path_name
from mlip_jax.train.sections import Sections

_DERIVED = ("energy", "forces", "stress")
"""What every model predicts."""


def check_sources(sections: Sections, heads: Sequence[str], found: Statistics) -> None:
    """Refuses heads, and weights of sources, that no training structure belongs to."""
    known = found.source_reference_energies
    for where, names in (
        ("model: heads", heads),
        ("data.source_weights", sections.data.source_weights),
    ):
        for name in names:
            if name not in known:
                raise UserError(
                    f"{where}: got {name!r}, of which there is no training structure; the sources "
                    f"are {sorted(known)}. Correct the name, or the sources of the data (`source` "
                    "of a file, `labels.source`)."
                )


def hints(sections: Sections, found: Statistics, params: Any) -> list[str]:
    """What training says before it begins of settings that often make it worse."""
    said = (hint_at_references(sections, found), hint_at_rates(sections, params))
    return [hint for hint in said if hint is not None]


def hint_at_references(sections: Sections, found: Statistics) -> str | None:
    """What to know where a network gets reference energies of bound atoms; `None` elsewhere."""
    fitted = sections.data.statistics.reference_energies in ("auto", "least_squares")
    if not fitted or sections.optimizer is None or sections.training.start is not None:
        return None
    isolated = {name for report in found.reports.values() for name in report.isolated}
    bound = [SYMBOLS[z] for z in found.species if SYMBOLS[z] not in isolated]
    if not bound:
        return None
    return (
        f"reference energies of {', '.join(bound)} are fitted to bound atoms, since the data have "
        "no isolated ones; networks mostly learn faster, and better, with "
        "data.statistics.reference_energies: cohesive"
    )


def hint_at_rates(sections: Sections, params: Any) -> str | None:
    """What to know where Adam has Muon's rate, for all that is no matrix; `None` elsewhere."""
    optimizer = sections.optimizer
    if optimizer is None or optimizer.name != "muon" or optimizer.groups:
        return None
    if {"adam_learning_rate", "muon_weight_dimension_numbers"} & set(optimizer.arguments):
        return None
    leaves = jax.tree_util.tree_leaves_with_path(params)
    others = [path_name(path) for path, leaf in leaves if leaf.ndim != 2]
    if not others:
        return None
    more = ", …" if len(others) > 2 else ""
    return (
        f"muon trains matrices; {', '.join(others[:2])}{more} learn by Adam, with the same rate, "
        "often far too large for them. optimizer.adam_learning_rate is a rate of their own (a "
        "number or a schedule): begin with a tenth of learning_rate"
    )


def check_loss(config: LossConfig, task: Task) -> None:
    """Refuses a loss of what the data do not have, or the model does not predict."""
    graph = task.train.batch(0, 0).graph
    if task.train.config.devices > 1:
        graph = jax.tree.map(lambda leaf: leaf[0], graph)
    shown = set(_DERIVED)
    if any(getattr(config, name) is not None for name in set(PROPERTIES) - shown):
        predicted = jax.eval_shape(task.predict, task.variables, graph)
        shown = {name for name in PROPERTIES if getattr(predicted, name) is not None}
    new = task.training.start is None
    if new and config.magmoms is None and getattr(task.model, "predict_magmoms", False):
        raise UserError(
            "loss.magmoms: null, while the model predicts magnetic moments, which nothing would "
            "train. Give it a weight, or set the model's predict_magmoms: false."
        )
    for name in PROPERTIES:
        if getattr(config, name) is None:
            continue
        if name not in task.train.fields:
            raise UserError(
                f"loss.{name}: no training structure has this label (they have "
                f"{', '.join(task.train.fields) or 'none'}). Set loss.{name}: null, or check the "
                "label keys of the data."
            )
        if name not in shown:
            raise UserError(
                f"loss.{name}: the model predicts no {name}. Set loss.{name}: null, or choose a "
                "model that does."
            )
