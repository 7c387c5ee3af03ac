"""A small crystal, its neighbours by a loop over images, and networks in numpy.

Models are tested against sums written from their papers; this is what such sums have in common.
"""

from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.graph import AtomicGraph

SPECIES = (8, 14)
CUTOFF = 3.4


def structure(num_atoms: int = 4) -> Structure:
    """Atoms anywhere in a small cell, with neighbours among their own images."""
    positions = np.random.default_rng(3).uniform(0.0, 4.0, (num_atoms, 3))
    cell = np.array([[4.0, 0.0, 0.0], [0.7, 3.8, 0.0], [0.2, -0.4, 4.3]])
    numbers = np.array([8, 14, 14, 8])[:num_atoms]
    return Structure(numbers, positions, cell, np.ones(3, dtype=bool))


def lone_atom(number: int) -> Structure:
    """An atom without neighbours."""
    return Structure(np.array([number]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, bool))


def graph_of(given: Structure) -> AtomicGraph:
    return jax.tree.map(jnp.asarray, make_graph(given, CUTOFF, dtype=np.float64))


def images(given: Structure, i: int) -> Iterator[tuple[int, np.ndarray]]:
    """Neighbours j of atom i within the cutoff with their vectors."""
    shifts = np.stack(np.meshgrid(*[range(-2, 3)] * 3, indexing="ij"), -1).reshape(-1, 3)
    for j, position in enumerate(given.positions):
        for shift in shifts @ given.cell if given.pbc.any() else np.zeros((1, 3)):
            vector = position + shift - given.positions[i]
            if 1e-9 < np.linalg.norm(vector) < CUTOFF:
                yield j, vector


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x))


def network(
    params: Mapping[str, np.ndarray],
    x: np.ndarray,
    activation: Callable[[np.ndarray], np.ndarray] = silu,
    activate_last: bool = False,
) -> np.ndarray:
    """Linear layers with an activation between them."""
    number = len([key for key in params if key.startswith("kernel")])
    for i in range(number):
        x = x @ params[f"kernel_{i}"] + params.get(f"bias_{i}", 0.0)
        if activate_last or i < number - 1:
            x = activation(x)
    return x
