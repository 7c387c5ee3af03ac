"""Equations of state: exact curves come back, other fits agree, and so does LAMMPS."""

import dataclasses

import ase.eos
import jax
import numpy as np
import pytest

from mlip_jax import units
from mlip_jax.config import UserError
from mlip_jax.potential import predict_fn
from mlip_jax.properties import equation_of_state as eos
from mlip_jax.properties import inputs
from mlip_jax.properties.elastic import elastic_constants
from mlip_jax.properties.moduli import moduli
from tests.properties import crystals, lammps
from tests.simulate import argon, silicon

E0, V0, B0, B1 = -8.7, 40.3, 0.62, 4.3
VOLUMES = V0 * np.linspace(0.9, 1.12, 8)


def birch_murnaghan(volumes):
    x = (V0 / volumes) ** (2 / 3)
    return E0 + 9 * V0 * B0 / 16 * ((x - 1) ** 3 * B1 + (x - 1) ** 2 * (6 - 4 * x))


def test_an_exact_curve_comes_back():
    found = jax.jit(eos.fit)(VOLUMES, birch_murnaghan(VOLUMES))
    values = [found.energy, found.volume, found.bulk_modulus, found.bulk_derivative]
    np.testing.assert_allclose(values, [E0, V0, B0, B1], rtol=1e-9)
    assert found.residual < 1e-12
    energies, pressures = eos.curve(found, VOLUMES)
    np.testing.assert_allclose(energies, birch_murnaghan(VOLUMES), rtol=1e-12)
    step = 1e-4
    slope = (birch_murnaghan(VOLUMES + step) - birch_murnaghan(VOLUMES - step)) / (2 * step)
    np.testing.assert_allclose(pressures, -slope, atol=1e-8)


def test_the_fit_of_ase_agrees():
    energies = birch_murnaghan(VOLUMES) + 1e-3 * np.random.default_rng(0).normal(size=8)
    found = eos.fit(VOLUMES, energies)
    volume, energy, bulk = ase.eos.EquationOfState(VOLUMES, energies, "birchmurnaghan").fit()
    np.testing.assert_allclose(
        [found.volume, found.energy, found.bulk_modulus], [volume, energy, bulk], rtol=1e-5
    )


def test_the_bulk_modulus_is_that_of_the_elastic_constants():
    potential, structure = silicon.potential(), crystals.diamond(silicon.LATTICE)
    found = eos.equation_of_state(potential, structure, span=0.04)
    (lattice,) = np.cbrt(4.0 * np.array([found.volume]))
    at_rest = elastic_constants(potential, crystals.diamond(float(lattice)))
    bulk = float(moduli(at_rest.stiffness).bulk)
    assert found.bulk_modulus == pytest.approx(bulk, rel=2e-3)
    assert lattice == pytest.approx(silicon.LATTICE, rel=1e-4)
    # Reference energies are counted.
    assert found.energy == pytest.approx(-2 * (100.0 + 2 * 2.1683), rel=1e-6)


def test_atoms_relax_at_each_volume():
    potential = silicon.potential()
    structure = silicon.diamond((1, 1, 1))
    crystal = dataclasses.replace(structure, positions=structure.positions.copy())
    crystal.positions[0] += 0.05
    found = eos.equation_of_state(potential, crystal, span=0.03, points=5)
    perfect = eos.equation_of_state(potential, structure, span=0.03, points=5, relax=False)
    np.testing.assert_allclose(found.energies, perfect.energies, atol=1e-9)
    held = eos.equation_of_state(potential, crystal, span=0.03, points=5, relax=False)
    assert held.energy > perfect.energy + 1e-3


def test_the_bulk_modulus_scales_with_the_strength():
    potential = argon.potential()
    variables, graph = inputs.variables_and_graph(
        potential, eos.scaled_structures(crystals.fcc(argon.LATTICE, 18), 0.05, 5)
    )

    def bulk(epsilon):
        scaled = {"constants": {**variables["constants"], "epsilon": epsilon}}
        found = eos.equation_of_state_fn(predict_fn(potential.model))(scaled, graph)
        return found.bulk_modulus, found.volume

    epsilon = variables["constants"]["epsilon"]
    (value, _), slope = jax.jit(jax.value_and_grad(bulk, has_aux=True))(epsilon)
    assert float(slope[0] * epsilon[0]) == pytest.approx(float(value), rel=1e-10)
    of_volume = jax.jit(jax.grad(lambda e: bulk(e)[1]))(epsilon)
    np.testing.assert_allclose(of_volume, 0.0, atol=1e-8)


def test_what_cannot_be_fitted_is_refused():
    potential, structure = silicon.potential(), crystals.diamond(silicon.LATTICE)
    with pytest.raises(UserError, match="got 3 points"):
        eos.equation_of_state(potential, structure, points=3)
    slab = dataclasses.replace(structure, pbc=np.array([True, True, False]))
    with pytest.raises(UserError, match="three periodic"):
        eos.equation_of_state(potential, slab)
    with pytest.raises(UserError, match="no minimum between"):
        eos.equation_of_state(potential, crystals.diamond(5.7), span=0.02)


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.parametrize("element", lammps.ELEMENTS)
def test_published_snap_potentials_give_the_energies_of_lammps(element):
    potential, expected = lammps.potential(element), lammps.numbers(element)["equation_of_state"]
    volumes, energies = (np.array(expected[key]) for key in ("volumes_A3", "energies_eV"))
    structure, cells = lammps.crystal(element), 4
    found = eos.equation_of_state(potential, structure, span=0.06, points=7, relax=False)
    np.testing.assert_allclose(cells * found.volumes, volumes, rtol=1e-10)
    np.testing.assert_allclose(cells * found.energies, energies, atol=1e-7)
    volume, energy, bulk = ase.eos.EquationOfState(volumes, energies, "birchmurnaghan").fit()
    np.testing.assert_allclose(cells * found.volume, volume, rtol=1e-5)
    np.testing.assert_allclose(cells * found.energy, energy, atol=1e-5)
    np.testing.assert_allclose(found.bulk_modulus, bulk, rtol=1e-4)
    constants = np.array(lammps.numbers(element)["elastic_GPa"])
    by_stress = constants[:3, :3].mean() * units.GPA
    # The curve over ±6 % is 1 % off the curvature in the middle, which the energies have.
    step = found.volumes[4] - found.volumes[3]
    curvature = (found.energies[4] + found.energies[2] - 2 * found.energies[3]) / step**2
    assert found.volumes[3] * curvature == pytest.approx(by_stress, rel=1e-3)
