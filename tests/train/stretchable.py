"""A potential of two parameters whose crystal follows them in a known way, and its structures."""

import dataclasses
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mlip_jax.data import formats
from mlip_jax.data.structure import Structure
from mlip_jax.graph import AtomOutputs, edge_vectors
from mlip_jax.potential import Potential
from tests.simulate import silicon


class Stretchable(nn.Module):
    """Stillinger and Weber's silicon, `u E(s r)`: its lattice constant goes as 1/s, C as u s³."""

    species: tuple[int, ...] = (14,)
    cutoff: float = 4.2

    @nn.compact
    def __call__(self, graph) -> AtomOutputs:
        strength = self.param("strength", nn.initializers.ones, (), graph.positions.dtype)
        stretch = self.param("stretch", nn.initializers.ones, (), graph.positions.dtype)
        vectors = jnp.where(graph.edge_mask[..., None], stretch, 1.0) * edge_vectors(graph)
        moved = dataclasses.replace(graph, vectors=vectors)
        return AtomOutputs(strength * silicon.StillingerWeber()(moved).energies)


def variables(strength=1.0, stretch=1.0):
    return {"params": {"strength": jnp.asarray(strength), "stretch": jnp.asarray(stretch)}}


def potential() -> Potential:
    return Potential(Stretchable(), variables(), {14: 0.0})


def primitive(lattice: float) -> Structure:
    """Two atoms of diamond."""
    cell = 0.5 * lattice * (np.ones((3, 3)) - np.eye(3))
    positions = np.array([[0.0, 0.0, 0.0], 3 * [0.25 * lattice]])
    return Structure(np.full(2, 14), positions, cell, np.ones(3, bool))


def write(directory: Path, structure: Structure | None = None) -> str:
    path = directory / "crystal.extxyz"
    formats.write(path, [silicon.diamond((1, 1, 1)) if structure is None else structure])
    return str(path)
