"""Active sets against their definition."""

import itertools

import numpy as np

from mlip_jax.train.active_set import inverse_of_active_set


def test_the_set_has_the_largest_volume_of_all_close_to_it():
    rows = np.random.default_rng(0).normal(size=(40, 4))
    inverse = inverse_of_active_set(rows)
    grades = np.abs(rows @ inverse).max(axis=1)
    assert grades.max() == 1.0
    active = np.flatnonzero(grades > 0.998)
    volumes = [abs(np.linalg.det(rows[list(c)])) for c in itertools.combinations(active, 4)]
    volume = max(volumes)
    chosen = next(
        c for c, v in zip(itertools.combinations(active, 4), volumes, strict=True) if v == volume
    )
    for place, row in itertools.product(range(4), range(len(rows))):
        exchanged = [*chosen[:place], row, *chosen[place + 1 :]]
        assert abs(np.linalg.det(rows[exchanged])) <= 1.002 * volume


def test_grades_grow_outside_of_the_data():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(200, 6))
    inverse = inverse_of_active_set(rows)
    direction = rng.normal(size=6)
    grades = [np.abs(t * direction @ inverse).max() for t in (1.0, 2.0, 5.0, 20.0)]
    np.testing.assert_allclose(grades, grades[0] * np.array([1.0, 2.0, 5.0, 20.0]), rtol=1e-12)
    assert grades[-1] > 1.0


def test_features_that_depend_on_each_other_are_survived():
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 8))
    inverse = inverse_of_active_set(rows)
    assert inverse.shape == (8, 3)
    assert np.abs(rows @ inverse).max() == 1.0


def test_elements_without_atoms_have_no_active_set():
    assert inverse_of_active_set(np.zeros((0, 5))).shape == (5, 0)
    assert inverse_of_active_set(np.zeros((4, 5))).shape == (5, 0)
