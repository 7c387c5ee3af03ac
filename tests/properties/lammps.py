"""What LAMMPS says of crystals with published SNAP potentials (see `lammps_reference`)."""

import json
from pathlib import Path
from typing import Any

import pytest

from mlip_jax.data.structure import Structure
from mlip_jax.potential import Potential
from tests.interop import published
from tests.properties import crystals

ELEMENTS = ("Si", "Cu")


def potential(element: str) -> Potential:
    """The published potential; skips where its files are not beside the repository."""
    folder = published.SHARED / "reference/snap" / f"{element}_snap"
    if not folder.is_dir():
        pytest.skip(published.REASON)
    return published.read(folder)


def numbers(element: str) -> dict[str, Any]:
    """What LAMMPS gave."""
    return json.loads(Path(__file__).with_name("lammps.json").read_text(encoding="utf-8"))[element]


def crystal(element: str) -> Structure:
    """The primitive cell at LAMMPS's lattice constant."""
    lattice = numbers(element)["lattice_A"]
    return crystals.diamond(lattice) if element == "Si" else crystals.fcc(lattice, 29)
