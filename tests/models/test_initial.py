import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax import models
from mlip_jax.data.collate import make_graph
from mlip_jax.models.initial import initial_variables, threefry
from tests.models import loops
from tests.models.presets import CUTOFF, PRESETS

# Key, counter, result: the known answers (`kat_vectors`) of Salmon's program Random123.
KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("key", "counter", "expected"), KNOWN)
def test_threefry_gives_the_published_words(key, counter, expected):
    high, low = (np.array([word], np.uint32) for word in counter)
    found = threefry(np.array(key, np.uint32), (high, low))
    assert (int(found[0][0]), int(found[1][0])) == expected


@pytest.mark.parametrize(
    ("name", "seed", "dtype"), [("schnet", 0, np.float32), ("schnet", 2**31 + 5, np.float64)]
)
def test_variables_are_those_of_init(name, seed, dtype):
    model = models.build_model({name: PRESETS[name]})
    graph = make_graph(loops.structure(), CUTOFF, dtype=dtype)
    graph = jax.tree.map(jnp.asarray, graph)
    found = initial_variables(model, seed, graph)
    expected = jax.jit(model.init)(jax.random.key(seed), graph)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


class Drawing(nn.Module):
    @nn.compact
    def __call__(self, graph):
        return self.param("drawn", self._draw)

    @staticmethod
    def _draw(key):
        return jnp.stack([jax.random.normal(part, (3,)) for part in jax.random.split(key, 4)])


def test_keys_split_as_jax_splits_them():
    graph = make_graph(loops.structure(), CUTOFF)
    found = initial_variables(Drawing(), 3, graph)["params"]["drawn"]
    expected = Drawing().init(jax.random.key(3), graph)["params"]["drawn"]
    np.testing.assert_array_equal(found, expected)
