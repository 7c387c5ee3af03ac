"""What a potential says of a structure before and after it was written for another program."""

import os
from pathlib import Path

import jax
import numpy as np

from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.potential import Potential, predict_fn

BOX = 7.5
"""Length [Å] of the cubic cell."""

PEERS = Path(os.environ.get("MLIP_JAX_BENCHMARK_VENVS", Path.home() / ".cache/mlip_jax_benchmarks"))
"""Virtual environments of other programs, see benchmarks/install_peers.sh."""


def structure(species: tuple[int, ...]) -> Structure:
    """27 atoms about the points of a grid."""
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3) * (BOX / 3)
    positions = grid + rng.uniform(-0.3, 0.3, size=grid.shape)
    numbers = np.array(species)[rng.integers(len(species), size=len(grid))]
    return Structure(numbers, positions % BOX, BOX * np.eye(3), np.ones(3, bool))


def evaluate(found: Potential, what: Structure) -> tuple[np.ndarray, np.ndarray]:
    """Energies of the atoms with reference energies [eV], and forces [eV/Å]."""
    graph = make_graph(what, found.cutoff, dtype=np.float64)
    prediction = jax.jit(predict_fn(found.model))(found.variables, graph)
    energies = np.asarray(prediction.atom_energies) + found.reference_energy(what.atomic_numbers)
    return energies, np.asarray(prediction.forces)
