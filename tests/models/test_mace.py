import e3nn_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket, make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.models import mace
from mlip_jax.nn.convolution import Edges
from mlip_jax.nn.irreps import parse_layout
from mlip_jax.potential import predict_fn

FIELDS = {
    "species": (8, 14),
    "cutoff": 3.2,
    "hidden_irreps": "3x0e+3x1o+3x2e",
    "max_ell": 2,
    "correlation": 2,
    "num_bessels": 4,
    "radial_mlp": (6,),
    "avg_num_neighbors": 12.0,
    "energy_scale": 0.7,
}


def crystal(num_atoms: int = 4) -> Structure:
    rng = np.random.default_rng(3)
    return Structure(
        atomic_numbers=np.array([8, 14] * num_atoms)[:num_atoms],
        positions=rng.uniform(0.0, 4.0, (num_atoms, 3)),
        cell=np.array([[4.0, 0.0, 0.0], [0.7, 3.8, 0.0], [0.2, -0.4, 4.3]]),
        pbc=np.array([True, True, True]),
    )


BUCKET = Bucket(1, 8, 64)


def graph_of(structure: Structure):
    return jax.tree.map(
        jnp.asarray, make_graph(structure, FIELDS["cutoff"], dtype=np.float64, bucket=BUCKET)
    )


def turns(angles, reflected: int) -> list[np.ndarray]:
    """Matrices of degrees 0, 1 and 2 of the parity of harmonics."""
    return [
        np.asarray(e3nn_jax.Irrep(l, (-1) ** l).D_from_angles(*angles, reflected)) for l in range(3)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("residual", [True, False])
def test_features_of_every_degree_turn_with_what_they_come_from(residual):
    """Messages and products of turned and reflected features and harmonics."""
    layout = parse_layout("3x0e+3x1o+3x2e")
    layer = mace.Interaction(layout, layout, 2, 2, (4, 6), 12.0, True, False, residual)
    graph = graph_of(crystal())
    rng = np.random.default_rng(0)
    shape = graph.neighbors.shape
    harmonics = rng.normal(size=(*shape, 9))
    basis = jnp.asarray(rng.normal(size=(*shape, 4)) * np.asarray(graph.edge_mask)[..., None])
    features = [rng.normal(size=(shape[0], 2 * l + 1, 3)) for l in range(3)]
    alone = tuple(jnp.asarray(rng.normal(size=(2, 2 * l + 1, 3))) for l in range(3))
    species = jnp.arange(shape[0]) % 2

    def call(variables, matrices):
        turned = [
            np.einsum("mn,...n->...m", d, harmonics[..., l * l : (l + 1) ** 2])
            for l, d in enumerate(matrices)
        ]
        edges = Edges(jnp.asarray(np.concatenate(turned, axis=-1)), basis)
        own = tuple(
            jnp.asarray(np.einsum("mn,anc->amc", d, x))
            for d, x in zip(matrices, features, strict=True)
        )
        if variables is None:
            return jax.jit(layer.init)(jax.random.key(0), graph, edges, own, alone, species)
        return jax.jit(layer.apply)(variables, graph, edges, own, alone, species)[0]

    same = [np.eye(2 * l + 1) for l in range(3)]
    variables = call(None, same)
    before = call(variables, same)
    for reflected in (0, 1):
        matrices = turns((0.3, 1.1, -0.7), reflected)
        for d, x, y in zip(matrices, before, call(variables, matrices), strict=True):
            expected = np.einsum("mn,anc->amc", d, np.asarray(x))
            np.testing.assert_allclose(y, expected, atol=1e-12 * np.abs(expected).max())


def test_an_atom_among_its_own_images_and_one_alone():
    """A crystal of one atom a cell has no forces, and the energy of its eight-fold supercell."""
    model = mace.MACE(**{**FIELDS, "hidden_irreps": "2x0e+2x1o", "max_ell": 1})
    predict = jax.jit(predict_fn(model))
    cell = np.array([[0.0, 1.6, 1.7], [1.7, 0.0, 1.6], [1.6, 1.7, 0.0]])
    one = Structure(np.array([14]), np.zeros((1, 3)), cell, np.ones(3, bool))
    offsets = np.array([[i, j, k] for i in range(2) for j in range(2) for k in range(2)])
    many = Structure(np.full(8, 14), offsets @ cell, 2.0 * cell, np.ones(3, bool))
    variables = jax.jit(model.init)(jax.random.key(0), graph_of(one))
    single, eight = (predict(variables, graph_of(s)) for s in (one, many))
    np.testing.assert_allclose(8.0 * single.energy, eight.energy, rtol=1e-12)
    np.testing.assert_allclose(single.forces, 0.0, atol=1e-12)
    assert float(jnp.abs(single.energy[0])) > 1e-3
    np.testing.assert_allclose(single.stress, eight.stress, atol=1e-12)
    alone = Structure(np.array([8]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, bool))
    found = predict(variables, graph_of(alone))
    # 1e-14: it may stand in another row of a matrix product than its reference
    assert abs(float(found.energy[0])) <= 1e-14
    np.testing.assert_array_equal(found.forces, 0.0)


@pytest.mark.parametrize("text", ["3x0e+2x1o", "3x0e+3x1e", "3x1o", "scalars", "3x0e+3x2e"])
def test_irreps_that_mace_does_not_have_are_refused(text):
    with pytest.raises(UserError, match="irreps: got"):
        mace.MACE(**{**FIELDS, "hidden_irreps": text}).layout()


def test_fields_from_the_data_must_be_there():
    graph = graph_of(crystal())
    for name in ("species", "avg_num_neighbors", "energy_scale"):
        model = mace.MACE(**{**FIELDS, name: None})
        with pytest.raises(UserError, match=rf"mace\.{name}: not given"):
            jax.eval_shape(model.init, jax.random.key(0), graph)


def test_the_second_layer_reads_the_neighbours_and_not_their_elements():
    """With scalars alone, an atom beyond the cutoff of the first layer still counts."""
    fields = {**FIELDS, "hidden_irreps": "3x0e", "max_ell": 1}
    model = mace.MACE(**fields)

    def chain(distance: float) -> Structure:
        x = np.array([0.0, 2.5, 2.5 + distance])
        positions = np.stack([x, np.zeros(3), np.zeros(3)], axis=1)
        return Structure(np.array([14, 8, 14]), positions, np.zeros((3, 3)), np.zeros(3, bool))

    near, far = (graph_of(chain(d)) for d in (1.8, 2.6))
    variables = jax.jit(model.init)(jax.random.key(0), near)
    predict = jax.jit(predict_fn(model))
    first = [float(predict(variables, graph).atom_energies[0]) for graph in (near, far)]
    assert abs(first[0] - first[1]) > 1e-6 * abs(first[0]) > 0.0


@pytest.mark.slow
def test_radial_networks_become_series():
    model = mace.MACE(**FIELDS)
    graph = graph_of(crystal())
    variables = jax.jit(model.init)(jax.random.key(0), graph)
    folded = model.fold(variables)
    assert set(folded["constants"]) == {"layer_0", "layer_1"}
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


def test_networks_of_transformed_distances_stay():
    model = mace.MACE(**FIELDS).clone(distance_transform="agnesi")
    variables = {"params": {}}
    assert model.fold(variables) == variables
