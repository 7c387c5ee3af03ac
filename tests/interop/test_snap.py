"""SNAP files: what is read, what is refused, and the numbers of LAMMPS."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

from mlip_jax import storage
from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket, make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.interop import weights
from mlip_jax.models.sum import Sum
from mlip_jax.potential import predict_fn

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("MLIP_JAX_SHARED", ROOT / "../shared"))
REFERENCE = SHARED / "reference/snap"
FOLDERS = sorted(path.name for path in REFERENCE.glob("*") if path.is_dir())

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
@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference values in {REFERENCE}")
@pytest.mark.parametrize("name", FOLDERS)
def test_published_files_give_the_numbers_of_lammps(name):
    files = [f for f in (REFERENCE / name).iterdir() if f.suffix.startswith(".snap")]
    potential = weights.read("snap", files)
    expected = np.load(REFERENCE / name / "expected.npz")
    structures = [structure_of(expected, i) for i in range(int(expected["n_structures"]))]
    snap = potential.model.terms[0] if isinstance(potential.model, Sum) else potential.model
    cutoff = potential.model.cutoff
    graphs = [make_graph(structure, cutoff) for structure in structures]
    # One padded shape for all, so that one compilation serves them.
    atoms = max(graph.num_atoms for graph in graphs)
    bucket = Bucket(1, -(-atoms // 8) * 8, max(g.max_neighbors for g in graphs), block=8)
    describe = jax.jit(lambda graph: snap.descriptor.apply({}, graph))
    predict = jax.jit(predict_fn(potential.model))
    for i, structure in enumerate(structures):
        graph = make_graph(structure, cutoff, dtype=np.float64, bucket=bucket)
        number = structure.num_atoms
        published = expected[f"s{i}_bispectrum"]
        np.testing.assert_allclose(describe(graph)[:number], published, atol=1e-9)
        prediction = predict(potential.variables, graph)
        symbols = structure.atomic_numbers.tolist()
        energy = prediction.energy[0] + sum(potential.reference_energies[z] for z in symbols)
        np.testing.assert_allclose(energy, expected[f"s{i}_energy"], rtol=1e-12, atol=1e-12)
        tolerance = TOLERANCES.get(name, 1e-11) * max(1.0, np.abs(expected[f"s{i}_forces"]).max())
        forces = prediction.forces[:number]
        np.testing.assert_allclose(forces, expected[f"s{i}_forces"], rtol=0, atol=tolerance)
        if f"s{i}_stress" in expected:
            stress = expected[f"s{i}_stress"]
            np.testing.assert_allclose(prediction.stress[0], stress, rtol=0, atol=tolerance)


def structure_of(expected, index: int) -> Structure:
    numbers, positions, cell, pbc = (
        expected[f"s{index}_{key}"] for key in ("numbers", "positions", "cell", "pbc")
    )
    return Structure(numbers, positions, cell, pbc)
