"""Derivatives by pair vectors, through the sums over neighbours, against plain autodiff."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mlip_jax
from mlip_jax.data.structure import Structure
from mlip_jax.descriptors.ace import ClusterExpansion
from mlip_jax.descriptors.acsf import ACSF
from mlip_jax.descriptors.jacobian import basis_jacobian, pair_jacobian
from mlip_jax.descriptors.moment_tensor import MomentTensors
from mlip_jax.descriptors.soap import SOAP
from mlip_jax.descriptors.triplet import TripletKernel
from mlip_jax.elements import species_index
from mlip_jax.graph import edge_vectors

SPECIES = (8, 14)
DESCRIPTORS = {
    "acsf": ACSF(SPECIES, 3.5, num_radial=3, num_angular=1, zetas=(1,)),
    "cluster_expansion": ClusterExpansion(SPECIES, 3.5, (4, 3, 2), (0, 2, 2)),
    "element_channels": ClusterExpansion(
        SPECIES, 3.5, (4, 2, 2), (0, 2, 1), element_channels=3, channel_weights="trained"
    ),
    "pairs of atoms": ClusterExpansion(SPECIES, 3.5, (4,), (0,)),
    "moment_tensors": MomentTensors(SPECIES, 3.5, level=8, radial_basis_size=4),
    "soap": SOAP(SPECIES, 3.5, n_max=2, l_max=2),
    "triplet_kernel": TripletKernel(SPECIES, 3.0, num_sparse=4),
}
SLOW = ("acsf", "element_channels", "moment_tensors", "pairs of atoms")


def derivatives(descriptor, variables, graph):
    """Of sums over neighbours by the chain rule."""
    if not hasattr(descriptor, "atomic_basis"):
        return pair_jacobian(descriptor, variables, graph)

    def products(basis):
        return descriptor.apply(variables, basis[None], method="from_atomic_basis")[0]

    def of_atom(vectors, neighbor, own):
        basis, moved = basis_jacobian(descriptor, variables, vectors, neighbor, own)
        if hasattr(descriptor, "basis_slopes"):
            slopes = descriptor.apply(variables, basis[None], method="basis_slopes")[0]
        else:
            slopes = jax.jacrev(products)(basis)
        return products(basis), jnp.einsum("kdb,fb->kdf", moved, slopes)

    element = species_index(graph.atomic_numbers, SPECIES)
    return jax.vmap(of_atom)(edge_vectors(graph), element[graph.neighbors], element)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in DESCRIPTORS],
)
def test_derivatives_are_those_of_the_features(name):
    """With an atom that has no neighbours, and padded slots."""
    generator = np.random.default_rng(3)
    positions = np.concatenate([generator.uniform(0.0, 4.0, (5, 3)), [[50.0, 0.0, 0.0]]])
    structure = Structure(
        atomic_numbers=np.array([8, 14, 14, 8, 14, 8]),
        positions=positions,
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, bool),
    )
    graph = jax.tree.map(jnp.asarray, mlip_jax.make_graph(structure, 3.5, dtype=np.float64))
    descriptor = DESCRIPTORS[name]
    variables = jax.jit(descriptor.init)(jax.random.key(0), graph)
    variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), variables)

    def features(vectors):
        return descriptor.apply(variables, dataclasses.replace(graph, vectors=vectors))

    whole = jax.jit(jax.jacrev(features))(edge_vectors(graph))
    expected = np.einsum("iaikd->ikda", np.asarray(whole))
    found, jacobian = jax.jit(lambda g: derivatives(descriptor, variables, g))(graph)
    np.testing.assert_allclose(found, features(edge_vectors(graph)), atol=1e-12)
    np.testing.assert_allclose(jacobian, expected, atol=1e-10 * np.abs(expected).max())
    assert np.abs(expected).max() > 0.1
