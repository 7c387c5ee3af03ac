"""Models with several heads: one by one, chosen, refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax import heads, inference, models, storage
from mlip_jax.cli import main
from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket, make_graph
from mlip_jax.data.structure import Structure, StructureLabels
from mlip_jax.interop import catalogue
from mlip_jax.interop.ase import MLIPCalculator
from mlip_jax.potential import Potential, predict_fn

NAMES = ("pbe", "scan")
FIELDS = {
    "species": ["O", "Si"],
    "cutoff": 3.2,
    "hidden_irreps": "2x0e",
    "max_ell": 1,
    "correlation": 2,
    "num_bessels": 4,
    "radial_mlp": [4],
    "readout_width": 3,
    "avg_num_neighbors": 6.0,
    "energy_scale": 0.5,
}
ENERGIES = {"pbe": {8: -430.25, 14: -100.5}, "scan": {14: -200.125}}
"""The second head knows silicon only."""


def molecule(source: str, seed: int = 0, numbers=(14, 14, 14), **fields) -> Structure:
    rng = np.random.default_rng(seed)
    positions = np.array([[0.0, 0.0, 0.0], [2.1, 0.0, 0.0], [0.8, 2.0, 0.3]])
    return Structure(
        atomic_numbers=np.array(numbers),
        positions=positions + 0.1 * rng.normal(size=(3, 3)),
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, bool),
        source=source,
        **fields,
    )


@functools.cache
def potential() -> Potential:
    model = models.build_model({"mace": {**FIELDS, "heads": list(NAMES)}})
    graph = make_graph(molecule("pbe"), 3.2, dtype=np.float64, heads=NAMES)
    variables = jax.jit(model.init)(jax.random.key(0), jax.tree.map(jnp.asarray, graph))
    merged = {8: -430.25, 14: -100.5}
    statistics = {"statistics": {"source_reference_energies": ENERGIES, "num_atoms": 3}}
    return Potential(model, jax.tree.map(np.asarray, variables), merged, statistics, ENERGIES)


def test_each_structure_of_a_batch_has_its_head():
    """A mixed, padded batch against the models of single heads, which have no axis for them."""
    structures = [molecule(name, seed) for seed, name in enumerate(("scan", "pbe", "scan"))]
    bucket = Bucket(graphs=4, atoms=12, max_neighbors=3)
    graph = make_graph(structures, 3.2, dtype=np.float64, bucket=bucket, heads=NAMES)
    np.testing.assert_array_equal(graph.fidelity, [1, 0, 1, 0])
    whole = potential()
    mixed = jax.jit(predict_fn(whole.model))(whole.variables, graph)
    chosen = {name: heads.choose(whole, name) for name in NAMES}
    assert all(models.requirements(one.model).heads == () for one in chosen.values())
    program = jax.jit(predict_fn(chosen["pbe"].model))
    bare = dataclasses.replace(graph, fidelity=None)
    alone = {name: program(one.variables, bare) for name, one in chosen.items()}
    for index, structure in enumerate(structures):
        expected = alone[structure.source]
        atoms = slice(3 * index, 3 * index + 3)
        np.testing.assert_allclose(mixed.energy[index], expected.energy[index], rtol=1e-13)
        np.testing.assert_allclose(mixed.forces[atoms], expected.forces[atoms], atol=1e-14)
    assert abs(float(alone["pbe"].energy[1] - alone["scan"].energy[1])) > 1e-3
    np.testing.assert_array_equal(mixed.energy[3], 0.0)


def predicted(of: Potential, *structures: Structure) -> list[float]:
    """Energies of two structures, always two, so that they share a compiled shape."""
    return [one.energy for one in inference.predict(of, structures, precision="float64")]


def test_reference_energies_are_those_of_the_head():
    both = [molecule(name) for name in NAMES]
    for name, energy in zip(NAMES, predicted(potential(), *both), strict=True):
        chosen = heads.choose(potential(), name)
        expected = predicted(chosen, molecule(""), molecule(name))
        np.testing.assert_allclose(expected, energy, rtol=1e-14)
        assert 1e-4 < abs(energy - 3 * ENERGIES[name][14]) < 20.0  # the network is there, too


def test_errors_of_every_head_apart():
    truth = predicted(potential(), molecule("pbe"), molecule("scan"))
    labels = [StructureLabels(energy=e + d) for e, d in zip(truth, (0.3, -0.6), strict=True)]
    pbe, scan = (molecule(n, labels=l) for n, l in zip(NAMES, labels, strict=True))
    errors = inference.evaluate(potential(), [pbe, scan], precision="float64")
    assert errors["per_source"]["pbe"]["energy"]["mae"] == pytest.approx(0.1)
    assert errors["per_source"]["scan"]["energy"]["mae"] == pytest.approx(0.2)
    chosen = heads.choose(potential(), "scan")
    errors = inference.evaluate(chosen, [scan, scan], precision="float64")
    assert errors["total"]["energy"]["mae"] == pytest.approx(0.2)
    with pytest.raises(UserError, match="its source is 'pbe'; this is the head 'scan'"):
        inference.evaluate(chosen, [scan, pbe], precision="float64")


def test_a_potential_keeps_its_heads_on_disk(tmp_path):
    storage.save(potential(), tmp_path / "both")
    both = storage.load(tmp_path / "both")
    assert both.head_energies == ENERGIES
    assert models.requirements(both.model).heads == NAMES
    one = catalogue.load(tmp_path / "both", head="scan")
    assert main(["head", str(tmp_path / "both"), "scan", "-o", str(tmp_path / "one")]) == 0
    again = storage.load(tmp_path / "one")
    assert (again.head, again.species, again.reference_energies) == ("scan", (14,), {14: -200.125})
    assert inference.source_references(again) is None
    before, after = (predicted(p, molecule(""), molecule("", 1)) for p in (one, again))
    assert before == after


def test_ase_takes_one_head(tmp_path):
    import ase

    storage.save(potential(), tmp_path / "both")
    structure = molecule("scan")
    atoms = ase.Atoms(numbers=structure.atomic_numbers, positions=structure.positions)
    atoms.calc = MLIPCalculator(tmp_path / "both", head="scan", precision="float64")
    expected = predicted(potential(), structure, molecule("pbe"))[0]
    assert atoms.get_potential_energy() == pytest.approx(expected, rel=1e-14)
    atoms.calc = MLIPCalculator(tmp_path / "both", precision="float64")
    with pytest.raises(UserError, match=r"belongs to none of the heads pbe, scan"):
        atoms.get_potential_energy()


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (molecule(""), "got the head ''; the model has the heads pbe, scan"),
        (molecule("r2scan"), "got the head 'r2scan'"),
        (molecule("scan", numbers=(14, 8, 14)), "the head 'scan' of the potential does not know"),
    ],
)
def test_structures_that_no_head_serves(structure, message):
    with pytest.raises(UserError, match=message):
        inference.predict(potential(), structure, precision="float64")


def test_heads_that_are_not_there():
    with pytest.raises(UserError, match="'scna'"):
        heads.choose(potential(), "scna")
    one = heads.choose(potential(), "scan")
    with pytest.raises(UserError, match="it is the head 'scan' of one"):
        heads.choose(one, "scan")
    with pytest.raises(UserError, match=r"the head 'scan' of the potential does not know"):
        inference.predict(one, molecule("", numbers=(8, 14, 14)), precision="float64")
