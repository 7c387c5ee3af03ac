"""A cheap, smooth potential and small crystals for the tests of dynamics."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mlip_jax.data.structure import Structure
from mlip_jax.graph import AtomicGraph, AtomOutputs, edge_vectors, safe_norm
from mlip_jax.potential import Potential

LATTICE = 5.431


class StillingerWeber(nn.Module):
    """Stillinger & Weber (1985), eqs. 2.3 to 2.6: silicon; every derivative is continuous."""

    species: tuple[int, ...] = (14,)
    cutoff: float = 1.8 * 2.0951

    @nn.compact
    def __call__(self, graph: AtomicGraph) -> AtomOutputs:
        epsilon, sigma, strength, gamma = 2.1683, 2.0951, 21.0, 1.2
        vectors = edge_vectors(graph)
        distances = safe_norm(vectors)
        inside = distances < self.cutoff * (1.0 - 1e-6)
        r = jnp.where(inside, distances, 1.0) / sigma
        decay = 1.0 / (r - 1.8)
        pair = 7.049556277 * (0.6022245584 / r**4 - 1.0) * jnp.exp(decay)
        weight = jnp.where(inside, jnp.exp(gamma * decay), 0.0)
        unit = vectors / jnp.where(inside, distances, 1.0)[..., None]
        cosines = jnp.einsum("ijx,ikx->ijk", unit, unit)
        angle = (cosines + 1.0 / 3.0) ** 2 * weight[:, :, None] * weight[:, None, :]
        distinct = ~np.eye(r.shape[1], dtype=bool)
        triplets = 0.5 * jnp.sum(jnp.where(distinct[None], angle, 0.0), axis=(1, 2))
        pairs = 0.5 * jnp.sum(jnp.where(inside, pair, 0.0), axis=1)
        return AtomOutputs(epsilon * (pairs + strength * triplets))


def potential(reference_energy: float = -100.0) -> Potential:
    return Potential(StillingerWeber(), {}, {14: reference_energy})


def diamond(repeats=(2, 2, 2), *, rattle: float = 0.0, seed: int = 0) -> Structure:
    """Cubic diamond, 8 atoms a cell."""
    face = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    basis = np.concatenate([face, face + 0.25])
    grid = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), axis=-1).reshape(-1, 3)
    positions = LATTICE * (basis[None] + grid[:, None]).reshape(-1, 3)
    if rattle:
        positions = positions + np.random.default_rng(seed).normal(0.0, rattle, positions.shape)
    return Structure(
        atomic_numbers=np.full(len(positions), 14),
        positions=positions,
        cell=LATTICE * np.diag(np.asarray(repeats, dtype=float)),
        pbc=np.ones(3, bool),
    )
