"""Pairs of neighbours of an atom as a list of those that are there, worked off some at a time.

`[atoms, n, n]` has a place for each pair of the n slots of a row, as many in every row as the one
with the most neighbours needs. Where rows differ, in crystals with several kinds of atoms or in
batches of different ones, most of these places stay empty. Here every group of some atoms has a
list of its own, with the pairs that are there in front, and pieces of it that hold none are
skipped. What a pair reads of its slots and adds to them stays within the group, in the caches of a
core. Where the host has said how much room the pairs need, atoms are dealt to groups with about as
many pairs each (`pair_groups`), and hardly a place stays empty.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mlip_jax.pair_groups import GROUP, padded

T = TypeVar("T")

PIECE = 256
"""Pairs that are worked off at a time, at most."""


class SlotPairs(NamedTuple):
    """Ordered pairs of different slots of an atom, by groups; places behind `number` are empty.

    Attributes:
        first: flat slot `place * n + j`, places of atoms counted within the group; in an empty
            place the number of the group's slots, which is none.
        second: flat slot `place * n + k`.
        number: pairs that are there; more than places where the room does not suffice.
        order: atoms, padding included, in the order of groups and their places; by index where it
            is not given.
    """

    first: Int[Array, "groups places"]
    second: Int[Array, "groups places"]
    number: Int[Array, " groups"]
    order: Int[Array, " rows"] | None = None


def slot_pairs(inside: Bool[Array, "atoms n"], room: int | None = None) -> SlotPairs:
    """The pairs of slots that both take part, sorted by place of the atom, first and second slot.

    Args:
        inside: slots that take part.
        room: places of a group, `pair_groups.room`; without it there is one for every pair of
            slots, and groups are neighbours in the graph.
    """
    n = inside.shape[1]
    used = jnp.pad(inside, ((0, padded(inside.shape[0]) - inside.shape[0]), (0, 0)))
    order, places = None, GROUP * n * n
    if room is not None:
        places = min(room, places)
        ranks = jnp.argsort(-jnp.sum(used, axis=1, dtype=jnp.int32), stable=True)
        order = ranks.reshape(GROUP, -1).T.reshape(-1)
        used = used[order]
    used = used.reshape(-1, GROUP, n)
    there = used[:, :, :, None] & used[:, :, None, :] & ~jnp.eye(n, dtype=bool)[None, None]
    there = there.reshape(there.shape[0], -1)
    upto = jax.lax.associative_scan(jnp.add, there.astype(jnp.int32), axis=1)
    pieces = _pieces(places)
    places = pieces * -(-places // pieces)
    # Place p is that of the pair with p pairs before it.
    search = jax.vmap(functools.partial(jnp.searchsorted, side="left"), in_axes=(0, None))
    flat = search(upto, jnp.arange(1, places + 1, dtype=jnp.int32)).astype(jnp.int32)
    first = flat // n
    return SlotPairs(first, (first // n) * n + flat % n, upto[:, -1], order)


def overfull(pairs: SlotPairs) -> Bool[Array, ""]:
    """Whether pairs are missing, since a group has more than the room that the host has given."""
    return jnp.any(pairs.number > pairs.first.shape[1])


def in_groups(values: Array, order: Int[Array, " rows"] | None = None) -> Array:
    """Rows of atoms as `[groups, GROUP, ...]`; the last group is filled up with the last row.

    That row is one that functions of pairs can meet; zeros, as directions, are not.
    """
    missing = padded(values.shape[0]) - values.shape[0]
    rows = jnp.pad(values, ((0, missing), *((0, 0),) * (values.ndim - 1)), mode="edge")
    if order is not None:
        rows = rows.at[order].get(unique_indices=True, mode="promise_in_bounds")
    return rows.reshape(-1, GROUP, *values.shape[1:])


def _pieces(places: int) -> int:
    return max(1, -(-places // PIECE))


def map_pairs(
    function: Callable[..., Float[Array, "pairs features"]],
    pairs: SlotPairs,
    first: Float[Array, "atoms n _"],
    second: Float[Array, "atoms n _"],
    *of_pairs: Float[Array, "groups places _"],
    sums: bool = False,
) -> Array:
    """Evaluates a function of both slots of each pair, piece by piece and with recomputation.

    Args:
        function: takes the values of the first and the second slot, and what pairs have
            themselves, each with a leading axis pairs.
        pairs: the list.
        first: values of slots, where they are the first of a pair.
        second: likewise the second.
        *of_pairs: values of pairs.
        sums: the results are summed over the second slot.

    Returns:
        Results `[groups, places, features]`, zero in pieces that hold no pair and of no meaning in
        empty places of others; or their sums `[atoms, n, features]`.
    """
    atoms, n = first.shape[:2]
    pieces = _pieces(pairs.first.shape[1])
    # On a GPU what counts is to have much to do at once; empty places are worked off, too.
    in_turn = jax.default_backend() == "cpu"

    def evaluate(of_first, of_second, slots, other, *values):
        one = of_first.at[slots].get(mode="clip")
        return function(one, of_second.at[other].get(mode="clip"), *values)

    def group(inputs):
        of_first, of_second, slots, other, count, values = inputs
        of_first, of_second = (a.reshape(-1, a.shape[-1]) for a in (of_first, of_second))
        if pieces == 1 or not in_turn:
            result = jax.checkpoint(evaluate)(of_first, of_second, slots, other, *values)
        else:
            rows = [
                a.reshape(pieces, -1, *a.shape[1:])  # pieces of one size
                for a in (slots, other, *values)
            ]
            result = _in_pieces(evaluate, of_first, of_second, count, rows)
        if not sums:
            return result
        zero = jnp.zeros((GROUP * n, result.shape[1]), result.dtype)
        return zero.at[slots].add(result, mode="drop").reshape(GROUP, n, -1)

    ends = (in_groups(values, pairs.order) for values in (first, second))
    inputs = (*ends, pairs.first, pairs.second, pairs.number, of_pairs)
    results = jax.lax.map(group, inputs) if in_turn else jax.vmap(group)(inputs)
    if not sums:
        return results
    rows = results.reshape(-1, *results.shape[2:])
    if pairs.order is not None:
        inverse = jnp.argsort(pairs.order)
        rows = rows.at[inverse].get(unique_indices=True, mode="promise_in_bounds")
    return rows[:atoms]


def _in_pieces(evaluate, of_first, of_second, count, shaped):
    """Results of the pieces of one group, those without a pair skipped."""
    pieces, size = shaped[0].shape[:2]
    result = jax.eval_shape(evaluate, of_first, of_second, *(a[0] for a in shaped))

    def nothing(*_: Array) -> Array:
        return jnp.zeros(result.shape, result.dtype)

    def piece(inputs):
        index, own = inputs
        there = index * size < count
        return jax.lax.cond(there, evaluate, nothing, of_first, of_second, *own)

    results = jax.lax.map(jax.checkpoint(piece), (jnp.arange(pieces, dtype=jnp.int32), shaped))
    return results.reshape(-1, results.shape[-1])
