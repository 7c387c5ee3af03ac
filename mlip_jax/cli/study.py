"""`study`: a config over axes, from its runs to a table and figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mlip_jax.cli import process
from mlip_jax.config import UserError


def study(
    file: Annotated[Path, typer.Argument(help="YAML file of the study.", metavar="STUDY")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes, such as runs.workers=2.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Directory for runs/ and results/; else the STUDY's."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and list the runs.")
    ] = False,
    only_collect: Annotated[
        bool, typer.Option("--collect", help="Only rebuild table and figures of what is there.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Begin failed runs again.")] = False,
) -> None:
    """Run a config over axes (models, sizes of the training set, seeds, any key).

    Writes `runs/` with a directory for each run, and `results/` with `table.csv`, `table.json`,
    `report.html`, learning curves and the Pareto front of error against measured cost. A failed run
    stops no other. Ctrl-C leaves checkpoints; the same command goes on, and skips what is finished.

    For example

        mlip-jax study study.yaml --dry-run

        mlip-jax study study.yaml

        mlip-jax study study.yaml runs.workers=4 --retry

        mlip-jax study study.yaml runs.address=tcp://node7:8786

    where study.yaml says

        base: si.yaml

        axes: {train_size: [20, 50, 100], seed: [0, 1, 2]}
    """
    from mlip_jax import study as studies
    from mlip_jax.study import expand

    loaded = studies.load(file, overrides or ())
    process.prepare_jax(loaded.cost.precision if loaded.cost else "float32")
    process.share_cache()
    output = output or file.absolute().parent
    if only_collect:
        rows = studies.collect(loaded, expand.expand(loaded), output, typer.echo)
    elif dry_run:
        steps = studies.survey(loaded, output / "runs", retry)
        for step in steps:
            typer.echo(f"{step.due:7s} {step.variant.name}")
        typer.echo(studies.describe(steps))
        return
    else:
        rows = studies.conduct(loaded, output, retry=retry, say=typer.echo)
    _report_failures(rows)


def _report_failures(rows: Sequence[Mapping[str, Any]]) -> None:
    failed = [row["run"] for row in rows if row["status"] == "failed"]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(rows)} runs failed: {'; '.join(failed)}. The table has their "
            "messages. Correct what they say, then use --retry."
        )
