"""The shipped silicon set: files, labels and, where GPAW is installed, the numbers themselves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "experiments" / "silicon_pbe"
GPA = 160.21766  # GPa per eV/Å^3
COUNT = (200, 400)
NET_FORCE = 1e-3  # eV/Å per atom, ten times what the worst frame has
# Frames that take a few seconds each: a strained crystal, a displaced one, a metal.
RECOMPUTED = ("diamond_strain-volume+09.0", "diamond_phonon-111-30", "bcc-volume+06")

RECOMPUTE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import dft
from ase import Atoms
from structures import Frame
for given in json.load(sys.stdin):
    atoms = Atoms(given["symbols"], given["positions"], cell=given["cell"], pbc=True)
    result = dft.compute(Frame(given["name"], "", atoms, tuple(given["kpts"])))
    print("RESULT", json.dumps({key: result[key] for key in ("energy", "forces", "stress")}))
"""


def read(part: str) -> list[ase.Atoms]:
    """Frames of one file."""
    return ase.io.read(FOLDER / f"{part}.extxyz.gz", ":", format="extxyz")


@pytest.fixture(scope="module")
def frames() -> dict[str, ase.Atoms]:
    """All frames by their name."""
    return {atoms.info["frame_id"]: atoms for atoms in read("train") + read("test")}


def test_files_are_small_and_split_without_overlap(frames):
    size = sum((FOLDER / f"{part}.extxyz.gz").stat().st_size for part in ("train", "test"))
    assert size < 3e6
    train, test = read("train"), read("test")
    assert len(frames) == len(train) + len(test)  # no name occurs twice
    assert COUNT[0] <= len(frames) <= COUNT[1]
    assert 0.1 < len(test) / len(frames) < 0.2
    assert {atoms.info["config_type"] for atoms in test}.isdisjoint({"isolated_atom", "dimer"})


def test_labels_are_finite_and_complete(frames):
    for name, atoms in frames.items():
        assert set(atoms.symbols) == {"Si"}, name
        assert 1 <= len(atoms) <= 16, name
        assert np.isfinite(atoms.info["REF_energy"]), name
        assert atoms.arrays["REF_forces"].shape == (len(atoms), 3), name
        assert np.isfinite(atoms.arrays["REF_forces"]).all(), name
        assert ("REF_stress" in atoms.info) == bool(atoms.pbc.all()), name
        if atoms.pbc.all():
            stress = np.reshape(atoms.info["REF_stress"], (3, 3))
            assert np.isfinite(stress).all(), name
            np.testing.assert_allclose(stress, stress.T, atol=1e-6, err_msg=name)


def test_periodicity_is_true_to_the_kind(frames):
    periodic = {"isolated_atom": (0, 0, 0), "dimer": (0, 0, 0), "surface": (1, 1, 0)}
    for name, atoms in frames.items():
        assert tuple(atoms.pbc) == periodic.get(atoms.info["config_type"], (1, 1, 1)), name


def test_forces_of_periodic_frames_add_up_to_zero(frames):
    for name, atoms in frames.items():
        if atoms.pbc.all():
            net = np.abs(atoms.arrays["REF_forces"].sum(0)).max()
            assert net < NET_FORCE * len(atoms), f"{name}: {net}"


def test_diamond_is_bound_as_much_as_pbe_says(frames):
    """Cohesive energy of PBE silicon: 4.5 to 4.65 eV."""
    atom = [a for a in frames.values() if a.info["config_type"] == "isolated_atom"]
    assert len(atom) == 1
    lowest = min(a.info["REF_energy"] / len(a) for a in frames.values() if len(a) > 1)
    assert 4.5 < atom[0].info["REF_energy"] - lowest < 4.65


def test_stress_is_the_derivative_of_the_energy(frames):
    """Along the hydrostatic series, tr(stress)/3 = dE/dV in sign, unit and size.

    The number of plane waves grows with the cell, of which the stress knows nothing (Pulay); that
    leaves 0.015 GPa, and 0.1 GPa is allowed.
    """
    series = [a for name, a in frames.items() if name.startswith("diamond_strain-volume")]
    series.sort(key=lambda atoms: atoms.get_volume())
    assert len(series) >= 7
    volume = np.array([atoms.get_volume() for atoms in series])
    energy = np.array([atoms.info["REF_energy"] for atoms in series])
    stress = np.array([np.trace(np.reshape(a.info["REF_stress"], (3, 3))) / 3 for a in series])
    fit = np.polynomial.Polynomial.fit(volume, energy, 5)
    np.testing.assert_allclose(stress * GPA, fit.deriv()(volume) * GPA, atol=0.1)
    assert stress[0] * GPA < -5  # compressed: it pushes outwards, tension is positive
    assert stress[-1] * GPA > 5


def python_with_gpaw() -> str | None:
    """First Python interpreter that can import GPAW."""
    for name in (sys.executable, "/usr/bin/python3", shutil.which("python3")):
        if name and Path(name).exists():
            found = subprocess.run([name, "-c", "import gpaw"], capture_output=True, check=False)
            if found.returncode == 0:
                return name
    return None


@pytest.mark.slow
def test_gpaw_gives_the_shipped_numbers_again(frames):
    python = python_with_gpaw()
    if python is None:
        pytest.skip("GPAW is not installed (Debian: apt-get install gpaw gpaw-data)")
    given = [
        {
            "name": name,
            "symbols": str(frames[name].symbols),
            "positions": frames[name].positions.tolist(),
            "cell": frames[name].cell.tolist(),
            "kpts": frames[name].info["kpts"].tolist(),
        }
        for name in RECOMPUTED
    ]
    done = subprocess.run(
        [python, "-c", RECOMPUTE, str(FOLDER)],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    results = [json.loads(line.removeprefix("RESULT ")) for line in lines]
    for name, result in zip(RECOMPUTED, results, strict=True):
        atoms = frames[name]
        energy = (result["energy"] - atoms.info["REF_energy"]) / len(atoms)
        assert abs(energy) < 1e-4, f"{name}: {energy} eV/atom"
        np.testing.assert_allclose(
            atoms.arrays["REF_forces"], result["forces"], atol=2e-3, err_msg=name
        )
        stress = np.reshape(atoms.info["REF_stress"], (3, 3))
        np.testing.assert_allclose(stress, result["stress"], atol=5e-5, err_msg=name)
