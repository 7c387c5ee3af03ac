"""SNAP files: what is read, what is refused, and the numbers of LAMMPS."""

from pathlib import Path

import jax
import numpy as np
import pytest

from mlip_jax import storage
from mlip_jax.config import UserError
from mlip_jax.interop import weights
from mlip_jax.models.sum import Sum
from mlip_jax.potential import predict_fn
from tests.interop import published

TOLERANCES = {"InP_JCPA2020": 1e-8}
"""Of forces [eV/Å] and stress [eV/Å^3], relative to the largest force; 1e-11 where not listed.

With explicit elements LAMMPS takes blocks of coefficients that permuted elements share as equal in
the forces and as written in the energy; in the file they differ by up to 5e-11 eV. Central
differences of the energy agree with our forces to 4e-11 where they differ from LAMMPS's by 5e-9.
"""

COEFFICIENTS = """# a comment
2 3
O 0.4 1.0   # radius and weight
-1.0
0.5  # B[0]
0.25
Si 0.5 0.9
-2.0
0.125
1.0
"""
PARAMETERS = "rcutfac 4.0\ntwojmax 1\ndiagonalstyle 3\n"
HYBRID = """variable inner equal 1.0
pair_style hybrid/overlay &
  zbl ${inner} 2.0 snap
pair_coeff 1 1 zbl 14 14
pair_coeff 1 2 zbl 14 8
pair_coeff 2 2 zbl 8 8
pair_coeff * * snap x.snapcoeff x.snapparam Si O
"""
PURE = "pair_style snap\npair_coeff * * x.snapcoeff x.snapparam Si O\n"


def write(folder: Path, coefficients=COEFFICIENTS, parameters=PARAMETERS, hybrid=None):
    contents = {".snapcoeff": coefficients, ".snapparam": parameters, ".snap": hybrid}
    paths = []
    for suffix, text in contents.items():
        if text is not None:
            paths.append(folder / f"x{suffix}")
            paths[-1].write_text(text)
    return paths


def test_a_hybrid_is_a_sum_in_the_order_of_its_types(tmp_path):
    potential = weights.read("snap", write(tmp_path, hybrid=HYBRID))
    assert isinstance(potential.model, Sum)
    snap, zbl = potential.model.terms
    assert snap.species == zbl.species == (14, 8)
    assert (zbl.inner, zbl.cutoff) == (1.0, 2.0)
    assert snap.cutoff == 4.0
    assert snap.descriptor.relative_radii == (1.0, 0.8)
    assert snap.descriptor.weights == (0.9, 1.0)
    assert potential.reference_energies == {14: -2.0, 8: -1.0}


def test_an_import_survives_the_disk(tmp_path):
    potential = weights.read("snap", write(tmp_path, hybrid=HYBRID))
    storage.save(potential, tmp_path / "potential")
    loaded = storage.load(tmp_path / "potential")
    assert loaded.model == potential.model
    jax.tree.map(np.testing.assert_array_equal, dict(loaded.variables), dict(potential.variables))


def test_an_isolated_atom_keeps_its_energy_without_bzero(tmp_path):
    text = PARAMETERS + "bzeroflag 0\n"
    energies = weights.read("snap", write(tmp_path, parameters=text)).reference_energies
    # B of an isolated atom is n + 1: 1 and 2 for twojmax = 1 (LAMMPS manual, compute sna/atom).
    assert energies == {8: pytest.approx(-1.0 + 0.5 + 0.5), 14: pytest.approx(-2.0 + 0.125 + 2.0)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coefficients": COEFFICIENTS.replace("0.25", "abc")}, r"line 6: got 'abc'; .* number"),
        ({"coefficients": COEFFICIENTS.replace("0.25", "nan")}, r"line 6: got 'nan'; .* number"),
        ({"coefficients": COEFFICIENTS[:-4]}, r"line 10: got 'the end .*coefficient 2 of 3 of Si"),
        ({"coefficients": COEFFICIENTS.replace("Si", "Xx")}, r"line 7: got 'Xx'"),
        ({"coefficients": COEFFICIENTS.replace("2 3", "2")}, r"line 2: got '2'; .* numbers of"),
        ({"parameters": "rcutfac 4.0\n"}, "twojmax is missing"),
        ({"parameters": PARAMETERS + "twojmix 3\n"}, r"line 4: .*'twojmix'"),
        ({"parameters": "rcutfac 4.0\ntwojmax 2\n"}, r"O has 3 coefficients; .* 6"),
        ({"parameters": PARAMETERS + "switchinnerflag 1\nsinner 1 1\n"}, "dinner"),
        ({"hybrid": HYBRID.replace("zbl 14 8", "zbl 14 7")}, r"types 1 and 2 .*14\.0, 8\.0"),
        ({"hybrid": PURE.replace("Si O", "Si Ge")}, r"uses Ge; .* has O, Si"),
        ({"hybrid": "pair_style eam\n"}, r"line 1: got 'pair_style eam'"),
    ],
)
def test_what_is_damaged_or_unknown_is_named(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        weights.read("snap", write(tmp_path, **change))


def test_files_and_formats_that_lack_are_named(tmp_path):
    with pytest.raises(UserError, match=r"got x\.snapcoeff; expected one"):
        weights.read("snap", write(tmp_path)[:1])
    with pytest.raises(UserError, match="snap"):
        weights.read("snaps", [])


@pytest.mark.reference
@pytest.mark.skipif(not published.potentials("snap"), reason=published.REASON)
@pytest.mark.parametrize("folder", published.potentials("snap"), ids=lambda folder: folder.name)
def test_published_files_give_the_numbers_of_lammps(folder):
    files = [f for f in folder.iterdir() if f.suffix.startswith(".snap")]
    potential = weights.read("snap", files)
    predict = jax.jit(predict_fn(potential.model))
    graphs = published.graphs(folder, potential.model.cutoff)
    for expected, graph in zip(published.expected(folder), graphs, strict=True):
        number = len(expected["numbers"])
        prediction = predict(potential.variables, graph)
        # Imported coefficients go with components that are not scaled.
        features = prediction.features[:number]
        np.testing.assert_allclose(features, expected["bispectrum"], atol=1e-9)
        symbols = expected["numbers"].tolist()
        energy = prediction.energy[0] + sum(potential.reference_energies[z] for z in symbols)
        np.testing.assert_allclose(energy, expected["energy"], rtol=1e-12, atol=1e-12)
        tolerance = TOLERANCES.get(folder.name, 1e-11) * max(1.0, np.abs(expected["forces"]).max())
        forces = prediction.forces[:number]
        np.testing.assert_allclose(forces, expected["forces"], rtol=0, atol=tolerance)
        if "stress" in expected:
            stress = prediction.stress[0]
            np.testing.assert_allclose(stress, expected["stress"], rtol=0, atol=tolerance)
