"""Terms on top of a potential, and sums whose terms have cutoffs of their own."""

import dataclasses
import json
from pathlib import Path

import ase
import ase.build
import ase.io
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mlip_jax as mj
from mlip_jax import config, models, storage, terms
from mlip_jax.cli import main
from mlip_jax.config import UserError
from mlip_jax.data.collate import make_graph
from mlip_jax.electrostatics import dispersion_tables
from mlip_jax.graph import AtomOutputs, edge_vectors, narrowed, safe_norm
from mlip_jax.interop.ase import MLIPCalculator
from mlip_jax.models.pair import Morse
from mlip_jax.models.sum import Sum
from mlip_jax.potential import Potential
from tests.models import loops
from tests.models.presets import PRESETS, TABLES

DISPERSION = {
    "d3": {"functional": "pbe", "cutoff": 5.0, "coordination_cutoff": 4.0, "tables": TABLES}
}
REPULSION = {"zbl": {"cutoff": 1.9}}


def morse() -> Potential:
    model = Morse(loops.SPECIES, cutoff=3.0)
    params = {name: np.full(3, value) for name, value in (("depth", 0.4), ("distance", 1.9))}
    params["steepness"] = np.full(3, 1.2)
    return Potential(model, {"params": params}, {8: -1.0, 14: -2.0}, {"metrics": {"mae": 0.1}})


def alone(section) -> Potential:
    """A term as a potential of its own."""
    model = models.build_model(section).clone(species=loops.SPECIES)
    graph = jax.tree.map(jnp.asarray, make_graph(loops.structure(), 5.0, dtype=np.float64))
    variables = jax.jit(model.init)(jax.random.key(0), graph)
    return Potential(model, jax.tree.map(np.asarray, dict(variables)), {8: 0.0, 14: 0.0})


def predicted(potential: Potential):
    return mj.predict(potential, loops.structure(), precision="float64")[0]


def test_energies_forces_and_stress_are_sums_and_survive_the_disk(tmp_path, monkeypatch):
    base = morse()
    summed = mj.add_terms(base, *(models.build_model(s) for s in (DISPERSION, REPULSION)))
    assert summed.species == loops.SPECIES
    assert summed.model.prefix_cutoffs == (1.9, 3.0, 4.0)
    assert [next(iter(c)) for c in summed.card["added_terms"]] == ["d3", "zbl"]
    assert summed.card["metrics"] == {"mae": 0.1}
    monkeypatch.setattr(dispersion_tables, "find", lambda: None)
    storage.save(summed, tmp_path / "summed")
    found = predicted(mj.load(tmp_path / "summed"))
    parts = [predicted(p) for p in (base, alone(DISPERSION), alone(REPULSION))]
    assert all(abs(part.energy) > 1e-3 for part in parts)
    for name in ("energy", "forces", "stress"):
        expected = sum(getattr(part, name) for part in parts)
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-12, atol=1e-12)


def test_terms_may_be_added_one_after_the_other():
    once = terms.add(morse(), *(models.build_model(s) for s in (DISPERSION, REPULSION)))
    twice = terms.add(
        terms.add(morse(), models.build_model(DISPERSION)), models.build_model(REPULSION)
    )
    assert once.model == twice.model
    assert once.card == twice.card
    jax.tree.map(np.testing.assert_array_equal, once.variables, twice.variables)


def test_tables_read_with_x64_off_keep_their_digits():
    with jax.enable_x64(False):
        summed = terms.add(morse(), models.build_model(DISPERSION))
    constants = summed.variables["constants"]["terms_1"]
    assert constants["c6"].dtype == np.float64
    assert constants["covalent_radii"][1] == 1.16


def test_a_posterior_stays_where_it_is_looked_for():
    fitted = dataclasses.replace(morse(), variables={**morse().variables, "posterior": {"a": 1}})
    assert terms.add(fitted, models.build_model(REPULSION)).variables["posterior"] == {"a": 1}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"morse": {}}, "got Morse, whose parameters nothing has fitted"),
        ({"zbl": {"species": ["Si"]}}, "ZBL does not know \\['O'\\]"),
    ],
)
def test_terms_that_cannot_be_added_are_refused(section, message):
    with pytest.raises(UserError, match=message):
        terms.add(morse(), models.build_model(section))


def test_potentials_with_several_heads_are_refused():
    model = models.build_model({"mace": {**PRESETS["mace"], "heads": ["a", "b"]}})
    with pytest.raises(UserError, match="several heads"):
        terms.add(Potential(model, {}, {}), models.build_model(REPULSION))


def test_the_command_line_adds_a_term_and_ase_uses_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage.save(morse(), "morse")
    fields = ["functional=pbe", "cutoff=5.0", f"tables={json.dumps(TABLES)}"]
    assert main(["add", "morse", "d3", *fields, "-o", "with_d3"]) == 0
    structure = loops.structure()
    atoms = ase.Atoms(structure.atomic_numbers, structure.positions, cell=structure.cell, pbc=True)
    atoms.calc = MLIPCalculator("with_d3", precision="float64")
    term = models.build_model({"d3": {**DISPERSION["d3"], "coordination_cutoff": None}})
    expected = predicted(terms.add(morse(), term))
    np.testing.assert_allclose(atoms.get_potential_energy(), expected.energy, rtol=1e-12)
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-12)


@pytest.mark.slow
def test_dynamics_with_a_term_on_top_conserve_energy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage.save(terms.add(morse(), models.build_model(DISPERSION)), "with_d3")
    atoms = ase.build.bulk("Si", "fcc", a=2.75, cubic=True) * (2, 2, 2)
    atoms.rattle(0.03, seed=1)
    ase.io.write("fcc.extxyz", atoms)
    sections = {
        "potential": "with_d3",
        "structure": {"file": "fcc.extxyz"},
        "ensemble": {"kind": "nve", "temperature": 300},
        "simulation": {"steps": 300, "timestep": 1.0, "precision": "float64"},
    }
    config.dump_yaml(sections, Path("nve.yaml"))
    assert main(["md", "nve.yaml"]) == 0
    lines = [json.loads(line) for line in Path("runs/nve/thermo.jsonl").read_text().splitlines()]
    totals, kinetic = (np.array([x[k] for x in lines]) for k in ("conserved_eV", "kinetic_eV"))
    assert np.ptp(kinetic) > 0.1  # energy went to and fro
    assert np.ptp(totals) < 1e-3 * np.ptp(kinetic)


def test_a_misspelt_field_is_explained(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage.save(morse(), "morse")
    assert main(["add", "morse", "d3", "functionl=pbe", "-o", "with_d3"]) == 1
    assert "did you mean 'functional'" in capsys.readouterr().err


def narrow_and_wide(cutoff: float, name: str):
    """A model's own graph, and rows that reach further, with opposite slots."""
    model = models.build_model({name: PRESETS[name]})
    cutoffs = (*getattr(model, "prefix_cutoffs", ()), model.cutoff)

    def made(reach, prefixes):
        graph = make_graph(
            loops.structure(), reach, prefix_cutoffs=prefixes, reverse=True, dtype=np.float64
        )
        return jax.tree.map(jnp.asarray, graph)

    return model, made(model.cutoff, cutoffs[:-1]), made(cutoff, cutoffs)


def test_narrowed_rows_are_those_of_the_shorter_list():
    model, own, wide = narrow_and_wide(5.0, "chgnet")
    narrow = narrowed(wide, model.cutoff)
    assert wide.max_neighbors > 2 * own.max_neighbors
    assert narrow.max_neighbors == own.max_neighbors
    assert narrow.prefixes == (*own.prefixes, (model.cutoff, own.max_neighbors))
    distances = safe_norm(edge_vectors(narrow))
    inside = np.asarray(distances < model.cutoff)
    assert inside.sum() == own.edge_mask.sum()
    # The opposite of an opposite is the edge, and has its length.
    flat = np.asarray(narrow.reverse).ravel()
    assert (flat[flat] == np.arange(flat.size))[inside.ravel()].all()
    np.testing.assert_allclose(np.asarray(distances).ravel()[flat], np.asarray(distances).ravel())


@pytest.mark.slow
def test_a_network_in_a_sum_with_a_long_range_gives_its_own_energies():
    """CHGNet, which reads opposite slots, with rows that it must not see."""
    model, own, wide = narrow_and_wide(5.0, "chgnet")
    term = models.build_model(DISPERSION).clone(species=loops.SPECIES)
    both = Sum((model, term))
    variables = jax.jit(both.init)(jax.random.key(0), wide)

    def of(kind):
        return {c: t[kind] for c, t in variables.items() if kind in t}

    found = jax.jit(both.apply)(variables, wide).energies
    network = jax.jit(model.apply)(of("terms_0"), own).energies
    dispersion = jax.jit(term.apply)(of("terms_1"), wide).energies
    assert float(jnp.abs(network).min()) > 1e-3
    np.testing.assert_allclose(found, network + dispersion, rtol=1e-12)


def test_a_term_of_a_sum_has_rows_of_its_own_length():
    """The cost of a short-range term does not grow with the range of another."""
    seen = []

    class Watch(Morse):
        @nn.compact
        def __call__(self, graph) -> AtomOutputs:
            seen.append(graph.max_neighbors)
            return Morse.__call__(self, graph)

    _, own, wide = narrow_and_wide(5.0, "morse")
    both = Sum((Watch(loops.SPECIES, PRESETS["morse"]["cutoff"]), Morse(loops.SPECIES, 5.0)))
    jax.eval_shape(both.init, jax.random.key(0), wide)
    assert seen == [own.max_neighbors]
