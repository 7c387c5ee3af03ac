import dataclasses

import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.data import statistics
from mlip_jax.data.statistics import StatisticsConfig
from mlip_jax.data.structure import Structure, StructureLabels, is_isolated_atom
from tests.data.structures import copper

ENERGIES = {1: -13.6, 6: -1030.0, 8: -2040.0}


def molecule(numbers, energy=None, *, source="", shift=0.0) -> Structure:
    numbers = np.array(numbers)
    exact = sum(ENERGIES[int(z)] for z in numbers) + shift * len(numbers)
    return Structure(
        atomic_numbers=numbers,
        positions=1.5 * np.arange(3 * len(numbers)).reshape(-1, 3).astype(float),
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, bool),
        labels=StructureLabels(energy=exact if energy is None else energy),
        source=source,
    )


MIXED = [molecule([1, 1, 8]), molecule([6, 8, 8]), molecule([6, 1, 1, 1, 1]), molecule([1, 1])]


def test_least_squares_finds_energies_that_the_data_determine():
    found = statistics.compute(MIXED, 3.0)
    for z, energy in ENERGIES.items():
        # The ridge is 1e-10 of the largest squared singular value.
        assert found.reference_energies[z] == pytest.approx(energy, abs=1e-5)
    assert found.reports[""].rank == 3
    assert found.species == (1, 6, 8)


def test_isolated_atoms_come_first_and_the_rest_is_fitted():
    found = statistics.compute([*MIXED, molecule([8], -2000.0)], 3.0)
    assert found.reference_energies[8] == -2000.0
    assert found.reports[""].isolated == ("O",)


def test_one_composition_has_rank_one_and_small_residuals():
    found = statistics.compute([molecule([1, 1, 8], e) for e in (-2067.1, -2067.2, -2067.3)], 3.0)
    report = found.reports[""]
    assert (report.rank, report.num_elements, len(report.undetermined)) == (1, 2, 1)
    assert "rank 1 of 2" in str(report)
    assert found.energy_per_atom_std < 0.05
    total = 2 * found.reference_energies[1] + found.reference_energies[8]
    assert total == pytest.approx(-2067.2, abs=1e-6)


def test_the_shortest_distance_is_that_of_all_structures():
    # Atoms of these molecules are 4.5 √3 Å apart; one is pulled closer.
    wide, close = molecule([1, 1, 8]), molecule([1, 1, 8])
    close.positions[1] = close.positions[0] + np.array([0.0, 0.7, 0.0])
    assert statistics.compute([wide, close], 3.0).min_distance == pytest.approx(0.7)
    assert statistics.compute([wide], 3.0).min_distance == 1.5


def test_isolated_only_names_the_missing_elements():
    config = StatisticsConfig("isolated")
    with pytest.raises(UserError, match="no isolated atom of H, C"):
        statistics.compute([*MIXED, molecule([8])], 3.0, config)


def test_cohesive_energies_lift_what_is_fitted_and_nothing_else():
    config = StatisticsConfig("cohesive")
    structures = [*MIXED, molecule([8], -2000.0)]
    plain = statistics.compute(structures, 3.0).reference_energies
    lifted = statistics.compute(structures, 3.0, config).reference_energies
    added = {z: lifted[z] - plain[z] for z in plain}
    assert added == pytest.approx({1: 2.24, 6: 7.37, 8: 0.0})  # half of H2; diamond
    francium = dataclasses.replace(MIXED[3], atomic_numbers=np.array([87, 87]))
    with pytest.raises(UserError, match="that of Fr is not known"):
        statistics.compute([*MIXED, francium], 3.0, config)


def test_an_atom_in_a_small_periodic_cell_is_not_isolated():
    atom = dataclasses.replace(molecule([8]), cell=4.0 * np.eye(3), pbc=np.ones(3, bool))
    assert not is_isolated_atom(atom)
    assert is_isolated_atom(dataclasses.replace(atom, cell=12.0 * np.eye(3)))
    assert is_isolated_atom(molecule([8]))


def test_each_source_gets_its_own_reference_energies():
    both = [dataclasses.replace(m, source="pbe") for m in MIXED]
    both += [molecule(m.atomic_numbers, source="scan", shift=-5.0) for m in MIXED for _ in range(2)]
    found = statistics.compute(both, 3.0, StatisticsConfig(per_source=True))
    by_source = found.source_reference_energies
    assert by_source["scan"][8] - by_source["pbe"][8] == pytest.approx(-5.0, abs=1e-4)
    assert found.reference_energies == by_source["scan"]
    assert found.energy_per_atom_std == pytest.approx(0.0, abs=1e-4)
    one = statistics.compute(both, 3.0)
    assert one.energy_per_atom_std > 1.0


def test_an_element_of_a_small_source_keeps_its_reference_energy():
    carbon = molecule([6], -100.0, source="hse")
    found = statistics.compute(
        [molecule([1, 1]), molecule([1, 1, 8]), carbon], 3.0, StatisticsConfig(per_source=True)
    )
    assert found.reference_energies[6] == -100.0
    assert found.reference_energies[8] == found.source_reference_energies[""][8]


def test_scale_and_neighbours_are_those_of_the_data():
    structures = copper(4)
    found = statistics.compute(structures, 3.0)
    forces = np.concatenate([s.labels.forces for s in structures])
    assert found.energy_scale == pytest.approx(np.sqrt(np.mean(forces**2)))
    # fcc at 3 Å: the first shell.
    assert found.avg_num_neighbors == pytest.approx(12.0, abs=0.5)
    assert (found.num_structures, found.num_atoms) == (4, 32)


def test_sets_without_forces_or_spread_have_a_scale():
    assert statistics.compute([molecule([1, 1])], 3.0).energy_scale == 1.0
    assert statistics.compute(MIXED, 3.0, StatisticsConfig("zero")).energy_scale > 100.0
