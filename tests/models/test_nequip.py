import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.graph import AtomicGraph
from mlip_jax.models import nequip
from mlip_jax.potential import predict_fn

CUTOFF = 3.2
FIELDS = {
    "species": (8, 14),
    "cutoff": CUTOFF,
    "num_layers": 2,
    "l_max": 2,
    "parity": False,
    "num_features": (4, 3, 2),
    "radial_mlp_width": 8,
    "num_bessels": 4,
    "avg_num_neighbors": 12.0,
    "energy_scale": 0.7,
}
MODEL = nequip.NequIP(**FIELDS)
PREDICT = jax.jit(predict_fn(MODEL))


def graph_of(structure: Structure, cutoff: float = CUTOFF, block: int = 0) -> AtomicGraph:
    graph = make_graph(structure, cutoff, dtype=np.float64, block=block)
    return jax.tree.map(jnp.asarray, graph)


def crystal(num_atoms: int = 4) -> Structure:
    rng = np.random.default_rng(3)
    return Structure(
        atomic_numbers=np.array([8, 14] * num_atoms)[:num_atoms],
        positions=rng.uniform(0.0, 4.0, (num_atoms, 3)),
        cell=np.array([[4.0, 0.0, 0.0], [0.7, 3.8, 0.0], [0.2, -0.4, 4.3]]),
        pbc=np.array([True, True, True]),
    )


@pytest.fixture(scope="module")
def variables():
    return jax.jit(MODEL.init)(jax.random.key(0), graph_of(crystal()))


def test_shapes_of_the_parameters_are_those_of_the_paper(variables):
    params = variables["params"]
    assert params["embedding"].shape == (2, 4)
    assert set(params["block_0"]) == {"linear_in", "convolution"}
    assert set(params["block_1"]) == {"linear_in", "convolution", "self_connection"}
    # 0e from 4x0e, 3x1o and 2x2e, one path each
    assert params["block_1"]["convolution"]["linear_out"]["weight_0e"].shape == (9, 4)
    np.testing.assert_array_equal(params["scale"], [0.7, 0.7])


def test_isolated_atoms_have_exactly_no_energy(variables):
    alone = Structure(np.array([14]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool))
    prediction = PREDICT(variables, graph_of(alone))
    assert prediction.energy[0] == 0.0
    assert not np.any(prediction.forces)


def test_one_atom_with_many_images_has_stress_but_no_force(variables):
    single = Structure(np.array([8]), np.zeros((1, 3)), 1.5 * np.eye(3), np.ones(3, dtype=bool))
    graph = graph_of(single)
    assert graph.max_neighbors > 30
    prediction = PREDICT(variables, graph)
    np.testing.assert_allclose(prediction.forces, 0.0, atol=1e-13)
    # A cubic crystal: the stress is a multiple of the unit matrix.
    pressure = prediction.stress[0, 0, 0]
    assert abs(pressure) > 1e-6
    np.testing.assert_allclose(prediction.stress[0], pressure * np.eye(3), atol=1e-13)


@pytest.mark.slow
def test_blocks_and_skin_change_nothing(variables):
    plain = graph_of(crystal())
    others = [
        graph_of(crystal(), CUTOFF + 0.8),
        dataclasses.replace(plain, block=2),
    ]
    expected = PREDICT(variables, plain)
    for graph in others:
        prediction = PREDICT(variables, graph)
        np.testing.assert_allclose(prediction.energy, expected.energy, rtol=1e-12)
        np.testing.assert_allclose(prediction.forces, expected.forces, atol=1e-12)
        np.testing.assert_allclose(prediction.stress, expected.stress, atol=1e-12)


@pytest.mark.slow
def test_gradient_of_a_force_loss_is_that_of_its_differences(variables):
    graph = graph_of(crystal(), block=2)

    @jax.jit
    def loss(params):
        prediction = predict_fn(MODEL)({"params": params}, graph)
        return jnp.sum((prediction.forces - 0.1) ** 2) + jnp.sum(prediction.energy**2)

    params = variables["params"]
    gradient = jax.jit(jax.grad(loss))(params)
    direction = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size)).reshape(p.shape), params)
    step = 1e-4

    def moved(factor):
        return loss(jax.tree.map(lambda p, d: p + factor * step * d, params, direction))

    slope = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * step)
    along = sum(
        jnp.vdot(g, d)
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    # error of fourth order in a step of 1e-4, and rounding of about 1e-16 / step
    np.testing.assert_allclose(along, slope, rtol=1e-7)


@pytest.mark.slow
def test_many_elements_take_the_general_first_layer(variables, monkeypatch):
    graph = graph_of(crystal())
    expected = MODEL.apply(variables, graph).energies
    monkeypatch.setattr(nequip, "MAX_SUMMED_ELEMENTS", 0)
    np.testing.assert_allclose(MODEL.apply(variables, graph).energies, expected, rtol=1e-12)


def test_shift_is_trained_only_where_asked_for(variables):
    graph = graph_of(crystal())
    shifted = MODEL.clone(trainable_shift=True)
    assert "shift" not in variables["params"]
    params = dict(variables["params"], shift=jnp.array([1.0, -2.0]))
    difference = (
        shifted.apply({"params": params}, graph).energies - MODEL.apply(variables, graph).energies
    )
    np.testing.assert_allclose(difference, [1.0, -2.0, 1.0, -2.0], atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"avg_num_neighbors": None}, "avg_num_neighbors: not given"),
        ({"species": None}, "species: not given"),
        ({"num_features": (4, 3)}, "got 2 numbers for l_max = 2"),
        ({"num_layers": 0}, "num_layers: got 0"),
    ],
)
def test_impossible_fields_are_refused(changes, message):
    model = nequip.NequIP(**(FIELDS | changes))
    with pytest.raises(UserError, match=message):
        model.init(jax.random.key(0), graph_of(crystal()))


@pytest.mark.slow
def test_without_reflections_energies_are_those_of_rotated_but_not_of_mirrored_structures():
    """Products of three axial vectors tell a structure from its mirror image."""
    fields = {**FIELDS, "num_layers": 3, "reflections": False, "num_features": (4, 3, 2)}
    model = nequip.NequIP(**fields)
    structure = crystal()
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    variables = jax.jit(model.init)(jax.random.key(0), graph_of(structure))
    energy = jax.jit(lambda g: predict_fn(model)(variables, g).energy[0])
    before = float(energy(graph_of(structure)))
    moved = [
        dataclasses.replace(structure, positions=structure.positions @ m, cell=structure.cell @ m)
        for m in (turn, -turn)
    ]
    rotated, mirrored = (float(energy(graph_of(s))) for s in moved)
    # 1e-13: rounding of energies of 0.04 eV
    assert abs(rotated - before) < 1e-13
    assert abs(mirrored - before) > 1e-8


def test_a_norm_without_the_first_self_connection_is_refused():
    model = nequip.NequIP(**{**FIELDS, "layer_norm": True})
    with pytest.raises(UserError, match="first_self_connection: true"):
        jax.eval_shape(model.init, jax.random.key(0), graph_of(crystal()))


@pytest.mark.parametrize("trainable", [False, True])
def test_radial_networks_become_series(trainable):
    model = MODEL.clone(bessel_trainable=trainable)
    graph = graph_of(crystal())
    variables = jax.jit(model.init)(jax.random.key(0), graph)
    if trainable:
        frequencies = variables["params"]["bessel"]["frequencies"]
        moved = {"bessel": {"frequencies": frequencies * 1.1}}
        variables = {**variables, "params": {**variables["params"], **moved}}
    folded = model.fold(variables)
    assert set(folded["constants"]) == {"block_0", "block_1"}
    predict = jax.jit(predict_fn(model))
    expected, found = predict(variables, graph), predict(folded, graph)
    # 1e-7 of the largest weight, some ten weights a neighbour, and slopes lose two digits
    scale = np.abs(expected.atom_energies).max()
    np.testing.assert_allclose(
        found.atom_energies, expected.atom_energies, rtol=0, atol=2e-6 * scale
    )
    scale = np.abs(expected.forces).max()
    np.testing.assert_allclose(found.forces, expected.forces, rtol=0, atol=1e-4 * scale)
    assert np.abs(found.forces - expected.forces).max() > 0.0


def test_networks_behind_an_envelope_with_a_step_stay():
    model = MODEL.clone(envelope_onset=2.5)
    variables = {"params": {}}
    assert model.fold(variables) == variables
