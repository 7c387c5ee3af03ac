"""Parameters before training: random numbers from the host, so that little is compiled.

The counter-based generator Threefry-2x32 (J. K. Salmon et al., "Parallel random numbers: as easy
as 1, 2, 3", SC 2011, section 3.2, with 20 rounds) is what `jax.random` uses. Compiled once for each
parameter it takes far longer than the rest of a program that initialises a model; here NumPy
computes the same bits while that program runs.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl
from jaxtyping import Array, UInt32

from mlip_jax.graph import AtomicGraph

_PARITY = np.uint32(0x1BD11BDA)  # Skein's constant, Salmon et al., section 3.2
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_WORD = np.uint64(32)

Words = UInt32[np.ndarray, " words"]


def initial_variables(model: nn.Module, seed: int, graph: AtomicGraph) -> Mapping[str, Any]:
    """Variables of a model as `model.init(jax.random.key(seed), graph)` draws them, bit for bit.

    Args:
        model: whose fields are filled in.
        seed: of the random numbers.
        graph: any graph that the model takes; its positions have the precision of the parameters.
    """
    return jax.jit(model.init)(jax.random.key(seed, impl=_HOST_THREEFRY), graph)


def cast_variables(variables: Mapping[str, Any], dtype: np.dtype) -> Any:
    """Variables on the host with their floating-point arrays in another precision."""

    def cast(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        return leaf.astype(dtype) if np.issubdtype(leaf.dtype, np.floating) else leaf

    return jax.tree.map(cast, dict(variables))


def threefry(key: UInt32[np.ndarray, " 2"], counters: tuple[Words, Words]) -> tuple[Words, Words]:
    """Threefry-2x32 with 20 rounds: a key of two words enciphers pairs of words."""
    schedule = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    with np.errstate(over="ignore"):
        x, y = counters[0] + schedule[0], counters[1] + schedule[1]
        for group in range(5):
            for rotation in _ROTATIONS[group % 2]:
                x = x + y
                y = x ^ (y << np.uint32(rotation) | y >> np.uint32(32 - rotation))
            x = x + schedule[(group + 1) % 3]
            y = y + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


def _stream(key: Any, size: int) -> tuple[Words, Words]:
    """The first words of a key's stream, of counters 0, 1, 2, …, each of 64 bits."""
    counters = np.arange(size, dtype=np.uint64)
    high, low = (counters >> _WORD).astype(np.uint32), counters.astype(np.uint32)
    return threefry(np.asarray(key), (high, low))


def _seed(seed: Array) -> UInt32[Array, " 2"]:
    seed = jnp.asarray(seed)
    high = seed >> 32 if seed.dtype.itemsize == 8 else jnp.zeros_like(seed)
    return jnp.stack([high, seed]).astype(jnp.uint32)


def _fold_in(key: Array, data: Any) -> UInt32[Array, " 2"]:
    def compute(key: Any, data: Any) -> np.ndarray:
        word = np.asarray(data, np.uint32).reshape(1)
        return np.concatenate(threefry(np.asarray(key), (np.zeros_like(word), word)))

    return jax.pure_callback(compute, jax.ShapeDtypeStruct((2,), np.uint32), key, data)


def _split(key: Array, shape: tuple[int, ...]) -> UInt32[Array, "*shape 2"]:
    def compute(key: Any) -> np.ndarray:
        return np.stack(_stream(key, int(np.prod(shape))), axis=-1).reshape(*shape, 2)

    return jax.pure_callback(compute, jax.ShapeDtypeStruct((*shape, 2), np.uint32), key)


def _random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    dtype = np.dtype(f"uint{bit_width}")

    def compute(key: Any) -> np.ndarray:
        high, low = _stream(key, int(np.prod(shape)))
        if bit_width == 64:
            words = high.astype(np.uint64) << _WORD | low
        else:
            words = (high ^ low).astype(dtype)
        return words.reshape(shape)

    return jax.pure_callback(compute, jax.ShapeDtypeStruct(shape, dtype), key)


_HOST_THREEFRY = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="threefry2x32_host",
    tag="thh",
)
