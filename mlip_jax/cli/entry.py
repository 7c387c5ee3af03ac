"""The commands and the way in."""

from collections.abc import Sequence
from typing import Annotated

import typer

from mlip_jax import __version__, compilation
from mlip_jax.cli import (
    data,
    describe,
    exchange,
    fit,
    potentials,
    process,
    properties,
    relax,
    simulate,
    study,
    use,
)

app = typer.Typer(
    name="mlip-jax",
    help="Machine-learning interatomic potentials: fit, evaluate and simulate them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command()(process.guarded(fit.train))
app.command()(process.guarded(use.evaluate))
app.command()(process.guarded(use.predict))
app.command()(process.guarded(simulate.md))
app.command()(process.guarded(relax.relax))
app.command()(process.guarded(study.study))
app.add_typer(data.app, name="data")
app.add_typer(properties.app, name="properties")
app.command(name="import")(process.guarded(exchange.import_))
app.command()(process.guarded(exchange.export))
app.command()(process.guarded(potentials.potentials))
app.command()(process.guarded(potentials.head))
app.command()(process.guarded(potentials.add))
app.command()(process.guarded(describe.info))
app.command()(process.guarded(describe.schema))
app.command()(process.guarded(describe.template))


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code (see `cli.process`).

    Args:
        arguments: without the program's name; `None` takes those of the process, which may then be
            replaced by one with other settings of the allocator.
    """
    if arguments is None:
        process.restart_tuned()
    process.quiet_xla()
    compilation.use_older_emitters()
    try:
        app(args=None if arguments is None else list(arguments), prog_name="mlip-jax")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else process.USER_ERROR
    return 0
