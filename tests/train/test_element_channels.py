"""Fits of cluster expansions with channels of elements: weights that stay, and weights trained."""

import dataclasses

import jax
import numpy as np
import pytest

import mlip_jax
from mlip_jax import inference, train
from mlip_jax.data import formats
from mlip_jax.data.structure import StructureLabels
from mlip_jax.models.pair import Morse
from mlip_jax.potential import Potential
from tests.train import tiny

pytestmark = pytest.mark.slow  # rows of many parameters compile for seconds

SPECIES = (8, 13, 14)
BOUNDS = {"cutoff": 3.0, "n_max": [4, 2], "l_max": [0, 1]}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Crystals of three elements with labels of a Morse potential, and noise."""
    path = tmp_path_factory.mktemp("data") / "mixed.extxyz"
    model = Morse(
        species=SPECIES, cutoff=3.0, distance=(1.6, 1.7, 2.0, 2.3, 2.4, 2.5), trainable=False
    )
    rng = np.random.default_rng(0)
    structures = [
        dataclasses.replace(s, atomic_numbers=rng.choice(SPECIES, s.num_atoms))
        for s in tiny.structures(24)
    ]
    graph = mlip_jax.make_graph(structures[0], 3.0, dtype=np.float64)
    potential = Potential(model, jax.jit(model.init)(jax.random.key(0), graph), dict.fromkeys(
        SPECIES, 0.0
    ))  # fmt: skip
    predictions = inference.predict(potential, structures, precision="float64")
    labels = [
        StructureLabels(float(p.energy), p.forces + rng.normal(0.0, 0.01, p.forces.shape))
        for p in predictions
    ]
    pairs = zip(structures, labels, strict=True)
    formats.write(path, [dataclasses.replace(s, labels=own) for s, own in pairs])
    return path


def fit(data, output, optimizer=None, **channels):
    settings = {"batch_size": 3, "precision": "float64", "devices": 1, "workers": 0}
    both = {} if optimizer is None else {"optimizer": optimizer}
    config = {
        "data": {
            "train": str(data),
            "valid": 0.2,
            "statistics": {"reference_energies": "zero"},
        },
        "model": {"ace": {**BOUNDS, **channels}},
        "loss": {"energy": {"weight": 1.0}, "forces": {"weight": 2.0}, "stress": None},
        "solver": {"name": "ridge", "alpha": 1e-10},
        "training": settings | ({"epochs": 30, "ema": None} if both else {}),
        **both,
    }
    return train.fit(train.parse(config), output, progress=False)


def coefficients(potential):
    return potential.variables["params"]["regressor"]["coefficients"]


def test_an_optimiser_moves_trained_weights(mixed, tmp_path):
    """The solver takes them as they are drawn; the loss of both together is less."""
    lbfgs = {"name": "lbfgs", "curvature_batches": 100}
    channels = {"element_channels": 1, "channel_weights": "trained"}
    drawn = fit(mixed, tmp_path / "drawn", **channels)
    trained = fit(mixed, tmp_path / "trained", lbfgs, **channels)
    assert coefficients(drawn).shape == coefficients(trained).shape == (3, 10)
    first, last = (p.variables["params"]["descriptor"]["channels"] for p in (drawn, trained))
    assert np.abs(last - first).max() > 1e-3
    # Elements keep the signs that they were drawn with, so that the minimum is a near one.
    assert trained.card["training"]["loss"] < 0.98 * drawn.card["training"]["loss"]


def test_more_channels_come_close_to_a_sum_for_each_element(mixed, tmp_path):
    """With weights that stay; losses count deviations of labels with noise."""
    whole = fit(mixed, tmp_path / "whole")
    losses = []
    for channels in (1, 3):
        fitted = fit(mixed, tmp_path / f"{channels}", element_channels=channels)
        assert "channels" in fitted.variables["constants"]["descriptor"]
        assert coefficients(fitted).shape == (3, 10 * channels)
        losses.append(fitted.card["training"]["loss"])
    assert coefficients(whole).shape == (3, 54)
    assert whole.card["training"]["loss"] < losses[1] < 0.2 * losses[0]
