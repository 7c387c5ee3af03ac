"""A cheap potential, a config that trains it, and the command line as a function."""

import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mlip_jax import config
from mlip_jax.cli import main
from mlip_jax.data.structure import Structure, StructureLabels
from mlip_jax.graph import AtomicGraph, AtomOutputs, edge_vectors, safe_norm

SILICON = 14


class Springs(nn.Module):
    """Pairs with the energy `k (r - c)^2 (r - b)`: smooth at the cutoff c, repelling below b."""

    cutoff: float = 3.0
    species: tuple[int, ...] | None = None

    @nn.compact
    def __call__(self, graph: AtomicGraph) -> AtomOutputs:
        stiffness = self.param("stiffness", nn.initializers.constant(0.3), ())
        distance = safe_norm(edge_vectors(graph))
        energy = stiffness * (distance - self.cutoff) ** 2 * (2.3 - distance)
        return AtomOutputs(jnp.sum(jnp.where(distance < self.cutoff, energy, 0.0), axis=1))


def crystal(seed: int = 0, numbers: int = SILICON) -> Structure:
    """Simple cubic, 8 atoms, rattled, labelled with an energy and forces that agree roughly."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 3)
    positions = 2.4 * grid + rng.normal(scale=0.05, size=(8, 3))
    labels = StructureLabels(energy=-8.0 + rng.normal(), forces=rng.normal(size=(8, 3)))
    return Structure(np.full(8, numbers), positions, 4.8 * np.eye(3), np.array([True] * 3), labels)


def train_config(**changes: Any) -> Path:
    mapping = {
        "data": {"train": "data.extxyz", "valid": 0.2, "checks": {"energy_force_unit": "accept"}},
        "model": {"springs": {}},
        "training": {"epochs": 1, "batch_size": 2, "report": False},
    }
    overrides = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in changes.items()]
    config.dump_yaml(config.apply_overrides(mapping, overrides), "train.yaml")
    return Path("train.yaml")


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def refused(capsys, *arguments: object) -> str:
    """The message of a command that stops at a user's mistake: exit code 1, no traceback."""
    code = run(*arguments)
    output = capsys.readouterr()
    assert code == 1, output
    assert output.err.startswith("error: ")
    assert "Traceback" not in output.err
    return output.err
