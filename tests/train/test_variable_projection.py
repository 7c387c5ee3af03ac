"""The search over parameters that the energies are not linear in."""

import dataclasses
import signal

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import mlip_jax
from mlip_jax import inference, train
from mlip_jax.config import UserError
from mlip_jax.data import formats
from mlip_jax.data.structure import StructureLabels
from mlip_jax.models.mtp import mtp
from mlip_jax.potential import Potential
from mlip_jax.train import variable_projection
from mlip_jax.train.interrupt import TrainingInterrupted
from tests.train import tiny

pytestmark = pytest.mark.slow  # rows of many parameters compile for seconds

MTP = {"cutoff": 3.0, "level": 6, "min_dist": 1.5, "radial_basis_size": 4}


def section(data, **solver):
    return {
        "data": {"train": str(data), "valid": 0.2, "statistics": {"reference_energies": "zero"}},
        "model": {"mtp": MTP},
        "loss": {"energy": {"weight": 1.0}, "forces": {"weight": 2.0}, "stress": {"weight": 50.0}},
        "solver": {"name": "ridge", "alpha": 1e-14, "posterior": False, "grades": False, **solver},
        "training": {"batch_size": 3, "precision": "float64", "devices": 1, "workers": 0},
    }


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Labels of moment tensors whose radial functions are not those of the start."""
    model = mtp(species=(14,), energy_scale=1.0, **MTP)
    structures = tiny.structures(12)
    graph = mlip_jax.make_graph(structures[0], 3.0, dtype=np.float64)
    variables = jax.jit(model.init)(jax.random.key(0), graph)
    flat, unravel = ravel_pytree(variables["params"])
    rng = np.random.default_rng(3)
    params = unravel(flat + 0.3 * rng.normal(size=flat.shape))
    potential = Potential(model, {**variables, "params": params}, {14: 0.0})
    result = []
    for structure in structures:
        (p,) = inference.predict(potential, [structure], precision="float64")
        labels = StructureLabels(energy=float(p.energy), forces=p.forces, stress=p.stress)
        result.append(dataclasses.replace(structure, labels=labels))
    path = tmp_path_factory.mktemp("data") / "labelled.extxyz"
    formats.write(path, result)
    return path


def fit(data, output, *, resume=False, **solver):
    return train.fit(train.parse(section(data, **solver)), output, resume=resume, progress=False)


def test_labels_of_other_radial_functions_are_found_again(labelled, tmp_path):
    alone = fit(labelled, tmp_path / "alone")
    searched = fit(labelled, tmp_path / "searched", nonlinear_iterations=25)
    assert searched.card["training"]["loss"] < 1e-8 * alone.card["training"]["loss"]


def test_short_steps_lower_the_loss_by_what_they_promise(labelled, monkeypatch, tmp_path):
    found = []
    original = variable_projection.passes_fn

    def passes_fn(*args):
        found.append(original(*args))
        return found[-1]

    monkeypatch.setattr(variable_projection, "passes_fn", passes_fn)
    fit(labelled, tmp_path / "run", nonlinear_iterations=1)
    (passes,) = found
    with np.load(tmp_path / "run" / variable_projection.FILE) as state:
        place = passes.place(state["others"])
    slopes = passes.slopes(place)
    before = variable_projection._loss(place, place.alpha, passes.free)
    for damping in (1e2, 1e4):
        step, promised = variable_projection._step(place, slopes, damping, passes.free)
        after = variable_projection._loss(
            passes.place(place.others + step), place.alpha, passes.free
        )
        np.testing.assert_allclose(before - after, before - promised, rtol=0.05)


def test_a_part_of_the_structures_will_do_for_the_search(labelled, tmp_path):
    alone = fit(labelled, tmp_path / "alone")
    part = fit(labelled, tmp_path / "part", nonlinear_iterations=8, nonlinear_fraction=0.5)
    assert part.card["training"]["loss"] < 0.1 * alone.card["training"]["loss"]


@pytest.mark.parametrize(
    ("fraction", "chosen"), [(1.0, [0, 1, 2, 3, 4]), (0.5, [0, 2, 4]), (0.25, [0, 4]), (0.01, [0])]
)
def test_the_part_is_spread_evenly(fraction, chosen):
    assert list(variable_projection.spread(range(5), fraction)) == chosen


def test_an_interrupted_search_goes_on_from_its_last_step(labelled, tmp_path, monkeypatch):
    whole = fit(labelled, tmp_path / "whole", nonlinear_iterations=4)
    write = variable_projection._write

    def stop(file, arrays):
        write(file, arrays)
        if arrays["taken"] == 2:
            raise TrainingInterrupted("stopped", signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(variable_projection, "_write", stop)
        with pytest.raises(TrainingInterrupted):
            fit(labelled, tmp_path / "run", nonlinear_iterations=4)
    with pytest.raises(UserError, match="holds a run"):
        fit(labelled, tmp_path / "run", nonlinear_iterations=4)
    resumed = fit(labelled, tmp_path / "run", resume=True, nonlinear_iterations=4)
    first, second = (ravel_pytree(p.variables["params"])[0] for p in (whole, resumed))
    np.testing.assert_allclose(first, second, rtol=1e-9, atol=1e-12)


def test_a_damaged_state_of_the_search_is_named(labelled, tmp_path):
    fit(labelled, tmp_path / "run", nonlinear_iterations=1)
    file = tmp_path / "run" / variable_projection.FILE
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"variable_projection\.npz: is damaged"):
        fit(labelled, tmp_path / "run", resume=True, nonlinear_iterations=1)
    np.savez(file, others=np.zeros(3), damping=1.0, taken=1)
    with pytest.raises(UserError, match=r"got \(3,\) parameters"):
        fit(labelled, tmp_path / "run", resume=True, nonlinear_iterations=1)


def test_a_model_that_is_linear_has_nothing_to_search(labelled, tmp_path):
    config = section(labelled, nonlinear_iterations=2)
    acsf = {"cutoff": 3.0, "num_radial": 4, "num_angular": 2}
    config["model"] = {"local": {"descriptor": {"acsf": acsf}, "regressor": {"linear": {}}}}
    with pytest.raises(UserError, match=r"solver\.nonlinear_iterations"):
        train.fit(train.parse(config), tmp_path / "run", progress=False)
