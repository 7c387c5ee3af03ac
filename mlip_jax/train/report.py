"""`report.html`, one self-contained file about a run, and its plots as PNG."""

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlip_jax.data.structure import Structure
from mlip_jax.inference import ERROR_UNITS, Comparison
from mlip_jax.train import log
from mlip_jax.train.page import (
    NEEDS_MATPLOTLIB,
    details,
    figure,
    heading,
    page,
    paragraph,
    png,
    table,
)

Compared = tuple[Sequence[Structure], dict[str, Comparison]]


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What a report tells about how the run went.

    Attributes:
        stopped: why it ended.
        steps: taken.
        best_epoch: whose parameters were kept.
        programs: compiled steps.
        memory_bytes: of the largest step, on a device.
        preparation_seconds: reading data, neighbour lists, statistics.
        waste: shares of padding, see `data.planning.Waste`.
    """

    stopped: str
    steps: int
    best_epoch: int | None
    programs: int
    memory_bytes: int
    preparation_seconds: float
    waste: Mapping[str, Any]


def write(
    output: Path,
    compared: Mapping[str, Compared],
    errors: Mapping[str, Any],
    card: Mapping[str, Any],
    facts: RunFacts,
) -> str:
    """Writes `report.html` and, where matplotlib is installed, the plots.

    Args:
        output: directory of the run, with its `metrics.jsonl`.
        compared: labels and predictions of each set.
        errors: of `inference.summarize`, by set.
        card: of the potential.
        facts: about the run.

    Returns:
        What was written, for the terminal.
    """
    records = log.read_metrics(output / "metrics.jsonl")
    images: dict[str, bytes] = {}
    missing = importlib.util.find_spec("matplotlib") is None
    if not missing:
        images = _images(records, {name: pairs for name, (_, pairs) in compared.items()}, errors)
        for name, image in images.items():
            (output / f"{name}.png").write_bytes(image)
    several = len({source for values in errors.values() for source in values["per_source"]}) > 1
    sections = [
        heading("Errors") + _error_table(errors),
        _fine_tuning_table(errors),
        _observables_table(card),
        paragraph(NEEDS_MATPLOTLIB) if missing else "",
        *(figure(name, image) for name, image in images.items()),
        heading("Errors by configuration type") + _group_tables(errors, "per_config_type"),
        *([heading("Errors by source") + _group_tables(errors, "per_source")] * several),
        heading("Errors by element") + _group_tables(errors, "per_element"),
        heading("Timing, memory and padding") + _facts_table(records, facts, card),
        heading("Card") + details(card),
    ]
    path = output / "report.html"
    path.write_text(page(output.name, sections), encoding="utf-8")
    return f"report: {path}" + (f" ({NEEDS_MATPLOTLIB})" if missing else "")


def _images(records, sets, errors) -> dict[str, bytes]:
    from mlip_jax.train import plots

    names = [name for name in ERROR_UNITS if any(name in pairs for pairs in sets.values())]
    figures: dict[str, Any] = {}
    if records:
        figures["learning_curves"] = plots.learning_curves(records)
    for name in names:
        figures[f"parity_{name}"] = plots.parity(sets, name)
        figures[f"errors_{name}"] = plots.histogram(sets, name)
    for key in ("config_type", "source", "element"):
        figures[f"errors_by_{key}"] = plots.by_group(errors, f"per_{key}", names)
    return {name: png(drawing) for name, drawing in figures.items() if drawing is not None}


def _error_table(errors: Mapping[str, Any]) -> str:
    rows = [
        (name, p, e["mae"], e["rmse"], e["max"], values["units"][p], e["count"])
        for name, values in errors.items()
        for p, e in values["total"].items()
    ]
    return table(("set", "property", "MAE", "RMSE", "largest", "unit", "labels"), rows)


def _fine_tuning_table(errors: Mapping[str, Any]) -> str:
    """Errors of the potential that training began with, beside those at the end."""
    rows = [
        (name, p, e["mae"], values["total"][p]["mae"], e["rmse"], values["total"][p]["rmse"], unit)
        for name, values in errors.items()
        for p, e in values.get("before", {}).items()
        for unit in (values["units"][p],)
    ]
    if not rows:
        return ""
    columns = ("set", "property", "MAE before", "after", "RMSE before", "after", "unit")
    return heading("Errors before and after fine-tuning") + table(columns, rows)


def _observables_table(card: Mapping[str, Any]) -> str:
    """Observables beside their targets, where there are any."""
    if "observables" not in card:
        return ""
    rows = [
        (name, e["value"], e["target"], e["value"] - e["target"], e["tolerance"], e["unit"])
        for name, e in card["observables"]["values"].items()
    ]
    columns = ("observable", "value", "target", "difference", "tolerance", "unit")
    return heading("Observables") + table(columns, rows)


def _group_tables(errors: Mapping[str, Any], key: str) -> str:
    rows = [
        (name, group or "(none)", p, e["mae"], e["rmse"], values["units"][p], e["count"])
        for name, values in errors.items()
        for group, properties in values[key].items()
        for p, e in properties.items()
    ]
    return table(("set", "group", "property", "MAE", "RMSE", "unit", "labels"), rows)


def _facts_table(records, facts: RunFacts, card: Mapping[str, Any]) -> str:
    size = card["config"]["training"]["batch_size"]
    compile_seconds = records[-1]["time"]["compile_seconds"] if records else 0.0
    epochs = sorted(record["time"]["epoch_seconds"] for record in records)
    epoch = epochs[len(epochs) // 2] if epochs else 0.0
    steps = facts.steps / max(len(records), 1)
    rows = [
        ("why it ended", facts.stopped),
        ("steps", facts.steps),
        ("best epoch", facts.best_epoch),
        ("preparation [s]", facts.preparation_seconds),
        ("compilation [s]", compile_seconds),
        ("compiled steps", facts.programs),
        ("median epoch, steady state [s]", epoch),
        ("structures per second, steady state", steps * size / epoch if epoch else None),
        ("training, all in all [s]", records[-1]["time"]["total_seconds"] if records else 0.0),
        ("memory of the largest step [MB]", facts.memory_bytes / 1e6),
        ("padding of atoms", f"{facts.waste['atoms']:.1%}"),
        ("padding of pair slots", f"{facts.waste['slots']:.1%}"),
    ]
    return table(("", ""), rows)
