"""Cluster expansions written for LAMMPS: read again, and run by python-ace."""

import dataclasses
import json
import subprocess

import jax
import numpy as np
import pytest

from mlip_jax import storage
from mlip_jax.cli.entry import main
from mlip_jax.config import UserError
from mlip_jax.data.collate import make_graph
from mlip_jax.descriptors.ace_functions import sizes
from mlip_jax.descriptors.ace_radial import Bond
from mlip_jax.interop import weights
from mlip_jax.interop.weights import ace_export
from mlip_jax.models.ace import ace
from mlip_jax.models.pace import PACE, Embedding
from mlip_jax.models.snap import snap
from mlip_jax.potential import Potential
from tests.interop.exported import PEERS, evaluate, structure

SPECIES = (14, 8)
REFERENCES = (-3.25, 1.5)
BOUNDS = {"cutoff": 3.6, "n_max": (3, 2, 1), "l_max": (0, 2, 1)}
MODELS = {
    "bessel": {},
    "one element": {"species": (14,), "n_max": (4, 3, 2, 2, 1), "l_max": (0, 3, 2, 1, 1)},
    "cheb_exp_cos": {"radial": "cheb_exp_cos"},
    "cheb_pow": {"radial": "cheb_pow", "parameter": 2.0},
    "cheb_linear": {"radial": "cheb_linear"},
    "densities": {"exponents": (1.0, 0.5)},
    "pairs": {"n_max": (4,), "l_max": (0,)},
    "isolated atoms": {"isolated_zero": False},
    "channels": {"element_channels": 3},
    "all channels": {"element_channels": 3, "channel_products": "all"},
    "trained channels": {"element_channels": 2, "channel_weights": "trained"},
    "pace": {},
    "inner ranges": {},
}
QUICK = ("bessel",)
"""Kinds of the plain run; compiling takes the time."""

PYACE = PEERS / "pyace/bin/python"


def potential(kind: str) -> Potential:
    """A model with random coefficients and scaling constants."""
    if kind in ("pace", "inner ranges"):
        inner = {"inner": (2.5, 0.3)} if kind == "inner ranges" else {}
        return pace_potential(inner)
    settings = {"species": SPECIES, "energy_scale": 0.6, **BOUNDS, **MODELS[kind]}
    isolated_zero = settings.pop("isolated_zero", True)
    model = ace(**settings).clone(isolated_zero=isolated_zero)
    number, size = model.descriptor.isolated_features().shape
    rng = np.random.default_rng(3)
    densities = settings.get("exponents")
    shape = (number, size) if densities is None else (number, len(densities), size)
    variables = {
        "params": {"regressor": {"coefficients": rng.normal(size=shape)}},
        "constants": {
            "shift": rng.normal(size=(number, size)) * (densities is None),
            "factor": rng.uniform(0.01, 0.1, size=(number, size)),
        },
    }
    channels = {"descriptor": {"channels": rng.normal(size=(number, model.descriptor.sums))}}
    kind = "params" if settings.get("channel_weights") == "trained" else "constants"
    variables[kind] |= channels if "element_channels" in settings else {}
    return Potential(model, variables, dict(zip(settings["species"], REFERENCES, strict=False)))


def pace_potential(inner: dict) -> Potential:
    """Radial coefficients, bonds and embeddings of its own for every pair and element."""
    model = PACE(
        species=SPECIES,
        bonds=(
            Bond("bessel", 3.6, core=(5.0, 0.4), **inner),
            Bond("cheb_exp_cos", 3.5, 3.0, width=0.2, core=(3.0, 0.3), **inner),
            Bond("cheb_pow", 3.4, 3.0),
            Bond("bessel", 3.6),
        ),
        num_basis=4,
        n_max=(4, 2, 1),
        l_max=(0, 2, 1),
        embeddings=(Embedding(), Embedding((0.8, 1.2), (1.0, 0.6), "smoothed", 40.0, 39.5)),
        energy_scale=0.1,
    )
    rng = np.random.default_rng(3)
    selection = model.selection
    tables = {f"order_{i}": rng.normal(size=(n, 2, 2)) for i, n in enumerate(sizes(selection), 1)}
    shape = (2, 2, selection.num_radial, selection.highest + 1, 4)
    variables = {"params": {"radial": rng.normal(size=shape), **tables}}
    return Potential(model, variables, dict(zip(SPECIES, REFERENCES, strict=True)))


@pytest.mark.parametrize(
    "kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in MODELS]
)
def test_what_is_written_is_read_again(tmp_path, kind):
    ours = potential(kind)
    read = weights.read("ace", weights.write("ace", ours, tmp_path / "x.yace")[:1])
    assert read.species == ours.species
    assert read.cutoff == ours.cutoff
    what = structure(ours.species)
    first, second = (evaluate(found, what) for found in (ours, read))
    assert np.ptp(first[0]) > 0.01
    # Other sums of the same terms: rounding.
    np.testing.assert_allclose(second[0], first[0], rtol=1e-12)
    np.testing.assert_allclose(second[1], first[1], rtol=0, atol=1e-12 * np.abs(first[1]).max())


def test_an_isolated_atom_has_its_reference_energy(tmp_path):
    ours = potential("bessel")
    read = weights.read("ace", weights.write("ace", ours, tmp_path / "x")[:1])
    assert read.reference_energies == ours.reference_energies


def test_densities_are_zero_without_neighbors_and_can_be_written(tmp_path):
    """Scaling of `ace` with exponents: unit deviation, and zero stays zero."""
    model = ace(species=(14,), cutoff=3.0, n_max=(3,), l_max=(0,), exponents=(1.0, 0.5))
    graph = make_graph(structure((14,)), 3.0, dtype=np.float64)
    variables = model.calibrate(jax.jit(model.init)(jax.random.key(0), graph), [graph])
    features = np.asarray(jax.jit(model.apply)(variables, graph).features)
    # Calibrated in float64, on the same atoms.
    np.testing.assert_allclose(features.std(axis=0), 1.0, rtol=1e-10)
    assert not np.any(variables["constants"]["shift"])
    assert len(weights.write("ace", Potential(model, variables, {14: 0.0}), tmp_path / "x")) == 2


def test_functions_without_coefficients_are_left_out(tmp_path):
    ours = potential("bessel")
    table = np.zeros_like(ours.variables["params"]["regressor"]["coefficients"])
    table[0, [0, 9]] = 1.0
    params = {"regressor": {"coefficients": table}}
    variables = {**ours.variables, "params": params}
    files = weights.write("ace", dataclasses.replace(ours, variables=variables), tmp_path / "x")
    assert files[0].read_text().count("mu0: 0") == 2
    assert files[0].read_text().endswith("  1: []\n")


def test_other_models_are_refused(tmp_path):
    ours = potential("bessel")
    other = dataclasses.replace(ours, model=snap(species=SPECIES))
    with pytest.raises(UserError, match=r"got the model Local; expected a cluster expansion"):
        weights.write("ace", other, tmp_path / "x")
    moved = potential("densities")
    moved.variables["constants"]["shift"][0, 0] = 0.1
    with pytest.raises(UserError, match="a shift, which the format lacks; expected `scaling: spr"):
        weights.write("ace", moved, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_core_repulsion_without_an_inner_range_is_refused_beside_one(tmp_path):
    """Programs know one kind of inner range for all pairs."""
    ours = potential("inner ranges")
    bonds = (dataclasses.replace(ours.model.bonds[0], inner=None), *ours.model.bonds[1:])
    other = dataclasses.replace(ours, model=ours.model.clone(bonds=bonds))
    with pytest.raises(UserError, match="a core repulsion and no inner range beside one with"):
        weights.write("ace", other, tmp_path / "x")


def test_unknown_radial_functions_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(ace_export, "RADIAL", {"ChebPow": "cheb_pow"})
    with pytest.raises(
        UserError, match=r"functions bessel, which .*; train with `radial` .*cheb_p"
    ):
        weights.write("ace", potential("bessel"), tmp_path / "x")


def test_the_command_prints_what_lammps_needs(tmp_path, capsys):
    storage.save(potential("one element"), tmp_path / "p")
    assert main(["export", "ace", str(tmp_path / "p"), "-o", str(tmp_path / "x.yace")]) == 0
    assert "pair_style pace\npair_coeff * * x.yace Si\n" in capsys.readouterr().out
    assert (tmp_path / "x.yace").exists()


PROGRAM = """
import json, sys
from ase import Atoms
from pyace import PyACECalculator
case = json.load(sys.stdin)
atoms = Atoms(case["numbers"], positions=case["positions"], cell=case["cell"], pbc=True)
results = []
for recursive in (False, True):
    atoms.calc = PyACECalculator(case["file"], recursive_evaluator=recursive)
    results.append([atoms.get_potential_energies().tolist(), atoms.get_forces().tolist()])
print(json.dumps(results))
"""


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.skipif(not PYACE.exists(), reason=f"no python-ace: {PYACE} (install_peers.sh)")
@pytest.mark.parametrize("kind", MODELS)
def test_python_ace_gives_our_energies_and_forces(tmp_path, kind):
    """Its evaluators are those of LAMMPS's `pair_style pace`; radial functions are tables."""
    ours = potential(kind)
    files = weights.write("ace", ours, tmp_path / "x")
    what = structure(ours.species)
    case = {
        "file": str(files[0]),
        "numbers": what.atomic_numbers.tolist(),
        "positions": what.positions.tolist(),
        "cell": what.cell.tolist(),
    }
    done = subprocess.run(
        [PYACE, "-W", "ignore", "-c", PROGRAM],
        input=json.dumps(case),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    tabulated = weights.read("ace", files[:1])
    spline = tabulated.card["imported"]["deltaSplineBins"]
    tabulated = dataclasses.replace(tabulated, model=tabulated.model.clone(spline=spline))
    # Bins of 0.001 Å interpolate to some 1e-10, where a range of 0.3 Å is crossed, and their slopes
    # to 1e-7; with the same tables only rounding is left.
    cases = ((ours, 1e-9, 1e-6), (tabulated, 1e-12, 1e-11))
    for found, energy_error, force_error in cases:
        expected = evaluate(found, what)
        largest = [max(1.0, np.abs(values).max()) for values in expected]
        for energies, forces in json.loads(done.stdout.splitlines()[-1]):
            np.testing.assert_allclose(energies, expected[0], 0, energy_error * largest[0])
            np.testing.assert_allclose(forces, expected[1], 0, force_error * largest[1])
