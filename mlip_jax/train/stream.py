"""Batches by index, built ahead by threads and sent to the devices before they are needed."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import jax

from mlip_jax.data.batching import Batch

T = TypeVar("T")
MakeBatch = Callable[[int], Batch]


def prefetch(make: MakeBatch, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """Yields `make(start), …, make(stop - 1)` in order, built ahead by grain's threads.

    Args:
        make: a pure function of the index.
        start: the first index: a resumed run begins in the middle.
        stop: one past the last.
        workers: threads; 0 builds each batch when it is asked for.
    """
    if workers == 0 or stop - start < 2:
        yield from map(make, range(start, stop))
        return
    import grain  # takes seconds to import

    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 * workers)
    yield from grain.MapDataset.range(start, stop).map(make).to_iter_dataset(options)


def one_ahead(items: Iterator[Batch], put: Callable[[Batch], T]) -> Iterator[T]:
    """Yields `put(item)` of every item, having put the next one already."""
    following = None
    for item in items:
        ready, following = following, put(item)
        if ready is not None:
            yield ready
    if following is not None:
        yield following


def keep_small(make: MakeBatch, limit: int = 512 * 2**20) -> MakeBatch:
    """Remembers batches that are asked for again and again, up to `limit` bytes in all."""
    kept: dict[int, Batch] = {}
    size = 0

    def get(index: int) -> Batch:
        nonlocal size
        if index in kept:
            return kept[index]
        batch = make(index)
        size += sum(leaf.nbytes for leaf in jax.tree.leaves(batch))
        if size <= limit:
            kept[index] = batch
        return batch

    return get
