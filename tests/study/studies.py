"""A small study, and a stand-in for training that takes no time."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from mlip_jax import storage, study
from mlip_jax.data import formats
from mlip_jax.models.pair import LennardJones
from mlip_jax.potential import Potential
from mlip_jax.study import state
from tests.train import tiny

LINES = """
base:
  data: {train: tiny.extxyz, valid: 0.25, test: 0.25}
  model: {lennard_jones: {cutoff: 3.0}}
  training: {epochs: 2, batch_size: 4}
axes:
  model:
    short: {model.lennard_jones.cutoff: 2.5}
    long: {model: {lennard_jones: {cutoff: 3.5}}}
  train_size: [2, 4]
  seed: [0, 1]
cost: null
report: {properties: []}  # no figures: they take seconds
"""


def load(directory: Path, text: str = LINES, *overrides: str) -> study.Study:
    """The study of a text, with data beside it."""
    if not (directory / "tiny.extxyz").exists():
        formats.write(directory / "tiny.extxyz", tiny.structures(12))
    path = directory / "study.yaml"
    path.write_text(text)
    return study.load(path, overrides)


def error_of(directory: Path) -> float:
    """What the stand-in says that a run's errors are."""
    found = state.read(directory)
    assert found is not None
    config = found.identity["config"]
    size, seed = config["data"]["train_size"], config["training"]["seed"]
    return config["model"]["lennard_jones"]["cutoff"] / size * (1 + 0.1 * seed)


class Stub:
    """Performs runs in no time; `ends` says how a run ends whose name holds a word."""

    def __init__(self, **ends: str):
        self.ends, self.performed = ends, []

    def __call__(self, directory: Path, asked) -> None:
        del asked
        self.performed.append(directory.name)
        found = state.read(directory)
        assert found is not None
        assert found.status in ("waiting", "failed", "interrupted")
        status = next((end for word, end in self.ends.items() if word in directory.name), None)
        if status is not None:
            message = "the loss is not finite,\nsays the test" if status == "failed" else ""
            after = dataclasses.replace(found, status=status, message=message, seconds=1.0)
        else:
            finish(directory)
            after = dataclasses.replace(found, status="finished", parameters=2, seconds=3.0)
        state.write(directory, after)


def finish(directory: Path) -> None:
    """The files that a fit leaves and a study reads."""
    variables = {"params": {"epsilon": np.full(1, 0.1), "sigma": np.full(1, 2.0)}}
    potential = Potential(LennardJones(species=(14,), cutoff=3.0), variables, tiny.REFERENCE)
    storage.save(potential, directory / "potential")
    total = {
        name: {"mae": error_of(directory) * factor, "rmse": 1.5 * factor, "max": 2.0, "count": 3}
        for name, factor in (("energy", 1.0), ("forces", 2.0))
    }
    errors = {name: {"total": total, "num_structures": 3} for name in ("train", "test")}
    (directory / "errors.json").write_text(json.dumps(errors))
