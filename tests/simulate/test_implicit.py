"""Implicit derivatives of minima against differences of minima, and conjugate gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax import units
from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure
from mlip_jax.simulate import implicit
from mlip_jax.simulate.conjugate_gradients import conjugate_gradients
from mlip_jax.simulate.system import prepare
from tests.simulate import argon, silicon

STEP = 1e-4
# Of a difference of fourth order between minima that are converged to 1e-9 eV/Å.
DIFFERENCE = 1e-6


def vacancy():
    """31 atoms around an empty place, which they have not yet noticed."""
    whole = argon.fcc((2, 2, 2), lattice=5.30)
    return dataclasses.replace(
        whole, atomic_numbers=whole.atomic_numbers[1:], positions=whole.positions[1:]
    )


def cluster():
    """Five atoms without a cell, rattled."""
    side = 3.8
    corners = side / np.sqrt(2.0) * np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
    cap = corners[1:].mean(axis=0) + side * np.sqrt(2.0 / 3.0) / np.sqrt(3.0) * np.ones(3)
    positions = np.concatenate([corners, cap[None]])
    positions += np.random.default_rng(3).normal(0.0, 0.05, positions.shape)
    return Structure(np.full(5, 18), positions, np.zeros((3, 3)), np.zeros(3, bool))


def difference(function):
    """Derivative of a function of a number at 0."""
    values = [function(h * STEP) for h in (-2, -1, 1, 2)]
    return np.tensordot([1.0, -8.0, 8.0, -1.0], np.array(values), axes=1) / (12 * STEP)


def loss_of(system, cell, weights):
    relaxed = implicit.relaxed_fn(system, cell=cell, tolerance=1e-9)

    def loss(variables, positions, box):
        result = relaxed(variables, positions, box)
        value = jnp.sum(weights[:-3] * result.positions) + jnp.sum(weights[-3:] * result.cell)
        return value + result.energy, result

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def check_parameters(structure, cell):
    """Slopes of positions, cell and energy by both parameters of Lennard-Jones."""
    system = prepare(argon.potential(), structure, "float64", 0.5)
    variables = jax.tree.map(jnp.asarray, system.variables)
    # No sum of zero: how all atoms move together counts, too.
    weights = np.random.default_rng(0).normal(size=(len(structure.positions) + 3, 3))
    loss = loss_of(system, cell, weights)
    (_, first), _ = loss(variables, structure.positions, structure.cell)
    assert bool(first.converged)
    start = (first.positions, first.cell)
    (_, result), slopes = loss(variables, *start)
    for name, value in variables["constants"].items():

        def along(h, name=name, value=value):
            changed = {"constants": {**variables["constants"], name: value * (1.0 + h)}}
            return float(loss(changed, *start)[0][0])

        slope = float((slopes["constants"][name] * value)[0])
        assert abs(slope) > 1e-2
        assert slope == pytest.approx(difference(along), rel=DIFFERENCE)
    return first, result


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["fixed", "hydrostatic", "full"])
def test_slopes_of_a_relaxed_crystal_are_differences(cell):
    structure = vacancy()
    first, _ = check_parameters(structure, cell)
    np.testing.assert_allclose(
        np.mean(first.positions @ np.linalg.inv(first.cell), axis=0),
        np.mean(structure.positions @ np.linalg.inv(structure.cell), axis=0),
        atol=1e-12,
    )
    if cell == "fixed":
        np.testing.assert_array_equal(first.cell, structure.cell)
    else:
        assert np.max(np.abs(np.trace(first.stress))) < 1e-9
        assert np.max(np.abs(first.cell - structure.cell)) > 1e-2


@pytest.mark.slow
def test_slopes_of_a_cluster_neither_move_nor_turn_it():
    check_parameters(cluster(), "fixed")


@pytest.mark.slow
def test_inner_displacements_of_a_sheared_crystal():
    """Forward derivatives by the cell: how atoms and stress follow a shear of silicon."""
    structure = silicon.diamond((1, 1, 1))
    system = prepare(silicon.potential(), structure, "float64", 0.5)
    relaxed = implicit.relaxed_fn(system, tolerance=1e-9)
    shear = np.zeros((3, 3))
    shear[0, 1] = shear[1, 0] = 0.5

    def strained(h):
        growth = jnp.eye(3) + h * shear
        result = relaxed({}, structure.positions @ growth, structure.cell @ growth)
        return result.positions, result.stress

    derivative = jax.jit(lambda: jax.jvp(strained, (0.0,), (1.0,))[1])()
    compiled = jax.jit(strained)
    for index in range(2):
        expected = difference(lambda h, i=index: np.asarray(compiled(h)[i]))
        np.testing.assert_allclose(derivative[index], expected, atol=1e-6)
    # Balamane, Halicioglu & Tiller (1992): the two sublattices move apart by 0.63 of what would
    # keep all bonds as long, and C44 is 56.4 GPa (117 GPa if atoms did not follow).
    inner = derivative[0] - structure.positions @ shear
    assert np.ptp(inner[:, 2]) / (silicon.LATTICE / 4.0) == pytest.approx(0.63, abs=0.005)
    assert derivative[1][0, 1] / units.GPA == pytest.approx(56.4, abs=0.2)


@pytest.mark.slow
def test_no_minimum_no_number():
    system = prepare(argon.potential(), vacancy(), "float64", 0.5)
    structure = system.structure
    relaxed = jax.jit(implicit.relaxed_fn(system, cell="full", tolerance=1e-9, max_steps=1))
    with jax.debug_nans(False):
        result = relaxed(system.variables, structure.positions, structure.cell)
        assert not bool(result.converged)
        assert np.all(np.isnan(result.positions))
        assert np.isnan(result.energy)


def test_impossible_cells_are_refused():
    system = prepare(argon.potential(), cluster(), "float64", 0.5)
    with pytest.raises(UserError, match="three periodic"):
        implicit.relaxed_fn(system, cell="full")
    with pytest.raises(UserError, match="got cubic"):
        implicit.relaxed_fn(system, cell="cubic")


def test_conjugate_gradients_solve_and_notice_negative_curvature():
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    right = jnp.asarray(rng.normal(size=6))
    matrix = jnp.asarray(rotation @ np.diag([0.1, 0.5, 1.0, 2.0, 3.0, 9.0]) @ rotation.T)
    solution, solved = conjugate_gradients(lambda v: matrix @ v, right, 1e-12, 50)
    assert bool(solved)
    np.testing.assert_allclose(matrix @ solution, right, atol=1e-10)
    _, solved = conjugate_gradients(lambda v: matrix @ v, right, 1e-12, 3)
    assert not bool(solved)
    nothing, solved = conjugate_gradients(lambda v: matrix @ v, jnp.zeros(6), 1e-12, 50)
    assert bool(solved)
    np.testing.assert_array_equal(nothing, 0.0)

    saddle = jnp.asarray(rotation @ np.diag([-0.1, 0.5, 1.0, 2.0, 3.0, 9.0]) @ rotation.T)
    step, solved = conjugate_gradients(lambda v: saddle @ v, right, 1e-12, 50)
    assert not bool(solved)
    assert float(right @ step) > 0.0
    step, solved = conjugate_gradients(lambda v: -(matrix @ v), right, 1e-12, 50)
    assert not bool(solved)
    np.testing.assert_array_equal(step, right)
