"""Gates and segments on a linear recurrence, whose derivatives are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.simulate import gates
from mlip_jax.simulate.differentiable import scan_segments

FACTOR, START, LENGTH = 1.3, 0.7, 12


def last(factor, start, gate=None, segment=0, length=LENGTH):
    """Value after `length` steps x <- a x, beside an integer that no gate may disturb."""

    def step(carry, index):
        carry = carry if gate is None else gate(index, carry)
        return {"x": factor * carry["x"], "count": carry["count"] + 1}, carry["x"]

    carry, seen = scan_segments(step, {"x": start, "count": 0}, 0, length, segment)
    return carry["x"], (carry["count"], seen)


def slopes(**options):
    return jax.grad(lambda a, x: last(a, x, **options)[0], argnums=(0, 1))(FACTOR, START)


@pytest.mark.parametrize(
    ("length", "segment"), [(1, None), (7, 0), (7, None), (7, 3), (12, 4), (12, 40)]
)
def test_segments_change_nothing(segment, length):
    value, (count, seen) = last(FACTOR, START, segment=segment, length=length)
    np.testing.assert_allclose(value, FACTOR**length * START, rtol=1e-14)
    assert int(count) == length
    np.testing.assert_allclose(seen, START * FACTOR ** np.arange(length), rtol=1e-14)
    by_factor, by_start = slopes(segment=segment, length=length)
    np.testing.assert_allclose(by_factor, length * FACTOR ** (length - 1) * START, rtol=1e-14)
    np.testing.assert_allclose(by_start, FACTOR**length, rtol=1e-14)


@pytest.mark.parametrize("every", [1, 4, 5, 11])
def test_a_truncated_derivative_sees_the_last_window(every):
    """The last gate stands before step g: x = a^(12 - g) y with y taken as constant."""
    value, (count, _) = last(FACTOR, START, gate=gates.truncated(every))
    np.testing.assert_allclose(value, FACTOR**LENGTH * START, rtol=1e-14)
    assert int(count) == LENGTH
    stop = every * ((LENGTH - 1) // every)
    by_factor, by_start = slopes(gate=gates.truncated(every))
    window, fixed = LENGTH - stop, FACTOR**stop * START
    np.testing.assert_allclose(by_factor, window * FACTOR ** (window - 1) * fixed, rtol=1e-14)
    assert by_start == 0.0


def test_a_gate_beyond_the_end_does_nothing():
    for gate in (gates.truncated(LENGTH), gates.clipped(LENGTH, 1e-3), gates.clipped(1, 1e6)):
        np.testing.assert_allclose(slopes(gate=gate), slopes(), rtol=1e-14)


@pytest.mark.parametrize("every", [1, 4, 5])
def test_a_clipped_derivative_starts_each_window_at_the_limit(every):
    """Cotangents grow by a each step, and are cut back to the limit before steps n, 2 n, …."""
    limit = 0.01
    _, by_start = slopes(gate=gates.clipped(every, limit))
    np.testing.assert_allclose(by_start, limit * FACTOR**every, rtol=1e-12)


def test_the_norm_is_that_of_all_arrays_and_directions_are_kept():
    def loss(tree):
        gated = gates.clipped(1, 1.0)(jnp.ones((), jnp.int32), tree)
        return jnp.sum(gated["x"] * jnp.array([3.0, 0.0])) + 4.0 * gated["y"]

    slope = jax.grad(loss)({"x": jnp.ones(2), "y": 2.0})
    np.testing.assert_allclose(slope["x"], [0.6, 0.0], rtol=1e-14)
    np.testing.assert_allclose(slope["y"], 0.8, rtol=1e-14)


def test_what_is_not_finite_stays_so():
    with jax.debug_nans(False):
        slope = jax.grad(lambda x: jnp.nan * gates.clipped(1, 1.0)(jnp.ones((), int), x))(1.0)
        assert np.isnan(slope)


def test_impossible_gates_are_refused():
    with pytest.raises(UserError, match="every: got 0"):
        gates.truncated(0)
    with pytest.raises(UserError, match="max_norm: got 0"):
        gates.clipped(5, 0.0)
