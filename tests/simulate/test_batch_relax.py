"""Many structures relaxed at once: the minima of ASE, whatever shares the batch."""

import dataclasses
from typing import Any, cast

import ase
import ase.build
import ase.filters
import ase.optimize
import jax
import numpy as np
import pytest

from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure, StructureLabels
from mlip_jax.inference.prediction import predict
from mlip_jax.interop.ase import MLIPCalculator
from mlip_jax.models.pair import Morse
from mlip_jax.potential import Potential
from mlip_jax.simulate.batch_relax import relax_many
from mlip_jax.simulate.settings import BatchRelaxationConfig

SETTINGS = BatchRelaxationConfig(cell="full", max_force=1e-4, max_stress=1e-6, chunk=25)


def argon(repeats=1, lattice=4.0, rattle=0.0, shear=0.0, seed=0) -> Structure:
    atoms = ase.build.bulk("Ar", "fcc", a=lattice, cubic=True).repeat((repeats, 1, 1))
    strain = np.eye(3) + shear * np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, -1]])
    rng = np.random.default_rng(seed)
    moved = atoms.positions + rng.normal(0.0, rattle, atoms.positions.shape)
    return Structure(
        atomic_numbers=atoms.numbers,
        positions=moved @ strain,
        cell=atoms.cell.array @ strain,
        pbc=np.ones(3, bool),
    )


@pytest.fixture(scope="module")
def potential() -> Potential:
    model = Morse(species=(18,), cutoff=4.5, depth=0.3, steepness=1.5, distance=2.8)
    graph = jax.tree.map(jax.numpy.asarray, make_graph(argon(), 4.5, dtype=np.float64))
    return Potential(model, model.init(jax.random.PRNGKey(0), graph), {18: -1.0})


def starts() -> list[Structure]:
    return [argon(1, 4.1, 0.1, 0.03, 1), argon(2, 3.85, 0.1, 0.0, 2), argon(1, 3.9, 0.0, 0.02, 3)]


def test_waiting_structures_follow_and_other_batches_change_nothing(potential):
    together = relax_many(potential, starts(), SETTINGS)
    queue = dataclasses.replace(SETTINGS, batch_graphs=2, batch_atoms=12)
    for result, other in zip(together, relax_many(potential, starts(), queue), strict=True):
        assert result.status == other.status == "converged"
        assert result.steps == other.steps > 5
        np.testing.assert_allclose(other.structure.cell, result.structure.cell, atol=1e-10)
        np.testing.assert_allclose(
            other.structure.positions, result.structure.positions, atol=1e-10
        )


def test_labels_are_those_of_the_relaxed_structure(potential):
    for result in relax_many(potential, starts(), SETTINGS):
        (again,) = predict(potential, [result.structure], precision="float64")
        labels = result.structure.labels
        assert labels.forces is not None
        assert labels.stress is not None
        assert labels.energy == pytest.approx(again.energy, abs=1e-10)
        np.testing.assert_allclose(labels.forces, again.forces, atol=1e-10)
        np.testing.assert_allclose(labels.stress, again.stress, atol=1e-12)
        assert np.abs(again.forces).max() < 1e-4
        assert np.abs(again.stress).max() < 1e-6


def test_the_lattice_constant_is_that_of_least_energy(potential):
    result = relax_many(
        potential, [argon(1, 4.1)], dataclasses.replace(SETTINGS, cell="hydrostatic")
    )
    lattice = np.cbrt(np.linalg.det(result[0].structure.cell))
    lengths = lattice + np.array([-0.01, 0.0, 0.01])
    low, least, high = (
        p.energy for p in predict(potential, [argon(1, a) for a in lengths], precision="float64")
    )
    # The parabola through three energies has its minimum there.
    offset = 0.005 * (low - high) / (low - 2 * least + high)
    assert least < min(low, high)
    assert offset == pytest.approx(0.0, abs=2e-4)


def test_a_failure_is_reported_and_the_rest_goes_on(potential):
    bad = argon(1)
    bad.positions[1] = bad.positions[0] + [0.2, 0.0, 0.0]
    unknown = dataclasses.replace(
        argon(1), atomic_numbers=np.full(4, 14), labels=StructureLabels(energy=1.0)
    )
    results = relax_many(potential, [bad, *starts(), unknown], SETTINGS)
    assert "min_distance" in results[0].status
    assert "Si" in results[-1].status
    assert results[-1].structure.labels.energy is None
    assert all(r.converged for r in results[1:-1])
    (short,) = relax_many(potential, starts()[:1], dataclasses.replace(SETTINGS, max_steps=3))
    assert (short.steps, short.status) == (3, "not converged in max_steps")


@pytest.mark.slow
def test_ase_finds_the_same_minimum(potential):
    start = starts()[0]
    (result,) = relax_many(potential, [start], SETTINGS)
    atoms = ase.Atoms(start.atomic_numbers, start.positions, cell=start.cell, pbc=True)
    atoms.calc = MLIPCalculator(potential, precision="float64")
    free: Any = ase.filters.FrechetCellFilter(atoms)
    assert ase.optimize.FIRE(free, logfile=cast(Any, None)).run(1e-5, 2000)
    energy, volume = atoms.get_potential_energy(), atoms.get_volume()
    assert result.structure.labels.energy == pytest.approx(energy, abs=1e-5)
    assert np.linalg.det(result.structure.cell) == pytest.approx(volume, rel=1e-4)


def test_blocks_and_lists_of_their_own_change_nothing(potential):
    together = relax_many(potential, starts(), SETTINGS)
    blocks = dataclasses.replace(SETTINGS, block=4, skin=0.2, chunk=3)
    for result, other in zip(together, relax_many(potential, starts(), blocks), strict=True):
        assert result.status == other.status == "converged"
        assert result.steps == other.steps
        np.testing.assert_allclose(other.structure.cell, result.structure.cell, atol=1e-8)


def test_few_evaluations_suffice(potential):
    """ASE's FIRE takes hundreds of steps to these limits."""
    assert all(result.steps < 60 for result in relax_many(potential, starts(), SETTINGS))


def test_a_step_uphill_is_taken_back(potential):
    """Steps as long as a bond overshoot; the trust radius ends that."""
    long = dataclasses.replace(SETTINGS, max_displacement=1.0)
    for result, other in zip(
        relax_many(potential, starts(), SETTINGS),
        relax_many(potential, starts(), long),
        strict=True,
    ):
        assert other.status == "converged"
        energies = (r.structure.labels.energy for r in (result, other))
        assert next(energies) == pytest.approx(next(energies), abs=1e-6)
