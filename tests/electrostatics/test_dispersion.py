"""D3 against loops over pairs, against s-dftd3, and its tables and parameters."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax import config, elements, units
from mlip_jax.config import UserError
from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.electrostatics import dispersion, dispersion_functionals, dispersion_tables
from mlip_jax.electrostatics.dispersion_tables import ExplicitTables
from mlip_jax.models.d3 import D3
from mlip_jax.potential import predict_fn
from tests.models import loops
from tests.models.presets import TABLES

EXPLICIT = config.validate(ExplicitTables, TABLES, "tables")
REFERENCE = json.loads(Path(__file__).with_name("d3.json").read_text())
CASES = REFERENCE["cases"]
PUBLISHED = pytest.mark.skipif(
    dispersion_tables.find() is None, reason="torch-dftd, which has the tables, is not installed"
)


def energies_and_forces(model: D3, structure: Structure):
    graph = make_graph(
        structure, model.cutoff, prefix_cutoffs=model.prefix_cutoffs, dtype=np.float64
    )
    graph = jax.tree.map(jnp.asarray, graph)
    variables = jax.jit(model.init)(jax.random.key(0), graph)
    return jax.jit(predict_fn(model))(variables, graph)


def switch(r: float, cutoff: float) -> float:
    x = max(0.0, (r / cutoff - 0.8) / 0.2)
    return 1.0 - 10.0 * x**3 + 15.0 * x**4 - 6.0 * x**5


def looped(structure: Structure, model: D3, parameters: dict[str, float]) -> np.ndarray:
    """Energies of atoms [eV] by loops, in the order and the units of the papers."""
    element = [loops.SPECIES.index(z) for z in structure.atomic_numbers]
    pairs = {(0, 0): 0, (0, 1): 1, (1, 1): 2}
    number = structure.num_atoms
    coordination = np.zeros(number)
    for i in range(number):
        for j, vector in loops.images(structure, i):
            r = float(np.linalg.norm(vector))
            if r < model.prefix_cutoffs[0]:
                radii = sum(EXPLICIT.covalent_radii[element[a]] for a in (i, j))
                count = 1.0 / (1.0 + np.exp(-16.0 * (4.0 / 3.0 * radii / r - 1.0)))
                coordination[i] += count * switch(r, model.prefix_cutoffs[0])
    result = np.zeros(number)
    for i in range(number):
        for j, vector in loops.images(structure, i):
            r = float(np.linalg.norm(vector)) / units.BOHR
            (e, a), (f, b) = sorted((element[n], n) for n in (i, j))
            above, below = 0.0, 0.0
            for m, row in zip(EXPLICIT.coordination[e], EXPLICIT.c6[pairs[e, f]], strict=True):
                for n, c6 in zip(EXPLICIT.coordination[f], row, strict=True):
                    distance = (coordination[a] - m) ** 2 + (coordination[b] - n) ** 2
                    above += c6 * np.exp(-4.0 * distance)
                    below += np.exp(-4.0 * distance)
            c6 = above / below
            c8 = 3.0 * c6 * EXPLICIT.ratio_roots[e] * EXPLICIT.ratio_roots[f]
            p = parameters
            if model.damping == "bj":
                f0 = p["a1"] * np.sqrt(c8 / c6) + p["a2"]
                pair = p["s6"] * c6 / (r**6 + f0**6) + p["s8"] * c8 / (r**8 + f0**8)
            else:
                radius = EXPLICIT.cutoff_radii[pairs[e, f]] / units.BOHR
                six = 1.0 + 6.0 * (r / (p["rs6"] * radius)) ** -14
                eight = 1.0 + 6.0 * (r / (p["rs8"] * radius)) ** -16
                pair = p["s6"] * c6 / r**6 / six + p["s8"] * c8 / r**8 / eight
            result[i] -= 0.5 * pair * switch(r * units.BOHR, model.cutoff) * units.HARTREE
    return result


@pytest.mark.parametrize(
    "parameters",
    [
        {"s6": 0.8, "s8": 0.9, "a1": 0.3, "a2": 2.5},
        {"s6": 1.0, "s8": 1.7, "rs6": 1.2, "rs8": 0.9},
    ],
    ids=["bj", "zero"],
)
def test_energies_are_those_of_loops_over_pairs(parameters):
    damping = "bj" if "a1" in parameters else "zero"
    model = D3(loops.SPECIES, loops.CUTOFF, 3.0, damping=damping, tables=EXPLICIT, **parameters)
    structure = loops.structure()
    expected = looped(structure, model, parameters)
    found = energies_and_forces(model, structure)
    assert np.abs(expected).min() > 1e-3
    np.testing.assert_allclose(found.atom_energies, expected, rtol=1e-12)


@PUBLISHED
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['name']}-{c['damping']}")
def test_energies_forces_and_stress_are_those_of_s_dftd3(case):
    """Cutoffs stand in gaps between shells, and the switches fall inside these gaps."""
    numbers = np.array(case["numbers"])
    structure = Structure(
        numbers, np.array(case["positions"]), np.array(case["cell"]), np.array(case["pbc"])
    )
    reach = {
        f"{kind}{name}": case[f"{kind}cutoff"] + sign * 0.4 * case[f"{kind}width"]
        for kind in ("", "coordination_")
        for name, sign in (("cutoff", 1), ("onset", -1))
    }
    model = D3(
        tuple(sorted({int(z) for z in numbers})),
        functional=case["functional"],
        damping=case["damping"],
        **reach,
    )
    found = energies_and_forces(model, structure)
    # 4e-11 of zero damping: the program's radii are rounded in bohr, ours in Å.
    np.testing.assert_allclose(found.energy[0], case["energy"], rtol=1e-10)
    largest = np.abs(case["forces"]).max()
    np.testing.assert_allclose(found.forces, case["forces"], rtol=0.0, atol=1e-9 * largest)
    if case["stress"] is not None:
        largest = np.abs(case["stress"]).max()
        np.testing.assert_allclose(found.stress[0], case["stress"], rtol=0.0, atol=1e-10 * largest)


def test_both_ways_to_the_c6_of_pairs_agree():
    rng = np.random.default_rng(0)
    weights, own = jnp.asarray(rng.random((40, 2))), jnp.asarray(rng.random((8, 3, 2)))
    element, neighbors = rng.integers(0, 3, 40), rng.integers(0, 40, (8, 15))
    many = jnp.asarray(neighbors)
    dense = dispersion.c6_of_pairs(own, weights, jnp.asarray(element), many)
    # Few neighbours in a row are looked up one by one.
    taken = dispersion.c6_of_pairs(own, weights, jnp.asarray(element), many[:, :3])
    expected = [[own[i, element[j]] @ weights[j] for j in row] for i, row in enumerate(neighbors)]
    np.testing.assert_allclose(dense, expected, rtol=1e-13)
    np.testing.assert_allclose(taken, np.array(expected)[:, :3], rtol=1e-13)


def test_an_atom_far_from_all_references_takes_the_nearest():
    """In float32, where the exponentials of eq. 16 vanish; places without a system never count."""
    references = jnp.array([[0.0, 1.0, 3.0, -1.0]], jnp.float32)
    weights, slope = jax.jvp(
        lambda n: dispersion.reference_weights(n, references), (jnp.array([40.0]),), (jnp.ones(1),)
    )
    np.testing.assert_allclose(weights, [[0.0, 0.0, 1.0, 0.0]], atol=1e-30)
    assert np.isfinite(slope).all()
    nearby = dispersion.reference_weights(jnp.array([-0.9]), references)
    assert float(nearby[0, 3]) == 0.0


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A made-up file of the form that torch-dftd has, radii and ratios in single precision."""
    bohr, size = 0.52917726, 95
    references = np.full((size, size, 5, 5, 3), -1.0)
    references[1:, 1:, 0, 0] = [7.5, 0.0, 0.0]
    references[14, 14, :2, :2, 0] = [[9.0, 8.0], [8.0, 6.0]]
    references[14, 14, :2, :2, 1] = [[0.0], [1.9]]
    references[14, 14, :2, :2, 2] = [0.0, 1.9]
    references[8, 14, 0, :2] = [[7.0, 0.0, 0.0], [6.5, 0.0, 1.9]]
    references[14, 8, :2, 0] = [[7.0, 0.0, 0.0], [6.5, 1.9, 0.0]]
    z = np.arange(size)
    path = tmp_path / "dftd3_params.npz"
    np.savez(
        path,
        c6ab=references,
        r0ab=np.full((size, size), 2.1823 / bohr).astype(np.float32),
        rcov=(4.0 / 3.0 * (0.3 + 0.01 * z) / bohr).astype(np.float32),
        r2r4=np.sqrt(0.5 * 8.0589 * np.sqrt(z)).astype(np.float32),
    )
    monkeypatch.setattr(dispersion_tables, "find", lambda: path)
    return path


@pytest.mark.usefixtures("package")
def test_tables_of_the_package_are_read_with_all_decimals():
    tables = dispersion_tables.read((14, 8))
    np.testing.assert_array_equal(tables.coordination, [[0.0, 1.9], [0.0, -1.0]])
    unit = units.HARTREE * units.BOHR**6
    np.testing.assert_allclose(tables.c6[0, 0], np.array([[9.0, 8.0], [8.0, 6.0]]) * unit)
    np.testing.assert_allclose(tables.c6[0, 1], np.array([[7.0, 0.0], [6.5, 0.0]]) * unit)
    np.testing.assert_array_equal(tables.c6[1, 0], tables.c6[0, 1].T)
    np.testing.assert_array_equal(tables.covalent_radii, [0.44, 0.38])
    np.testing.assert_array_equal(tables.cutoff_radii, np.full((2, 2), 2.1823))
    expected = np.sqrt(0.5 * 8.0589 * np.sqrt([14, 8])) * units.BOHR
    np.testing.assert_allclose(tables.ratio_roots, expected, rtol=1e-15)


@PUBLISHED
def test_published_tables_are_complete_and_symmetric():
    tables = dispersion_tables.read(range(1, 95))
    known = tables.coordination > -0.5
    pairs = known[:, None, :, None] & known[None, :, None, :]
    assert (tables.c6[pairs] > 0.0).all()
    np.testing.assert_array_equal(tables.c6, tables.c6.transpose(1, 0, 3, 2))
    # H, C and Si have two decimals again.
    np.testing.assert_array_equal(tables.covalent_radii[[0, 5, 13]], [0.32, 0.75, 1.04])


def test_without_tables_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(dispersion_tables, "find", lambda: None)
    with pytest.raises(UserError, match=r"pip install 'mlip_jax\[dispersion\]'"):
        dispersion_tables.read((14,))


@pytest.mark.usefixtures("package")
def test_elements_beyond_plutonium_are_refused():
    with pytest.raises(UserError, match="got \\['Am'\\]; expected elements up to Pu"):
        dispersion_tables.read((14, elements.atomic_number("Am")))


def test_parameters_of_functionals():
    pbe = dispersion_functionals.parameters("bj", "PBE", {})
    assert pbe == {"s6": 1.0, "s8": 0.7875, "a1": 0.4289, "a2": 4.4407}
    assert dispersion_functionals.parameters("zero", "B97-D", {"rs8": 1.1}) == {
        "s6": 1.0,
        "s8": 0.909,
        "rs6": 0.892,
        "rs8": 1.1,
    }


@pytest.mark.parametrize("damping", ["bj", "zero"])
def test_parameters_are_those_of_s_dftd3(damping):
    theirs = REFERENCE["parameters"][damping]
    for name in dispersion_functionals.known(damping):
        expected = theirs["bp" if name == "bp86" else name]
        assert dispersion_functionals.parameters(damping, name, {}) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"functional": "pbesoll"}, "did you mean 'pbesol'"),
        ({"functional": "m06l"}, "unknown functional \\(bj\\)"),
        ({"s8": 1.0, "a1": 0.4}, "d3.a2: missing"),
        ({"functional": "pbe", "rs6": 1.1}, "d3.rs6: got a value for the damping bj"),
        ({"functional": "pbe", "coordination_cutoff": 4.0}, "up to the cutoff 3.4"),
        ({"functional": "pbe", "onset": 3.5}, "onset: got 3.5"),
        (
            {
                "functional": "pbe",
                "tables": dataclasses.replace(EXPLICIT, covalent_radii=(1.0, 0.7, 0.6)),
            },
            "2 elements; expected one of each",
        ),
        ({"functional": "pbe", "species": None}, "d3.species: not given"),
    ],
)
def test_mistakes_are_explained(changes, message):
    fields = {"species": loops.SPECIES, "cutoff": loops.CUTOFF, "tables": EXPLICIT, **changes}
    with pytest.raises(UserError, match=message):
        energies_and_forces(D3(**fields), loops.structure())
