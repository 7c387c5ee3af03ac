"""Elastic constants: the literature, central forces, supercells, rotations, derivatives, LAMMPS."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mlip_jax import units
from mlip_jax.config import UserError
from mlip_jax.potential import predict_fn
from mlip_jax.properties import elastic, inputs
from mlip_jax.properties.elastic import elastic_constants, elastic_fn
from mlip_jax.properties.moduli import directional_young, moduli, stability
from tests.properties import crystals, lammps
from tests.simulate import argon, silicon


def test_stillinger_weber_silicon_has_the_constants_of_the_literature():
    found = elastic_constants(silicon.potential(), crystals.diamond(silicon.LATTICE))
    # Cowley, Phys. Rev. Lett. 60, 2379 (1988), for this potential with ε = 2.315 eV.
    unit = 2.1683 / 2.315 * units.GPA
    c11, c12, c44 = (found.stiffness[i] / unit for i in ((0, 0), (0, 1), (3, 3)))
    np.testing.assert_allclose([c11, c12, c44], [161.6, 81.6, 60.3], rtol=2e-3)
    assert found.clamped[3, 3] / unit == pytest.approx(117.2, rel=2e-3)
    assert found.max_force < 1e-12
    assert found.softest > 0.0
    np.testing.assert_allclose(found.stiffness, crystals.cubic(found.stiffness), atol=1e-12)


def test_relaxed_constants_are_slopes_of_the_relaxed_stress():
    strain, potential = 1e-4, silicon.potential()
    found = elastic_constants(potential, silicon.diamond((1, 1, 1)))
    slopes = []
    for sign in (1.0, -1.0):
        deformation = np.eye(3)
        deformation[1, 2] = deformation[2, 1] = 0.5 * sign * strain
        start = silicon.diamond((1, 1, 1))
        start = dataclasses.replace(
            start, cell=start.cell @ deformation, positions=start.positions @ deformation
        )
        slopes.append(sign * crystals.relaxed(potential, start).labels.stress[1, 2])
    assert sum(slopes) / (2 * strain) == pytest.approx(found.stiffness[3, 3], rel=1e-4)


def test_a_supercell_has_the_same_constants():
    potential = silicon.potential()
    one = elastic_constants(potential, crystals.diamond(silicon.LATTICE))
    eight = elastic_constants(potential, silicon.diamond((1, 1, 1)))
    np.testing.assert_allclose(one.stiffness, eight.stiffness, atol=1e-10)
    assert one.softest >= eight.softest > 0.0  # the larger cell has more modes


def test_constants_turn_with_the_crystal():
    potential, structure = silicon.potential(), crystals.diamond(silicon.LATTICE)
    rotation = Rotation.from_euler("xyz", (0.3, 0.7, -0.4)).as_matrix()
    turned = dataclasses.replace(
        structure, positions=structure.positions @ rotation.T, cell=structure.cell @ rotation.T
    )
    before, after = (elastic_constants(potential, s).stiffness for s in (structure, turned))
    tensor = np.einsum("ai,bj,ck,dl,ijkl->abcd", *[rotation] * 4, crystals.full_tensor(before))
    np.testing.assert_allclose(crystals.full_tensor(after), tensor, atol=1e-10)


def test_central_forces_obey_cauchy_and_scale_with_their_strength():
    potential = argon.potential()
    length = crystals.relaxed(potential, crystals.fcc(argon.LATTICE, 18), "hydrostatic").cell[0, 1]
    structure = crystals.fcc(2.0 * length, 18)
    variables, graph = inputs.variables_and_graph(potential, structure)

    def c11(epsilon):
        scaled = {"constants": {**variables["constants"], "epsilon": epsilon}}
        found = elastic_fn(predict_fn(potential.model))(scaled, graph)
        return found.stiffness[0, 0], found

    epsilon = variables["constants"]["epsilon"]
    (value, found), slope = jax.jit(jax.value_and_grad(c11, has_aux=True))(epsilon)
    assert float(slope[0] * epsilon[0]) == pytest.approx(float(value), rel=1e-12)
    np.testing.assert_allclose(found.stiffness[0, 1], found.stiffness[3, 3], rtol=1e-4)
    np.testing.assert_allclose(found.stiffness, found.clamped, atol=1e-14)  # one atom a cell
    assert np.isinf(found.softest)


def test_first_derivatives_hold_at_a_strain():
    potential = silicon.potential()
    variables, graph = inputs.variables_and_graph(potential, silicon.diamond((1, 1, 1), rattle=0.1))
    strain = jnp.array([0.01, -0.02, 0.015, 0.02, -0.01, 0.03])
    gradient = jax.jit(elastic.strained_gradient_fn(predict_fn(potential.model)))
    predict = jax.jit(predict_fn(potential.model))

    def energy(positions, strain):
        matrix = np.eye(3) + np.asarray(elastic.tensor_of_strain(strain))
        moved = dataclasses.replace(
            graph, positions=positions @ matrix, cell=graph.cell @ matrix[None]
        )
        return float(predict(variables, moved).energy[0])

    by_position, by_strain = gradient(variables, graph, graph.positions, strain)
    step = 1e-5
    for i in range(6):
        change = step * np.eye(6)[i]
        pair = [energy(graph.positions, strain + sign * change) for sign in (1, -1)]
        assert (pair[0] - pair[1]) / (2 * step) == pytest.approx(
            float(by_strain[i]), rel=1e-6, abs=1e-6
        )
    change = np.zeros(graph.positions.shape)
    change[3, 1] = step
    pair = [energy(graph.positions + sign * change, strain) for sign in (1, -1)]
    assert (pair[0] - pair[1]) / (2 * step) == pytest.approx(float(by_position[3, 1]), rel=1e-6)


def test_moduli_of_an_isotropic_solid_coincide():
    bulk, shear = 100.0, 40.0
    stiffness = np.diag([2 * shear] * 3 + [shear] * 3)
    stiffness[:3, :3] += bulk - 2 * shear / 3
    found = moduli(stiffness)
    np.testing.assert_allclose([found.bulk_voigt, found.bulk_reuss, found.bulk], bulk)
    np.testing.assert_allclose([found.shear_voigt, found.shear_reuss, found.shear], shear)
    young = 9 * bulk * shear / (3 * bulk + shear)
    np.testing.assert_allclose(found.young, young)
    np.testing.assert_allclose(found.poisson, young / (2 * shear) - 1)
    np.testing.assert_allclose(found.anisotropy, 0.0, atol=1e-12)
    directions = np.array([[1, 0, 0], [0.6, 0.8, 0], [0, 0.6, -0.8]])
    np.testing.assert_allclose(directional_young(stiffness, directions), young)
    np.testing.assert_allclose(stability(stiffness)[0], shear)


def test_voigt_bounds_reuss_and_instability_is_seen():
    stiffness = crystals.cubic([[150.0, 75.0], [0.0, 0.0]], shear=70.0)
    found = moduli(stiffness)
    assert found.shear_reuss < found.shear < found.shear_voigt
    # Along <100> Young's modulus of a cubic crystal is (C11 - C12) (C11 + 2 C12) / (C11 + C12).
    young = directional_young(stiffness, np.eye(3))
    np.testing.assert_allclose(young, 75.0 * 300.0 / 225.0)
    assert stability(stiffness)[0] > 0.0
    assert stability(crystals.cubic([[70.0, 75.0], [0.0, 0.0]], shear=70.0))[0] < 0.0


def test_a_slab_is_refused():
    structure = silicon.diamond((1, 1, 1))
    slab = dataclasses.replace(structure, pbc=np.array([True, True, False]))
    with pytest.raises(UserError, match="three periodic"):
        elastic_constants(silicon.potential(), slab)


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.parametrize("element", lammps.ELEMENTS)
def test_published_snap_potentials_give_the_constants_of_lammps(element):
    potential, expected = lammps.potential(element), lammps.numbers(element)
    found = elastic_constants(potential, lammps.crystal(element))
    stiffness = found.stiffness / units.GPA
    largest = np.max(expected["elastic_GPa"])
    np.testing.assert_allclose(stiffness, expected["elastic_GPa"], rtol=1e-5, atol=1e-6 * largest)
    assert np.abs(found.stress).max() < 1e-7
