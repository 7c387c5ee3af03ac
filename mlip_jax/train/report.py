"""`report.html`, one self-contained file about a run, and its plots as PNG."""

import base64
import dataclasses
import html
import importlib.util
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlip_jax import config as configs
from mlip_jax.data.structure import Structure
from mlip_jax.inference import ERROR_UNITS, Comparison
from mlip_jax.train import log

Compared = tuple[Sequence[Structure], dict[str, Comparison]]

NEEDS_MATPLOTLIB = "plots need matplotlib: pip install 'mlip_jax[report]'"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em;
       color: #1d2733; }
h1, h2 { font-weight: 600; } h2 { margin-top: 2em; border-bottom: 1px solid #d5dbe1; }
table { border-collapse: collapse; } td, th { padding: 0.2em 0.9em; text-align: right; }
td:first-child, th:first-child { text-align: left; } tr { border-bottom: 1px solid #e8ecf0; }
img { max-width: 100%; } pre { background: #f4f6f8; padding: 1em; overflow-x: auto; }
"""


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
    sections = [
        f"<h1>{html.escape(output.name)}</h1>",
        "<h2>Errors</h2>" + _error_table(errors),
        f"<p>{NEEDS_MATPLOTLIB}</p>" if missing else "",
        *(_figure(name, image) for name, image in images.items()),
        "<h2>Errors by configuration type</h2>" + _group_tables(errors, "per_config_type"),
        "<h2>Errors by element</h2>" + _group_tables(errors, "per_element"),
        "<h2>Timing, memory and padding</h2>" + _facts_table(records, facts, card),
        "<h2>Card</h2>" + _details(card),
    ]
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>'
        f"{html.escape(output.name)}</title><style>{_STYLE}</style></head><body>"
        + "\n".join(sections)
        + "</body></html>\n"
    )
    path = output / "report.html"
    path.write_text(page, encoding="utf-8")
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
    for key in ("config_type", "element"):
        figures[f"errors_by_{key}"] = plots.by_group(errors, f"per_{key}", names)
    return {name: _png(figure) for name, figure in figures.items() if figure is not None}


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def _figure(name: str, image: bytes) -> str:
    title = html.escape(name.replace("_", " "))
    data = base64.b64encode(image).decode()
    return f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{data}">'


def _error_table(errors: Mapping[str, Any]) -> str:
    rows = [
        (name, p, e["mae"], e["rmse"], e["max"], values["units"][p], e["count"])
        for name, values in errors.items()
        for p, e in values["total"].items()
    ]
    return _table(("set", "property", "MAE", "RMSE", "largest", "unit", "labels"), rows)


def _group_tables(errors: Mapping[str, Any], key: str) -> str:
    rows = [
        (name, group or "(none)", p, e["mae"], e["rmse"], values["units"][p], e["count"])
        for name, values in errors.items()
        for group, properties in values[key].items()
        for p, e in properties.items()
    ]
    return _table(("set", "group", "property", "MAE", "RMSE", "unit", "labels"), rows)


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
    return _table(("", ""), rows)


def _details(card: Mapping[str, Any]) -> str:
    blocks = []
    for key, value in card.items():
        text = json.dumps(configs.to_plain(value), indent=1, ensure_ascii=False)
        blocks.append(
            f"<details><summary>{html.escape(str(key))}</summary>"
            f"<pre>{html.escape(text)}</pre></details>"
        )
    return "\n".join(blocks)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_text(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
