"""SOAP against sums over pairs of neighbours, and its radial bases against their limit."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket, make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.descriptors.soap import SOAP
from mlip_jax.descriptors.soap_radial import RadialSettings, radial_functions

SPECIES = (14, 8)
SOAP_OF_TWO = SOAP(
    species=SPECIES,
    cutoff=3.2,
    n_max=3,
    l_max=3,
    atom_sigma=0.45,
    cutoff_transition_width=0.7,
    central_weight=0.8,
    covariance_sigma0=0.1,
)


@pytest.fixture(scope="module")
def structure():
    rng = np.random.default_rng(0)
    cell = np.diag([4.1, 4.4, 4.9]) + 0.3 * rng.normal(size=(3, 3))
    positions = rng.uniform(size=(4, 3)) @ cell
    return Structure(np.array([8, 14, 14, 8]), positions, cell, np.array([True] * 3))


def spectra(descriptor, structure, dtype: Any = np.float64):
    graph = make_graph(structure, descriptor.cutoff, dtype=dtype)
    return np.asarray(jax.jit(lambda g: descriptor.apply({}, g))(graph))


def settings_of(soap: SOAP) -> RadialSettings:
    return RadialSettings(
        soap.radial_basis,
        soap.n_max,
        soap.l_max,
        soap.cutoff,
        soap.atom_sigma,
        soap.basis_error_exponent,
    )


def by_pairs(soap: SOAP, structure: Structure) -> np.ndarray:
    """`Σ_jk f_j f_k R_a(r_j) R_b(r_k) (2l + 1) P_l(cos γ_jk) / 4π / sqrt(2l + 1)`: no harmonics."""
    rows = []
    shifts = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), -1).reshape(-1, 3) @ structure.cell
    for center, own in zip(structure.positions, structure.atomic_numbers, strict=True):
        vectors = (shifts[:, None] + structure.positions - center).reshape(-1, 3)
        kinds = np.tile(structure.atomic_numbers, len(shifts))
        r = np.linalg.norm(vectors, axis=1)
        near = (r < soap.cutoff) & (r > 0)
        vectors, kinds, r = vectors[near] / r[near, None], kinds[near], r[near]
        falling = np.maximum(r - soap.cutoff + soap.cutoff_transition_width, 0.0)
        weight = 0.5 * (1.0 + np.cos(np.pi * falling / soap.cutoff_transition_width))
        radial = weight[:, None, None] * radial_functions(r, settings_of(soap))
        at_zero = soap.central_weight * radial_functions(np.zeros(1), settings_of(soap))
        radial = np.concatenate([radial, at_zero])  # the atom itself has l = 0 only
        vectors, kinds = np.concatenate([vectors, [[0, 0, 1]]]), np.append(kinds, own)
        channels = [(z, n) for z in SPECIES for n in range(soap.n_max)]
        values = []
        for a, (za, na) in enumerate(channels):
            for b, (zb, nb) in enumerate(channels[: a + 1]):
                for l in range(soap.l_max + 1):
                    legendre = scipy.special.eval_legendre(l, vectors @ vectors.T)
                    first = np.where(kinds == za, radial[:, l, na], 0.0)
                    second = np.where(kinds == zb, radial[:, l, nb], 0.0)
                    value = first @ legendre @ second * np.sqrt(2 * l + 1) / (4 * np.pi)
                    values.append(value if a == b else np.sqrt(2.0) * value)
        values = np.array(values)
        if soap.normalise:
            values = values / np.linalg.norm(values)
        rows.append(np.append(values, soap.covariance_sigma0))
    return np.array(rows)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"normalise": False}, marks=pytest.mark.slow),
        pytest.param({"radial_basis": "gto"}, marks=pytest.mark.slow),
        pytest.param({"radial_basis": "polynomial"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_spectra_are_sums_over_pairs_of_neighbours(structure, changes):
    soap = dataclasses.replace(SOAP_OF_TWO, **changes)
    expected = by_pairs(soap, structure)
    np.testing.assert_allclose(spectra(soap, structure), expected, atol=1e-12)
    low = spectra(soap, structure, np.float32)
    np.testing.assert_allclose(low, expected, atol=1e-6 * np.abs(expected).max())


def test_mixed_densities_are_those_of_weighted_elements(structure):
    """Mixing is linear: from sums over pairs of neighbours of the uncompressed spectra."""
    weights = ((0.9, -0.2), (0.3, 0.8))
    mixed = dataclasses.replace(
        SOAP_OF_TWO, element_channels=2, element_weights=weights, normalise=False
    )
    n, degrees = mixed.n_max, mixed.l_max + 1
    rows, columns = np.tril_indices(2 * n)
    separate = by_pairs(dataclasses.replace(SOAP_OF_TWO, normalise=False), structure)[:, :-1]
    separate = separate.reshape(len(separate), len(rows), degrees)
    full = np.zeros((len(separate), 2 * n, 2 * n, degrees))
    halves = np.where(rows == columns, 1.0, np.sqrt(0.5))[None, :, None]
    full[:, rows, columns] = full[:, columns, rows] = separate * halves
    full = full.reshape(-1, 2, n, 2, n, degrees)
    u = np.array(weights)
    full = np.einsum("sx,ty,asntml->axnyml", u, u, full).reshape(-1, 2 * n, 2 * n, degrees)
    expected = (full[:, rows, columns] / halves).reshape(len(full), -1)
    np.testing.assert_allclose(spectra(mixed, structure)[:, :-1], expected, atol=1e-12)


def test_unit_weights_leave_elements_apart(structure):
    units = dataclasses.replace(
        SOAP_OF_TWO, element_channels=2, element_weights=((1.0, 0.0), (0.0, 1.0))
    )
    expected = by_pairs(SOAP_OF_TWO, structure)
    np.testing.assert_allclose(spectra(units, structure), expected, atol=1e-12)


@pytest.mark.slow
def test_the_size_of_mixed_spectra_does_not_depend_on_the_elements(structure):
    few = dataclasses.replace(SOAP_OF_TWO, n_max=2, l_max=1, element_channels=2)
    many = dataclasses.replace(few, species=(1, 14, 6, 8, 22))
    assert few.isolated_features().shape[1] == many.isolated_features().shape[1]
    assert not np.allclose(*few.isolated_features())
    # Weights belong to elements, whatever their order and number.
    found = spectra(many, structure)
    np.testing.assert_allclose(found, spectra(few, structure), atol=1e-14)
    np.testing.assert_allclose(np.linalg.norm(found[:, :-1], axis=1), 1.0, atol=1e-12)


def test_features_of_isolated_atoms_are_those_of_a_call():
    for z in SPECIES:
        atom = Structure(np.array([z]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, bool))
        graph = make_graph(atom, 3.2, dtype=np.float64, bucket=Bucket(1, 1, 1))
        found = jax.jit(lambda g: SOAP_OF_TWO.apply({}, g))(graph)[0]
        expected = SOAP_OF_TWO.isolated_features()[SPECIES.index(z)]
        np.testing.assert_allclose(found, expected, atol=1e-14)


@pytest.mark.parametrize("basis", ["gaussian", "gto", "polynomial"])
def test_all_bases_have_the_same_limit(basis):
    """`Σ_n R_nl(r) R_nl(r')` tends to `∫ x² w_l(x, r) w_l(x, r') dx` (DLMF 10.22.67)."""
    r = np.array([1.5, 2.0, 2.6, 3.3])
    alpha = 0.5 / 0.7**2
    errors = []
    for n_max in (6, 10):
        radial = radial_functions(r, RadialSettings(basis, n_max, 3, 5.0, 0.7, 10.0))
        found = np.einsum("aln,bln->lab", radial, radial)
        bessel = [scipy.special.spherical_in(l, alpha * np.outer(r, r)) for l in range(4)]
        decay = np.exp(-0.5 * alpha * (r[:, None] ** 2 + r[None, :] ** 2))
        expected = np.sqrt(2.0 * np.pi * alpha) / (16.0 * alpha**2) * decay * np.stack(bessel)
        errors.append(np.abs(found - expected).max() / expected.max())
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.02


@pytest.mark.slow
def test_values_and_derivatives_are_finite_anywhere():
    """Coinciding, close and collinear atoms, one at the cutoff, and padding."""
    soap = dataclasses.replace(SOAP_OF_TWO, central_weight=0.0)

    @jax.jit
    def derivatives(graph):
        def total(x):
            features = soap.apply({}, dataclasses.replace(graph, positions=x))
            return jnp.sum(jnp.asarray(features) ** 3)

        x, gradient = graph.positions, jax.grad(total)
        return gradient(x), jax.jvp(gradient, (x,), (jnp.cos(x + 1.0),))[1]

    positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.3], [0.0, 0.0, -1.0]])
    molecule = Structure(np.array([14, 8, 8]), positions, np.zeros((3, 3)), np.zeros(3, bool))
    graph = make_graph(molecule, 3.3, dtype=np.float64, bucket=Bucket(1, 4, 5))
    for distance in (0.0, 1e-7, 0.3, 3.2):
        moved = np.array(graph.positions)
        moved[1, 2] = distance
        for values in derivatives(dataclasses.replace(graph, positions=moved)):
            assert np.isfinite(values).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"species": None}, "no species"),
        ({"atom_sigma": 0.01}, "wider atoms"),
        ({"cutoff_transition_width": 0.0}, "transition_width"),
        ({"n_max": 0}, "n_max >= 1"),
        ({"element_channels": 0}, "at least one channel"),
        ({"element_weights": ((1.0,), (1.0,))}, "element_channels"),
        ({"element_channels": 2, "element_weights": ((1.0,), (1.0,))}, "2 elements"),
        ({"n_max": 16, "radial_basis": "polynomial"}, "linearly dependent"),
    ],
)
def test_impossible_settings_are_refused(structure, fields, message):
    with pytest.raises(UserError, match=message):
        spectra(dataclasses.replace(SOAP_OF_TWO, **fields), structure)
