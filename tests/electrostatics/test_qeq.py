"""Charges of lowest energy against a bordered system of numpy, differences and the reference."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.data.collate import Bucket, make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.electrostatics import ewald, qeq
from mlip_jax.graph import AtomOutputs
from mlip_jax.potential import predict_fn
from tests.electrostatics import sums
from tests.electrostatics.test_ewald import (
    ACCURACY,
    CELL,
    POSITIONS,
    WIDTHS,
    padded,
    structure,
)

CHI = np.array([3.1, 5.2, 2.4, 6.0])
HARDNESS = np.array([6.0, 8.5, 4.0, 11.0])


def model(cutoff):
    """Energies χq + Jq²/2 + q·A q/2, whose derivatives by the charges are the multiplier."""

    def energies(parameters, graph):
        chi, hardness, widths = parameters
        matrix = ewald.interaction_matrix(graph, widths, cutoff, sums.K)
        q = qeq.equilibrate(graph, chi, hardness, matrix).charges
        values = chi * q + 0.5 * hardness * q * q
        return AtomOutputs(values + 0.5 * q * jnp.matmul(matrix, q), charges=q)

    return energies


def batch():
    """A charged cell, an open structure without a charge, one padded structure and atoms."""
    charged = dataclasses.replace(structure(), total_charge=-0.7)
    structures = [charged, structure(periodic=False)]
    cutoff = ewald.reciprocal_cutoff(float(WIDTHS.min()), ACCURACY)
    exact = make_graph(structures, 1.0, reciprocal_cutoff=cutoff)
    bucket = Bucket(3, 11, 4, k_range=exact.k_range)
    graph = make_graph(structures, 1.0, dtype=np.float64, bucket=bucket)
    parameters = tuple(padded(np.tile(v, 2), 11) for v in (CHI, HARDNESS, WIDTHS))
    return jax.tree.map(jnp.asarray, graph), cutoff, parameters


def test_charges_of_a_padded_batch():
    graph, cutoff, (chi, hardness, widths) = batch()

    @jax.jit
    def solve(graph):
        matrix = ewald.interaction_matrix(graph, widths, cutoff, sums.K)
        return qeq.equilibrate(graph, chi, hardness, matrix)

    found = solve(graph)
    periodic = sums.ewald_matrix(POSITIONS, CELL, WIDTHS, alpha=0.5, real=5, reciprocal=5)
    alone = sums.open_matrix(POSITIONS, WIDTHS)
    for index, (matrix, total) in enumerate(((periodic, -0.7), (alone, 0.0))):
        charges, multiplier = sums.equilibrate(matrix, CHI, HARDNESS, total)
        rows = slice(4 * index, 4 * index + 4)
        # 1e-13: rounding of two solutions of a system with a condition of some 10.
        np.testing.assert_allclose(found.charges[rows], charges, rtol=0, atol=1e-13)
        assert float(found.multipliers[index]) == pytest.approx(multiplier, rel=1e-13)
    assert (np.asarray(found.charges[8:]) == 0.0).all()
    neutral = solve(dataclasses.replace(graph, total_charge=None))
    assert abs(float(jnp.sum(neutral.charges[:4]))) < 1e-14


def test_forces_contain_the_change_of_the_charges():
    """The energy is stationary in the charges, but a function of the charges is not."""
    graph, cutoff, parameters = batch()
    energies = model(cutoff)

    def dipole(parameters, graph):
        charges = energies(parameters, graph).charges
        assert charges is not None
        return AtomOutputs(charges**2 * jnp.arange(1.0, 12.0))

    for function in (energies, dipole):
        predict = jax.jit(predict_fn(function))
        prediction = predict(parameters, graph)
        for atom, axis in ((1, 0), (6, 2)):
            step = np.zeros((11, 3))
            step[atom, axis] = 1e-3

            def energy(n, step=step, predict=predict):
                moved = dataclasses.replace(graph, positions=graph.positions + n * step)
                return float(predict(parameters, moved).energy.sum())

            values = [energy(n) for n in (-2, -1, 1, 2)]
            slope = (values[0] - 8.0 * values[1] + 8.0 * values[2] - values[3]) / 12e-3
            # 1e-8: fourth-order differences with a step of 1e-3 Å.
            assert float(prediction.forces[atom, axis]) == pytest.approx(-slope, abs=1e-8)


@pytest.mark.slow
def test_second_derivatives_exist_and_are_right():
    graph, cutoff, parameters = batch()
    predict = predict_fn(model(cutoff))

    @jax.jit
    def gradient(chi):
        def loss(chi):
            forces = predict((chi, *parameters[1:]), graph).forces
            return jnp.sum(forces**2)

        return jax.value_and_grad(loss)(chi)

    direction = jnp.asarray(np.random.default_rng(0).normal(size=11))
    _, slope = gradient(parameters[0])
    assert np.isfinite(slope).all()
    assert (np.asarray(slope[8:]) == 0.0).all()
    values = [float(gradient(parameters[0] + h * direction)[0]) for h in (-1e-4, 1e-4)]
    expected = (values[1] - values[0]) / 2e-4
    assert float(jnp.sum(slope * direction)) == pytest.approx(expected, rel=1e-7)


def test_atoms_close_together_give_finite_charges():
    graph = make_graph(structure(periodic=False), 1.0, dtype=np.float64, bucket=Bucket(1, 4, 4))
    predict = jax.jit(predict_fn(model(1.0)))
    parameters = tuple(jnp.asarray(v) for v in (CHI, HARDNESS, WIDTHS))
    for distance in (0.0, 1e-8, 0.3):
        positions = np.array([[0.0, 0, 0], [distance, 0, 0], [9.0, 0, 0], [0, 9.0, 0]])
        here = dataclasses.replace(graph, k_range=(0, 0, 0), positions=positions)
        prediction = predict(parameters, here)
        assert np.isfinite(prediction.forces).all()
        assert np.abs(prediction.charges).max() < 2.0


@pytest.mark.reference
@pytest.mark.skipif(not sums.REFERENCE.exists(), reason=sums.REASON)
@pytest.mark.parametrize("index", range(len(sums.cases("qeq_gaussian"))))
def test_the_reference_of_equilibrated_charges(index):
    """1e-9, as the reference states for itself."""
    case = sums.cases("qeq_gaussian")[index]
    found = Structure(
        case["numbers"],
        case["positions"],
        case["cell"],
        case["pbc"],
        total_charge=float(case["total_charge"]),
    )
    widths, chi, hardness = (jnp.asarray(case[k]) for k in ("sigmas", "chi", "hardness"))
    cutoff = ewald.reciprocal_cutoff(float(widths.min()), ACCURACY)
    graph = make_graph(found, 1.0, dtype=np.float64, reciprocal_cutoff=cutoff)
    prediction = jax.jit(predict_fn(model(cutoff)))((chi, hardness, widths), graph)
    np.testing.assert_allclose(prediction.charges, case["charges"], rtol=0, atol=1e-9)
    assert float(prediction.energy[0]) == pytest.approx(float(case["energy"]), rel=1e-9)
    np.testing.assert_allclose(prediction.forces, case["forces"], rtol=0, atol=1e-9)
    if found.pbc.all():
        np.testing.assert_allclose(prediction.stress[0], case["stress"], rtol=0, atol=1e-9)
