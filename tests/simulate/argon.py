"""A cheap Lennard-Jones crystal whose lattice is soft enough for a barostat to be tested."""

import numpy as np

from mlip_jax.data.structure import Structure
from mlip_jax.models.pair import LennardJones
from mlip_jax.potential import Potential

EPSILON, SIGMA = 0.0104, 3.40
CUTOFF = 6.5
LATTICE = 5.33
"""Å, about that at rest."""


def potential() -> Potential:
    model = LennardJones((18,), CUTOFF, EPSILON, SIGMA, trainable=False)
    constants = {"epsilon": np.array([EPSILON]), "sigma": np.array([SIGMA])}
    return Potential(model, {"constants": constants}, {18: 0.0})


def fcc(repeats=(2, 2, 2), lattice: float = LATTICE, rattle: float = 0.0) -> Structure:
    """Cubic close packing, 4 atoms a cell."""
    basis = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    grid = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), axis=-1).reshape(-1, 3)
    positions = lattice * (basis[None] + grid[:, None]).reshape(-1, 3)
    positions = positions + np.random.default_rng(0).normal(0.0, 1.0, positions.shape) * rattle
    cell = lattice * np.diag(np.asarray(repeats, dtype=float))
    return Structure(np.full(len(positions), 18), positions, cell, np.ones(3, bool))
