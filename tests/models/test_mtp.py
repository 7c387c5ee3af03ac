"""MTP: what the laws of all models do not see."""

import jax
import numpy as np
import pytest

from mlip_jax import models
from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure


@pytest.mark.slow
def test_calibration_describes_with_the_parameters_of_the_descriptor():
    rng = np.random.default_rng(0)
    positions = rng.uniform(size=(12, 3)) * 6.0
    cluster = Structure(np.full(12, 14), positions, np.zeros((3, 3)), np.zeros(3, bool))
    model = models.build_model({"mtp": {"species": ["Si"], "level": 8, "energy_scale": 1.0}})
    graph = make_graph(cluster, model.cutoff, dtype=np.float64)
    variables = jax.jit(model.init)(jax.random.key(0), graph)
    other = jax.tree.map(lambda x: x + 0.5 * rng.normal(size=x.shape), variables["params"])
    variables = model.calibrate({**variables, "params": other}, [graph])
    features = np.asarray(jax.jit(model.apply)(variables, graph).features)
    np.testing.assert_allclose(features.mean(axis=0), 0.0, atol=1e-12)
    # Not 1 where a feature varies so little that it is not blown up.
    assert np.sum(np.abs(features.std(axis=0) - 1.0) < 1e-12) >= 7
