import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from mlip_jax import config
from mlip_jax.config import UserError
from mlip_jax.data import dataset, formats
from mlip_jax.data.batching import BatchConfig, BatchSource
from mlip_jax.data.dataset import DataConfig
from mlip_jax.data.lists import NeighborLists
from tests.data.structures import copper, everything


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    formats.write(path / "cu.extxyz", [with_group(s, i) for i, s in enumerate(copper(20))])
    formats.write(path / "more.h5", copper(6, seed=1))
    return path


def with_group(structure, number):
    kind = "odd" if number % 2 else "even"
    return dataclasses.replace(structure, group=f"g{number // 4}", config_type=kind)


def parse(**section):
    return config.parse(DataConfig, section, "data")


def energies(structures):
    return [s.labels.energy for s in structures]


def test_a_fraction_splits_without_overlap_and_by_seed(folder):
    loaded = dataset.load(parse(train="cu.extxyz", valid=0.2, test=0.1), folder)
    assert (len(loaded.train), len(loaded.valid), len(loaded.test)) == (14, 4, 2)
    together = [*energies(loaded.train), *energies(loaded.valid), *energies(loaded.test)]
    assert len(set(together)) == 20
    again = dataset.load(parse(train="cu.extxyz", valid=0.2, test=0.1), folder)
    assert energies(again.valid) == energies(loaded.valid)
    other = dataset.load(parse(train="cu.extxyz", valid=0.2, test=0.1, seed=1), folder)
    assert energies(other.valid) != energies(loaded.valid)


def test_groups_stay_on_one_side(folder):
    section = parse(train="cu.extxyz", valid=0.3, split="group", labels={"group": "group"})
    loaded = dataset.load(section, folder)
    assert len(loaded.valid) == 4
    assert not {s.group for s in loaded.train} & {s.group for s in loaded.valid}


def test_training_sets_of_one_seed_are_nested_and_leave_the_other_sets_alone(folder):
    section = {"train": "cu.extxyz", "valid": 0.2, "test": 0.1}
    whole = dataset.load(parse(**section), folder)
    previous: set[float] = set()
    for size in (1, 5, 9, 14):
        loaded = dataset.load(parse(**section, train_size=size), folder)
        chosen = set(energies(loaded.train))
        assert len(loaded.train) == size
        assert previous <= chosen <= set(energies(whole.train))
        assert energies(loaded.valid) == energies(whole.valid)
        assert energies(loaded.test) == energies(whole.test)
        previous = chosen
    five = dataset.load(parse(**section, train_size=5), folder)
    other = dataset.load(parse(train="cu.extxyz", valid=0.0, train_size=5, seed=1), folder)
    assert five.card["split"]["train_size"] == 5
    assert energies(other.train) != energies(five.train)
    with pytest.raises(UserError, match="got 15; expected 1 to 14"):
        dataset.load(parse(**section, train_size=15), folder)


def test_isolated_atoms_stay_in_the_smallest_training_set():
    atoms = [dataclasses.replace(s, pbc=np.array([False] * 3)) for s in copper(2)]
    atoms = [
        dataclasses.replace(s, atomic_numbers=s.atomic_numbers[:1], positions=s.positions[:1])
        for s in atoms
    ]
    structures = [*copper(6), *atoms]
    config = parse(train="cu.extxyz", train_size=3)
    chosen = dataset.reduce(structures, np.array([0, 1, 3, 4, 5, 6, 7]), config)
    assert {6, 7} < set(chosen.tolist()) < {0, 1, 3, 4, 5, 6, 7}
    assert len(chosen) == 3
    small = dataclasses.replace(config, train_size=1)
    with pytest.raises(UserError, match="2 of them isolated atoms"):
        dataset.reduce(structures, np.array([0, 6, 7]), small)


def test_files_make_sets_of_their_own_and_stay_lazy(folder):
    loaded = dataset.load(parse(train=["cu.extxyz", "more.h5"], valid=["more.h5"]), folder)
    assert isinstance(loaded.train, dataset.Sequence)
    np.testing.assert_array_equal(loaded.train.num_atoms, 8)
    assert (len(loaded.train), len(loaded.valid)) == (26, 6)
    assert energies(loaded.train)[20:] == energies(loaded.valid)


def test_weights_multiply_and_sources_are_filled_in(folder):
    files = [{"path": "cu.extxyz", "weight": 0.5, "source": "emt", "index": ":10"}]
    loaded = dataset.load(parse(train=files, valid=0.0, weights={"odd": 4.0}), folder)
    assert [s.weight for s in loaded.train] == [0.5, 2.0] * 5
    assert {s.source for s in loaded.train} == {"emt"}
    assert loaded.card["structures"] == {"train": 10, "valid": 0, "test": 0}
    assert {c["name"] for c in loaded.card["checks"]} == set(dataset.checks.NAMES)


def test_isolated_atoms_stay_in_the_training_set(tmp_path):
    atom = dataclasses.replace(copper(1)[0], pbc=np.zeros(3, bool))
    atom = dataclasses.replace(
        atom,
        atomic_numbers=atom.atomic_numbers[:1],
        positions=atom.positions[:1],
        labels=dataclasses.replace(atom.labels, forces=None, stress=None),
    )
    formats.write(tmp_path / "a.extxyz", [*copper(4), *[atom] * 4])
    loaded = dataset.load(parse(train="a.extxyz", valid=0.5), tmp_path)
    assert {s.num_atoms for s in loaded.valid} == {8}


def test_paths_are_sought_in_three_places(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("MLIP_JAX_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="found nowhere") as error:
        dataset.find("cu.extxyz", tmp_path / "configs")
    assert str(tmp_path / "configs" / "cu.extxyz") in str(error.value)
    monkeypatch.setenv("MLIP_JAX_DATA", f"/nowhere:{folder}")
    assert dataset.find("cu.extxyz", tmp_path) == folder / "cu.extxyz"
    (tmp_path / "cu.extxyz").touch()
    assert dataset.find("cu.extxyz", tmp_path / "configs") == tmp_path / "cu.extxyz"
    assert dataset.find("cu.extxyz", folder) == folder / "cu.extxyz"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            {"energy": "dft_energy"},
            r"labels.energy: no frame has the key 'dft_energy'.*energy: energy",
        ),
        ({"forces": "F"}, r"Keys that are there: energy.*data.labels.forces: forces"),
    ],
)
def test_a_missing_key_lists_those_that_are_there(folder, labels, message):
    with pytest.raises(UserError, match=message):
        dataset.load(parse(train="cu.extxyz", labels=labels), folder)


def test_labels_under_other_keys_do_not_pass_silently(tmp_path):
    text = (
        '8\nLattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3:REF_forces:R:3 energy=-1\n'
    )
    text += "".join(f"Cu {i} 0 0 0.1 0 0\n" for i in range(8))
    (tmp_path / "a.xyz").write_text(text * 3)
    with pytest.raises(UserError, match=r"State data.labels.forces: REF_forces"):
        dataset.load(parse(train="a.xyz", valid=0.0), tmp_path)
    section = parse(train="a.xyz", valid=0.0, labels={"forces": None})
    assert dataset.load(section, tmp_path).train[0].labels.forces is None


def test_nothing_to_train_on(tmp_path):
    formats.write(tmp_path / "a.extxyz", everything()[:1])
    section = parse(train="a.extxyz", valid=0.99)
    with pytest.raises(UserError, match="none to train on"):
        dataset.load(section, tmp_path)


def test_a_lazy_set_gives_the_batches_of_the_same_set_in_memory(folder):
    lazy = formats.open_structures(folder / "more.h5")
    eager = formats.read(folder / "more.h5")
    batches = [
        BatchSource(s, NeighborLists(s, 3.0), BatchConfig(3), {29: 0.0}).batch(1, 1)
        for s in (lazy, eager)
    ]
    np.testing.assert_array_equal(batches[0].graph.positions, batches[1].graph.positions)
    np.testing.assert_array_equal(batches[0].labels.energy.value, batches[1].labels.energy.value)


BOUNDED = """
import resource, sys
import numpy as np
from mlip_jax.data import formats
from mlip_jax.data.batching import BatchConfig, BatchSource
from mlip_jax.data.lists import NeighborLists
from mlip_jax.data.structure import Structure, StructureLabels

def structures(count, atoms):
    generator = np.random.default_rng(0)
    for _ in range(count):
        positions = np.stack(np.meshgrid(*[np.arange(20.0)] * 3), -1).reshape(-1, 3)[:atoms]
        forces = generator.normal(size=(atoms, 3))
        labels = StructureLabels(energy=0.0, forces=forces)
        cell = 80.0 * np.eye(3)
        yield Structure(np.full(atoms, 14), 4.0 * positions, cell, np.ones(3, bool), labels)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

path, count, atoms = sys.argv[1], 300, 8000
formats.write(path, structures(3, atoms))
lazy = formats.open_structures(path)
source = BatchSource(lazy, NeighborLists(lazy, 5.0), BatchConfig(1), {14: 0.0})
source.batch(0, 0)
before = peak()
formats.write(path + ".large.h5", structures(count, atoms))
lazy = formats.open_structures(path + ".large.h5")
source = BatchSource(lazy, NeighborLists(lazy, 5.0), BatchConfig(1), {14: 0.0})
for index in range(20):
    source.batch(0, index)
print(peak() - before, count * atoms * 7 * 8 / 2**20)
"""


@pytest.mark.slow
def test_memory_stays_bounded_for_a_file_larger_than_it(tmp_path):
    """Written, planned and batched with less memory than a third of the data takes."""
    command = [sys.executable, "-c", BOUNDED, str(tmp_path / "small.h5")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    grown, total = map(float, output.split())
    assert total > 120
    assert grown < total / 3
