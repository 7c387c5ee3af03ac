"""Sparse Gaussian processes: the kernel written out, the prior, and the choice of points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.nn import sparse_points
from mlip_jax.nn.gaussian_process import GaussianProcess, whitening

ELEMENT = np.array([0, 1, 1, 0, 1])


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    values = np.abs(rng.normal(size=(40, 6)))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def process(features):
    module = GaussianProcess(num_sparse=7, zeta=3)
    start = jax.jit(lambda x, e: module.init(jax.random.key(0), x, e, 2))(features[:5], ELEMENT)
    constants = module.calibrate(start["constants"], [features[:18], features[18:]])
    return module, {"params": start["params"], "constants": constants}


def evaluate(module, variables, features):
    call = jax.jit(lambda v, x, e: module.apply(v, x, e, 2))
    return np.asarray(call(variables, features, ELEMENT))


def test_energies_are_sums_of_kernels_of_the_own_element(process, features):
    module, variables = process
    found = evaluate(module, variables, features[:5])
    points, matrices = (np.asarray(variables["constants"][k]) for k in ("points", "whitening"))
    beta = np.asarray(variables["params"]["coefficients"])
    for i, e in enumerate(ELEMENT):
        alpha = matrices[e] @ beta[e]
        expected = sum(a * (features[i] @ p) ** 3 for a, p in zip(alpha, points[e], strict=True))
        assert found[i] == pytest.approx(expected, rel=1e-11)


def test_whitened_coefficients_have_the_prior_of_the_process(process):
    """At the sparse points the functions φ have the covariance of the kernel, to the jitter."""
    module, variables = process
    for points, matrix in zip(
        *(np.asarray(variables["constants"][k]) for k in ("points", "whitening")), strict=True
    ):
        kernel = (points @ points.T) ** 3
        phi = kernel @ matrix
        np.testing.assert_allclose(phi @ phi.T, kernel, atol=10 * module.jitter)


def test_functions_and_their_combinations_make_the_output(process, features):
    """Values and slopes of the kernels, whitened, times the coefficients."""
    module, variables = process
    beta = np.asarray(variables["params"]["coefficients"])

    @jax.jit
    def by_functions(x, e):
        values, slopes = module.apply(variables, x, e, 2, method="functions")
        rows = module.apply(variables, jnp.concatenate([values[None], slopes.T]), method="combined")
        return rows @ beta.ravel()

    @jax.jit
    def by_output(x, e):
        def output(x):
            return module.apply(variables, x[None], e[None], 2)[0]

        return jnp.concatenate([output(x)[None], jax.grad(output)(x)])

    for x, e in zip(features[:2], ELEMENT[:2], strict=True):
        np.testing.assert_allclose(by_functions(x, e), by_output(x, e), rtol=1e-10)


def test_missing_points_have_no_influence(process, features):
    module, variables = process
    few = np.repeat(features[:3], 2, axis=0)  # three distinct rows for seven points
    constants = module.calibrate(variables["constants"], [few, np.zeros((0, 0))])
    assert not np.any(np.asarray(constants["points"])[0, 3:])
    np.testing.assert_array_equal(constants["points"][1], variables["constants"]["points"][1])
    before = {**variables, "constants": constants}
    beta = np.array(variables["params"]["coefficients"])
    beta[0, 3:] += 5.0
    after = {"params": {"coefficients": beta}, "constants": constants}
    np.testing.assert_array_equal(
        evaluate(module, before, features[:5]), evaluate(module, after, features[:5])
    )


@pytest.mark.parametrize("method", ["farthest", "cur"])
def test_selected_rows_are_distinct(features, method):
    twice = np.repeat(features, 2, axis=0)
    chosen = sparse_points.select(twice, 10, method)
    assert len(np.unique(chosen, axis=0)) == 10
    assert len(sparse_points.select(twice, 100, method)) == 40


def test_the_farthest_points_are_the_greedy_ones(features):
    chosen = sparse_points.select(features, 5, "farthest")
    for k in range(1, 5):
        gaps = np.linalg.norm(features[:, None] - chosen[None, :k], axis=-1).min(axis=1)
        assert np.linalg.norm(chosen[k] - chosen[:k], axis=-1).min() == pytest.approx(gaps.max())


def test_cur_spans_a_subspace_before_it_repeats():
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(30, 3)) @ rng.normal(size=(3, 8))
    assert np.linalg.matrix_rank(sparse_points.select(rows, 3, "cur")) == 3


def test_a_reservoir_is_uniform_and_independent_of_the_parts():
    rows = np.arange(1000.0)[:, None]
    whole, parts = sparse_points.Reservoir(100, 3), sparse_points.Reservoir(100, 3)
    whole.add(rows)
    for part in np.array_split(rows, 7):
        parts.add(part)
    np.testing.assert_array_equal(whole.rows(), parts.rows())
    # The mean of 100 out of 1000 numbers scatters by 27.
    assert abs(whole.rows().mean() - 499.5) < 100
    assert len(np.unique(whole.rows())) == 100


def test_what_cannot_be_factorised_is_named():
    with pytest.raises(UserError, match="jitter"):
        whitening(np.array([[1.0, 1.0], [1.0, 1.0 - 1e-9]]), 0.0)
    module = GaussianProcess(zeta=0)
    start = jax.jit(lambda x, e: module.init(jax.random.key(0), x, e, 2))
    with pytest.raises(UserError, match="zeta"):
        start(np.ones((5, 3)), ELEMENT)


def test_folded_constants_give_differences_to_isolated_atoms(process, features):
    module, variables = process
    alone = features[-2:]
    constants, outputs = module.fold(variables, alone)
    whole = evaluate(module, variables, features[:5])
    folded = evaluate(module, {**variables, "constants": constants}, features[:5])
    np.testing.assert_allclose(folded, whole - outputs[ELEMENT], atol=1e-11)


def test_a_folded_process_of_large_weights_keeps_its_digits_in_float32(process, features):
    """Weights of 1e5 that cancel: the usual sum loses 1e-2, the folded one a thousandth of it."""
    module, variables = process
    params = {"coefficients": 1e3 * np.asarray(variables["params"]["coefficients"])}
    variables = {**variables, "params": params}
    constants, outputs = module.fold(variables, features[-2:])
    near = np.asarray(constants["centres"])[ELEMENT, 1] + 1e-3 * features[:5]
    exact = evaluate(module, variables, near) - outputs[ELEMENT]
    single = jax.tree.map(np.float32, {**variables, "constants": constants})
    rounded = near.astype(np.float32)
    folded = evaluate(module, single, rounded)
    assert folded.dtype == np.float32
    slopes = np.abs(np.asarray(constants["slopes"])).max()
    np.testing.assert_allclose(folded, exact, rtol=3e-7, atol=6e-7 * slopes)
