"""`evaluate` and `predict`: a potential applied to a file of structures."""

import dataclasses
import importlib.util
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlip_jax.cli import process
from mlip_jax.cli.process import Precision, PrecisionOption
from mlip_jax.config import UserError

if TYPE_CHECKING:
    from mlip_jax.data.formats import LabelKeys
    from mlip_jax.data.structure import Structure
    from mlip_jax.inference import StructurePrediction
    from mlip_jax.potential import Potential

PotentialArgument = Annotated[
    Path, typer.Argument(help="Directory of a potential, or a published name.")
]
IndexOption = Annotated[str, typer.Option(help="Frames: a number or a slice such as '::10'.")]
BatchOption = Annotated[
    int | None, typer.Option(min=1, help="Atoms computed at a time; fewer need less memory.")
]
LabelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--labels",
        metavar="KEY=VALUE",
        help="How the file names a label, such as energy=REF_energy or units.energy=hartree; "
        "without it, as the data that the potential was trained on. Repeatable.",
    ),
]


def evaluate(
    potential: PotentialArgument,
    data: Annotated[Path, typer.Argument(help="Labelled structures.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file.")] = None,
    index: IndexOption = ":",
    labels: LabelsOption = None,
    source: Annotated[
        str | None,
        typer.Option(help="Level of theory (head) of the labels, where the data had several."),
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="Directory for parity plots and histograms as PNG.")
    ] = None,
    precision: PrecisionOption = Precision.float32,
    batch_atoms: BatchOption = None,
) -> None:
    """Measure the errors of a potential on labelled structures.

    MAE and RMSE of energy per atom, force components, stress and whatever else is labelled: in
    total, and for each kind of configuration, source (head) and element.

    For example

        mlip-jax evaluate runs/si/potential test.extxyz --output errors.json --plots errors

        mlip-jax evaluate runs/si/potential dft.extxyz --labels energy=dft_energy
    """
    process.prepare_jax(precision)
    from mlip_jax import inference
    from mlip_jax.interop import catalogue

    loaded = catalogue.load(potential)
    keys = label_keys(loaded, labels or ())
    structures = read_structures(data, loaded, index, keys)
    check_named(data, structures, keys, labels or ())
    if source is not None:
        structures = [dataclasses.replace(s, source=source) for s in structures]
    check_writable(output)
    if plots is not None and importlib.util.find_spec("matplotlib") is None:
        raise UserError("--plots: needs matplotlib; pip install 'mlip_jax[report]'.")
    with progress("evaluating") as report:
        comparisons = inference.predict_and_compare(
            loaded, structures, precision=precision, batch_atoms=batch_atoms, progress=report
        )
    metrics = inference.summarize(comparisons, structures)
    if plots is not None:
        plot_errors(comparisons, plots)
    if output is not None:
        write_atomically(output, json.dumps(metrics, indent=1) + "\n")
    show_errors(metrics)


def predict(
    potential: PotentialArgument,
    structures: Annotated[Path, typer.Argument(help="Structures; labels are not needed.")],
    output: Annotated[Path, typer.Option("--output", "-o", help=".npz, .extxyz, .h5, .json, .db")],
    index: IndexOption = ":",
    precision: PrecisionOption = Precision.float32,
    batch_atoms: BatchOption = None,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Standard deviations, too; into an .npz.")
    ] = False,
) -> None:
    """Predict energies, forces and stresses.

    An `.npz` holds `energy`, `n_atoms`, `forces` (all atoms in order), `stress` (NaN where not all
    directions are periodic), further outputs of atoms, and the units as strings. Every other format
    gets the structures with the predictions as their labels. Units are eV and Å.

    Potentials that were fitted with a `solver` have standard deviations (`energy_deviation` …) and
    extrapolation grades of atoms (`grades`: above 1 outside of the training data).

    For example

        mlip-jax predict runs/si/potential new.extxyz -o new.npz

        mlip-jax predict chgnet-0.3.0 trajectory.traj --index ::10 -o frames.extxyz

        mlip-jax predict runs/si_snap/potential new.extxyz -o new.npz --uncertainty
    """
    if uncertainty and output.suffix != ".npz":
        raise typer.BadParameter(f"got {output}; --uncertainty writes an .npz only.")
    process.prepare_jax(Precision.float64 if uncertainty else precision)
    from mlip_jax import inference
    from mlip_jax.data import formats
    from mlip_jax.interop import catalogue

    loaded = catalogue.load(potential)
    read = read_structures(structures, loaded, index, input_keys(loaded))
    check_writable(output)
    if output.suffix != ".npz":
        formats.writer(output)
    with progress("predicting") as report:
        predictions = inference.predict(
            loaded, read, precision=precision, batch_atoms=batch_atoms, progress=report
        )
    if output.suffix == ".npz":
        deviations = ()
        if uncertainty:
            with progress("uncertainties") as report:
                deviations = inference.uncertainties(loaded, read, progress=report)
        inference.write_npz(output, predictions, deviations)
    else:
        labelled = [with_labels(s, p) for s, p in zip(read, predictions, strict=True)]
        formats.write(output, labelled)
    typer.echo(f"{len(predictions)} structures: {output}")


def label_keys(potential: "Potential", overrides: Sequence[str]) -> "LabelKeys":
    """How a file names its labels: as the training data did, with the overrides applied."""
    from mlip_jax import config
    from mlip_jax.data.formats import LabelKeys

    known = potential.card
    for key in ("config", "data", "labels"):
        known = known.get(key) or {}
    return config.parse(LabelKeys, config.apply_overrides(known, overrides), "labels")


def input_keys(potential: "Potential") -> "LabelKeys":
    """How a file without labels names further inputs: as the training data did, in our units."""
    from mlip_jax.data.formats import LabelKeys

    known = label_keys(potential, ())
    return LabelKeys(
        energy=None,
        forces=None,
        stress=None,
        charges=None,
        magmoms=None,
        spins=known.spins,
        total_charge=known.total_charge,
        config_type=known.config_type,
        source=known.source,
    )


def read_structures(
    path: Path, potential: "Potential", index: str, keys: "LabelKeys"
) -> "list[Structure]":
    """Reads structures and refuses, before anything is computed, what the potential cannot do.

    Raises:
        UserError: for an unreadable or empty file, or an element that the potential does not know.
    """
    from mlip_jax.data import formats

    structures = formats.read(path, keys=keys, index=index)
    if not structures:
        raise UserError(f"{path}: got no structures (index {index!r}); expected at least one.")
    for structure in structures:
        potential.check_species(structure.atomic_numbers, structure.name or str(path))
    return structures


def check_named(
    path: Path, structures: "Sequence[Structure]", keys: "LabelKeys", named: Sequence[str]
) -> None:
    """Refuses a label that the command line names and no structure has.

    Raises:
        UserError: with the keys that the file has.
    """
    from mlip_jax.data import formats
    from mlip_jax.inference import ERROR_UNITS

    for name in ERROR_UNITS:
        key = getattr(keys, name)
        asked = any(override.partition("=")[0] == name for override in named)
        if not asked or key is None or any(getattr(s.labels, name) is not None for s in structures):
            continue
        raise UserError(
            f"{path}: labels.{name}: got the key {key!r}, which no structure has; the file has "
            f"{', '.join(formats.available_keys(path)) or 'no keys'}."
        )


def with_labels(structure: "Structure", prediction: "StructurePrediction") -> "Structure":
    """A structure with the predictions as labels; without a stress where it is not defined."""
    from mlip_jax.data.structure import StructureLabels

    stress = prediction.stress if math.isfinite(float(prediction.stress.sum())) else None
    labels = StructureLabels(
        energy=prediction.energy,
        forces=prediction.forces,
        stress=stress,
        charges=prediction.charges,
        magmoms=prediction.magmoms,
    )
    return dataclasses.replace(structure, labels=labels)


def check_writable(path: Path | None) -> None:
    """Refuses an output path that cannot be written, before anything is computed."""
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{path}: is a directory; expected the path of a file to write.")
    parent = path.absolute().parent
    if not parent.is_dir():
        raise UserError(f"{path}: the directory {parent} does not exist. Make it first.")
    if not os.access(parent, os.W_OK):
        raise UserError(f"{path}: the directory {parent} is not writable. Choose another path.")


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file that is complete or not there."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def progress(what: str) -> Iterator[Any]:
    """A bar on a terminal: yields a function of the numbers of structures done and of all."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def plot_errors(comparisons: dict[str, Any], directory: Path) -> None:
    """Writes a parity plot and a histogram of the errors for each property (with matplotlib)."""
    from mlip_jax.train import plots

    directory.mkdir(parents=True, exist_ok=True)
    for name in comparisons:
        for kind, draw in (("parity", plots.parity), ("errors", plots.histogram)):
            draw({"test": comparisons}, name).savefig(directory / f"{kind}_{name}.png", dpi=110)


def show_errors(metrics: dict[str, Any]) -> None:
    """Prints a table of errors: in total, by kind of configuration and by element."""
    from rich.console import Console
    from rich.table import Table

    properties = list(metrics["units"])
    table = Table(title=f"{metrics['num_structures']} structures, MAE / RMSE")
    table.add_column("")
    for name in properties:
        table.add_column(f"{name} [{metrics['units'][name]}]".replace("[", r"\["), justify="right")
    rows = {"total": metrics["total"]}
    for key, what in (("per_config_type", ""), ("per_source", "source "), ("per_element", "")):
        if len(metrics[key]) > 1:
            rows |= {what + (kind or "(none)"): errors for kind, errors in metrics[key].items()}
    for name, errors in rows.items():
        table.add_row(name, *(_cell(errors.get(p)) for p in properties))
    Console().print(table)


def _cell(error: dict[str, float] | None) -> str:
    return "" if error is None else f"{error['mae']:.4g} / {error['rmse']:.4g}"
