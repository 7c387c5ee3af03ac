"""Fits by an exact solver: the minimum of the loss, and everything a training writes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.flatten_util import ravel_pytree

import mlip_jax
from mlip_jax import inference, models, storage, train
from mlip_jax.config import UserError
from mlip_jax.data import formats
from mlip_jax.data.batching import BatchConfig, BatchSource
from mlip_jax.data.lists import NeighborLists
from mlip_jax.data.structure import StructureLabels
from mlip_jax.descriptors.acsf import ACSF as SymmetryFunctionGrid
from mlip_jax.inference import uncertainty
from mlip_jax.models.gap import gap
from mlip_jax.models.local import Local
from mlip_jax.models.pair import ZBL, Morse
from mlip_jax.models.sum import Sum
from mlip_jax.nn.linear import Linear, Quadratic
from mlip_jax.potential import Potential, predict_fn
from mlip_jax.simulate import engine, thermo
from mlip_jax.simulate.settings import EnsembleConfig, SafetyConfig, SimulationConfig
from mlip_jax.train import design
from tests.train import tiny

pytestmark = pytest.mark.slow  # rows of many parameters compile for seconds

ACSF = {"cutoff": 3.0, "num_radial": 4, "num_angular": 2, "zetas": [1, 2]}


def section(data, **others):
    return {
        "data": {"train": str(data), "valid": 0.2},
        "model": {"local": {"descriptor": {"acsf": ACSF}, "regressor": {"linear": {}}}},
        "loss": {"energy": {"weight": 1.0}, "forces": {"weight": 2.0}, "stress": {"weight": 50.0}},
        "solver": {"name": "ridge", "alpha": 1e-14},
        "training": {"batch_size": 3, "precision": "float64", "devices": 1, "workers": 0},
        **others,
    }


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Labels of a Morse potential with noise; some are missing."""
    path = tmp_path_factory.mktemp("data") / "noisy.extxyz"
    model = Morse(species=(14,), cutoff=3.0, trainable=False)
    graph = mlip_jax.make_graph(tiny.structures(1)[0], 3.0, dtype=np.float64)
    variables = jax.jit(model.init)(jax.random.key(0), graph)
    structures = labelled(Potential(model, variables, {14: -5.0}), tiny.structures(20))
    rng = np.random.default_rng(2)
    for index, structure in enumerate(structures):
        noisy = structure.labels.forces + rng.normal(0, 0.01, structure.labels.forces.shape)
        labels = dataclasses.replace(structure.labels, forces=noisy)
        if index % 5 == 1:
            labels = dataclasses.replace(labels, forces=None)
        if index % 5 == 2:
            labels = dataclasses.replace(labels, energy=None, stress=None)
        structures[index] = dataclasses.replace(structure, labels=labels)
    formats.write(path, structures)
    return path


def labelled(potential, structures):
    """The structures with the potential's predictions as labels."""
    result = []
    for structure in structures:
        (p,) = inference.predict(potential, [structure], precision="float64")
        labels = StructureLabels(energy=float(p.energy), forces=p.forces, stress=p.stress)
        result.append(dataclasses.replace(structure, labels=labels))
    return result


@pytest.fixture(scope="module")
def fitted(noisy, tmp_path_factory):
    output = tmp_path_factory.mktemp("exact") / "run"
    return train.fit(train.parse(section(noisy)), output, progress=False), output


def test_the_labels_of_a_linear_model_are_found_again(fitted, tmp_path):
    potential, _ = fitted
    rng = np.random.default_rng(5)
    shape = potential.variables["params"]["regressor"]["coefficients"].shape
    params = {"regressor": {"coefficients": rng.normal(size=shape)}}
    teacher = Potential(potential.model, {**potential.variables, "params": params}, {14: -4.0})
    structures = labelled(teacher, tiny.structures(30, seed=3))
    formats.write(tmp_path / "data.h5", structures)
    accepted = section(tmp_path / "data.h5")
    # A random potential is no pair potential: the checks that fit one may object.
    accepted["data"]["checks"] = {"energy_force_unit": "accept", "stress_sign": "accept"}
    found = train.fit(train.parse(accepted), tmp_path / "run", progress=False)
    assert found.reference_energies[14] == pytest.approx(-4.0, abs=1e-5)
    for structure, student in zip(
        structures, inference.predict(found, structures, precision="float64"), strict=True
    ):
        assert student.energy == pytest.approx(structure.labels.energy, abs=1e-6)
        np.testing.assert_allclose(student.forces, structure.labels.forces, atol=1e-6)
        np.testing.assert_allclose(student.stress, structure.labels.stress, atol=1e-7)


def test_the_loss_of_the_solution_is_stationary_and_as_reported(fitted, noisy):
    """An independent loss, written out for one structure at a time, at the solution and around."""
    potential, output = fitted
    record = json.loads((output / "data.json").read_text())
    assert record["train"]
    config = storage.load(output / "potential").card
    assert config["training"]["rank"] > 5

    chosen = _training_part(noisy, output)

    def loss(coefficients, reference) -> float:
        params = {"regressor": {"coefficients": coefficients}}
        changed = Potential(
            potential.model, {**potential.variables, "params": params}, {14: reference}
        )
        errors: dict[str, list[np.ndarray]] = {"energy": [], "forces": [], "stress": []}
        for s, p in zip(
            chosen, inference.predict(changed, chosen, precision="float64"), strict=True
        ):
            if s.labels.energy is not None:
                errors["energy"].append(np.array([(p.energy - s.labels.energy) / s.num_atoms]))
            if s.labels.forces is not None:
                errors["forces"].append((p.forces - s.labels.forces).ravel())
            if s.labels.stress is not None:
                errors["stress"].append((p.stress - s.labels.stress).ravel())
        weights = {"energy": 1.0, "forces": 2.0, "stress": 50.0}
        return sum(w * np.mean(np.concatenate(errors[n]) ** 2) for n, w in weights.items())

    best = np.asarray(potential.variables["params"]["regressor"]["coefficients"])
    reference = potential.reference_energies[14]
    lowest = loss(best, reference)
    assert lowest == pytest.approx(config["training"]["loss"], rel=1e-8)
    rng = np.random.default_rng(0)
    for _ in range(4):
        step = 1e-3 * np.abs(best).max() * rng.normal(size=best.shape)
        up, down = loss(best + step, reference + 1e-3), loss(best - step, reference - 1e-3)
        assert min(up, down) > lowest
        assert abs(up - down) < 1e-4 * (up + down - 2 * lowest)


def _training_part(path, output):
    """The structures of the training part, from the split of the run's own config."""
    from mlip_jax import config
    from mlip_jax.data import dataset

    sections = train.parse(config.load_yaml(output / "config.yaml"))
    return list(dataset.load(sections.data, path.parent).train)


ROWS = {
    "linear": Sum(
        (
            Local(
                SymmetryFunctionGrid((8, 14), 3.0, num_radial=3, num_angular=1, zetas=(1,)),
                Linear(),
                energy_scale=0.5,
            ),
            ZBL(species=(8, 14), cutoff=3.0),
            Local(
                SymmetryFunctionGrid((8, 14), 3.0, num_radial=3, num_angular=1, zetas=(1,)),
                Quadratic(),
            ),
        )
    ),
    "gap": gap(
        species=(8, 14),
        cutoff=3.0,
        n_max=2,
        l_max=1,
        zeta=2,
        num_sparse=3,
        num_pair_sparse=3,
        num_triplet_sparse=3,
        triplet_cutoff=2.8,
        energy_scale=0.5,
    ),
}
"""Models of two elements, the first with a repulsion without parameters."""


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_derivatives_of_predictions(name):
    model = ROWS[name]
    labels = StructureLabels(energy=1.0, forces=np.zeros((4, 3)), stress=np.zeros((3, 3)))
    structures = [
        dataclasses.replace(s, atomic_numbers=np.array([14, 8, 14, 8]), labels=labels, weight=1.0)
        for s in tiny.structures(6)
        if s.num_atoms == 4
    ]
    lists = NeighborLists(structures, 3.0, model.prefix_cutoffs)
    needs = models.requirements(model)
    source = BatchSource(
        structures, lists, BatchConfig(2), {8: 0.0, 14: 0.0}, np.dtype("float64"), needs
    )
    batch = jax.tree.map(jnp.asarray, source.batch(0, 0))
    variables = jax.jit(model.init)(jax.random.key(0), batch.graph)
    variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), dict(variables))
    variables = model.calibrate(variables, [batch.graph])
    scales = {"energy": 2.0, "forces": 1.0, "stress": 4.0}
    found = design.design_fn(model, variables, scales, (8, 14))(variables, batch)
    flat, unravel = ravel_pytree(variables["params"])
    predicted = jax.jit(predict_fn(model))({**variables, "params": unravel(flat)}, batch.graph)
    atoms = np.array([4, 4])
    weighted = [
        np.sqrt(2.0) * predicted.energy[:2] / atoms,
        np.ravel(predicted.forces[:8]),
        2.0 * np.ravel(predicted.stress[:2]),
    ]
    targets = np.concatenate([np.sqrt(2.0) / atoms, np.zeros(24), np.zeros(18)])
    np.testing.assert_allclose(
        found.matrix @ np.asarray(flat) - found.target,
        np.concatenate(weighted) - targets,
        atol=1e-11,
    )


def test_deviations_are_those_of_the_posterior(fitted):
    """Against dense algebra on numerical derivatives of the potential's own predictions."""
    potential, output = fitted
    structures = tiny.structures(3, seed=7)
    posterior = potential.variables["posterior"]
    assert posterior["free"].tolist() == [14]
    flat, unravel = ravel_pytree(potential.variables["params"])
    factor, scales = posterior["factor"], np.asarray(posterior["scales"])
    assert np.all(scales > 0.0)

    def predicted(parameters, shift):
        changed = {**potential.variables, "params": unravel(parameters)}
        references = {14: potential.reference_energies[14] + shift}
        moved = Potential(potential.model, changed, references)
        return inference.predict(moved, structures, precision="float64")

    base = predicted(flat, 0.0)
    columns = [predicted(flat, 1.0), *(predicted(flat + e, 0.0) for e in jnp.eye(flat.size))]
    found = uncertainty.uncertainties(potential, structures)
    for index, structure in enumerate(structures):
        energies = np.array([c[index].energy - base[index].energy for c in columns])
        variance = np.sum((energies / structure.num_atoms @ factor) ** 2)
        expected = np.sqrt(scales[0] @ [variance, 1.0]) * structure.num_atoms
        assert found[index].energy == pytest.approx(expected, rel=1e-7)
        forces = np.stack([c[index].forces - base[index].forces for c in columns], axis=-1)
        expected = np.sqrt(scales[1, 0] * np.sum((forces @ factor) ** 2, axis=-1) + scales[1, 1])
        np.testing.assert_allclose(found[index].forces, expected, rtol=1e-7)
    reported = json.loads((output / "errors.json").read_text())["valid"]["uncertainty"]
    assert 0.3 < reported["forces"]["inside_1"] < 0.9
    assert (output / "reliability_valid.png").exists()


def test_grades_are_at_most_one_on_training_structures_and_grow_outside(fitted, noisy):
    potential, output = fitted
    chosen = _training_part(noisy, output)
    predictions = inference.predict(potential, chosen, precision="float64")
    largest = max(float(np.max(p.grades)) for p in predictions)
    assert largest == pytest.approx(1.0, abs=1e-9)
    squeezed = dataclasses.replace(chosen[0], positions=0.7 * chosen[0].positions)
    (outside,) = inference.predict(
        potential, [dataclasses.replace(squeezed, cell=0.7 * chosen[0].cell)], precision="float64"
    )
    assert np.max(outside.grades) > 2.0
    reopened = storage.load(output / "potential")
    (same,) = inference.predict(reopened, chosen[:1], precision="float64")
    np.testing.assert_allclose(same.grades, predictions[0].grades, rtol=1e-12)


def test_grades_follow_a_strain_path_that_leaves_the_training_set(fitted, noisy):
    """Under compression: stretched crystals go back towards the features of an isolated atom."""
    potential, output = fitted
    first = _training_part(noisy, output)[0]
    stretches = np.linspace(1.0, 0.75, 15)
    path = [
        dataclasses.replace(first, positions=s * first.positions, cell=s * first.cell)
        for s in stretches
    ]
    grades = [np.max(p.grades) for p in inference.predict(potential, path, precision="float64")]
    assert scipy.stats.spearmanr(1.0 - stretches, grades).statistic > 0.95, grades


def test_a_simulation_reports_grades_and_stops_at_the_largest(fitted, tmp_path):
    potential, _ = fitted
    structure = tiny.structures(1)[0]
    heated = EnsembleConfig(kind="langevin", temperature=300.0)
    config = SimulationConfig(
        steps=20,
        timestep=1.0,
        chunk=5,
        trajectory_interval=20,
        thermo_interval=1,
        skin=0.3,
        precision="float64",
    )
    engine.run(potential, structure, heated, config, tmp_path / "free")
    grades = thermo.read(tmp_path / "free" / "thermo.jsonl")["largest_grade"]
    frames = [f for f in formats.read(tmp_path / "free" / "trajectory.extxyz")]
    (last,) = inference.predict(potential, frames[-1:], precision="float64")
    assert grades[-1] == pytest.approx(np.max(last.grades), rel=1e-4)
    strict = dataclasses.replace(config, safety=SafetyConfig(max_grade=float(np.median(grades))))
    result = engine.run(potential, structure, heated, strict, tmp_path / "strict")
    assert "extrapolation grade" in result.stop_reason


def test_an_optimiser_comes_to_the_solution_of_the_solver(noisy, tmp_path):
    """L-BFGS to convergence, scaled by the curvature, as symmetry functions are much alike."""
    data = {"train": str(noisy), "valid": 0.2, "statistics": {"reference_energies": "zero"}}
    settings = {"batch_size": 3, "precision": "float64", "devices": 1, "workers": 0}
    descend = {**settings, "epochs": 500, "ema": None, "valid_interval": 500, "monitor": "loss"}
    solved = train.fit(
        train.parse({**section(noisy), "data": data}), tmp_path / "solved", progress=False
    )
    changes = {
        "data": data,
        "solver": None,
        "optimizer": {"name": "lbfgs", "memory_size": 30, "curvature_batches": 100},
        "training": descend,
    }
    trained = train.fit(
        train.parse({**section(noisy), **changes}), tmp_path / "trained", progress=False
    )
    assert trained.card["training"]["stopped"] == "converged"
    structures = tiny.structures(3, seed=7)
    pairs = zip(
        inference.predict(solved, structures, precision="float64"),
        inference.predict(trained, structures, precision="float64"),
        strict=True,
    )
    for a, b in pairs:
        assert abs(a.energy - b.energy) / len(a.forces) < 1e-6
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-6)


def test_a_solver_goes_on_from_what_an_optimiser_found(noisy, tmp_path):
    """The radial functions of moment tensors are trained; the loss of the solution falls."""
    model = {"mtp": {"cutoff": 3.0, "level": 6, "min_dist": 1.5, "radial_basis_size": 4}}
    alone = train.fit(train.parse(section(noisy, model=model)), tmp_path / "alone", progress=False)
    settings = {"batch_size": 3, "precision": "float64", "devices": 1, "workers": 0}
    changes = {
        "model": model,
        "optimizer": {"name": "lbfgs", "curvature_batches": 100},
        "training": {**settings, "epochs": 20, "ema": None},
    }
    both = train.fit(train.parse(section(noisy, **changes)), tmp_path / "both", progress=False)
    assert both.card["training"]["loss"] < 0.5 * alone.card["training"]["loss"]
    assert both.card["training"]["steps"] > 0


def test_a_solved_run_is_not_overwritten(fitted, noisy):
    _, output = fitted
    with pytest.raises(UserError, match="holds a run"):
        train.fit(train.parse(section(noisy)), output, progress=False)


def test_a_fit_writes_what_a_training_writes(fitted):
    potential, output = fitted
    names = {path.name for path in output.iterdir()}
    assert names >= {"config.yaml", "potential", "errors.json", "report.html", "parity_forces.png"}
    loaded = mlip_jax.load(output / "potential")
    jax.tree.map(np.testing.assert_array_equal, dict(loaded.variables), dict(potential.variables))
    text = (output / "config.yaml").read_text()
    assert "solver:" in text
    assert "optimizer:" not in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solver": {"name": "rigde"}}, r"solver\.name"),
        ({"loss": {"forces": {"kind": "mae"}}}, r"loss\.forces: an exact solver"),
        ({"model": {"behler_parrinello": ACSF}}, "not linear"),
    ],
)
def test_what_a_solver_cannot_do_is_refused(noisy, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train.fit(train.parse(section(noisy, **changes)), tmp_path / "run", progress=False)
