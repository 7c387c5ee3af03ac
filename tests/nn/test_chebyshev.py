"""Chebyshev series: numpy's polynomials, and functions that need many or too many terms."""

import jax
import numpy as np
import pytest

from mlip_jax.nn import chebyshev

Y = np.linspace(-1.0, 1.0, 41)


@pytest.mark.parametrize("number", [1, 2, 3, 9, 40])
def test_polynomials_are_those_of_numpy(number):
    weight = np.cos(Y)
    found = jax.jit(lambda y, w: chebyshev.polynomials(y, number, w))(Y, weight)
    expected = np.polynomial.chebyshev.chebvander(Y, number - 1).T * weight
    # A recurrence adds a few roundings in each step.
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_series_gives_its_function_back_with_as_many_terms_as_it_needs():
    def function(y):
        return np.stack([np.exp(-20.0 * (y - 0.3) ** 2), np.cos(3.0 * y)], axis=-1)

    long, short = (chebyshev.series(function, precision) for precision in (0.0, 1e-7))
    assert len(short) < len(long) < 80
    np.testing.assert_allclose(np.polynomial.chebyshev.chebval(Y, long).T, function(Y), atol=1e-14)
    np.testing.assert_allclose(np.polynomial.chebyshev.chebval(Y, short).T, function(Y), atol=1e-6)


def test_even_functions_are_not_cut_at_their_missing_terms():
    coefficients = chebyshev.series(lambda y: np.cos(9.0 * y), 0.0)
    np.testing.assert_allclose(
        np.polynomial.chebyshev.chebval(Y, coefficients), np.cos(9.0 * Y), atol=1e-14
    )


def test_what_is_not_smooth_is_refused():
    with pytest.raises(ValueError, match="do not resolve"):
        chebyshev.series(lambda y: np.abs(y), 0.0)
