"""Predictions as a file of arrays."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np

from mlip_jax.inference.prediction import StructurePrediction
from mlip_jax.inference.uncertainty import Uncertainty

SCHEMA_VERSION = 1
UNITS = {
    "energy": "eV",
    "forces": "eV/Å",
    "stress": "eV/Å^3",
    "charges": "e",
    "magmoms": "μ_B",
    "atom_energies": "eV",
    "grades": "1",
}


def write_npz(
    path: str | PathLike[str],
    predictions: Sequence[StructurePrediction],
    deviations: Sequence[Uncertainty] = (),
) -> None:
    """Writes predictions as `.npz`.

    Arrays: `energy [structures]`, `n_atoms [structures]`, `forces [all atoms, 3]` in order,
    `stress [structures, 3, 3]` (NaN where not all directions are periodic), further outputs of
    atoms (`atom_energies`, `charges`, `magmoms`, `grades`) concatenated in the same order,
    `schema_version`, and `units_<name>` as strings; with `deviations`, `energy_deviation`,
    `forces_deviation` and `stress_deviation` likewise, in the same units.
    """
    arrays: dict[str, Any] = {
        "schema_version": np.array(SCHEMA_VERSION),
        "energy": np.array([p.energy for p in predictions], np.float64),
        "n_atoms": np.array([len(p.forces) for p in predictions], np.int64),
        "stress": np.array([p.stress for p in predictions], np.float64).reshape(-1, 3, 3),
        "forces": np.concatenate([np.zeros((0, 3)), *(p.forces for p in predictions)]),
    }
    for name in ("atom_energies", "charges", "magmoms", "grades"):
        values = [getattr(p, name) for p in predictions]
        if values and all(value is not None for value in values):
            arrays[name] = np.concatenate(values)
    if deviations:
        arrays["energy_deviation"] = np.array([d.energy for d in deviations])
        arrays["forces_deviation"] = np.concatenate([d.forces for d in deviations])
        arrays["stress_deviation"] = np.stack([d.stress for d in deviations])
    units = {f"units_{name}": np.array(UNITS[name]) for name in UNITS if name in arrays}
    with open(path, "wb") as stream:
        np.savez_compressed(stream, **arrays, **units)  # pyright: ignore[reportArgumentType]
