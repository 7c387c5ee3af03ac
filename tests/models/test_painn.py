"""PaiNN against loops over atoms and neighbours, written from the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure
from mlip_jax.models.painn import PaiNN
from mlip_jax.potential import predict_fn
from tests.models import loops

CUTOFF = loops.CUTOFF
FIELDS = {
    "species": loops.SPECIES,
    "cutoff": CUTOFF,
    "num_layers": 2,
    "num_features": 3,
    "num_radial": 4,
    "energy_scale": 0.7,
}
MODEL = PaiNN(**FIELDS)
PREDICT = jax.jit(predict_fn(MODEL))


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), loops.graph_of(loops.structure()))
    return jax.tree.map(lambda x: jnp.asarray(0.6 * rng.normal(size=x.shape)), shapes)


def messages(params, given, i, s, v, layer):
    """Sums of equations 7 and 8 over the neighbours of atom i."""
    ds, dv = np.zeros_like(s[0]), np.zeros_like(v[0])
    filters = params[f"filters_{layer}"]
    for j, vector in loops.images(given, i):
        r = np.linalg.norm(vector)
        basis = np.sin(np.arange(1, 5) * np.pi * r / CUTOFF) / r
        w = basis @ filters["kernel_0"] + filters["bias_0"]
        w = w * 0.5 * (1.0 + np.cos(np.pi * r / CUTOFF))
        to_s, to_direction, to_v = np.split(loops.network(params[f"sender_{layer}"], s[j]) * w, 3)
        ds += to_s
        dv += np.outer(vector / r, to_direction) + v[j] * to_v
    return ds, dv


def atom_energies(params, given: Structure) -> np.ndarray:
    """Outputs of the readout, from equations 7 to 10."""
    index = [FIELDS["species"].index(z) for z in given.atomic_numbers]
    s = params["embedding"][index]
    v = np.zeros((len(index), 3, 3))
    for layer in range(2):
        sums = [messages(params, given, i, s, v, layer) for i in range(len(index))]
        s = s + np.array([ds for ds, _ in sums])
        v = v + np.array([dv for _, dv in sums])
        u_kernel, v_kernel = np.split(params[f"mixing_{layer}"]["kernel_0"], 2, axis=1)
        for i in range(len(index)):
            uv, vv = v[i] @ u_kernel, v[i] @ v_kernel
            lengths = np.sqrt((vv**2).sum(axis=0) + 1e-8)
            a = loops.network(params[f"update_{layer}"], np.concatenate([s[i], lengths]))
            a_vv, a_sv, a_ss = np.split(a, 3)
            s[i] = s[i] + a_ss + a_sv * (uv * vv).sum(axis=0)
            v[i] = v[i] + a_vv * uv
    return np.array([loops.network(params["readout"], x)[0] for x in s])


def test_energies_are_those_of_loops_over_neighbours(variables):
    given = loops.structure()
    params = jax.tree.map(np.asarray, variables["params"])
    found = PREDICT(variables, loops.graph_of(given)).atom_energies
    raw = atom_energies(params, given)
    lone = [atom_energies(params, loops.lone_atom(z)) for z in given.atomic_numbers]
    expected = 0.7 * (raw - np.concatenate(lone))
    assert np.abs(expected).max() > 0.1
    # both sides are float64: rounding of sums in another order
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_forces_are_finite_where_vectors_vanish(variables):
    """In a symmetric crystal every vector is zero; lengths there have a derivative."""
    cubic = Structure(np.array([14]), np.zeros((1, 3)), 2.4 * np.eye(3), np.ones(3, dtype=bool))
    prediction = PREDICT(variables, loops.graph_of(cubic))
    np.testing.assert_allclose(prediction.forces, 0.0, atol=1e-12)
    assert np.isfinite(prediction.stress).all()
    pressure = prediction.stress[0, 0, 0]
    np.testing.assert_allclose(prediction.stress[0], pressure * np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"species": None}, "species: not given"),
        ({"energy_scale": None}, "energy_scale: not given"),
        ({"num_layers": 0}, "num_layers: got 0"),
    ],
)
def test_impossible_fields_are_refused(changes, message):
    model = PaiNN(**(FIELDS | changes))
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), loops.graph_of(loops.structure()))
