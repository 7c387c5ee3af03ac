"""`info`, `schema`, `template`: what a potential holds, and what a config may say."""

import enum
import json
from pathlib import Path
from typing import Annotated, Any

import typer


class Kind(enum.StrEnum):
    """Kinds of config."""

    train = "train"
    md = "md"


def info(
    potential: Annotated[
        Path, typer.Argument(help="Directory of a potential, or a published name.")
    ],
) -> None:
    """Show what is inside a potential: its model, size, reference energies and card.

    For example

        mlip-jax info runs/si/potential
    """
    from mlip_jax import config
    from mlip_jax.interop import catalogue

    typer.echo(config.format_yaml(contents(catalogue.load(potential))), nl=False)


def contents(potential: Any) -> dict[str, Any]:
    """A potential as plain values: all but its parameters, of which the number is given."""
    import jax

    from mlip_jax import elements, models

    counts = {
        name: sum(leaf.size for leaf in jax.tree.leaves(tree))
        for name, tree in potential.variables.items()
    }

    def named(energies: Any) -> dict[str, float]:
        return {elements.SYMBOLS[int(z)]: energy for z, energy in energies.items()}

    of_heads = {head: named(energies) for head, energies in potential.head_energies.items()}
    return {
        **({"head": potential.head} if potential.head is not None else {}),
        "species": elements.symbols(potential.species),
        "cutoff": potential.cutoff,
        "variables": counts,
        "precision": sorted({str(a.dtype) for a in jax.tree.leaves(potential.variables)}),
        "model": models.module_to_config(potential.model),
        "reference_energies": of_heads or named(potential.reference_energies),
        "card": potential.card,
    }


def schema(
    kind: Annotated[Kind, typer.Argument(help="Which config.")] = Kind.train,
) -> None:
    """Print the JSON schema of a config, for completion and checks in an editor.

    For example

        mlip-jax schema train > train.schema.json

    and, as the first line of the config,

        # yaml-language-server: $schema=train.schema.json
    """
    from mlip_jax.cli import sections

    typer.echo(json.dumps(sections.schema(kind.value), indent=1))


def template(
    model: Annotated[str, typer.Argument(help="Name of a model, such as nequip.")],
) -> None:
    """Print a commented config that trains a model on the silicon data of the repository.

    For example

        mlip-jax template nequip > si.yaml
    """
    from mlip_jax.cli import sections

    typer.echo(sections.template(model), nl=False)
