"""Lists of pairs of slots against the places `[atoms, n, n]`."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlip_jax import pair_groups
from mlip_jax.nn import slot_pairs

LONG = 24
"""Slots of a row with more places than a piece has."""


def _inside(atoms: int, n: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    share = random.random((atoms, 1)) ** 3
    return random.random((atoms, n)) < share


def _values(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def _room(inside, spare=0):
    return int(pair_groups.room(np.sum(np.asarray(inside), axis=1) + spare, len(inside)))


@given(st.integers(1, 40), st.sampled_from([1, 3, LONG]), st.integers(0, 1000), st.booleans())
def test_every_pair_that_is_there_stands_in_the_list_once(atoms, n, seed, dealt):
    inside = _inside(atoms, n, seed)
    room = _room(inside) if dealt else None
    pairs = jax.tree.map(np.asarray, slot_pairs.slot_pairs(jnp.asarray(inside), room))
    assert not slot_pairs.overfull(pairs)
    order = np.arange(atoms + slot_pairs.GROUP) if pairs.order is None else pairs.order
    found = []
    for group, count in enumerate(pairs.number):
        slots = np.stack([pairs.first[group], pairs.second[group]], axis=1) + group * (
            slot_pairs.GROUP * n
        )
        places = [[divmod(int(flat), n) for flat in pair] for pair in slots[:count]]
        found += [tuple((int(order[place]), slot) for place, slot in pair) for pair in places]
        assert np.all(pairs.first[group, count:] == slot_pairs.GROUP * n)
    expected = [
        ((i, j), (i, k))
        for i in range(atoms)
        for j, k in itertools.permutations(np.flatnonzero(inside[i]).tolist(), 2)
    ]
    assert (sorted(found) if dealt else found) == expected


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.integers(0, 1000))
def test_a_room_holds_what_fewer_neighbors_need(counts, seed):
    """Also where the order of the atoms by their neighbours becomes another one."""
    counts = np.array(counts)
    fewer = np.random.default_rng(seed).integers(0, counts + 1)
    inside = np.arange(20)[None] < fewer[:, None]
    room = int(pair_groups.room(counts, len(counts)))
    pairs = slot_pairs.slot_pairs(jnp.asarray(inside), room)
    assert not slot_pairs.overfull(pairs)
    assert int(pairs.number.max()) == pair_groups.room(fewer, len(counts))
    each = counts * (counts - 1)
    bound = pair_groups.room_of_sums(int(each.max(initial=0)), int(each.sum()), len(counts))
    assert room <= bound <= room + each.max(initial=0)
    device = pair_groups.room(jnp.asarray(fewer), len(counts), jnp)
    assert int(device) == int(pairs.number.max())


def test_missing_pairs_are_told():
    inside = jnp.asarray(_inside(40, LONG, 3))
    needed = _room(inside)
    assert slot_pairs.overfull(slot_pairs.slot_pairs(inside, needed - slot_pairs.PIECE))
    assert not slot_pairs.overfull(slot_pairs.slot_pairs(inside, needed))


@pytest.mark.parametrize(
    ("n", "backend", "dealt"),
    [
        (4, "cpu", False),
        (LONG, "cpu", False),
        (LONG, "cpu", True),
        (LONG, "gpu", False),
        (LONG, "gpu", True),
    ],
)
def test_sums_and_their_derivatives_are_those_of_all_places(n, backend, dealt, monkeypatch):
    """In turn as on a CPU, and at once as on a GPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    atoms, size = 21, 3
    inside = jnp.asarray(_inside(atoms, n, 1))
    first, second = (jnp.asarray(_values((atoms, n, size), seed)) for seed in (2, 3))
    kernel = jnp.asarray(_values((size, size), 4))
    pairs = slot_pairs.slot_pairs(inside, _room(inside, spare=1) if dealt else None)

    def function(one, other, *own):
        return jnp.tanh((one * other + sum(own)) @ kernel) + one

    def listed(first, second):
        own = slot_pairs.map_pairs(function, pairs, first, second)
        return slot_pairs.map_pairs(function, pairs, first, second, own, sums=True)

    def placed(first, second):
        one = jnp.broadcast_to(first[:, :, None], (atoms, n, n, size))
        other = jnp.broadcast_to(second[:, None], (atoms, n, n, size))
        there = inside[:, :, None] & inside[:, None] & ~jnp.eye(n, dtype=bool)[None]
        values = function(one, other, function(one, other))
        return jnp.sum(jnp.where(there[..., None], values, 0.0), axis=2)

    def slope(sums):
        def loss(first, second):
            return jnp.sum(jnp.sin(sums(first, second)))

        return jax.grad(lambda *ends: jnp.sum(jax.grad(loss)(*ends) ** 2), argnums=(0, 1))

    ends = (first, second)
    np.testing.assert_allclose(jax.jit(listed)(*ends), placed(*ends), rtol=0, atol=1e-13)
    np.testing.assert_allclose(
        jax.vmap(listed)(*(a[None] for a in ends))[0], placed(*ends), rtol=0, atol=1e-13
    )
    for found, expected in zip(jax.jit(slope(listed))(*ends), slope(placed)(*ends), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    tangents = (second, first)
    _, forward = jax.jvp(listed, ends, tangents)
    _, expected = jax.jvp(placed, ends, tangents)
    np.testing.assert_allclose(forward, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dealt", [False, True])
@pytest.mark.parametrize("n", [3, LONG])
def test_empty_places_meet_no_values_that_slots_do_not_have(n, dealt):
    """A function whose derivative is infinite at zero, where no slot has a zero."""
    inside = jnp.asarray(_inside(19, n, 5))
    values = jnp.asarray(1.0 + np.abs(_values((19, n, 2), 6)))
    pairs = slot_pairs.slot_pairs(inside, _room(inside, spare=1) if dealt else None)

    def total(values, scale):
        def function(one, other):
            return scale * jnp.sqrt(one * other)

        return jnp.sum(slot_pairs.map_pairs(function, pairs, values, values, sums=True))

    def steepness(scale):
        return jnp.sum(jax.grad(total)(values, scale) ** 2)

    found, slope = jax.jit(jax.value_and_grad(steepness))(2.0)
    # Proportional to the square of the scale.
    assert float(found) > 0.0
    assert float(slope) == pytest.approx(float(found))
