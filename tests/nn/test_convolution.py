import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.graph import edge_vectors, safe_norm
from mlip_jax.nn import angular, convolution, radial
from mlip_jax.nn.irreps import SCALAR, Channels, Irrep, hidden_layout

CUTOFF = 3.0
L_MAX = 2
SPECIES = jnp.array([0, 1, 1, 0, 2])


@pytest.fixture(scope="module")
def graph():
    rng = np.random.default_rng(0)
    structure = Structure(
        atomic_numbers=np.array([1, 8, 8, 1, 6]),
        positions=rng.uniform(0.0, 3.0, (5, 3)),
        cell=np.diag([3.5, 4.0, 3.2]),
        pbc=np.array([True, True, False]),
    )
    return jax.tree.map(jnp.asarray, make_graph(structure, CUTOFF, dtype=np.float64))


def edges_of(graph):
    vectors = edge_vectors(graph)
    r = safe_norm(vectors)
    basis = radial.BesselBasis(CUTOFF, 4, 6).apply({}, r)
    harmonics = angular.spherical_harmonics(vectors / r[..., None], L_MAX)
    return convolution.Edges(jnp.concatenate(harmonics, axis=-1), basis)


def weights_of(inputs, outputs):
    kernels = convolution.ConvolutionKernels(inputs, outputs, L_MAX, (4, 8), 7.0)
    return kernels.init_with_output(jax.random.key(0), jnp.dtype(jnp.float64))[0]


def edge_by_edge(weights, graph, edges, features):
    """The definition: coupled messages of every pair, summed, mixed."""
    middle = {}
    hidden = radial.hidden_network(weights.hidden, edges.basis)
    for path, last in zip(weights.paths, weights.last, strict=True):
        l1, l2, l3 = weights.inputs[path.source].irrep.degree, path.degree, path.target.degree
        tensor = np.sqrt(2 * l3 + 1) * angular.clebsch_gordan(l1, l2, l3)
        harmonics = edges.harmonics[..., l2**2 : (l2 + 1) ** 2]
        senders = features[path.source][graph.neighbors]
        messages = jnp.einsum("ijmc,ijn,mnk,ijc->ikc", senders, harmonics, tensor, hidden @ last)
        middle.setdefault(path.target, []).append(messages)
    return {k: jnp.concatenate(v, axis=-1) @ weights.mixing[k] for k, v in middle.items()}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for irrep in first:
        # float64 with another order of summation
        np.testing.assert_allclose(first[irrep], second[irrep], rtol=1e-11, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("parity", [False, True])
def test_convolution_is_the_sum_over_coupled_messages(graph, parity):
    layout = hidden_layout((4, 3, 2), parity)
    weights = weights_of(layout, layout)
    keys = jax.random.split(jax.random.key(1), len(layout))
    features = tuple(
        jax.random.normal(k, (5, c.irrep.dim, c.channels))
        for k, c in zip(keys, layout, strict=True)
    )
    edges = edges_of(graph)
    ours = convolution.convolve(weights, graph, edges, features)
    assert_equal(ours, edge_by_edge(weights, graph, edges, features))


@pytest.mark.parametrize("num_species", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_features_of_elements_may_be_summed_first(graph, num_species):
    inputs = (Channels(SCALAR, 6),)
    weights = weights_of(inputs, hidden_layout((4, 3, 2), True))
    table = jax.random.normal(jax.random.key(2), (num_species, 6))
    species = SPECIES if num_species > 1 else jnp.zeros_like(SPECIES)
    edges = edges_of(graph)
    summed = convolution.convolve_elements(weights, graph, edges, table, species)
    assert_equal(summed, convolution.convolve(weights, graph, edges, (table[species][:, None, :],)))
    assert set(summed) == {Irrep(0, 1), Irrep(1, -1), Irrep(2, 1)}
