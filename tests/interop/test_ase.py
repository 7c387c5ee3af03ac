"""The calculator inside ASE's own tools, and what it refuses."""

import ase
import ase.md.verlet
import ase.units
import jax
import numpy as np
import pytest
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE, LBFGS

from mlip_jax import models, storage
from mlip_jax.config import UserError
from mlip_jax.data.collate import make_graph
from mlip_jax.data.formats.ase_files import to_atoms
from mlip_jax.inference import graph_series, predict
from mlip_jax.interop import catalogue
from mlip_jax.interop.ase import MLIPCalculator
from mlip_jax.potential import Potential
from tests.interop import published
from tests.simulate.silicon import LATTICE, diamond, potential
from tests.train import tiny


@pytest.fixture(scope="module")
def calculator():
    return MLIPCalculator(potential(), precision="float64")


def crystal(calculator, repeats=(1, 1, 1), **kwargs):
    atoms = to_atoms(diamond(repeats, **kwargs))
    atoms.calc = calculator
    return atoms


def test_results_are_those_of_predict(calculator):
    structure = diamond((1, 1, 1), rattle=0.1)
    atoms = crystal(calculator, rattle=0.1)
    (expected,) = predict(potential(), structure, precision="float64")
    assert atoms.get_potential_energy() == pytest.approx(expected.energy, abs=1e-9)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-10)
    np.testing.assert_allclose(atoms.get_stress(voigt=False), expected.stress, atol=1e-12)
    np.testing.assert_allclose(atoms.get_potential_energies(), expected.atom_energies, atol=1e-10)


def test_moments_and_their_sum_are_properties():
    model = tiny.Magnetic()
    (structure,) = tiny.structures(1)
    variables = model.init(jax.random.key(1), make_graph(structure, tiny.CUTOFF))
    magnetic = Potential(model, variables, tiny.REFERENCE)
    atoms = to_atoms(structure)
    atoms.calc = MLIPCalculator(magnetic)
    (expected,) = predict(magnetic, structure)
    assert expected.magmoms.min() > 1e-3
    np.testing.assert_allclose(atoms.get_magnetic_moments(), expected.magmoms, rtol=1e-6)
    assert atoms.get_magnetic_moment() == pytest.approx(expected.magmoms.sum(), rel=1e-6)


def committee(*seeds):
    """Potentials that differ in their parameters only."""
    (structure,) = tiny.structures(1)
    model = tiny.Magnetic()
    graph = make_graph(structure, tiny.CUTOFF)
    return structure, [
        Potential(model, model.init(jax.random.key(seed), graph), {14: -5.0 - seed})
        for seed in seeds
    ]


def test_a_committee_gives_means_and_deviations(monkeypatch, tmp_path):
    monkeypatch.setitem(models.MODELS, "magnetic", "tests.train.tiny:Magnetic")
    structure, members = committee(1, 2, 3)
    storage.save(members[0], tmp_path / "first")
    single = []
    for member in members:
        alone = MLIPCalculator(member, precision="float64")
        atoms = to_atoms(structure)
        alone.calculate(atoms)
        assert "energy_std" not in alone.results
        single.append(alone.results)
    calculator = MLIPCalculator([tmp_path / "first", *members[1:]], precision="float64")
    atoms.calc = calculator
    energies = [result["energy"] for result in single]
    assert atoms.get_potential_energy() == pytest.approx(sum(energies) / 3, abs=1e-12)
    assert np.ptp(energies) > 1.0
    for name in ("energies", "forces", "stress", "magmoms", "magmom"):
        mean = np.mean([result[name] for result in single], axis=0)
        np.testing.assert_allclose(calculator.results[name], mean, rtol=1e-12, atol=1e-14)
    for name in ("energy", "forces", "stress"):
        spread = np.std([result[name] for result in single], axis=0, ddof=1)
        assert np.max(spread) > 1e-4
        found = calculator.results[f"{name}_std"]
        np.testing.assert_allclose(found, spread, rtol=1e-10, atol=1e-14)
    # One program serves all members, since they have one model.
    assert calculator._members[0].predict is calculator._members[2].predict
    assert calculator._members[0].predict._cache_size() == 1


def test_members_may_have_other_models_and_outputs():
    structure, (magnetic,) = committee(1)
    other = tiny.Tiny(cutoff=2.8)
    variables = other.init(jax.random.key(5), make_graph(structure, 2.8))
    calculator = MLIPCalculator([magnetic, Potential(other, variables, tiny.REFERENCE)])
    calculator.calculate(to_atoms(structure))
    assert "magmoms" not in calculator.results
    assert calculator.results["forces_std"].shape == (structure.num_atoms, 3)


def test_a_committee_needs_a_member():
    with pytest.raises(UserError, match="empty list"):
        MLIPCalculator([])


@pytest.mark.reference
@pytest.mark.skipif(not published.potentials("snap"), reason=published.REASON)
def test_a_published_name_is_a_potential(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(catalogue.SEARCH_PATH, str(published.SHARED / "reference"))
    folder = published.SHARED / "reference/snap/Si_snap"
    atoms = to_atoms(published.structures(folder)[0])
    atoms.calc = MLIPCalculator("snap-mlearn-si", precision="float64")
    expected = published.expected(folder)[0]
    assert atoms.get_potential_energy() == pytest.approx(float(expected["energy"]), rel=1e-10)
    np.testing.assert_allclose(atoms.get_forces(), expected["forces"], rtol=0, atol=1e-9)


def test_stress_is_the_derivative_that_ase_expects(calculator):
    """Fourth-order central differences, by straining the atoms in ASE."""
    atoms = crystal(calculator, rattle=0.05)
    step = 2e-4
    for voigt, (a, b) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        energies = []
        for factor in (-2, -1, 1, 2):
            strain = np.eye(3)
            strain[a, b] += 0.5 * factor * step
            strain[b, a] += 0.5 * factor * step
            strained = atoms.copy()
            strained.set_cell(atoms.cell[:] @ strain, scale_atoms=True)
            strained.calc = calculator
            energies.append(strained.get_potential_energy())
        slope = np.dot([1, -8, 8, -1], energies) / (12 * step)
        assert atoms.get_stress()[voigt] == pytest.approx(slope / atoms.get_volume(), abs=1e-8)


def test_cell_filter_finds_the_lattice_constant(calculator):
    atoms = crystal(calculator)
    atoms.set_cell(atoms.cell[:] * 1.02, scale_atoms=True)
    optimizer = LBFGS(FrechetCellFilter(atoms), logfile=None)
    assert optimizer.run(fmax=1e-4, steps=40)
    # Stillinger & Weber (1985) chose σ so that the lattice constant is 5.431 Å.
    np.testing.assert_allclose(atoms.cell.lengths(), LATTICE, atol=2e-3)


def test_positions_relax(calculator):
    atoms = crystal(calculator, rattle=0.1)
    assert FIRE(atoms, logfile=None).run(fmax=1e-3, steps=200)
    assert atoms.get_potential_energy() / 8 == pytest.approx(-100.0 - 2.0 * 2.1683, abs=1e-4)


def test_dynamics_compile_rarely_and_reuse_the_list(monkeypatch):
    built, original = [], graph_series.neighbor_list

    def counted(*arguments):
        built.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(graph_series, "neighbor_list", counted)
    calculator = MLIPCalculator(potential(), precision="float64")
    atoms = crystal(calculator, rattle=0.05)
    before = atoms.get_total_energy()
    dynamics = ase.md.verlet.VelocityVerlet(atoms, timestep=1.0 * ase.units.fs)
    dynamics.run(40)
    assert atoms.get_total_energy() == pytest.approx(before, abs=5e-3)
    assert len(built) < 20
    assert calculator._members[0].predict._cache_size() <= 2


def test_a_molecule_has_no_stress(calculator):
    atoms = ase.Atoms("Si2", positions=[[0, 0, 0], [2.3, 0, 0]], calculator=calculator)
    forces = atoms.get_forces()
    np.testing.assert_allclose(forces[0], -forces[1], atol=1e-12)
    with pytest.raises(ase.calculators.calculator.PropertyNotImplementedError):
        atoms.get_stress()


def test_an_isolated_atom_has_its_reference_energy(calculator):
    atom = ase.Atoms("Si", calculator=calculator)
    assert atom.get_potential_energy() == -100.0


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (ase.Atoms("C"), "does not know"),
        (ase.Atoms("Si2", positions=np.zeros((2, 3))), "one place"),
        (ase.Atoms("Si", pbc=True), "linearly independent"),
        (ase.Atoms("Si", positions=[[np.nan, 0, 0]]), "finite"),
        (ase.Atoms(), "at least one"),
    ],
)
def test_impossible_atoms_are_refused(calculator, atoms, message):
    atoms.calc = calculator
    with pytest.raises(UserError, match=message):
        atoms.get_potential_energy()


def test_a_change_of_elements_is_noticed(calculator):
    atoms = crystal(calculator)
    atoms.get_potential_energy()
    atoms.numbers[0] = 6
    with pytest.raises(UserError, match="does not know"):
        atoms.get_potential_energy()
