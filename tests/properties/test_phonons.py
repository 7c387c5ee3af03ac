"""Phonons: folded zones, images, phonopy, derivatives, LAMMPS."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.potential import predict_fn
from mlip_jax.properties import inputs, lattice_dynamics, phonons
from mlip_jax.properties.phonons import phonon_frequencies
from tests.properties import crystals, lammps
from tests.simulate import argon, silicon

GAMMA, X, L = (0.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.5, 0.5, 0.5)
needs_phonopy = pytest.mark.skipif(
    importlib.util.find_spec("phonopy") is None,
    reason="phonopy is not installed: pip install 'mlip_jax[phonons]'",
)


def test_the_zone_folds():
    """At Γ a supercell has the modes of all wave vectors of the primitive cell that fit it."""
    potential, primitive = silicon.potential(), crystals.diamond(silicon.LATTICE)
    large, _ = phonons.supercell(primitive, (2, 2, 1))
    fitting = np.array([[i / 2, j / 2, 0.0] for i in range(2) for j in range(2)])
    unfolded = phonon_frequencies(potential, primitive, (2, 2, 1), fitting)
    folded = phonon_frequencies(potential, large, (1, 1, 1), np.array([GAMMA]))
    np.testing.assert_allclose(np.sort(unfolded.ravel()), folded[0], atol=1e-5)


def test_translations_cost_nothing_and_optical_modes_are_degenerate():
    found = phonon_frequencies(
        silicon.potential(), crystals.diamond(silicon.LATTICE), (2, 2, 2), np.array([GAMMA, X, L])
    )
    np.testing.assert_allclose(found[0, :3], 0.0, atol=1e-5)
    np.testing.assert_allclose(found[0, 3:], found[0, 3], rtol=1e-9)
    assert np.all(found[1:] > 1.0)


def test_frequencies_go_with_the_root_of_the_strength():
    potential = argon.potential()
    large, layout = phonons.supercell(crystals.fcc(argon.LATTICE, 18), (2, 2, 2))
    variables, graph = inputs.variables_and_graph(potential, large)
    points = jnp.array([GAMMA, X, (0.1, 0.2, 0.3)])
    at = phonons.frequencies_fn(predict_fn(potential.model))

    def highest(epsilon):
        scaled = {"constants": {**variables["constants"], "epsilon": epsilon}}
        return at(scaled, graph, layout, points)[1:, 2]

    epsilon = variables["constants"]["epsilon"]
    values, slopes = jax.jit(lambda e: (highest(e), jax.jacrev(highest)(e)))(epsilon)
    np.testing.assert_allclose(slopes[:, 0] * epsilon[0], 0.5 * values, rtol=1e-9)
    total = jax.jit(jax.grad(lambda e: jnp.sum(at({"constants": {**variables["constants"],
                    "epsilon": e}}, graph, layout, points) ** 2)))(epsilon)  # fmt: skip
    assert np.all(np.isfinite(total))  # Γ too, where roots of zero are taken


def test_nearest_images_of_a_skewed_cell_are_all_found():
    cell = np.array([[4.0, 0.0, 0.0], [3.5, 4.0, 0.0], [-2.0, 7.0, 5.0]])
    vectors = np.random.default_rng(0).uniform(-9.0, 9.0, (2, 5, 3))
    vectors[0, 0], vectors[1, 1] = 0.0, 0.5 * cell[0]
    images, weights = phonons.nearest_images(vectors, cell)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0)
    wide = np.stack(np.meshgrid(*[np.arange(-9, 10)] * 3, indexing="ij"), -1).reshape(-1, 3) @ cell
    lengths = np.linalg.norm(vectors[:, :, None] + wide, axis=-1)
    shortest = lengths.min(axis=-1)
    np.testing.assert_allclose(np.linalg.norm(images, axis=-1)[weights > 0], np.repeat(
        shortest.ravel(), (weights > 0).sum(axis=-1).ravel()), atol=1e-3)  # fmt: skip
    count = (lengths < shortest[..., None] + 1e-4).sum(axis=-1)
    np.testing.assert_array_equal((weights > 0).sum(axis=-1), count)
    moved = (images - vectors[:, :, None]) @ np.linalg.inv(cell)
    np.testing.assert_allclose(moved, np.rint(moved), atol=1e-9)


@needs_phonopy
def test_derivatives_and_displacements_agree_and_so_do_bands():
    potential, structure = silicon.potential(), silicon.diamond((1, 1, 1))
    settings = {"temperatures": (0.0, 300.0, 3000.0), "mesh": 30.0}
    exact = lattice_dynamics.lattice_dynamics(potential, structure, (2, 2, 2), **settings)
    differences = lattice_dynamics.lattice_dynamics(
        potential, structure, (2, 2, 2), method="displacements", **settings
    )
    assert exact.stable
    assert exact.primitive.num_atoms == 2
    for name, expected in differences.corners.items():
        np.testing.assert_allclose(exact.corners[name], expected, rtol=1e-3, atol=1e-4)
    # Integrated density and the limit of Dulong and Petit count the modes.
    assert np.trapezoid(exact.dos, exact.dos_frequencies) == pytest.approx(6.0, rel=1e-2)
    heat = exact.thermodynamics.heat_capacities / 8.617333262e-5
    assert heat[0] == 0.0
    assert heat[2] == pytest.approx(6.0, rel=0.02)
    zero_point = exact.thermodynamics.free_energies[0]
    mean = np.trapezoid(exact.dos * exact.dos_frequencies, exact.dos_frequencies)
    assert zero_point == pytest.approx(0.5 * 4.135667696e-3 * mean, rel=0.01)


@needs_phonopy
def test_between_commensurate_wave_vectors_phonopy_interpolates_alike():
    potential, structure = silicon.potential(), crystals.diamond(silicon.LATTICE)
    points = np.array([(0.1, 0.2, 0.3), (0.25, 0.0, 0.05), (0.5, 0.31, 0.11)])
    crystal = lattice_dynamics.phonopy_of(structure, (3, 3, 3))
    np.testing.assert_allclose(crystal.primitive.cell, structure.cell, atol=1e-12)
    crystal.force_constants = lattice_dynamics.derivatives(potential, crystal)
    crystal.run_qpoints(points)
    ours = phonon_frequencies(potential, structure, (3, 3, 3), points)
    np.testing.assert_allclose(ours, crystal.qpoints.frequencies, atol=1e-5)


@needs_phonopy
def test_a_stretched_crystal_is_unstable_and_said_to_be():
    found = lattice_dynamics.lattice_dynamics(
        argon.potential(), crystals.fcc(1.2 * argon.LATTICE, 18), (2, 2, 2), mesh=20.0
    )
    assert not found.stable
    assert found.lowest < -0.1


@needs_phonopy
def test_a_slab_has_no_phonons_here():
    structure = silicon.diamond((1, 1, 1))
    slab = dataclasses.replace(structure, pbc=np.array([True, True, False]))
    with pytest.raises(UserError, match="three periodic"):
        lattice_dynamics.lattice_dynamics(silicon.potential(), slab, (1, 1, 1))


def test_without_phonopy_the_message_says_how(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'mlip_jax\[phonons\]'"):
        lattice_dynamics.require_phonopy()


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.parametrize("element", lammps.ELEMENTS)
def test_published_snap_potentials_give_the_frequencies_of_lammps(element):
    potential = lammps.potential(element)
    expected = lammps.numbers(element)["frequencies_THz"]
    points = np.array([{"G": GAMMA, "X": X, "L": L}[name] for name in expected])
    found = phonon_frequencies(potential, lammps.crystal(element), (2, 2, 2), points)
    # Displacements of 0.005 Å there leave differences of third order.
    np.testing.assert_allclose(found, list(expected.values()), rtol=1e-4, atol=1e-5)


@needs_phonopy
@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.parametrize("element", lammps.ELEMENTS)
def test_published_snap_potentials_have_the_derivatives_of_phonopys_displacements(element):
    potential, structure = lammps.potential(element), lammps.crystal(element)
    crystal = lattice_dynamics.phonopy_of(structure, (2, 2, 2))
    found = []
    for constants in (lattice_dynamics.derivatives(potential, crystal), None):
        if constants is None:
            lattice_dynamics.displace(potential, crystal, 0.01)
        else:
            crystal.force_constants = constants
        crystal.run_qpoints(np.array([GAMMA, X, L]))
        found.append(np.array(crystal.qpoints.frequencies))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-3)
