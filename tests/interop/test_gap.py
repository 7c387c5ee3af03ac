"""GAP files of QUIP: what is read, what is refused, and the numbers of QUIP."""

import dataclasses

import jax
import numpy as np
import pytest

from mlip_jax import storage
from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket, make_graph
from mlip_jax.interop import weights
from mlip_jax.potential import predict_fn
from tests.interop import published

POTENTIALS = published.potentials("gap")

SOAP_ARGUMENTS = (
    "soap l_max=1 n_max=2 atom_sigma=0.5 cutoff=4.0 zeta=2 delta=0.5 n_sparse=2 "
    "n_species=1 Z=14 species_Z={14}"
)
PAIR_ARGUMENTS = "distance_2b cutoff=3.5 delta=2.0 theta_uniform=0.5 Z1=14 Z2=14"
XML = f"""<G>
<Potential label="G" init_args="IP GAP label=G"/>
<GAP_params label="G"><GAP_data do_core="F"><e0 Z="14" value="-3.0"/></GAP_data>
<gpSparse label="G" n_coordinate="2">
<gpCoordinates dimensions="1" signal_variance="2.0" signal_mean=".0" covariance_type="1" n_sparseX="2" sparseX_filename="x.1">
<theta> 0.5 </theta>
<descriptor>{PAIR_ARGUMENTS}</descriptor>
<sparseX i="1" alpha="0.25" sparseCutoff="1.0"/><sparseX i="2" alpha="-0.5" sparseCutoff="0.5"/>
</gpCoordinates>
<gpCoordinates dimensions="7" signal_variance="0.5" covariance_type="2" zeta="2.0" n_sparseX="2" sparseX_filename="x.2">
<descriptor>{SOAP_ARGUMENTS}</descriptor>
<sparseX i="1" alpha="3.0" sparseCutoff="1.0"/><sparseX i="2" alpha="-2.0" sparseCutoff="1.0"/>
</gpCoordinates>
</gpSparse></GAP_params></G>
"""  # noqa: E501
POINTS = {"x.1": "2.0\n3.0\n", "x.2": " ".join(["0.6", "0.8", *["0"] * 5, "1", *["0"] * 6])}


def write(folder, xml=XML, points=POINTS):
    (folder / "gap.xml").write_text(xml)
    for name, text in points.items():
        (folder / name).write_text(text)
    return [folder / "gap.xml"]


def test_a_gap_is_a_sum_of_terms_with_its_settings(tmp_path):
    potential = weights.read("gap", write(tmp_path))
    many, pairs = potential.model.terms
    assert (many.species, many.cutoff, many.energy_scale) == ((14,), 4.0, 0.5)
    assert (many.regressor.zeta, many.regressor.num_sparse) == (2, 2)
    assert (many.descriptor.n_max, many.descriptor.atom_sigma) == (2, 0.5)
    assert (pairs.cutoff, pairs.descriptor.theta) == (3.5, 0.5)
    assert pairs.descriptor.points == ((2.0, 3.0),)
    # An isolated atom has e0 and the energy of its own density.
    alone = many.descriptor.isolated_features()[0]
    points = np.array(POINTS["x.2"].split(), float).reshape(2, 7)
    expected = -3.0 + 0.25 * (np.array([3.0, -2.0]) @ (points @ alone) ** 2)
    assert potential.reference_energies == {14: pytest.approx(expected)}


def test_an_import_survives_the_disk(tmp_path):
    potential = weights.read("gap", write(tmp_path))
    storage.save(potential, tmp_path / "potential")
    loaded = storage.load(tmp_path / "potential")
    assert loaded.model == potential.model
    jax.tree.map(np.testing.assert_array_equal, dict(loaded.variables), dict(potential.variables))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</G>", "", "not well-formed"),
        ("<G>", '<!DOCTYPE G [<!ENTITY a "b">]><G>', "line 1: got a document type"),
        ("IP GAP", "IP Glue", r"line 2: got 'IP Glue label=G'"),
        ('do_core="F"', 'do_core="T"', r"line 3: a core potential"),
        ('value="-3.0"', 'value="x"', r"line 3: got 'x' in <e0>"),
        ('covariance_type="1"', 'covariance_type="2"', r"line 5: distance_2b .*\(ard_se\)"),
        ('signal_mean=".0"', 'signal_mean="1"', r"line 5: signal_mean = 1\.0"),
        ('alpha="0.25"', 'beta="0.25"', r"line 8: <sparseX> has no attribute 'alpha'"),
        ('alpha="0.25"', 'alpha="nan"', r"line 8: got 'nan'"),
        ('n_sparseX="2"', 'n_sparseX="3"', r"line 5: got 2 <sparseX>; expected 3"),
        ('zeta="2.0"', 'zeta="2.5"', r"line 10: zeta = 2\.5"),
        ('sparseX_filename="x.2"', "", r"line 10: names no file"),
        ('sparseX_filename="x.2"', 'sparseX_filename="x.3"', r"x\.3: cannot be read"),
        ("distance_2b cutoff", "angle_3b cutoff", r"line 5: .*'angle_3b'; supported are soap"),
        ("l_max=1", "l_max=one", r"line 10: got l_max=one; expected a int"),
        ("l_max=1", "", r"line 10: soap: l_max is missing"),
        ("l_max=1", "l_max=1 nu_R=1", r"line 10: soap: got the option 'nu_R'"),
        ("l_max=1", "l_max=1 average=T", r"line 10: soap: average=T is not supported"),
        ("n_max=2", "n_max=3", r"line 10: got sparse points of 7 numbers; .* 13"),
        ("Z2=14", "Z2=0", r"got 0; expected an atomic number"),
    ],
)
def test_what_is_damaged_or_not_supported_is_named(tmp_path, old, new, message):
    assert old in XML
    with pytest.raises(UserError, match=message):
        weights.read("gap", write(tmp_path, XML.replace(old, new, 1)))


def test_damaged_files_of_sparse_points_are_named(tmp_path):
    with pytest.raises(UserError, match=r"x\.1: got 1 numbers; expected 2 sparse points of 1"):
        weights.read("gap", write(tmp_path, points={**POINTS, "x.1": "2.0"}))
    with pytest.raises(UserError, match=r"x\.1: holds something other"):
        weights.read("gap", write(tmp_path, points={**POINTS, "x.1": "2.0 abc"}))
    with pytest.raises(UserError, match=r"got x\.1; expected one \.xml"):
        weights.read("gap", [tmp_path / "x.1"])


@pytest.mark.reference
@pytest.mark.skipif(not POTENTIALS, reason=f"no reference values in {published.SHARED}")
@pytest.mark.parametrize("path", POTENTIALS, ids=lambda path: path.name)
def test_published_files_give_the_numbers_of_quip(path):
    potential = weights.read("gap", sorted(path.glob("*.xml")))
    soap = potential.model.terms[0].descriptor
    # QUIP wrote the descriptors with its elements in the order of their atomic numbers.
    soap = dataclasses.replace(soap, species=tuple(sorted(soap.species)))
    structures, expected = published.structures(path), published.expected(path)
    graphs = [make_graph(structure, potential.model.cutoff) for structure in structures]
    # One padded shape for all, so that one compilation serves them.
    atoms = max(graph.num_atoms for graph in graphs)
    bucket = Bucket(1, -(-atoms // 8) * 8, max(g.max_neighbors for g in graphs))
    describe = jax.jit(lambda graph: soap.apply({}, graph))
    predict = jax.jit(predict_fn(potential.model))
    for structure, values in zip(structures, expected, strict=True):
        graph = make_graph(structure, potential.model.cutoff, dtype=np.float64, bucket=bucket)
        check_descriptors(describe(graph), values)
        references = np.array([potential.reference_energies[z] for z in values["numbers"].tolist()])
        found = predict(potential.variables, graph)
        n, energies = structure.num_atoms, references.sum()
        np.testing.assert_allclose(found.energy[0] + energies, values["energy"], rtol=1e-9)
        local = np.asarray(found.atom_energies[:n]) + references
        np.testing.assert_allclose(local, values["energies"], rtol=1e-9)
        scale = 1e-9 * max(1.0, np.abs(values["forces"]).max())
        np.testing.assert_allclose(found.forces[:n], values["forces"], rtol=0, atol=scale)
        if "stress" in values:
            np.testing.assert_allclose(found.stress[0], values["stress"], rtol=0, atol=scale)


def check_descriptors(features, values) -> None:
    names = {"soap": 14, "soap_In": 49, "soap_P": 15}
    for name, z in names.items():
        if name in values:
            (chosen,) = np.nonzero(values["numbers"] == z)
            np.testing.assert_array_equal(chosen, values[f"{name}_centres"] - 1)
            np.testing.assert_allclose(features[chosen], values[name], atol=1e-12)
