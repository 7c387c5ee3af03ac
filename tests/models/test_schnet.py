"""SchNet against loops over atoms and neighbours, written from the papers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure
from mlip_jax.models.schnet import SchNet
from mlip_jax.potential import predict_fn
from tests.models import loops

CUTOFF = loops.CUTOFF
FIELDS = {
    "species": loops.SPECIES,
    "cutoff": CUTOFF,
    "num_interactions": 2,
    "num_features": 4,
    "num_filters": 3,
    "num_gaussians": 5,
    "gamma": 2.5,
    "energy_scale": 0.7,
}


def shifted_softplus(x):
    return np.log(0.5 * np.exp(x) + 0.5)


ENVELOPES = {
    "cosine": lambda x: 0.5 * (1.0 + np.cos(np.pi * x)),
    "polynomial": lambda x: 1.0 - 28.0 * x**6 + 48.0 * x**7 - 21.0 * x**8,
}


@functools.cache
def variables():
    model = SchNet(**FIELDS)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), loops.graph_of(loops.structure()))
    return jax.tree.map(lambda x: jnp.asarray(0.6 * rng.normal(size=x.shape)), shapes)


def convolve(params, given: Structure, i, x, block, envelope):
    """What atom i receives: the continuous-filter convolution, over all neighbours."""
    network, received = functools.partial(loops.network, activation=shifted_softplus), np.zeros(3)
    for j, vector in loops.images(given, i):
        r = np.linalg.norm(vector)
        basis = np.exp(-2.5 * (r - np.linspace(0.0, CUTOFF, 5)) ** 2)
        filters = network(params[f"filters_{block}"], basis, activate_last=True)
        received += network(params[f"sender_{block}"], x[j]) * filters * envelope(r / CUTOFF)
    return received


def atom_energies(params, given: Structure, envelope) -> np.ndarray:
    """Outputs of the readout."""
    index = [loops.SPECIES.index(z) for z in given.atomic_numbers]
    x = params["embedding"][index]
    for block in range(2):
        received = [convolve(params, given, i, x, block, envelope) for i in range(len(index))]
        change = [loops.network(params[f"update_{block}"], y, shifted_softplus) for y in received]
        x = x + np.array(change)
    return np.array([loops.network(params["readout"], y, shifted_softplus)[0] for y in x])


@pytest.mark.parametrize("name", ["cosine", "polynomial"])
def test_energies_are_those_of_loops_over_neighbours(name):
    given, envelope = loops.structure(), ENVELOPES[name]
    params = jax.tree.map(np.asarray, variables()["params"])
    predict = jax.jit(predict_fn(SchNet(**FIELDS, envelope=name)))
    found = predict(variables(), loops.graph_of(given)).atom_energies
    raw = atom_energies(params, given, envelope)
    lone = [atom_energies(params, loops.lone_atom(z), envelope) for z in given.atomic_numbers]
    expected = 0.7 * (raw - np.concatenate(lone))
    assert np.abs(expected).max() > 0.1
    # both sides are float64: rounding of sums in another order
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"species": None}, "species: not given"),
        ({"energy_scale": None}, "energy_scale: not given"),
        ({"num_gaussians": 0}, "num_gaussians: got 0"),
        ({"gamma": -1.0}, r"gamma: got -1\.0; expected a positive number"),
    ],
)
def test_impossible_fields_are_refused(changes, message):
    model = SchNet(**(FIELDS | changes))
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), loops.graph_of(loops.structure()))
