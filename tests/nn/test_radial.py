import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.nn import radial

CUTOFF = 4.0


def test_bessel_is_the_published_function_up_to_a_constant():
    r = np.linspace(0.1, 3.9, 20)
    n = np.arange(1, 6)
    expected = np.sqrt(2 / CUTOFF) * np.sin(n * np.pi * r[:, None] / CUTOFF) / r[:, None]
    ours = radial.bessel(jnp.asarray(r), jnp.asarray(n, dtype=float), CUTOFF)
    constant = np.sqrt(2 / CUTOFF) * np.pi / CUTOFF
    np.testing.assert_allclose(ours * constant, expected, rtol=1e-12)


def test_bessel_has_finite_derivatives_at_zero():
    frequencies = jnp.arange(1.0, 4.0)

    def total(r):
        return jnp.sum(radial.bessel(r, frequencies, CUTOFF))

    assert np.isfinite(jax.grad(jax.grad(jax.grad(total)))(0.0))


@pytest.mark.parametrize("exponent", [2, 6])
def test_envelope_falls_from_one_to_zero_twice_continuously_differentiable(exponent):
    def value(r):
        return radial.polynomial_envelope(r, CUTOFF, exponent)

    slope, curvature = jax.grad(value), jax.grad(jax.grad(value))
    assert value(jnp.array(0.0)) == 1.0
    just_inside = jnp.array(CUTOFF - 1e-7)
    # Each further derivative loses one order of (c - r) / c = 2.5e-8.
    np.testing.assert_allclose(value(just_inside), 0.0, atol=1e-13)
    np.testing.assert_allclose(slope(just_inside), 0.0, atol=1e-11)
    np.testing.assert_allclose(curvature(just_inside), 0.0, atol=1e-4)
    for r in (CUTOFF, 1.5 * CUTOFF, 1000.0):
        assert value(jnp.array(r)) == slope(jnp.array(r)) == curvature(jnp.array(r)) == 0.0


@pytest.mark.parametrize("exponent", [2, 5, 8])
def test_envelope_is_that_of_the_paper_in_single_precision_too(exponent):
    p, r = exponent, np.linspace(0.0, CUTOFF, 201)[:-1]
    x = r / CUTOFF
    expected = 1.0 - x**p * ((p + 1) * (p + 2) / 2 - p * (p + 2) * x + p * (p + 1) / 2 * x * x)
    double = radial.polynomial_envelope(jnp.asarray(r), CUTOFF, exponent)
    np.testing.assert_allclose(double, expected, rtol=0.0, atol=1e-13)
    single = radial.polynomial_envelope(jnp.asarray(r, jnp.float32), CUTOFF, exponent)
    # The paper's form errs by 1e-6 of one, ours by rounding of 1 - x, three times.
    gap = np.maximum(1.0 - x, 1e-2)
    np.testing.assert_array_less(np.abs(single - expected), 2e-7 * expected / gap * 3 + 1e-13)


def test_a_trainable_basis_starts_as_the_fixed_one():
    r = jnp.linspace(0.0, 5.0, 11)
    fixed = radial.BesselBasis(CUTOFF, 8, 6)
    trained = radial.BesselBasis(CUTOFF, 8, 6, trainable=True)
    variables = trained.init(jax.random.key(0), r)
    np.testing.assert_array_equal(trained.apply(variables, r), fixed.apply({}, r))
    assert variables["params"]["frequencies"].shape == (8,)


def test_radial_network_of_zero_is_zero():
    kernels = radial.ScalarKernels((8, 16, 16)).init_with_output(
        jax.random.key(0), jnp.dtype(jnp.float64)
    )[0]
    assert not np.any(radial.hidden_network(kernels, jnp.zeros((2, 8))))


def test_radial_network_keeps_the_size_of_its_input():
    model = radial.ScalarKernels((64, 256, 256))
    kernels, _ = model.init_with_output(jax.random.key(0), jnp.dtype(jnp.float64))
    inputs = jax.random.normal(jax.random.key(1), (500, 64))
    first = inputs @ kernels[0]
    second = jax.nn.silu(first) @ kernels[1]
    # Unit variance at the first layer; SiLU's second moment is 0.356 and the gain squared is 2.
    np.testing.assert_allclose(jnp.var(first), 1.0, rtol=0.1)
    np.testing.assert_allclose(jnp.mean(second**2), 0.711, rtol=0.1)


def test_the_envelope_of_xplor_is_one_then_falls_smoothly_to_zero():
    r = np.array([0.0, 4.4, 4.5, 4.75, 5.0, 6.0])
    value = jax.jit(lambda x: radial.xplor_envelope(x, 4.5, 5.0))
    slope = jax.jit(jax.vmap(jax.grad(lambda x: radial.xplor_envelope(x, 4.5, 5.0))))
    square = 4.75**2
    middle = (25 - square) ** 2 * (25 + 2 * square - 3 * 20.25) / (25 - 20.25) ** 3
    np.testing.assert_allclose(value(r), [1, 1, 1, middle, 0, 0], atol=1e-14)
    np.testing.assert_allclose(slope(r[[0, 1, 2, 4, 5]]), 0.0, atol=1e-12)


def test_smooth_bessel_functions_are_orthonormal_and_end_smoothly():
    points, weights = np.polynomial.legendre.leggauss(60)
    r = 0.5 * CUTOFF * (points + 1.0)
    f = np.asarray(jax.jit(lambda r: radial.smooth_bessel(r, 5, CUTOFF))(r))
    overlaps = np.einsum("r,rn,rm->nm", 0.5 * CUTOFF * weights * r**2, f, f)
    np.testing.assert_allclose(overlaps, np.eye(5), atol=1e-12)

    def value(r):
        return jnp.sum(radial.smooth_bessel(r, 5, CUTOFF))

    slope, curvature = jax.grad(value), jax.grad(jax.grad(value))
    just_inside = jnp.array(CUTOFF - 1e-6)
    # They fall like (c - r)^3 times some 10^2.
    np.testing.assert_allclose(value(just_inside), 0.0, atol=1e-13)
    np.testing.assert_allclose(slope(just_inside), 0.0, atol=1e-9)
    np.testing.assert_allclose(curvature(just_inside), 0.0, atol=1e-3)
    for r in (CUTOFF, 1000.0):
        assert value(jnp.array(r)) == slope(jnp.array(r)) == curvature(jnp.array(r)) == 0.0
    assert np.isfinite(jax.grad(curvature)(0.0))


def test_cosine_envelope_falls_from_one_to_zero():
    value, slope = jax.vmap(jax.value_and_grad(lambda r: radial.cosine_envelope(r, CUTOFF)))(
        jnp.array([0.0, CUTOFF / 2, CUTOFF, 1000.0])
    )
    np.testing.assert_allclose(value, [1.0, 0.5, 0.0, 0.0], atol=1e-15)
    np.testing.assert_allclose(slope, [0.0, -np.pi / 2 / CUTOFF, 0.0, 0.0], atol=1e-15)


def test_gaussians_and_exponentials_are_the_published_functions():
    r = np.linspace(0.0, 3.9, 7)
    centres = np.linspace(0.0, 5.0, 4)
    found = radial.gaussians(jnp.asarray(r), centres, 0.5)
    np.testing.assert_allclose(found, np.exp(-0.5 * (r[:, None] - centres) ** 2), rtol=1e-13)
    mu, beta = radial.exp_normal_start(6, CUTOFF)
    # Unke and Meuwly (2019): centres evenly between exp(-c) and 1, widths (2 / K (1 - exp(-c)))^-2
    np.testing.assert_allclose(mu[[0, -1]], [np.exp(-CUTOFF), 1.0], rtol=1e-14)
    np.testing.assert_allclose(beta, (2.0 / 6.0 * (1.0 - np.exp(-CUTOFF))) ** -2, rtol=1e-14)
    found = radial.exp_normal(jnp.asarray(r), jnp.asarray(mu), jnp.asarray(beta), CUTOFF)
    expected = np.exp(-beta * (np.exp(-5.0 * r / CUTOFF)[:, None] - mu) ** 2)
    np.testing.assert_allclose(found, expected, rtol=1e-13)
