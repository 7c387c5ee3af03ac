"""Frames of a trajectory as arrays, and files that are none."""

import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.data.formats import extxyz
from mlip_jax.data.structure import Structure
from mlip_jax.simulate import series

CELL, PBC = 5.0 * np.eye(3), np.array([True, True, True])


def write(path, frames, times, numbers=None, momenta=None):
    with path.open("w") as file:
        for i, (positions, time) in enumerate(zip(frames, times, strict=True)):
            elements = np.full(2, 18) if numbers is None else numbers[i]
            arrays = {} if momenta is None or momenta[i] is None else {"momenta": momenta[i]}
            structure = Structure(elements, positions, CELL, PBC)
            file.write(extxyz.format_frame(structure, {"time": time}, arrays))
    return path


@pytest.fixture
def frames():
    moved = np.linspace(0.0, 6.0, 8)[:, None, None] * np.ones((1, 2, 3))
    return (moved + np.array([[0.1, 0.2, 0.3], [2.0, 2.1, 2.2]])) % 5.0


def test_frames_are_read_with_their_spacing(tmp_path, frames):
    momenta = np.random.default_rng(0).normal(size=frames.shape)
    path = write(tmp_path / "a.extxyz", frames, 4.0 * np.arange(8), momenta=momenta)
    found = series.read_series(path, "::2")
    assert found.interval == pytest.approx(8.0)
    assert found.momenta is not None
    np.testing.assert_allclose(found.momenta, momenta[::2], atol=1e-8)
    steps = np.diff(series.read_series(path).positions, axis=0)
    np.testing.assert_allclose(steps, 6.0 / 7, atol=1e-7)


def test_what_is_no_series_is_refused(tmp_path, frames):
    with pytest.raises(UserError, match="no such file"):
        series.read_series(tmp_path / "gone.extxyz")
    uneven = write(tmp_path / "a.extxyz", frames, np.arange(8) ** 2)
    with pytest.raises(UserError, match="not evenly spaced"):
        series.read_series(uneven)
    with pytest.raises(UserError, match="got 1 frames"):
        series.read_series(uneven, "7:")
    numbers = [np.array([18, 18])] * 7 + [np.array([18, 10])]
    other = write(tmp_path / "b.extxyz", frames, np.arange(8), numbers)
    with pytest.raises(UserError, match="frame 7: is another system than frame 0"):
        series.read_series(other)
    momenta = [np.ones((2, 3))] * 7 + [None]
    partly = write(tmp_path / "c.extxyz", frames, np.arange(8), momenta=momenta)
    with pytest.raises(UserError, match="frame 7: has no momenta"):
        series.read_series(partly)
