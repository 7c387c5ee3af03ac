"""`mlip-jax properties`: files, numbers and refusals."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from mlip_jax import storage
from mlip_jax.data import formats
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


def test_mistakes_are_named(crystal, capsys, monkeypatch):
    elastic = ("properties", "elastic", "argon", crystal)
    assert "expected .json" in refused(capsys, *elastic, "-o", "ar.txt")
    assert "does not exist" in refused(capsys, *elastic, "-o", "nowhere/ar.json")
    message = refused(capsys, "properties", "equation-of-state", "argon", crystal, "--points", "2",
                      "--relax", "none")  # fmt: skip
    assert "got 2 points" in message
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "needs phonopy" in refused(capsys, "properties", "phonons", "argon", crystal)
