"""Energies block by block: every derivative is that of the plain function."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.graph import edge_vectors, safe_norm
from mlip_jax.nn.atom_energies import atom_energies


def energy(parameters, vectors, own):
    """Not linear in the sums over neighbours, with parameters of several shapes."""
    r = safe_norm(vectors)
    kernels = jnp.exp(-parameters["width"][own][:, None] * r**2)
    sums = jnp.stack([jnp.sum(kernels, axis=1), jnp.sum(kernels * vectors[..., 0], axis=1)])
    return jnp.tanh(parameters["mix"] @ sums).sum(axis=0)


@pytest.fixture(scope="module")
def setup():
    rng = np.random.default_rng(0)
    structure = Structure(
        atomic_numbers=np.full(7, 14),
        positions=rng.uniform(0.0, 4.0, (7, 3)),
        cell=4.0 * np.eye(3),
        pbc=np.ones(3, bool),
    )
    graph = jax.tree.map(jnp.asarray, make_graph(structure, 3.0, dtype=np.float64, block=4))
    parameters = {"width": rng.uniform(0.2, 0.4, 2), "mix": rng.normal(size=(3, 2))}
    own = jnp.arange(graph.num_atoms, dtype=jnp.int32) % 2
    return jax.tree.map(jnp.asarray, parameters), graph, edge_vectors(graph), own


def total(parameters, graph, vectors, own):
    return jnp.sum(jnp.sin(atom_energies(energy, parameters, graph, vectors, (own,))))


def force_loss(parameters, graph, vectors, own):
    return jnp.sum(jax.grad(total, argnums=2)(parameters, graph, vectors, own) ** 3)


def along(parameters, graph, vectors, own):
    """Forward mode by parameters and vectors at once."""

    def moved(t):
        stretched = jax.tree.map(lambda p: p * (1.0 + t), parameters)
        return total(stretched, graph, vectors * (1.0 + 0.5 * t), own)

    return jax.jvp(moved, (0.0,), (1.0,))[1]


def hessian_product(parameters, graph, vectors, own):
    def gradient(vectors):
        return jax.grad(total, argnums=2)(parameters, graph, vectors, own)

    return jax.jvp(gradient, (vectors,), (jnp.cos(vectors),))[1]


@pytest.mark.parametrize(
    "derive",
    [
        total,
        jax.grad(total, argnums=2),
        jax.grad(total, argnums=(0, 2)),
        along,
        hessian_product,
        jax.grad(force_loss),
        jax.grad(along),
    ],
    ids=[
        "energy",
        "slopes",
        "parameters and slopes",
        "forward",
        "hessian",
        "loss of slopes",
        "reverse over forward",
    ],
)
def test_derivatives_in_blocks_are_those_of_the_whole(setup, derive):
    parameters, graph, vectors, own = setup
    assert 0 < graph.block < graph.num_atoms
    whole = dataclasses.replace(graph, block=0)
    found = jax.jit(derive)(parameters, graph, vectors, own)
    expected = jax.jit(derive)(parameters, whole, vectors, own)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected)) > 0.0
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)
