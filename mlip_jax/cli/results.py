"""Where the commands of properties leave what they found: JSON, and a plot beside it."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mlip_jax.cli import use
from mlip_jax.config import UserError

OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="JSON; the plot stands beside it as PNG."),
]


def target(output: Path | None, name: str) -> Path:
    """The file to write, `NAME.json` where none is given.

    Raises:
        UserError: for another ending, or a place that cannot be written to.
    """
    file = Path(f"{name}.json") if output is None else output
    if file.suffix != ".json":
        raise UserError(f"{file}: got the ending {file.suffix!r}; expected .json.")
    use.check_writable(file)
    return file


def write(file: Path, values: dict[str, Any], draw: Callable[[Any], Any]) -> None:
    """Writes values as JSON, and what `draw` makes with `properties.plots` as a PNG beside it."""
    use.write_atomically(file, json.dumps(values, indent=1) + "\n")
    picture = file.with_suffix(".png")
    if importlib.util.find_spec("matplotlib") is None:
        typer.echo(f"{file}; no plot: pip install 'mlip_jax[report]'.")
        return
    from mlip_jax.properties import plots

    draw(plots).savefig(picture, dpi=150)
    typer.echo(f"{file}, {picture}")
