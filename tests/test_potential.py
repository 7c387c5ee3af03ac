"""The derivative of an energy: sums of terms, per-atom virials, Hessian products, references."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.graph import AtomicGraph, AtomOutputs, edge_vectors, safe_norm
from mlip_jax.models.pair import Morse
from mlip_jax.potential import (
    Potential,
    atom_virials_fn,
    hessian_vector_product_fn,
    predict_fn,
    sum_energies,
)

CUTOFF = 3.0


def _spring(variables, graph: AtomicGraph) -> AtomOutputs:
    """A smooth many-body energy: the square root of a density of neighbours."""
    r = safe_norm(edge_vectors(graph))
    inside = r < CUTOFF
    density = jnp.sum(jnp.where(inside, (1.0 - jnp.where(inside, r, CUTOFF) / CUTOFF) ** 4, 0.0), 1)
    return AtomOutputs(energies=-variables["k"] * (jnp.sqrt(1.0 + density) - 1.0))


def _external(variables, graph: AtomicGraph) -> AtomOutputs:
    """A term of positions with charges, without a pair form."""
    energies = variables["field"] * graph.positions[:, 0]
    return AtomOutputs(energies=energies, charges=jnp.ones_like(energies))


def _by_element(variables, graph: AtomicGraph) -> AtomOutputs:
    """A pair energy with a strength for each element, taken from a table as models do."""
    r = safe_norm(edge_vectors(graph))
    pairs = jnp.where(r < CUTOFF, (1.0 - jnp.where(r < CUTOFF, r, CUTOFF) / CUTOFF) ** 4, 0.0)
    return AtomOutputs(energies=variables["k"][graph.atomic_numbers] * jnp.sum(pairs, axis=1))


def _structure(pbc=True) -> Structure:
    rng = np.random.default_rng(0)
    cell = np.diag([3.4, 3.6, 3.9]) + 0.2 * rng.normal(size=(3, 3))
    positions = np.array([[0, 0, 0], [0.5, 0.5, 0.1], [0.1, 0.4, 0.6]]) @ cell
    periodic = np.array([True, True, pbc])
    return Structure(np.full(3, 14), positions, cell, periodic)


def _graph(pbc=True) -> AtomicGraph:
    return jax.tree.map(jnp.asarray, make_graph(_structure(pbc), CUTOFF + 0.3, dtype=np.float64))


def test_terms_add():
    graph = _graph()
    variables = ({"k": 0.7}, {"field": 0.3})
    total = predict_fn(sum_energies(_spring, _external))(variables, graph)
    terms = [predict_fn(f)(v, graph) for f, v in zip((_spring, _external), variables, strict=True)]
    np.testing.assert_allclose(total.energy, terms[0].energy + terms[1].energy, rtol=1e-14)
    np.testing.assert_allclose(total.forces, terms[0].forces + terms[1].forces, atol=1e-14)
    np.testing.assert_allclose(terms[1].forces[:, 0], -0.3, rtol=1e-14)
    assert total.charges is not None
    np.testing.assert_array_equal(total.charges, 1.0)


def test_arrays_of_numpy_will_do_with_and_without_jit():
    """Variables as they come from the disk and a graph as `make_graph` makes it."""
    graph = make_graph(_structure(), CUTOFF + 0.3, dtype=np.float64)
    assert isinstance(graph.positions, np.ndarray)
    variables = {"k": np.linspace(0.1, 1.0, 20)}
    predict = predict_fn(_by_element)
    expected = predict(*jax.tree.map(jnp.asarray, (variables, graph)))
    assert np.abs(expected.forces).max() > 1e-3
    for found in (
        predict(variables, graph),
        jax.jit(predict)(variables, graph),
        jax.jit(lambda inputs: predict(variables, inputs))(graph),
        atom_virials_fn(_by_element)(variables, graph),
    ):
        np.testing.assert_allclose(found.energy, expected.energy, rtol=1e-13)
        np.testing.assert_allclose(found.forces, expected.forces, atol=1e-13)


def test_terms_may_have_graphs_of_their_own():
    near = _graph()
    wide = make_graph(_structure(), CUTOFF + 2.0, dtype=np.float64)
    far = jax.tree.map(jnp.asarray, wide)
    outputs = sum_energies(_spring, _spring)(({"k": 1.0}, {"k": 2.0}), (near, far))
    np.testing.assert_allclose(outputs.energies, 3.0 * _spring({"k": 1.0}, near).energies)
    with pytest.raises(ValueError, match="shorter"):
        sum_energies(_spring, _spring)(({"k": 1.0},), near)


def test_atom_virials_sum_to_the_virial():
    graph, variables = _graph(), {"k": 0.7}
    expected = predict_fn(_spring)(variables, graph)
    prediction = atom_virials_fn(_spring)(variables, graph)
    np.testing.assert_allclose(prediction.virial, expected.virial, atol=1e-13)
    assert prediction.atom_virials is not None
    np.testing.assert_allclose(prediction.atom_virials.sum(0), expected.virial[0], atol=1e-13)
    np.testing.assert_allclose(prediction.forces, expected.forces, atol=1e-13)


def test_stress_is_the_derivative_with_respect_to_strain_over_the_volume():
    graph, variables = _graph(), {"k": 0.7}
    prediction = predict_fn(_spring)(variables, graph)
    h = 1e-5

    def energy(n):
        scale = 1.0 + n * h
        bigger = dataclasses.replace(
            graph, positions=graph.positions * scale, cell=graph.cell * scale
        )
        return float(_spring(variables, bigger).energies.sum())

    slope = (energy(1) - energy(-1)) / (2.0 * h)
    volume = abs(np.linalg.det(np.asarray(graph.cell[0])))
    # Positive under tension: stretching a cohesive crystal costs energy.
    assert slope > 0.0
    np.testing.assert_allclose(np.trace(prediction.stress[0]) * volume, slope, rtol=1e-8)
    np.testing.assert_allclose(np.trace(prediction.virial[0]), -slope, rtol=1e-8)


def test_stress_is_zero_where_it_is_not_defined():
    prediction = predict_fn(_spring)({"k": 0.7}, _graph(pbc=False))
    np.testing.assert_array_equal(prediction.stress, 0.0)
    assert np.abs(prediction.virial).max() > 1e-3


def test_hessian_products_equal_differences():
    graph, variables = _graph(), {"k": 0.7}
    direction = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)))
    product = hessian_vector_product_fn(_spring)(variables, graph, direction)

    def forces(h):
        moved = dataclasses.replace(graph, positions=graph.positions + h * direction)
        return np.asarray(predict_fn(_spring)(variables, moved).forces)

    h = 1e-4
    slope = (forces(-2 * h) - 8 * forces(-h) + 8 * forces(h) - forces(2 * h)) / (12 * h)
    np.testing.assert_allclose(product, -slope, atol=1e-9)
    # Moving everything changes nothing.
    rigid = hessian_vector_product_fn(_spring)(variables, graph, jnp.ones((3, 3)))
    np.testing.assert_allclose(rigid, 0.0, atol=1e-12)


def test_reference_energies_are_per_element_and_refuse_others():
    model = Morse((8, 14))
    potential = Potential(model, {}, {8: -400.5, 14: -7000.25})
    np.testing.assert_array_equal(
        potential.reference_energy(np.array([14, 8, 14])), [-7000.25, -400.5, -7000.25]
    )
    assert (potential.species, potential.cutoff) == ((8, 14), 6.0)
    with pytest.raises(UserError, match=r"cell 3: .*\['C'\].*does not know.*\['O', 'Si'\]"):
        potential.reference_energy(np.array([6]), "cell 3")
