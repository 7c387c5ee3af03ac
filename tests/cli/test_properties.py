"""`mlip-jax properties`: files, numbers and refusals."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from mlip_jax import storage
from mlip_jax.data import formats
from mlip_jax.data.formats import extxyz
from mlip_jax.data.structure import Structure
from tests.cli.springs import refused, run
from tests.properties import crystals
from tests.simulate import argon


@pytest.fixture
def crystal() -> Path:
    storage.save(argon.potential(), "argon")
    formats.write("argon.extxyz", [crystals.fcc(5.3, 18)])
    return Path("argon.extxyz")


def test_elastic_constants_are_written_and_drawn(crystal, capsys):
    assert run("properties", "elastic", "argon", crystal, "-o", "ar.json") == 0
    printed = capsys.readouterr().out
    assert "stable" in printed
    assert "NOT" not in printed
    found = json.loads(Path("ar.json").read_text())
    stiffness = np.array(found["stiffness_GPa"])
    np.testing.assert_allclose(stiffness, crystals.cubic(stiffness), atol=1e-9)
    bulk = (stiffness[0, 0] + 2 * stiffness[0, 1]) / 3
    assert found["moduli"]["bulk_GPa"] == pytest.approx(bulk)
    assert found["stable"]
    assert found["softest_curvature_eV_A2"] is None  # one atom
    assert np.abs(found["stress_GPa"]).max() < 1e-4
    assert Path("ar.png").read_bytes().startswith(b"\x89PNG")


def test_an_unstable_crystal_is_said_to_be(crystal, capsys):
    formats.write("wide.extxyz", [crystals.fcc(6.3, 18)])
    assert run("properties", "elastic", "argon", "wide.extxyz", "--relax", "none") == 0
    assert "NOT STABLE" in capsys.readouterr().out
    assert not json.loads(Path("elastic.json").read_text())["stable"]


@pytest.mark.slow
def test_an_equation_of_state_is_written_and_drawn(crystal, capsys):
    options = ("--span", "0.03", "--points", "5")
    assert run("properties", "equation-of-state", "argon", crystal, *options) == 0
    found = json.loads(Path("equation_of_state.json").read_text())
    assert len(found["energies_eV"]) == 5
    assert found["bulk_modulus_GPa"] == pytest.approx(2.6, rel=0.1)
    assert f"{found['volume_A3_atom']:.4f} Å^3/atom" in capsys.readouterr().out
    assert Path("equation_of_state.png").exists()


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("phonopy") is None,
    reason="phonopy is not installed: pip install 'mlip_jax[phonons]'",
)
def test_phonons_are_written_and_drawn(crystal, capsys):
    options = ("--supercell", "2", "2", "2", "--mesh", "20", "--max-temperature", "200")
    assert run("properties", "phonons", "argon", crystal, *options) == 0
    found = json.loads(Path("phonons.json").read_text())
    assert found["stable"]
    assert set(found["corners"]) == {"G", "K", "L", "U", "W", "X"}
    assert found["thermodynamics"]["temperatures_K"][-1] == 200
    assert "X" in capsys.readouterr().out
    assert Path("phonons.png").exists()


def test_a_radial_distribution_needs_no_potential(crystal, capsys):
    options = ("--cutoff", "5", "--bins", "100", "--pair", "Ar", "Ar")
    assert run("properties", "rdf", crystal, *options) == 0
    assert "1 frames, highest peak at 3.725 Å" in capsys.readouterr().out
    found = json.loads(Path("rdf.json").read_text())
    assert found["neighbors_within"][-1] == pytest.approx(12.0)
    assert Path("rdf.png").exists()
    message = refused(capsys, "properties", "rdf", crystal, "--pair", "Ar", "Xx")
    assert "Xx" in message


def write_frames(path, positions, momenta=None, interval=10.0, times=None):
    """A trajectory of argon in a cell of 8 Å, with wrapped positions."""
    cell, pbc = 8.0 * np.eye(3), np.array([True] * 3)
    numbers = np.full(positions.shape[1], 18)
    with Path(path).open("w") as file:
        for i, frame in enumerate(positions):
            info = {} if times is False else {"time": interval * i}
            arrays = {} if momenta is None else {"momenta": momenta[i]}
            structure = Structure(numbers, frame % 8.0, cell, pbc)
            file.write(extxyz.format_frame(structure, info, arrays))


def test_diffusion_of_a_random_walk(capsys):
    steps = np.random.default_rng(0).normal(scale=0.2, size=(500, 20, 3))
    write_frames("walk.extxyz", np.cumsum(steps, axis=0))
    assert run("properties", "diffusion", "walk.extxyz", "--element", "Ar", "-o", "d.json") == 0
    found = json.loads(Path("d.json").read_text())
    exact = 0.2**2 / (2 * 10.0) * 0.1 * 19 / 20  # cm²/s; the centre of mass is at rest
    assert abs(found["coefficient_cm2_s"] - exact) < 6.0 * found["error_cm2_s"]
    assert found["error_cm2_s"] < 0.2 * exact
    assert "cm²/s" in capsys.readouterr().out
    assert Path("d.png").exists()
    message = refused(capsys, "properties", "diffusion", "walk.extxyz", "--element", "Si")
    assert "there is no Si" in message
    assert "no momenta" in refused(capsys, "properties", "vibrations", "walk.extxyz")
    write_frames("untimed.extxyz", np.cumsum(steps, axis=0), times=False)
    assert "--interval" in refused(capsys, "properties", "diffusion", "untimed.extxyz")


def test_vibrations_of_an_oscillator(capsys):
    times = 10.0 * np.arange(600)[:, None, None]
    phases = np.random.default_rng(1).uniform(0, 2 * np.pi, size=(1, 8, 3))
    momenta = np.sin(2e-3 * np.pi * 4.0 * times + phases)
    write_frames("nve.extxyz", np.zeros((600, 8, 3)), momenta)
    assert run("properties", "vibrations", "nve.extxyz", "--longest", "2000") == 0
    found = json.loads(Path("vibrations.json").read_text())
    assert len(found["lags_fs"]) == 201
    highest = int(np.argmax(found["states_per_THz"]))
    assert found["frequencies_THz"][highest] == pytest.approx(4.0, abs=0.3)
    assert "highest peak" in capsys.readouterr().out
    assert Path("vibrations.png").exists()
    long = ("--longest", "1e6")
    assert "got" in refused(capsys, "properties", "vibrations", "nve.extxyz", *long)


@pytest.mark.slow
def test_defects_are_written_and_drawn(crystal, capsys):
    assert run("properties", "vacancy", "argon", crystal, "--supercell", "4", "4", "4") == 0
    found = json.loads(Path("vacancy.json").read_text())
    assert 0.0 < found["energy_eV"] < found["unrelaxed_energy_eV"]
    assert Path("vacancy.png").exists()
    formats.write("cubic.extxyz", [argon.fcc((1, 1, 1))])
    options = ("--miller", "1", "1", "1", "--layers", "3")
    assert run("properties", "surface", "argon", "cubic.extxyz", *options) == 0
    found = json.loads(Path("surface.json").read_text())
    # Three of the twelve bonds of an atom break, of 10.4 meV each; farther pairs add some.
    nearest = 1.5 * argon.EPSILON * 16.02 / (argon.LATTICE**2 * np.sqrt(3.0) / 4.0)
    assert nearest < found["energy_J_m2"] < 1.6 * nearest
    assert "atoms in the slab" in capsys.readouterr().out
    assert Path("surface.png").exists()


def test_conductivity_of_a_short_run(crystal, capsys):
    """Too short to mean anything: fluxes, both estimates and the files are there."""
    rng = np.random.default_rng(4)
    grid = np.stack(np.meshgrid(*[[1.0, 5.0]] * 3, indexing="ij"), -1).reshape(-1, 3)
    positions = grid + np.cumsum(0.01 * rng.normal(size=(200, 8, 3)), axis=0)
    momenta = rng.normal(size=(200, 8, 3))
    write_frames("nve.extxyz", positions, momenta)
    assert run("properties", "conductivity", "argon", "nve.extxyz", "--longest", "100") == 0
    found = json.loads(Path("conductivity.json").read_text())
    assert found["frames"] == 200
    assert found["conductivity_W_m_K"] > found["error_W_m_K"] > 0.0
    assert len(found["running_W_m_K"]) == 11
    assert "cepstral" in capsys.readouterr().out
    assert Path("conductivity.png").exists()
    write_frames("still.extxyz", positions)
    command = ("properties", "conductivity", "argon")
    assert "no momenta" in refused(capsys, *command, "still.extxyz")


def test_angles_need_no_potential(crystal, capsys):
    options = ("--cutoff", "4.5", "--triple", "Ar", "Ar", "Ar")
    assert run("properties", "adf", crystal, *options) == 0
    assert "66.00 angles at an atom" in capsys.readouterr().out
    found = json.loads(Path("adf.json").read_text())
    assert sum(found["values_per_deg"]) == pytest.approx(1.0)
    assert Path("adf.png").exists()
    assert "no atom has two" in refused(capsys, "properties", "adf", crystal, "--cutoff", "1")


def test_mistakes_are_named(crystal, capsys, monkeypatch):
    elastic = ("properties", "elastic", "argon", crystal)
    assert "expected .json" in refused(capsys, *elastic, "-o", "ar.txt")
    assert "does not exist" in refused(capsys, *elastic, "-o", "nowhere/ar.json")
    message = refused(capsys, "properties", "equation-of-state", "argon", crystal, "--points", "2",
                      "--relax", "none")  # fmt: skip
    assert "got 2 points" in message
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "needs phonopy" in refused(capsys, "properties", "phonons", "argon", crystal)


def test_a_barrier_is_written_with_its_path(crystal, capsys):
    whole = argon.fcc((2, 2, 2), argon.LATTICE)
    hole = dataclasses.replace(
        whole, atomic_numbers=whole.atomic_numbers[1:], positions=whole.positions[1:]
    )
    there = hole.positions.copy()
    there[0] = whole.positions[0]
    formats.write("here.extxyz", [hole])
    formats.write("there.extxyz", [dataclasses.replace(hole, positions=there)])
    found = ("--images", "1", "--max-force", "0.005")
    assert run("properties", "barrier", "argon", "here.extxyz", "there.extxyz", *found) == 0
    values = json.loads(Path("barrier.json").read_text())
    assert values["forward_eV"] == pytest.approx(max(values["energies_eV"]))
    assert len(formats.read(Path("barrier.extxyz"))) == 3
    assert Path("barrier.png").read_bytes().startswith(b"\x89PNG")
    message = refused(capsys, "properties", "barrier", "argon", "here.extxyz", crystal)
    assert "same atoms" in message
