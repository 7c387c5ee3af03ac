"""The exact solver on whitened coefficients is the sparse Gaussian process of the textbook."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.data.collate import make_graph
from mlip_jax.descriptors.soap import SOAP
from mlip_jax.models.local import Local
from mlip_jax.nn.gaussian_process import GaussianProcess
from mlip_jax.potential import predict_fn
from mlip_jax.train.solver import Rows, SolverConfig, solve
from tests.train import tiny

pytestmark = pytest.mark.slow  # derivatives of kernels compile for seconds

DELTA, NOISE = 0.3, 0.05


@pytest.fixture(scope="module")
def model():
    descriptor = SOAP(species=(14,), cutoff=3.0, n_max=3, l_max=2, atom_sigma=0.6)
    # The textbook's normal equations square the condition number, which the jitter bounds.
    process = GaussianProcess(num_sparse=4, zeta=2, jitter=1e-3)
    return Local(descriptor, process, DELTA, scaling="none")


@pytest.fixture(scope="module")
def graphs():
    """Structures of two atoms, equal by inversion: as many environments as structures."""
    structures = [s for s in tiny.structures(12, seed=4) if s.num_atoms == 2]
    return structures, [make_graph(s, 3.0, dtype=np.float64) for s in structures]


def padded(graphs):
    most = max(graph.max_neighbors for graph in graphs)
    result = []
    for graph in graphs:
        extra = most - graph.max_neighbors
        own = np.broadcast_to(np.arange(graph.num_atoms)[:, None], (graph.num_atoms, extra))
        result.append(
            dataclasses.replace(
                graph,
                neighbors=np.concatenate([graph.neighbors, own.astype(np.int32)], axis=1),
                shifts=np.pad(graph.shifts, ((0, 0), (0, extra), (0, 0))),
                edge_mask=np.pad(graph.edge_mask, ((0, 0), (0, extra))),
            )
        )
    return result


def test_ridge_with_whitened_coefficients_is_the_sparse_gaussian_process(model, graphs):
    structures, inputs = graphs
    inputs = padded(inputs)
    start = jax.jit(model.init)(jax.random.key(0), inputs[0])
    variables = model.calibrate(start, inputs)
    predict = predict_fn(model)
    points = jnp.asarray(variables["constants"]["regressor"]["points"])[0]
    alone = jnp.asarray(model.descriptor.isolated_features())

    @jax.jit
    def design(graph):
        """Rows of energies and forces by differentiation of the model."""

        def rows(beta):
            params = {"regressor": {"coefficients": beta[None]}}
            p = predict({**variables, "params": params}, graph)
            return jnp.concatenate([p.energy, p.forces.reshape(-1)])

        return jax.jacfwd(rows)(jnp.zeros(4))

    @jax.jit
    def kernels(graph):
        """`K_NM` of energies and of forces with the sparse points, from the kernel itself."""

        def energies(positions):
            moved = dataclasses.replace(graph, positions=positions)
            features = model.descriptor.apply({}, moved)
            values = (features @ points.T) ** 2 - (alone @ points.T) ** 2
            return DELTA**2 * jnp.sum(values, axis=0)

        forces = -jax.jacrev(energies)(graph.positions)
        return jnp.concatenate([energies(graph.positions)[None], forces.reshape(4, -1).T])

    targets = [
        np.concatenate([[s.labels.energy + 10.0], s.labels.forces.ravel()]) for s in structures
    ]
    rows = Rows(4)
    for graph, target in zip(inputs, targets, strict=True):
        rows.add(np.asarray(design(graph)) / NOISE, target / NOISE)
    # The penalty on β is 1 in these units; the solver's is relative to the largest singular value.
    largest = float(np.linalg.norm(rows.triangle()[:, :-1], 2)) ** 2
    beta = solve(rows, SolverConfig("ridge", alpha=1.0 / largest)).coefficients

    # Quiñonero-Candela & Rasmussen (2005), eq. 16b: α = (K_MN K_NM + σ² K_MM)⁻¹ K_MN y.
    k_nm = np.concatenate([np.asarray(kernels(graph)) for graph in inputs])
    k_mm = DELTA**2 * np.asarray(points @ points.T) ** 2
    k_mm += DELTA**2 * model.regressor.jitter * np.mean(np.diag(k_mm / DELTA**2)) * np.eye(4)
    alpha = np.linalg.solve(k_nm.T @ k_nm + NOISE**2 * k_mm, k_nm.T @ np.concatenate(targets))
    expected = k_nm @ alpha
    found = np.concatenate([np.asarray(design(graph)) @ beta for graph in inputs])
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8 * np.abs(expected).max())
