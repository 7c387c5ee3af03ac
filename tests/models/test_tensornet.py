"""TensorNet against loops over atoms and neighbours, and the symmetry of its hidden tensors."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure
from mlip_jax.models.tensornet import TensorNet
from mlip_jax.models.tensornet_layers import Embedding, Interaction
from mlip_jax.nn import cartesian, radial_series
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
VARIANTS = [
    {},
    {"group": "SO(3)", "radial_basis": "gaussian", "readout": "gated", "activation": "tanh"},
]
IDS = ["paper", "other"]


@functools.cache
def case(index: int):
    """A model, its variables, and its compiled energies with all hidden tensors."""
    model = TensorNet(**(FIELDS | VARIANTS[index]))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), loops.graph_of(loops.structure()))
    variables = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), shapes)

    def apply(graph):
        def chosen(module, _):
            return isinstance(module, Embedding | Interaction)

        return model.apply(variables, graph, capture_intermediates=chosen, mutable="intermediates")

    return model, variables, jax.jit(apply)


def hidden(result) -> list[cartesian.Tensors]:
    """Tensors behind the embedding and each interaction."""
    found = result[1]["intermediates"]
    names = ("embedding", "interaction_0", "interaction_1")
    return [found[name]["__call__"][0] for name in names]


def layer_norm(params, x):
    variance = ((x - x.mean()) ** 2).mean()
    return (x - x.mean()) / np.sqrt(variance + 1e-5) * params["scale"] + params["shift"]


def parts(x):
    """Isotropic, antisymmetric, and symmetric traceless part of matrices `[channels, 3, 3]`."""
    transposed = np.swapaxes(x, 1, 2)
    isotropic = np.einsum("caa->c", x)[:, None, None] * np.eye(3) / 3.0
    return isotropic, 0.5 * (x - transposed), 0.5 * (x + transposed) - isotropic


def norm(x):
    return (x**2).sum(axis=(1, 2))


def mix(params, x):
    names = ("scalar", "vector", "symmetric")
    total = np.zeros_like(x)
    for name, part in zip(names, parts(x), strict=True):
        total += np.einsum("cab,cd->dab", part, params[name]["kernel_0"])
    return total


def envelope(r):
    return 0.5 * (1.0 + np.cos(np.pi * r / CUTOFF))


def basis(model, r):
    if model.radial_basis == "gaussian":
        return np.exp(-0.5 * (r - np.linspace(0.0, 6.0, 4)) ** 2)
    far = np.exp(-CUTOFF)
    exponent = (np.exp(-5.0 * r / CUTOFF) - np.linspace(far, 1.0, 4)) ** 2
    return envelope(r) * np.exp(-exponent / (2.0 / 4 * (1.0 - far)) ** 2)


def embed(model, params, activation, given, index, i):
    """Tensors of atom i, `[channels, 3, 3]`: sections on the embedding and its update."""
    total = np.zeros((3, 3, 3))
    for j, vector in loops.images(given, i):
        r = np.linalg.norm(vector)
        x, y, z = -vector / r
        skew = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
        traceless = np.outer([x, y, z], [x, y, z]) - np.eye(3) / 3.0
        both = np.concatenate([params["elements"][index[j]], params["elements"][index[i]]])
        of_pair = both @ params["pair"]["kernel_0"] + params["pair"]["bias_0"]
        weights = basis(model, r) @ params["radial"]["kernel_0"] + params["radial"]["bias_0"]
        for weight, tensor in zip(np.split(weights, 3), (np.eye(3), skew, traceless), strict=True):
            total += (envelope(r) * weight * of_pair)[:, None, None] * tensor
    normed = layer_norm(params["norm"], norm(total))
    factors = np.split(loops.network(params["factors"], normed, activation, True), 3)
    mixed = parts(mix(params["mixing"], total))
    return sum(f[:, None, None] * part for f, part in zip(factors, mixed, strict=True))


def interact(model, params, activation, given, tensors):
    """New tensors of all atoms."""
    tensors = [x / (1.0 + norm(x))[:, None, None] for x in tensors]
    sent = [mix(params["before"], x) for x in tensors]
    results = []
    for i, own in enumerate(tensors):
        message = np.zeros((3, 3, 3))
        for j, vector in loops.images(given, i):
            r = np.linalg.norm(vector)
            weights = envelope(r) * loops.network(
                params["radial"], basis(model, r), activation, True
            )
            for weight, part in zip(np.split(weights, 3), parts(sent[j]), strict=True):
                message += weight[:, None, None] * part
        product = sent[i] @ message
        product = 2.0 * product if model.group == "SO(3)" else product + message @ sent[i]
        change = mix(params["after"], product / (1.0 + norm(product))[:, None, None])
        results.append(own + change + change @ change)
    return results


def read_out(model, params, activation, tensors):
    norms = np.concatenate([norm(part) for part in parts(tensors)])
    x = loops.network(params["linear"], layer_norm(params["norm"], norms), activation)
    if model.readout == "mlp":
        return loops.network(params["network"], activation(x), activation)[0]
    gate = 1.0 / (1.0 + np.exp(-loops.network(params["gate"], x, loops.silu)[0]))
    return loops.network(params["network"], x, loops.silu)[0] * gate


@pytest.mark.parametrize("index", [0, 1], ids=IDS)
def test_energies_and_tensors_are_those_of_loops_over_neighbours(index):
    model, variables, apply = case(index)
    given = loops.structure()
    params = jax.tree.map(np.asarray, variables["params"])
    activation = np.tanh if model.activation == "tanh" else loops.silu
    elements = [FIELDS["species"].index(z) for z in given.atomic_numbers]
    tensors = [embed(model, params["embedding"], activation, given, elements, i) for i in range(4)]
    history = [tensors]
    for layer in range(2):
        tensors = interact(model, params[f"interaction_{layer}"], activation, given, tensors)
        history.append(tensors)
    nothing = np.zeros((3, 3, 3))
    outputs = np.array([read_out(model, params["readout"], activation, x) for x in tensors])
    outputs = outputs - read_out(model, params["readout"], activation, nothing)

    result = apply(loops.graph_of(given))
    # Both sides are float64; the layer normalisation of three channels magnifies rounding.
    for found, expected in zip(hidden(result), history, strict=True):
        matrices = np.moveaxis(np.asarray(cartesian.to_matrix(found)), -1, 1)
        np.testing.assert_allclose(matrices, expected, rtol=0, atol=1e-11)
    assert np.abs(outputs).max() > 0.01
    np.testing.assert_allclose(result[0].energies, 0.7 * outputs, rtol=0, atol=1e-11)


def turned(given: Structure, q: np.ndarray) -> Structure:
    return dataclasses.replace(given, positions=given.positions @ q.T, cell=given.cell @ q.T)


def orthogonal(determinant: float) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))
    return q * (determinant * np.sign(np.linalg.det(q)))


@pytest.mark.parametrize("determinant", [1.0, -1.0], ids=["rotation", "reflection"])
@pytest.mark.parametrize("index", [0, 1], ids=IDS)
def test_hidden_tensors_turn_with_the_structure(index, determinant):
    model, _, apply = case(index)
    q = orthogonal(determinant)
    before, after = (
        apply(loops.graph_of(s)) for s in (loops.structure(), turned(loops.structure(), q))
    )
    if determinant < 0 and model.group == "SO(3)":
        # Products in one order only: mirror images differ.
        assert np.abs(after[0].energies - before[0].energies).max() > 1e-4
        return
    for x, y in zip(hidden(before), hidden(after), strict=True):
        signed = x._replace(vector=determinant * x.vector)
        expected = np.einsum("ab,ibcf,dc->iadf", q, cartesian.to_matrix(signed), q)
        assert np.abs(x.vector).max() > 1e-3
        # rounding of the rotated positions and of sums in another order
        np.testing.assert_allclose(cartesian.to_matrix(y), expected, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_networks_of_the_distance_become_series():
    model, variables, _ = case(0)
    folded = model.fold(variables)
    assert set(folded["constants"]) == {"interaction_0", "interaction_1"}
    apply = jax.jit(model.apply)
    graph = loops.graph_of(loops.structure())
    expected = apply(variables, graph).energies
    found = apply(folded, graph).energies
    # 1e-7 of the weights, with a small factor from weights to energies
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    assert np.abs(found - expected).max() > 0.0


def test_networks_that_vary_too_quickly_stay(monkeypatch):
    model, variables, _ = case(0)
    monkeypatch.setattr(radial_series, "radial_series", lambda *_: None)
    assert model.fold(variables) == {**variables, "constants": {}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"species": None}, "species: not given"),
        ({"energy_scale": None}, "energy_scale: not given"),
        ({"num_radial": 0}, "num_radial: got 0"),
        ({"activation": "relu"}, "activation: got 'relu'"),
    ],
)
def test_impossible_fields_are_refused(changes, message):
    model = TensorNet(**(FIELDS | changes))
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), loops.graph_of(loops.structure()))
