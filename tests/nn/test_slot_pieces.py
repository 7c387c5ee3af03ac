"""Slots in pieces give what they give at once, and empty pieces are not evaluated."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.nn import slot_pieces

ATOMS, SLOTS = 8, 70


@pytest.fixture(scope="module")
def graph():
    positions = np.random.default_rng(0).uniform(0.0, 6.0, (ATOMS, 3))
    structure = Structure(np.full(ATOMS, 18), positions, 6.0 * np.eye(3), np.ones(3, bool))
    return make_graph(structure, 3.0, dtype=np.float64)


def inputs():
    rng = np.random.default_rng(1)
    lengths = np.array([0, 3, 70, 1, 0, 0, 0, 0])  # the last block has nothing
    inside = np.arange(SLOTS)[None] < lengths[:, None]
    values = rng.normal(size=(ATOMS, SLOTS, 3)) * inside[..., None]
    return jnp.asarray(inside), jnp.asarray(values), jnp.asarray(rng.normal(size=(ATOMS, 3)))


def squares(values, own):
    return values * jnp.sin(values + own[:, None, :])


@pytest.mark.parametrize("sums", [False, True])
def test_pieces_give_values_and_derivatives_of_the_whole(graph, sums):
    inside, values, own = inputs()

    def total(values, own, block):
        within = dataclasses.replace(graph, block=block)
        found = slot_pieces.map_slots(squares, within, inside, (values,), (own,), sums=sums)
        return jnp.sum(jnp.tanh(found)), found

    whole, pieces = (
        jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(values, own, block)
        for block in (0, 4)
    )
    assert pieces[0][1].shape == ((ATOMS, 3) if sums else (ATOMS, SLOTS, 3))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(pieces), strict=True):
        one = one * inside[..., None] if one.shape == values.shape else one
        other = other * inside[..., None] if other.shape == values.shape else other
        np.testing.assert_allclose(other, one, atol=1e-12)


def test_pieces_without_a_neighbour_are_skipped(graph):
    inside, values, own = inputs()
    within = dataclasses.replace(graph, block=4)
    ones = slot_pieces.map_slots(
        lambda values, own: jnp.ones_like(values), within, inside, (values,), (own,)
    )
    # Pieces of 4 atoms and 32 slots: the first block has all three, the second none.
    assert jnp.all(ones[:4] == 1.0)
    assert jnp.all(ones[4:] == 0.0)
