"""`train`: from a config to a potential."""

from pathlib import Path
from typing import Annotated

import typer

from mlip_jax.cli import process
from mlip_jax.cli.process import Precision


def train(
    config: Annotated[Path, typer.Argument(help="YAML config; see `mlip-jax template`.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes, such as training.epochs=50.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory; else runs/TRAINING.NAME.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last checkpoint, bit for bit.")
    ] = False,
    precision: Annotated[
        Precision | None, typer.Option(help="Goes before training.precision.")
    ] = None,
) -> None:
    """Train a potential.

    Writes the resolved config, `metrics.jsonl`, checkpoints, the potential (`DIR/potential`), its
    errors and a report. Ctrl-C leaves a checkpoint.

    For example

        mlip-jax train si.yaml --output runs/si

        mlip-jax train si.yaml training.epochs=50 optimizer.learning_rate=1e-3

        mlip-jax train si.yaml --output runs/si --resume
    """
    from mlip_jax import config as configs

    changes = [*(overrides or ()), *([f"training.precision={precision}"] if precision else [])]
    mapping = configs.apply_overrides(configs.load_yaml(config), changes)
    training = mapping.get("training")
    chosen = training.get("precision") if isinstance(training, dict) else None
    process.prepare_jax("float64" if chosen == "float64" else "float32")
    from mlip_jax.train import run

    sections = run.parse(mapping)
    potential = run.fit(sections, output, base=config.absolute().parent, resume=resume)
    directory = output or Path("runs") / sections.training.name
    for name, errors in potential.card["errors"].items():
        parts = (f"{key} {error['mae']:.4g}" for key, error in errors.items())
        typer.echo(f"{name:6s} MAE  {'  '.join(parts)}")
    typer.echo(f"potential: {directory / 'potential'}")
    if (directory / "report.html").exists():
        typer.echo(f"report: {directory / 'report.html'}")
