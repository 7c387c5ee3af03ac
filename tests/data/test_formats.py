import dataclasses
import gzip
import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_jax import units
from mlip_jax.config import UserError
from mlip_jax.data import formats
from mlip_jax.data.formats import LabelKeys, LabelUnits, extxyz
from mlip_jax.data.formats.labels import voigt_indices
from tests.data.structures import copper, everything

FIELDS = ("atomic_numbers", "positions", "cell", "pbc", "spins", "total_charge", "weight")
TEXTS = ("config_type", "source", "group")
LABELS = ("energy", "forces", "stress", "charges", "magmoms")
ALL_KEYS = LabelKeys(source="source", group="group", weight="weight")

FRAME = """2
Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 {extra}
Si 0.0 0.0 0.0 0.1 0.0 0.0
Si 1.0 1.0 1.0 -0.1 0.0 0.0
"""


def assert_same(first, second, fields=FIELDS, texts=TEXTS):
    for name in fields:
        np.testing.assert_equal(getattr(second, name), getattr(first, name), err_msg=name)
    for name in texts:
        assert getattr(second, name) == getattr(first, name)
    for name in LABELS:
        a, b = getattr(first.labels, name), getattr(second.labels, name)
        assert (a is None) == (b is None), name
        if a is not None:
            # One rounding where a stress is made symmetric again.
            np.testing.assert_allclose(b, a, rtol=1e-15, atol=0, err_msg=name)


@pytest.mark.parametrize(
    "ending",
    ["extxyz", "xyz.gz", "extxyz.xz", "extxyz.bz2", "json", "json.gz", "h5", "db", "aselmdb"],
)
def test_every_field_survives_a_round_trip(tmp_path, ending):
    structures = everything()
    path = tmp_path / f"set.{ending}"
    formats.write(path, structures)
    read = formats.read(path, keys=ALL_KEYS)
    assert len(read) == len(structures)
    for first, second in zip(structures, read, strict=True):
        assert_same(first, second)


def test_trajectory_keeps_geometry_and_labels(tmp_path):
    formats.write(tmp_path / "a.traj", everything())
    for first, second in zip(everything(), formats.read(tmp_path / "a.traj"), strict=True):
        assert_same(first, second, ("positions", "cell", "pbc"), ())


def test_ase_reads_what_we_write_and_we_read_what_ase_writes(tmp_path):
    structure = copper(1, strain=0.05)[0]
    formats.write(tmp_path / "ours.extxyz", [structure])
    atoms = ase.io.read(tmp_path / "ours.extxyz")
    assert isinstance(atoms, Atoms)
    np.testing.assert_allclose(atoms.get_stress(voigt=False), structure.labels.stress, atol=1e-15)
    np.testing.assert_array_equal(atoms.get_forces(), structure.labels.forces)
    ase.io.write(tmp_path / "theirs.extxyz", atoms)
    (read,) = formats.read(tmp_path / "theirs.extxyz")
    # ASE writes eight decimals.
    np.testing.assert_allclose(read.positions, structure.positions, atol=1e-8)
    np.testing.assert_allclose(read.labels.stress, structure.labels.stress, atol=1e-8)


MAGNETIC = """2
Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:m:R:1:mv:R:3 energy=-1.5
Fe 0.0 0.0 0.0 2.5 0.0 0.0 2.5
Fe 1.0 1.0 1.0 -2.0 0.0 0.0 -2.0
"""


def test_moments_are_read_by_their_key_and_from_results_of_ase(tmp_path):
    path = tmp_path / "a.extxyz"
    path.write_text(MAGNETIC)
    (read,) = formats.read(path, keys=LabelKeys(magmoms="m"))
    np.testing.assert_array_equal(read.labels.magmoms, [2.5, -2.0])
    assert formats.read(path)[0].labels.magmoms is None
    with pytest.raises(UserError, match=r"key 'mv': got shape \(2, 3\); expected \(2,\)"):
        formats.read(path, keys=LabelKeys(magmoms="mv"))
    atoms = Atoms("Fe2", positions=[[0, 0, 0], [1, 1, 1]], cell=4 * np.eye(3), pbc=True)
    atoms.set_initial_magnetic_moments([5.0, 5.0])  # where a calculation began
    atoms.calc = SinglePointCalculator(atoms, energy=-1.5, magmom=0.5, magmoms=[2.5, -2.0])
    for ending in ("traj", "db"):
        ase.io.write(tmp_path / f"a.{ending}", atoms)
        (read,) = formats.read(tmp_path / f"a.{ending}")
        np.testing.assert_array_equal(read.labels.magmoms, [2.5, -2.0])


def test_units_signs_and_orders_are_converted(tmp_path):
    path = tmp_path / "a.extxyz"
    path.write_text(FRAME.format(extra='s="1 2 3 4 5 6" v="1 2 3 4 5 6"'))
    keys = LabelKeys(
        stress="s",
        units=LabelUnits(energy="kcal/mol", length="bohr", stress="kbar"),
        stress_sign="compression_positive",
        stress_order="xx yy zz xy yz zx",
    )
    (structure,) = formats.read(path, keys=keys)
    kcal = units.ENERGY["kcal/mol"]
    assert structure.labels.energy == pytest.approx(-1.5 * kcal)
    np.testing.assert_allclose(structure.labels.forces[0, 0], 0.1 * kcal / units.BOHR)
    np.testing.assert_allclose(structure.cell[0, 0], 4 * units.BOHR)
    expected = -np.array([[1, 4, 6], [4, 2, 5], [6, 5, 3]]) * 0.1 * units.GPA
    np.testing.assert_allclose(structure.labels.stress, expected)
    shifted = dataclasses.replace(keys, stress_offset=0.5)
    (structure,) = formats.read(path, keys=shifted)
    np.testing.assert_allclose(
        structure.labels.stress, expected + 0.5 * np.eye(3) * 0.1 * units.GPA
    )
    virial = LabelKeys(stress=None, virial="v")
    (structure,) = formats.read(path, keys=virial)
    np.testing.assert_allclose(structure.labels.stress[1, 2], -4 / 64)
    (shifted,) = formats.read(path, keys=dataclasses.replace(virial, stress_offset=0.5))
    change = shifted.labels.stress - structure.labels.stress
    np.testing.assert_allclose(change, -0.5 * np.eye(3), atol=1e-12)


def test_six_numbers_need_six_components():
    with pytest.raises(UserError, match="six components"):
        voigt_indices("xx yy zz xy xy zx")


def test_absent_labels_are_none_and_defaults_follow_extended_xyz(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("1\nno keys here\nAr 0 0 0\n")
    (structure,) = formats.read(path)
    assert all(getattr(structure.labels, name) is None for name in LABELS)
    assert not structure.pbc.any()
    assert structure.name == "a.xyz:0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FRAME.format(extra="") * 2 + "2\nLatt", r"frame 2: .*truncated: 0 of 2"),
        (FRAME.format(extra="").replace("-0.1 0.0 0.0\n", "-0.1\n"), r"frame 0, atom 1: got 5"),
        (FRAME.format(extra="").replace("-1.5", "nan"), r"frame 0, key 'energy'.*finite"),
        (FRAME.format(extra="").replace("-0.1", "nan"), r"key 'forces': atom 1 .*not finite"),
        (FRAME.format(extra="").replace("1.0 1.0 1.0", "1.0 inf 1.0"), r"'positions': atom 1"),
        (FRAME.format(extra="").replace("4 0 0 0 4", "4 0 0 4 0"), r"frame 0: cell"),
        (FRAME.format(extra="").replace('0 0 4"', '0 0 0"'), r"frame 0: cell"),
        (FRAME.format(extra="").replace("Si 1.0", "Qq 1.0"), r"atom 1: 'Qq' is no element"),
        (FRAME.format(extra='stress="1 2 3"'), r"key 'stress': got 3 numbers; expected 6 or 9"),
        (FRAME.format(extra="") + "Si 0 0 0\n", r"number of atoms should stand"),
        ("", r"holds no frame"),
    ],
)
def test_bad_extended_xyz_names_file_frame_and_atom(tmp_path, text, message):
    path = tmp_path / "bad.extxyz"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        formats.read(path)
    assert "bad.extxyz" in str(error.value)


@pytest.mark.parametrize("ending", ["extxyz.gz", "extxyz.xz", "json.gz", "h5", "json"])
def test_truncated_files_are_refused(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    formats.write(path, copper(20))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=path.name):
        formats.read(path)


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        formats.read(tmp_path / "none.xyz")
    with pytest.raises(UserError, match="no writer"):
        formats.write(tmp_path / "a.cif", everything())
    (tmp_path / "a.unknown").write_text("?")
    with pytest.raises(UserError, match="ASE cannot read"):
        formats.read(tmp_path / "a.unknown")
    with pytest.raises(UserError, match="index"):
        formats.read(tmp_path / "a.unknown", index="first")


@pytest.mark.parametrize("ending", ["extxyz", "h5", "db"])
@pytest.mark.parametrize(("index", "expected"), [(":", [0, 1, 2, 3]), ("::2", [0, 2]), ("-1", [3])])
def test_index_selects_frames(tmp_path, ending, index, expected):
    structures = copper(4)
    formats.write(tmp_path / f"a.{ending}", structures)
    read = formats.read(tmp_path / f"a.{ending}", index=index)
    assert [s.labels.energy for s in read] == [structures[i].labels.energy for i in expected]


def test_published_json_layouts(tmp_path):
    site = {"species": [{"element": "Si", "occu": 1}], "abc": [0.5, 0.0, 0.0]}
    structure = {"lattice": {"matrix": [[4, 0, 0], [0, 4, 0], [0, 0, 4]]}, "sites": [site]}
    outputs = {"energy": -5.0, "forces": [[0, 0, 0.1]], "virial_stress": [1, 2, 3, 4, 5, 6]}
    mlearn = tmp_path / "mlearn.json"
    mlearn.write_text(
        json.dumps([{"structure": structure, "outputs": outputs, "group": "Elastic"}])
    )
    keys = LabelKeys(
        stress="virial_stress",
        config_type="group",
        units=LabelUnits(stress="kbar"),
        stress_sign="compression_positive",
        stress_order="xx yy zz xy yz zx",
    )
    (read,) = formats.read(mlearn, keys=keys)
    np.testing.assert_allclose(read.positions, [[2, 0, 0]])
    assert (read.labels.energy, read.config_type) == (-5.0, "Elastic")
    np.testing.assert_allclose(read.labels.stress[0, 1], -4 * 0.1 * units.GPA)
    mptrj = tmp_path / "mptrj.json"
    frame = {"structure": structure, "uncorrected_total_energy": -5.0, "force": [[0, 0, 0.1]]}
    mptrj.write_text(json.dumps({"mp-1": {"mp-1-0": frame, "mp-1-1": frame}}))
    read = formats.read(mptrj, keys=LabelKeys(energy="uncorrected_total_energy", forces="force"))
    assert len(read) == 2
    assert read[1].labels.forces[0, 2] == 0.1


def test_pymatgen_reads_our_json(tmp_path):
    core = pytest.importorskip("pymatgen.core", exc_type=ImportError)
    formats.write(tmp_path / "a.json", copper(1))
    (record,) = json.loads((tmp_path / "a.json").read_text())
    structure = core.Structure.from_dict(record["structure"])
    np.testing.assert_allclose(structure.cart_coords, copper(1)[0].positions, atol=1e-12)


def test_vasp_directory_reads_every_run(tmp_path):
    vasprun = """<?xml version="1.0"?><modeling><generator><i name="version">6</i></generator>
<kpoints><varray name="kpointlist"><v>0 0 0</v></varray>
<varray name="weights"><v>1</v></varray></kpoints><atominfo><atoms>1</atoms>
<array name="atoms"><set><rc><c>Si</c><c>1</c></rc></set></array></atominfo>
<structure name="initialpos"><crystal><varray name="basis">
<v>4 0 0</v><v>0 4 0</v><v>0 0 4</v></varray></crystal>
<varray name="positions"><v>0 0 0</v></varray></structure>
<calculation><scstep><energy><i name="e_fr_energy">-5.1</i><i name="e_wo_entrp">-5.0</i>
<i name="e_0_energy">-5.05</i></energy></scstep>
<structure><crystal><varray name="basis"><v>4 0 0</v><v>0 4 0</v><v>0 0 4</v></varray></crystal>
<varray name="positions"><v>0 0 0</v></varray></structure>
<varray name="forces"><v>0 0 0.5</v></varray>
<varray name="stress"><v>10 0 0</v><v>0 10 0</v><v>0 0 10</v></varray>
<energy><i name="e_fr_energy">-5.1</i><i name="e_wo_entrp">-5.0</i>
<i name="e_0_energy">-5.05</i></energy></calculation></modeling>"""
    for name in ("a", "b/deep"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "vasprun.xml").write_text(vasprun)
    read = formats.read(tmp_path, keys=LabelKeys(energy="free_energy"))
    assert [s.config_type for s in read] == ["a", "b/deep"]
    assert read[0].labels.energy == -5.1
    # VASP's 10 kbar of compression is negative here; ASE's reader has converted it.
    np.testing.assert_allclose(read[0].labels.stress, -np.eye(3) * units.GPA, rtol=1e-6)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="vasprun"):
        formats.read(tmp_path / "empty")


def test_hdf5_of_other_layout_or_newer_version(tmp_path):
    import h5py

    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = 1
    with pytest.raises(UserError, match="layout"):
        formats.read(path)
    formats.write(path, everything())
    with h5py.File(path, "a") as file:
        file.attrs["version"] = 99
    with pytest.raises(UserError, match="newer"):
        formats.read(path)


def test_a_frame_takes_further_quantities():
    text = extxyz.format_frame(everything()[1], {"time": 0.5}, {"velocities": np.ones((2, 3))})
    assert "velocities:R:3" in text
    assert "time=0.5" in text


def test_keys_that_are_there_are_listed(tmp_path):
    with gzip.open(tmp_path / "a.xyz.gz", "wt") as file:
        file.write(FRAME.format(extra="REF_x=1"))
    assert formats.available_keys(tmp_path / "a.xyz.gz") == ("energy", "REF_x", "forces")
