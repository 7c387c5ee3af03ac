"""Charge equilibration with networks: energies by loops, total charges, and what is refused."""

import dataclasses
import math

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax import models, train
from mlip_jax.config import UserError
from mlip_jax.data import formats
from mlip_jax.data.batching import BatchConfig, BatchSource
from mlip_jax.data.collate import make_graph
from mlip_jax.data.lists import NeighborLists
from mlip_jax.data.structure import Structure, StructureLabels
from mlip_jax.inference import predict
from mlip_jax.interop.ase import MLIPCalculator
from mlip_jax.potential import Potential, predict_fn
from mlip_jax.simulate.system import prepare
from tests.electrostatics import sums
from tests.models.presets import PRESETS

CONFIG = {"hdnnp_4g": PRESETS["hdnnp_4g"] | {"coulomb": sums.K}}
WIDTHS: dict[int, float] = dict(zip((8, 14), PRESETS["hdnnp_4g"]["widths"], strict=True))
POSITIONS = np.array([[0.0, 0, 0], [1.7, 0.1, 0], [-0.2, 1.8, 0.3], [1.6, 1.9, 2.1]])
NUMBERS = np.array([14, 8, 8, 14])


def molecule(total_charge=None, name=""):
    none = np.zeros(3, dtype=bool)
    return Structure(
        NUMBERS, POSITIONS, np.zeros((3, 3)), none, total_charge=total_charge, name=name
    )


def crystal(scale=1.0, total_charge=None):
    cell = scale * np.array([[4.2, 0, 0], [0.3, 4.5, 0], [0, -0.4, 5.0]])
    every = np.ones(3, dtype=bool)
    return Structure(NUMBERS, scale * POSITIONS, cell, every, total_charge=total_charge)


def graph_of(structures, module):
    needs = models.requirements(module)
    return make_graph(
        structures,
        needs.cutoff,
        prefix_cutoffs=needs.prefix_cutoffs,
        dtype=np.float64,
        reciprocal_cutoff=needs.reciprocal_cutoff,
    )


@pytest.fixture(scope="module")
def potential():
    module = models.build_model(CONFIG)
    graph = graph_of(molecule(), module)
    variables = jax.jit(module.init)(jax.random.key(1), graph)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: np.asarray(x) + 0.3 * rng.normal(size=x.shape), variables)
    return Potential(module, variables, {8: -2.0, 14: -3.0})


@pytest.mark.parametrize("periodic", [False, True], ids=["open", "periodic"])
def test_charges_and_energies_by_loops(potential, periodic):
    """From the two networks' outputs on, everything is written out here."""
    model, variables = potential.model, potential.variables
    structure = crystal(total_charge=0.4) if periodic else molecule(total_charge=-1.0)
    graph = graph_of(structure, model)
    outputs = jax.jit(model.apply)(variables, jax.tree.map(jnp.asarray, graph))
    inner = model.electronegativity
    part = {kind: tree["electronegativity"] for kind, tree in variables.items()}
    first = jax.jit(inner.apply)(part, jax.tree.map(jnp.asarray, graph))
    chi = np.asarray(first.energies)
    widths = np.array([WIDTHS[int(z)] for z in NUMBERS])
    element = np.array([0 if z == 8 else 1 for z in NUMBERS])
    hardness = np.asarray(variables["params"]["hardness_root"])[element] ** 2
    if periodic:
        matrix = sums.ewald_matrix(POSITIONS, structure.cell, widths, 0.5, real=6, reciprocal=4)
    else:
        matrix = sums.open_matrix(POSITIONS, widths)
    charges, _ = sums.equilibrate(matrix, chi, hardness, structure.total_charge)
    np.testing.assert_allclose(outputs.charges, charges, rtol=0, atol=1e-12)

    energies = 0.5 * charges * (matrix @ charges)
    energies -= sums.K * charges**2 / (2.0 * math.sqrt(math.pi) * widths)
    inner_radius, outer = PRESETS["hdnnp_4g"]["screening"]
    shifts = sums.images(structure.cell, 2) if periodic else np.zeros((1, 3))
    for i in range(4):
        for j in range(4):
            for shift in shifts:
                r = np.linalg.norm(POSITIONS[j] + shift - POSITIONS[i])
                if 1e-9 < r < outer:
                    x = max(0.0, (r - inner_radius) / (outer - inner_radius))
                    share = 0.5 * (1.0 + math.cos(math.pi * x))
                    gamma = math.hypot(widths[i], widths[j])
                    pair = sums.K * math.erf(r / (math.sqrt(2.0) * gamma)) / r
                    energies[i] -= 0.5 * charges[i] * charges[j] * pair * share
    network = {"params": variables["params"]["short_range"]}
    shift, factor = (variables["constants"]["electronegativity"][k] for k in ("shift", "factor"))
    isolated = np.asarray(-shift * factor)[element]
    for features, q, sign in ((first.features, charges, 1.0), (isolated, np.zeros(4), -1.0)):
        seen = jnp.asarray(np.concatenate([features, q[:, None]], axis=1))
        short = model.short_range.apply(network, seen, jnp.asarray(element), 2)
        energies = energies + sign * 0.8 * np.asarray(short)
    # 1e-11: rounding of sums in another order, of terms of some 10 eV.
    np.testing.assert_allclose(outputs.energies, energies, rtol=0, atol=1e-11)


@pytest.mark.slow
def test_each_structure_of_a_batch_keeps_its_total_charge(potential):
    structures = [molecule(1.0), molecule(), crystal(total_charge=-0.5), molecule(-2.0)]
    found = predict(potential, structures, precision="float64")
    for structure, one in zip(structures, found, strict=True):
        assert one.charges is not None
        assert one.charges.sum() == pytest.approx(structure.total_charge or 0.0, abs=1e-13)
        alone = predict(potential, structure, precision="float64")[0]
        assert alone.energy == pytest.approx(one.energy, abs=1e-9)  # other ranges of vectors
    assert abs(found[0].energy - found[1].energy) > 0.1


def test_config_and_requirements_of_a_sum():
    module = models.build_model(CONFIG)
    assert models.build_model(models.module_to_config(module)) == module
    needs = models.requirements(module)
    assert needs.inputs == ("total_charge",)
    total = models.build_model(
        {"sum": {"terms": [{"morse": {"species": ["O", "Si"], "cutoff": 3.0}}, CONFIG]}}
    )
    assert models.requirements(total).inputs == ("total_charge",)
    assert models.requirements(total).reciprocal_cutoff == needs.reciprocal_cutoff > 4.0
    longer = dataclasses.replace(module, screening=(1.0, 4.0))  # pyright: ignore
    assert (longer.cutoff, longer.prefix_cutoffs) == (4.0, (3.2,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": [1.0]}, r"hdnnp_4g.widths: got 1 for 2 elements"),
        ({"screening": [3.0, 2.0]}, r"hdnnp_4g.screening: got \[3\.0, 2\.0\] Å"),
        ({"electronegativity": {"morse": {"species": [8, 14]}}}, r"got Morse, which has no fea"),
        ({"widths": [1.0, 0.0]}, r"width: got 0\.0 Å"),
    ],
)  # fmt: skip
def test_impossible_fields_are_named(potential, change, message):
    module = models.build_model({"hdnnp_4g": PRESETS["hdnnp_4g"] | change})
    graph = graph_of(molecule(), potential.model)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), graph)


def test_slabs_are_refused_by_name(potential):
    slab = dataclasses.replace(crystal(), pbc=np.array([True, True, False]), name="slab.xyz:3")
    with pytest.raises(UserError, match=r"slab.xyz:3: pbc: got \[True, True, False\]"):
        predict(potential, slab)


@pytest.mark.slow
@jax.debug_nans(False)
def test_a_cell_that_outgrows_its_graph_has_no_energy(potential):
    """A simulation's graph allows for some growth of the cell, and no more."""
    system = prepare(potential, crystal(), "float64", skin=0.3)
    run = jax.jit(predict_fn(potential.model))
    for scale, finite in ((1.1, True), (1.5, False)):
        graph = dataclasses.replace(
            system.template,
            cell=scale * system.template.cell,
            positions=scale * system.template.positions,
        )
        assert np.isfinite(run(potential.variables, graph).energy).all() == finite


@pytest.mark.slow
def test_ase_passes_the_total_charge(potential):
    atoms = ase.Atoms(NUMBERS, POSITIONS, info={"charge": 1.0})
    atoms.calc = MLIPCalculator(potential, precision="float64")
    expected = predict(potential, [molecule(1.0), molecule()], precision="float64")
    assert atoms.get_potential_energy() == pytest.approx(expected[0].energy, abs=1e-10)
    assert atoms.get_charges().sum() == pytest.approx(1.0, abs=1e-12)
    atoms.info["charge"] = 0.0  # nothing else changes
    assert atoms.get_potential_energy() == pytest.approx(expected[1].energy, abs=1e-10)


@pytest.fixture(scope="module")
def uncharged_potential():
    module = models.build_model({"morse": {"species": ["O", "Si"], "cutoff": 3.0}})
    graph = jax.tree.map(jnp.asarray, make_graph(molecule(), 3.0))
    variables = jax.jit(module.init)(jax.random.key(0), graph)
    return Potential(module, variables, {8: 0.0, 14: 0.0})


def test_charges_that_a_model_does_not_read_are_refused(uncharged_potential):
    charged, message = molecule(-1.0, "ion.xyz:2"), r"ion.xyz:2: got the total charge -1 e, which"
    neutral = [molecule(), molecule(0.0)]
    assert len(predict(uncharged_potential, neutral)) == 2
    with pytest.raises(UserError, match=message):
        predict(uncharged_potential, [*neutral, charged])
    with pytest.raises(UserError, match=message):
        prepare(uncharged_potential, charged, "float32", skin=0.3)
    atoms = ase.Atoms(NUMBERS, POSITIONS, info={"charge": 2})
    atoms.calc = MLIPCalculator(uncharged_potential)
    with pytest.raises(UserError, match=r"atoms: got the total charge \+2 e"):
        atoms.get_potential_energy()


def labelled(count=8):
    """Random labels, of charges too; open and periodic, neutral and charged structures."""
    rng = np.random.default_rng(0)
    for index in range(count):
        one = molecule(float(index % 3 - 1)) if index % 2 else crystal(1.0 + 0.02 * index)
        positions = one.positions + 0.05 * rng.normal(size=(4, 3))
        labels = StructureLabels(
            energy=float(rng.normal() - 20.0),
            forces=rng.normal(size=(4, 3)),
            charges=rng.normal(size=4),
        )
        yield dataclasses.replace(one, positions=positions, labels=labels, name=f"ion:{index}")


def test_batches_of_training_have_charges_and_a_range(potential):
    structures, needs = list(labelled()), models.requirements(potential.model)
    lists = NeighborLists(
        structures,
        needs.cutoff,
        needs.prefix_cutoffs,
        reciprocal_cutoff=needs.reciprocal_cutoff,
        inputs=needs.inputs,
    )
    source = BatchSource(structures, lists, BatchConfig(4), {8: 0.0, 14: 0.0}, requirements=needs)
    graphs = [source.batch(0, index).graph for index in range(2)]
    assert {graph.k_range for graph in graphs} == {(3, 3, 4)}
    total = np.sort(np.concatenate([np.asarray(graph.total_charge) for graph in graphs]))
    np.testing.assert_array_equal(total, [-1.0, 0, 0, 0, 0, 0, 0, 1.0])
    with pytest.raises(UserError, match=r"ion:3: got the total charge -1 e"):
        NeighborLists(structures, needs.cutoff, inputs=())
    short = NeighborLists(structures, needs.cutoff, needs.prefix_cutoffs)
    with pytest.raises(ValueError, match=r"lists: made for a reciprocal cutoff of 0\.0 1/Å"):
        BatchSource(structures, short, BatchConfig(4), {8: 0.0, 14: 0.0}, requirements=needs)


@pytest.mark.slow
def test_training_on_energies_forces_and_charges(tmp_path):
    """The door of the command line: a charged set, refused for a model that reads no charge."""
    formats.write(tmp_path / "ions.extxyz", list(labelled(16)))
    config = {
        "data": {"train": str(tmp_path / "ions.extxyz"), "valid": 0.25},
        "model": {"hdnnp_4g": {**PRESETS["hdnnp_4g"], "energy_scale": None}},
        "loss": {
            "energy": {"weight": 1.0},
            "forces": {"weight": 1.0},
            "charges": {"weight": 10.0},
        },
        "training": {"epochs": 20, "batch_size": 4, "report": False},
    }
    fitted = train.fit(train.parse(config), tmp_path / "run", progress=False)
    assert fitted is not None
    config["model"] = {"morse": {"species": ["O", "Si"], "cutoff": 3.0}}
    config["loss"].pop("charges")
    with pytest.raises(UserError, match="total charge"):
        train.fit(train.parse(config), tmp_path / "other", progress=False)
