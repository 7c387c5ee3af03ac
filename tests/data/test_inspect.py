import dataclasses

import numpy as np
import pytest

from mlip_jax.data import inspect
from mlip_jax.data.structure import StructureLabels
from tests.data.structures import copper


def moved(structure, atom, to):
    positions = structure.positions.copy()
    positions[atom] = to
    return dataclasses.replace(structure, positions=positions)


@pytest.fixture(scope="module")
def report():
    structures = copper(16)
    structures.append(structures[3])
    structures.append(moved(structures[4], 2, structures[4].positions[5] + [0.5, 0, 0]))
    structures.append(moved(structures[5], 1, structures[5].positions[6] + structures[5].cell[0]))
    far = structures[6]
    labels = dataclasses.replace(
        far.labels, energy=far.labels.energy + 80.0, forces=far.labels.forces * 1e4
    )
    structures.append(dataclasses.replace(far, labels=labels))
    atom = dataclasses.replace(
        far,
        atomic_numbers=np.array([29]),
        positions=np.zeros((1, 3)),
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, bool),
        labels=StructureLabels(energy=0.0),
    )
    structures.append(atom)
    return inspect.inspect(structures, cutoffs=(3.0, 5.0), batch_size=4)


def test_counts(report):
    assert (report.num_structures, report.num_atoms) == (21, 161)
    assert report.elements == {"Cu": 161}
    assert report.periodicity == {0: 1, 3: 20}
    assert report.coverage["forces"] == 20
    assert report.isolated_atoms == (20,)
    assert report.rank.isolated == ("Cu",)


def test_what_stands_out_is_found_with_its_index(report):
    assert (3, 16) in report.duplicates
    overlaps = {o.frame: o for o in report.overlapping}
    assert overlaps[17].atoms == (2, 5)
    assert overlaps[17].distance == pytest.approx(0.5)
    assert set(overlaps[18].atoms) == {1, 6}
    assert overlaps[18].distance == pytest.approx(0.0, abs=1e-9)
    assert [o.frame for o in report.energy_outliers] == [19]
    assert [o.frame for o in report.force_outliers] == [19]


def test_cost_of_each_cutoff(report):
    small, large = report.neighbors
    assert small.mean < large.mean
    assert small.pair_megabytes < large.pair_megabytes
    assert 0.0 < large.waste.slots < 1.0


def test_tables_and_plots(report, tmp_path):
    tables = inspect.tables(report)
    assert list(tables) == ["Content", "Checks", "Findings", "Neighbours and batches"]
    assert "17 (atoms 2, 5: 0.50 Å)" in dict(tables["Findings"])["overlapping atoms"]
    for path in inspect.plot(report, tmp_path / "plots"):
        assert path.read_bytes().startswith(b"\x89PNG")
