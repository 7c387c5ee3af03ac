"""A silicon potential with a wrong lattice constant, brought to experiment without losing DFT.

    python experiments/fit_to_experiment/fit.py runs/fit_to_experiment

Four fits of one linear potential, by the functions behind `mlip-jax train`: to labels in scaled
cells (the wrong start), to the labels alone, and from the wrong start to labels and experiment at
once, by implicit differentiation and by DiffTRe.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mlip_jax import config as configs
from mlip_jax import inference, train, units
from mlip_jax.data import formats
from mlip_jax.data.formats.labels import LabelKeys
from mlip_jax.data.structure import Structure
from mlip_jax.potential import Potential
from mlip_jax.properties import relaxed
from mlip_jax.properties.elastic import elastic_constants

HERE = Path(__file__).resolve().parent
DFT = HERE.parent / "silicon_pbe"
KEYS = LabelKeys(energy="REF_energy", forces="REF_forces", stress="REF_stress")
FAMILIES = ("diamond_", "vacancy", "isolated_atom")
"""Beginnings of the names of the families that are fitted to: bulk diamond and its vacancy."""

LATTICE, WRONG, OF_DFT = 5.43, 5.50, 5.4756
"""Å: of experiment, of the wrong start, of the labels (`silicon_pbe/card.yaml`)."""


def diamond(lattice: float) -> Structure:
    """The cubic cell of diamond."""
    face = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    positions = lattice * np.concatenate([face, face + 0.25])
    return Structure(np.full(8, 14), positions, lattice * np.eye(3), np.ones(3, bool))


def write_data(output: Path, stride: int = 1) -> None:
    """Writes the labels, the scaled ones, and the crystal; every `stride`-th structure."""
    for directory, factor in (("labels", 1.0), ("scaled", WRONG / OF_DFT)):
        (output / directory).mkdir(parents=True, exist_ok=True)
        formats.write(output / directory / "diamond.extxyz", [diamond(LATTICE)])
        for part in ("train", "test"):
            chosen = [s for s in read(part) if s.config_type.startswith(FAMILIES)][::stride]
            path = output / directory / f"{part}.extxyz"
            formats.write(path, [scaled(structure, factor) for structure in chosen])


def read(part: str) -> list[Structure]:
    """The shipped labels."""
    return formats.read(DFT / f"{part}.extxyz.gz", keys=KEYS)


def scaled(structure: Structure, factor: float) -> Structure:
    """The structure of a world whose lengths are `factor` times ours, at the same energies."""
    labels = structure.labels
    return dataclasses.replace(
        structure,
        positions=factor * structure.positions,
        cell=factor * structure.cell,
        labels=dataclasses.replace(
            labels,
            forces=None if labels.forces is None else labels.forces / factor,
            stress=None if labels.stress is None else labels.stress / factor**3,
        ),
    )


def fit(output: Path, data: str, name: str, extra: str | None = None) -> Potential:
    """A fit of `labels.yaml`; with `extra`, of the observables in it, too, from `wrong` on."""
    mapping: dict[str, Any] = configs.load_yaml(HERE / "labels.yaml")
    if extra is not None:
        mapping |= configs.load_yaml(HERE / extra)
        mapping["training"] |= {"start": str(output.resolve() / "wrong/potential")}
    return train.fit(train.parse(mapping), output / name, base=output / data)


def measure(output: Path, potential: Potential) -> dict[str, float]:
    """Errors on the labels (RMSE), and the relaxed crystal of a potential."""
    row: dict[str, float] = {}
    for part in ("train", "test"):
        structures = formats.read(output / "labels" / f"{part}.extxyz")
        predictions = inference.predict(potential, structures, precision="float64")
        pairs = inference.compare(structures, predictions, potential)
        total = inference.summarize(pairs, structures)["total"]
        row |= {f"{part} {name}": total[name]["rmse"] for name in ("energy", "forces", "stress")}
    (crystal,) = relaxed.relax(potential, [diamond(LATTICE)], "full")
    stiffness = np.asarray(elastic_constants(potential, crystal).stiffness) / units.GPA
    row["lattice_constant"] = float(crystal.cell[0, 0])
    places = {"C11": (0, 0), "C12": (0, 1), "C44": (3, 3)}
    return row | {name: float(stiffness[place]) for name, place in places.items()}


def compare(output: Path, stride: int = 1) -> dict[str, dict[str, float]]:
    """All fits, and what came of each."""
    write_data(output, stride)
    fits = {
        "wrong": ("scaled", None),
        "labels": ("labels", None),
        "relaxed": ("labels", "relaxed.yaml"),
        "sampled": ("labels", "sampled.yaml"),
    }
    rows = {}
    for name, (data, extra) in fits.items():
        rows[name] = measure(output, fit(output, data, name, extra))
        print(name, json.dumps(rows[name]), flush=True)
    return rows


def main() -> None:
    """Runs the experiment into the directory that is given."""
    jax.config.update("jax_enable_x64", True)
    output = Path(sys.argv[1])
    rows = compare(output)
    (output / "results.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
