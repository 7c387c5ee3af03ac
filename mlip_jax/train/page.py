"""Pages of HTML for the reports of runs and studies: tables, figures, folded details."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlip_jax import config as configs

NEEDS_MATPLOTLIB = "plots need matplotlib: pip install 'mlip_jax[report]'"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em;
       color: #1d2733; }
h1, h2 { font-weight: 600; } h2 { margin-top: 2em; border-bottom: 1px solid #d5dbe1; }
table { border-collapse: collapse; } td, th { padding: 0.2em 0.9em; text-align: right; }
td:first-child, th:first-child { text-align: left; } tr { border-bottom: 1px solid #e8ecf0; }
img { max-width: 100%; } pre { background: #f4f6f8; padding: 1em; overflow-x: auto; }
"""


def page(title: str, sections: Sequence[str]) -> str:
    """A whole page of sections that are HTML already."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>'
        f"{html.escape(title)}</title><style>{_STYLE}</style></head><body>"
        + "\n".join([heading(title, 1), *sections])
        + "</body></html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    """A heading."""
    return f"<h{level}>{html.escape(text)}</h{level}>"


def paragraph(text: str) -> str:
    """A paragraph."""
    return f"<p>{html.escape(text)}</p>"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table of any values, numbers with four digits."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_text(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def figure(name: str, image: bytes) -> str:
    """A heading and a PNG image, embedded."""
    title = html.escape(name.replace("_", " "))
    data = base64.b64encode(image).decode()
    return f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{data}">'


def details(mapping: Mapping[str, Any]) -> str:
    """The values of a mapping as JSON, each folded away under its key."""
    blocks = []
    for key, value in mapping.items():
        text = json.dumps(configs.to_plain(value), indent=1, ensure_ascii=False)
        blocks.append(
            f"<details><summary>{html.escape(str(key))}</summary>"
            f"<pre>{html.escape(text)}</pre></details>"
        )
    return "\n".join(blocks)


def png(drawing: Any) -> bytes:
    """A figure of matplotlib as PNG."""
    stream = io.BytesIO()
    drawing.savefig(stream, format="png", dpi=90)
    return stream.getvalue()


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
