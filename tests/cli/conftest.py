"""Every test of the command line runs in a directory of its own.

Our modules are imported inside the fixtures: conftest files may be loaded before the hook that
checks shapes.
"""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    from mlip_jax import models

    monkeypatch.setitem(models.MODELS, "springs", "tests.cli.springs:Springs")
    monkeypatch.setenv("MLIP_JAX_CACHE", "off")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def potential() -> Path:
    from mlip_jax import storage
    from mlip_jax.potential import Potential
    from tests.cli.springs import SILICON, Springs

    variables = {"params": {"stiffness": np.array(0.3)}}
    storage.save(Potential(Springs(species=(SILICON,)), variables, {SILICON: -1.0}), "potential")
    return Path("potential")


@pytest.fixture
def data() -> Path:
    from mlip_jax.data import formats
    from tests.cli.springs import crystal

    formats.write("data.extxyz", [crystal(seed) for seed in range(6)])
    return Path("data.extxyz")
