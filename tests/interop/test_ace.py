"""Files of cluster expansions: what is read, what is refused, and the numbers of python-ace."""

import jax
import numpy as np
import pytest

from mlip_jax import storage
from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket, make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.interop import weights
from mlip_jax.potential import predict_fn
from tests.interop import published

BOND = (
    "{nradmax: 1, lmax: 1, nradbasemax: 2, radbasename: ChebPow, radparameters: [2], "
    "radcoefficients: [[[1, 0], [0.5, 0.25]]], prehc: 4, lambdahc: 2, rcut: 4.0, dcut: 0.01, "
    "rcut_in: 0, dcut_in: 0, inner_cutoff_type: density}"
)
EMBEDDING = (
    "{ndensity: 1, FS_parameters: [2, 1], npoti: FinnisSinclair, rho_core_cutoff: 100, "
    "drho_core_cutoff: 50}"
)
SINGLE = (
    "{mu0: 0, rank: 1, ndensity: 1, num_ms_combs: 1, mus: [1], ns: [2], ls: [0], ms_combs: [0], "
    "ctildes: [0.125]}"
)
PAIR = (
    "{mu0: 0, rank: 2, ndensity: 1, num_ms_combs: 2, mus: [0, 1], ns: [1, 1], ls: [1, 1], "
    "ms_combs: [0, 0, 1, -1], ctildes: [0.5, -1.0]}"
)
FILE = f"""elements: [No, Y]
E0: [-1.5, 2.0]
deltaSplineBins: 0.001
embeddings:
  0: {EMBEDDING}
  1: {EMBEDDING}
bonds:
  [0, 0]: {BOND}
  [0, 1]: {BOND}
  [1, 0]: {BOND}
  [1, 1]: {BOND}
functions:
  0:
    - {SINGLE}
    - {PAIR}
  1: []
"""

TOLERANCES = {
    # (energies eV, forces eV/Å, stress eV/Å^3), absolute. Bins of 0.001 Å interpolate energies to
    # 1e-10 and slopes to a millionth where a hydrogen atom is squeezed.
    "analytic": (1e-9, 2e-6, 1e-9),
    # The same interpolation: what is left is rounding of sums in another order.
    "spline": (1e-10, 1e-9, 1e-10),
}


def write(folder, text=FILE):
    path = folder / "x.yace"
    path.write_text(text)
    return [path]


def dimer(first: int, second: int, r: float) -> Structure:
    positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, r]])
    return Structure(np.array([first, second]), positions, np.zeros((3, 3)), np.zeros(3, bool))


def test_a_small_file_gives_its_formula(tmp_path):
    """Two radial functions, a pair of harmonics of degree 1, an embedding, and the repulsion."""
    potential = weights.read("ace", write(tmp_path))
    assert potential.species == (102, 39)
    assert potential.reference_energies == {102: -1.5, 39: 2.0}
    r = 2.5
    structure = dimer(102, 39, r)
    graph = make_graph(structure, potential.cutoff, dtype=np.float64)
    energies = jax.jit(potential.model.apply)(potential.variables, graph).energies
    x = 1.0 - 2.0 * (1.0 - r / 4.0) ** 2
    g2 = 0.5 * (1.0 - (2.0 * x * x - 1.0))
    core = 4.0 * np.exp(-2.0 * r * r) / r * 0.5 * (1.0 + np.cos(np.pi * r / 4.0))
    # Yttrium alone is no neighbour of both kinds: the pair of harmonics vanishes.
    np.testing.assert_allclose(energies, [2.0 * 0.125 * g2 + core, core], rtol=1e-12)


def test_pairs_of_harmonics_are_scalar_products(tmp_path):
    """`A_10 B_10 - 2 Re A_11 B_(1 -1)` is three times the product of directions."""
    text = FILE.replace(f"    - {SINGLE}\n", "").replace("prehc: 4", "prehc: 0")
    potential = weights.read("ace", write(tmp_path, text))
    positions = np.array([[0.0, 0.0, 0.0], [1.2, 0.5, 0.9], [-0.4, 1.3, 0.7]])
    numbers = np.array([102, 102, 39])
    structure = Structure(numbers, positions, np.zeros((3, 3)), np.zeros(3, bool))
    graph = make_graph(structure, potential.cutoff, dtype=np.float64)
    energies = jax.jit(potential.model.apply)(potential.variables, graph).energies

    def arm(r):
        x = 1.0 - 2.0 * (1.0 - r / 4.0) ** 2
        return 0.5 * 0.5 * (1.0 - x) + 0.25 * 0.5 * (1.0 - (2.0 * x * x - 1.0))

    for i, j in ((0, 1), (1, 0)):
        a, b = positions[j] - positions[i], positions[2] - positions[i]
        lengths = np.linalg.norm(a), np.linalg.norm(b)
        product = 3.0 * (a @ b) / np.prod(lengths) * arm(lengths[0]) * arm(lengths[1])
        np.testing.assert_allclose(energies[i], 2.0 * 0.5 * product, rtol=1e-12)


def test_files_that_leave_functions_out_say_which_they_have(tmp_path):
    """The bounds hold six pairs of factors, the file one of them."""
    potential = weights.read("ace", write(tmp_path))
    assert potential.model.chosen == (((1, 0, 1, 1),),)
    assert potential.variables["params"]["order_2"].shape == (1, 2, 1)
    others = [PAIR.replace("mus: [0, 1]", f"mus: [{a}, {b}]") for a, b in ((0, 0), (1, 1))] + [
        PAIR.replace("mus: [0, 1]", f"mus: [{a}, {b}]")
        .replace("num_ms_combs: 2", "num_ms_combs: 1")
        .replace(
            "ls: [1, 1], ms_combs: [0, 0, 1, -1], ctildes: [0.5, -1.0]",
            "ls: [0, 0], ms_combs: [0, 0], ctildes: [0.5]",
        )
        for a, b in ((0, 0), (0, 1), (1, 1))
    ]
    text = FILE.replace(f"    - {PAIR}\n", "".join(f"    - {p}\n" for p in [PAIR, *others]))
    whole = weights.read("ace", write(tmp_path, text))
    assert whole.model.chosen is None
    assert whole.variables["params"]["order_2"].shape == (6, 2, 1)


def test_an_import_survives_the_disk(tmp_path):
    potential = weights.read("ace", write(tmp_path))
    storage.save(potential, tmp_path / "potential")
    loaded = storage.load(tmp_path / "potential")
    assert loaded.model == potential.model
    jax.tree.map(np.testing.assert_array_equal, dict(loaded.variables), dict(potential.variables))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[No, Y]", "[No, Xx]", r"line 1: .*elements\[1\]: got 'Xx'"),
        ("[No, Y]", "[No, No]", r"line 1: .*'No'; expected .* once"),
        ("[-1.5, 2.0]", "[-1.5]", "line 2: .*E0: got 1 values; expected 2"),
        ("[-1.5, 2.0]", "[-1.5, nan]", r"line 2: .*E0\[1\]: got 'nan'; expected a number"),
        ("deltaSplineBins: 0.001\n", "", "line 1: x.yace: the key deltaSplineBins is missing"),
        (f"  1: {EMBEDDING}\n", "", "embeddings: got 1 elements; expected 2"),
        ("npoti: FinnisSinclair,", "npoti: Sutton,", r"line 5: .*npoti: got 'Sutton'; .*Scaled"),
        (f"  [1, 0]: {BOND}\n", "", r"bonds: the pair \[1, 0\] of elements is missing"),
        ("  [1, 0]:", "  [1, 7]:", r"line 10: .*got '7'; expected an integer from 0 to 1"),
        ("ChebPow", "ChebPow2", r"line 8: .*radbasename: got 'ChebPow2'; .*SBessel"),
        ("_type: density", "_type: distance", r"line 8: .*bonds: pairs differ in inner_cutoff_typ"),
        ("inner_cutoff_type: density", "inner_cutoff_type: zbl", "line 8: .*inner_cutoff_type zbl"),
        ("[0.5, 0.25]]]", "[0.5]]]", r"line 8: .*radcoefficients\[0\]\[1\]: got 1 values; expec"),
        ("lmax: 1,", "lmax: 2,", r"line 8: .*nradmax × \(lmax \+ 1\) = 1 × 3"),
        ("ns: [2]", "ns: [3]", r"line 14: .*ns\[0\]: got '3'; expected an integer from 1 to 2"),
        ("ls: [1, 1]", "ls: [1, 2]", r"line 15: .*ls\[1\]: got '2'; .* from 0 to 1"),
        ("ls: [1, 1]", "ls: [1]", "line 15: .*expected 2 values in each of mus, ns and ls"),
        ("[0, 0, 1, -1]", "[0, 0, 2, -2]", r"line 15: .*m = \[2, -2\]; expected \|m\| <= l"),
        ("[0, 0, 1, -1]", "[0, 0, 1.5, -1]", r"line 15: .*expected integers"),
        ("ctildes: [0.5, -1.0]", "ctildes: [0.5]", r"line 15: .*ctildes: got 1 values; expected 2"),
        ("ctildes: [0.5, -1.0]", "ctildes: [0.5, 1.0]", "line 15: .*not make it invariant"),
        ("ls: [1, 1]", "ls: [0, 1]", "line 15: .*m = .*"),
        ("rank: 2,", "rank: 2, ]", r"x.yace, line 15: .*damaged"),
    ],
)
def test_what_is_damaged_or_unknown_is_named(tmp_path, old, new, message):
    assert old in FILE
    with pytest.raises(UserError, match=message):
        weights.read("ace", write(tmp_path, FILE.replace(old, new, 1)))


def test_other_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"got x\.yaml; expected one \.yace"):
        weights.read("ace", [tmp_path / "x.yaml"])
    with pytest.raises(UserError, match="empty"):
        weights.read("ace", write(tmp_path, ""))


FOLDERS = published.potentials("ace")


def potential_in(folder):
    return weights.read("ace", list(folder.glob("*.yace")))


@pytest.mark.reference
@pytest.mark.skipif(not FOLDERS, reason=f"no reference values in {published.SHARED}/reference/ace")
@pytest.mark.parametrize("radial", TOLERANCES)
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_published_files_give_the_numbers_of_python_ace(folder, radial):
    potential = potential_in(folder)
    bins = potential.card["imported"]["deltaSplineBins"] if radial == "spline" else None
    errors = largest_errors(potential.model.clone(spline=bins), potential.variables, folder)
    assert errors.keys() >= {"energies", "forces"}
    for quantity, tolerance in zip(
        ("energies", "forces", "stress"), TOLERANCES[radial], strict=True
    ):
        assert errors.get(quantity, 0.0) <= tolerance, (quantity, errors)


def largest_errors(model, variables, folder) -> dict[str, float]:
    """Of all structures of a folder, in one padded shape."""
    structures = published.structures(folder)
    graphs = [make_graph(structure, model.cutoff) for structure in structures]
    atoms = max(graph.num_atoms for graph in graphs)
    bucket = Bucket(1, -(-atoms // 8) * 8, max(g.max_neighbors for g in graphs), block=8)
    predict = jax.jit(predict_fn(model))
    errors: dict[str, float] = {}
    for structure, expected in zip(structures, published.expected(folder), strict=True):
        graph = make_graph(structure, model.cutoff, dtype=np.float64, bucket=bucket)
        prediction, number = predict(variables, graph), structure.num_atoms
        got = {
            "energies": prediction.atom_energies[:number],
            "forces": prediction.forces[:number],
            "stress": prediction.stress[0],
        }
        for quantity, value in got.items():
            if quantity in expected:
                error = float(np.abs(value - expected[quantity]).max())
                # Unlike `max`, this keeps a NaN.
                errors[quantity] = float(np.maximum(errors.get(quantity, 0.0), error))
    return errors


def test_in_single_precision_coefficients_keep_their_digits(tmp_path):
    """Coefficients of 1e5 that cancel: sums in float64, of float32 and what it leaves."""
    text = FILE.replace("ctildes: [0.125]", "ctildes: [123456.789]").replace("prehc: 4", "prehc: 0")
    text = text.replace(
        f"    - {PAIR}",
        f"    - {SINGLE}".replace("ns: [2]", "ns: [1]").replace("0.125", "-333333.3"),
    )
    potential = weights.read("ace", write(tmp_path, text))
    structure = dimer(102, 39, 2.0)
    predict = jax.jit(predict_fn(potential.model))
    graph = make_graph(structure, potential.cutoff, dtype=np.float64)
    exact = np.asarray(predict(potential.variables, graph).energy)
    graph = make_graph(structure, potential.cutoff, dtype=np.float32)
    found = predict(potential.variables_in(np.float32), graph)
    assert found.energy.dtype == found.forces.dtype == np.float32
    # The distance 2 is a number of float32; radial functions and their sum are rounded once.
    largest = 2.0 * 333333.3
    np.testing.assert_allclose(found.energy, exact, rtol=0, atol=1e-7 * largest)
