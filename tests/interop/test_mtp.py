"""MLIP's files: what is read, what is refused, and the numbers of the reference."""

import jax
import numpy as np
import pytest

from mlip_jax import storage
from mlip_jax.cli.entry import app
from mlip_jax.config import UserError
from mlip_jax.interop import weights
from mlip_jax.potential import predict_fn
from tests.interop import published

TEXT = """MTP
version = 1.1.0
potential_name = MTP1m
scaling = 2.0e-01
species_count = 2
potential_tag =
radial_basis_type = RBChebyshev
\tmin_dist = 2.0
\tmax_dist = 5.0
\tradial_basis_size = 3
\tradial_funcs_count = 2
\tradial_coeffs
\t\t0-0
\t\t\t{1.0, 0.0, 0.5}
\t\t\t{1.0, 0.25, 0.0}
\t\t0-1
\t\t\t{1.0, 0.0, 0.5}
\t\t\t{1.0, 0.25, 0.0}
\t\t1-0
\t\t\t{1.0, 0.0, 0.5}
\t\t\t{1.0, 0.25, 0.0}
\t\t1-1
\t\t\t{1.0, 0.0, 0.5}
\t\t\t{1.0, 0.25, 0.0}
alpha_moments_count = 8
alpha_index_basic_count = 5
alpha_index_basic = {{0, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}, {0, 0, 0, 1}, {1, 0, 0, 0}}
alpha_index_times_count = 5
alpha_index_times = {{0, 0, 1, 5}, {1, 1, 1, 6}, {2, 2, 1, 6}, {3, 3, 1, 6}, {0, 5, 1, 7}}
alpha_scalar_moments = 5
alpha_moment_mapping = {0, 4, 5, 6, 7}
species_coeffs = {-1.5, -2.5}
moment_coeffs = {1.0, 2.0, 3.0, 4.0, 5.0}
"""


def write(folder, text: str | bytes = TEXT):
    path = folder / "x.mtp"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(path):
    return weights.read("mtp", [path], species=("Si", 8))


def test_a_file_is_read_with_the_scalars_that_its_rules_name(tmp_path):
    potential = read(write(tmp_path))
    descriptor = potential.model.descriptor
    assert (descriptor.species, descriptor.cutoff, descriptor.min_dist) == ((14, 8), 5.0, 2.0)
    assert (descriptor.level, descriptor.max_moments, descriptor.radial_basis_size) == (6, 3, 3)
    # Ours by level: M_00; M_00²; M_10, M_01 · M_01, M_00³.
    coefficients = potential.variables["params"]["regressor"]["coefficients"]
    np.testing.assert_array_equal(coefficients, [[1.0, 3.0, 2.0, 4.0, 5.0]] * 2)
    radial = potential.variables["params"]["descriptor"]["radial"]
    np.testing.assert_allclose(radial[1, 0], 0.2 * 9.0 * np.array([[1, 0, 0.5], [1, 0.25, 0]]))
    assert potential.reference_energies == {14: -1.5, 8: -2.5}


def test_scalars_may_lack_and_stand_in_any_order(tmp_path):
    text = TEXT.replace("{0, 4, 5, 6, 7}", "{7, 4, 5}").replace("= 5\nalpha_mom", "= 3\nalpha_mom")
    text = text.replace("{1.0, 2.0, 3.0, 4.0, 5.0}", "{5.0, 2.0, 3.0}")
    coefficients = read(write(tmp_path, text)).variables["params"]["regressor"]["coefficients"]
    np.testing.assert_array_equal(coefficients[0], [0.0, 3.0, 2.0, 0.0, 5.0])


def test_the_state_of_active_learning_is_left_out(tmp_path):
    active = TEXT.encode() + b"\n#MVS_v1.1\nenergy_weight 1.0\n#\xff\xfe\x00"
    plain, more = (read(write(tmp_path, text)) for text in (TEXT, active))
    jax.tree.map(np.testing.assert_array_equal, plain.variables, more.variables)


def test_an_import_from_the_command_line_survives_the_disk(tmp_path, capsys):
    path, output = write(tmp_path), tmp_path / "potential"
    app(["import", "mtp", str(path), "--species", "Si,O", "-o", str(output)], standalone_mode=False)
    assert "O, Si" in capsys.readouterr().out
    loaded, potential = storage.load(output), read(path)
    assert loaded.model == potential.model
    jax.tree.map(np.testing.assert_array_equal, dict(loaded.variables), dict(potential.variables))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("MTP\n", "MLIP\n", r"line 1: .* word MTP"),
        ("1.1.0", "2.0", r"line 2: got version = 2.0; only 1.1.0"),
        ("RBChebyshev", "RBTaylor", r"line 7: .*RBTaylor; only RBChebyshev"),
        ("min_dist = 2.0", "min_dist = close", r"line 8: got 'close'; expected a number"),
        ("min_dist = 2.0", "min_dist", r"line 8: got 'min_dist'; expected a keyword, ="),
        ("{1.0, 0.25, 0.0}", "{1.0, 0.25}", r"line 15: radial_coeffs has 2 numbers; expected 3"),
        ("{1.0, 0.0, 0.5}", "{1.0, nan, 0.5}", r"line 14: got 'nan'; expected a number"),
        ("1-0", "1-2", r"line 19: got '1-2'; expected the pair 1-0"),
        ("basic_count = 5", "basic_count = 6", r"line 27: alpha_index_basic has 20 .* 24"),
        ("{0, 5, 1, 7}}", "{0, 5, 1, 8}}", r"line 29: .* moment 8; there are 8"),
        ("{0, 5, 1, 7}}", "{0, 5, -1, 7}}", r"line 29: got '-1'"),
        ("moments_count = 8", "moments_count = 7", r"line 29: .* moment 7; there are 7"),
        ("{0, 4, 5, 6, 7}", "{0, 4, 5, 6, 9}", r"line 31: .* moment 9"),
        ("{-1.5, -2.5}", "{-1.5}", r"line 32: species_coeffs has 1 numbers; expected 2"),
        ("4.0, 5.0}", "4.0, 5.", r"line 33: got .*4\.0, 5\.'; expected a list in braces"),
        ("species_coeffs", "magnetic_coeffs", r"line 32: .*'magnetic_coeffs', which is not known"),
        ("species_count = 2\n", "", r"line 11: species_count is missing before this line"),
        ("{3, 3, 1, 6}", "{3, 3, 2, 6}", r"the scalar 3 of .* not a contraction"),
    ],
)
def test_what_is_damaged_or_unknown_is_named(tmp_path, old, new, message):
    assert old in TEXT
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, TEXT.replace(old, new, 1)))


@pytest.mark.parametrize("lines", [1, 12, 15, 25, 30, 32])
def test_files_that_are_cut_off_say_so(tmp_path, lines):
    text = "\n".join(TEXT.splitlines()[:lines]) + "\n"
    with pytest.raises(UserError, match=r"the end of the file|moment_coeffs.* missing"):
        read(write(tmp_path, text))


def test_elements_have_to_be_named_where_files_lack_them_and_only_there(tmp_path):
    path = write(tmp_path)
    with pytest.raises(UserError, match="do not say their species"):
        weights.read("mtp", [path])
    with pytest.raises(UserError, match=r"has 2 species; got 1: Si"):
        weights.read("mtp", [path], species=["Si"])
    with pytest.raises(UserError, match="'Xx'"):
        weights.read("mtp", [path], species=["Si", "Xx"])
    with pytest.raises(UserError, match="Leave `--species` out"):
        weights.read("snap", [path], species=["Si"])
    with pytest.raises(UserError, match=r"got x\.mtp, x\.mtp; expected one"):
        weights.read("mtp", [path, path], species=["Si", "O"])


@pytest.mark.reference
@pytest.mark.skipif(not published.potentials("mtp"), reason=published.REASON)
@pytest.mark.parametrize("folder", published.potentials("mtp"), ids=lambda folder: folder.name)
def test_published_files_give_the_numbers_of_the_reference(folder):
    potential = published.read(folder)
    predict = jax.jit(predict_fn(potential.model))
    graphs = published.graphs(folder, potential.cutoff)
    for expected, graph in zip(published.expected(folder), graphs, strict=True):
        number = len(expected["numbers"])
        prediction = jax.tree.map(np.asarray, predict(potential.variables, graph))
        alone = [potential.reference_energies[z] for z in expected["numbers"].tolist()]
        found = {
            "energy": prediction.energy[0] + np.sum(alone),
            "energies": prediction.atom_energies[:number] + np.array(alone),
            "forces": prediction.forces[:number],
            "stress": prediction.stress[0],
        }
        assert expected.keys() >= {"energy", "energies", "forces"}
        for key in found.keys() & expected.keys():
            limit = 1e-12 * max(1.0, np.abs(expected[key]).max())
            np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=limit, err_msg=key)
