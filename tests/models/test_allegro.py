import itertools
import math

import e3nn_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket, make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.models import allegro_tensors
from mlip_jax.models.allegro import Allegro
from mlip_jax.models.allegro_tensors import Product
from mlip_jax.nn import angular, radial
from mlip_jax.nn.irreps import SCALAR, Irrep, harmonic
from mlip_jax.potential import predict_fn

CUTOFF = 3.2
FIELDS = {
    "species": (8, 14),
    "cutoff": CUTOFF,
    "num_layers": 2,
    "l_max": 2,
    "num_scalar_features": 6,
    "num_tensor_features": 3,
    "num_bessels": 4,
    "two_body_mlp": (8,),
    "latent_mlp": (8, 7),
    "readout_mlp": (5,),
    "avg_num_neighbors": 12.0,
    "energy_scale": 0.7,
}
WIDE = {
    **FIELDS,
    "num_layers": 3,
    "l_max": 1,
    "num_scalar_features": 8,
    "embedding_features": 16,
    "two_body_mlp": (7,),
    "latent_mlp": (),
    "avg_num_neighbors": (9.0, 12.0),
}
"""Linear maps are merged; tensors of both parities."""


def crystal(num_atoms: int = 4) -> Structure:
    rng = np.random.default_rng(3)
    return Structure(
        atomic_numbers=np.array([8, 14] * num_atoms)[:num_atoms],
        positions=rng.uniform(0.0, 4.0, (num_atoms, 3)),
        cell=np.array([[4.0, 0.0, 0.0], [0.7, 3.8, 0.0], [0.2, -0.4, 4.3]]),
        pbc=np.array([True, True, True]),
    )


def graph_of(structure: Structure):
    bucket = Bucket(1, 8, 64)
    graph = make_graph(structure, CUTOFF, dtype=np.float64, bucket=bucket)
    return jax.tree.map(jnp.asarray, graph)


def silu(x):
    return x / (1.0 + np.exp(-x))


def network(params, x, *names):
    """A network of nequip: weights of unit variance over the root of the fan-in, and gains."""
    for name in names:
        for i in range(len(params[name])):
            weight = np.asarray(params[name][f"weight_{i}"])
            x = (math.sqrt(2.0) * silu(x) if i else x) @ weight / math.sqrt(len(weight))
    return x


def forward(product: Product, tensors: dict, environment: dict) -> dict:
    """Tensors of one pair times the environment of its centre, path by path."""
    result = {}
    for path, weight in zip(product.paths, np.asarray(product.weights), strict=True):
        source = product.inputs[path.source].irrep
        c = angular.clebsch_gordan(source.degree, path.degree, path.target.degree)
        c = c * math.sqrt(path.target.dim) * weight[:, None, None, None]
        term = np.einsum("cslt,sc,lc->tc", c, tensors[source], environment[path.degree])
        result[path.target] = result.get(path.target, 0.0) + term
    return result


def products_of(model: Allegro, params) -> list[Product]:
    layouts = allegro_tensors.tensor_layouts(
        model.l_max, model.num_tensor_features, model.parity, model.num_layers
    )
    layers = itertools.pairwise(layouts)
    return [
        Product(
            before,
            allegro_tensors.layer_paths(before, behind, model.l_max),
            params[f"product_{i}"],
        )
        for i, (before, behind) in enumerate(layers)
    ]


def neighbors_of(i: int, structure: Structure):
    """Element and vector of every neighbour of an atom."""
    for j, steps in itertools.product(
        range(structure.num_atoms), itertools.product(range(-2, 3), repeat=3)
    ):
        vector = structure.positions[j] + steps @ structure.cell - structure.positions[i]
        if 0.0 < np.linalg.norm(vector) < CUTOFF:
            yield FIELDS["species"].index(int(structure.atomic_numbers[j])), vector


def energy_by_loops(model: Allegro, params, i: int, structure: Structure) -> float:
    """Energy of an atom, pair by pair, with tensors of pairs that pass all products."""
    size, channels, degrees = model.num_scalar_features, model.num_tensor_features, model.l_max + 1
    centre = FIELDS["species"].index(int(structure.atomic_numbers[i]))
    norm = 1.0 / math.sqrt(np.broadcast_to(model.avg_num_neighbors or 0.0, 2)[centre])
    n = np.arange(1, model.num_bessels + 1)
    scalars, tensors, weights, harmonics = [], [], [], []
    for element, vector in neighbors_of(i, structure):
        r = np.linalg.norm(vector)
        envelope = radial.polynomial_envelope(jnp.asarray(r), CUTOFF, model.polynomial_cutoff_p)
        basis = n * np.sinc(n * r / CUTOFF) * float(envelope)
        kinds = np.concatenate([params["centre"][centre], params["neighbor"][element]])
        x = network(params, kinds * network(params, basis, "basis"), "two_body")
        y = [
            np.asarray(v) for v in angular.spherical_harmonics(jnp.asarray(vector / r), degrees - 1)
        ]
        w = network(params, x, "tensors").reshape(degrees, channels)
        projected = network(params, x, "projection")
        scalars.append([projected[:size]])
        weights.append(projected[size:].reshape(degrees, channels))
        harmonics.append(y)
        tensors.append({harmonic(l): np.outer(y[l], w[l]) for l in range(degrees)})
    for k, product in enumerate(products_of(model, params)):
        pairs = list(zip(harmonics, weights, strict=True))
        around = {l: norm * sum(np.outer(y[l], w[l]) for y, w in pairs) for l in range(degrees)}
        tensors = [forward(product, v, around) for v in tensors]
        for p, (own, v) in enumerate(zip(scalars, tensors, strict=True)):
            output = network(params, np.concatenate([*own, v[SCALAR][0]]), f"layer_{k}")
            own.append(output[:size])
            weights[p] = output[size:].reshape(-1, channels)
    pair_energies = [network(params, np.concatenate(own), "readout")[0] for own in scalars]
    return params["scale"][centre] * norm / math.sqrt(2.0) * sum(pair_energies)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [FIELDS, WIDE], ids=["narrow", "wide"])
def test_energies_are_those_of_loops_over_pairs(fields):
    model = Allegro(**fields)
    graph = graph_of(crystal())
    variables = jax.jit(model.init)(jax.random.key(0), graph)
    found = jax.jit(model.apply)(variables, graph).energies[:4]
    params = jax.tree.map(np.asarray, variables["params"])
    expected = [energy_by_loops(model, params, i, crystal()) for i in range(4)]
    assert min(np.abs(expected)) > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


def on_device(arrays):
    return jax.tree.map(jnp.asarray, arrays)


def turned(x: np.ndarray, irrep: Irrep, angles, reflected: int) -> np.ndarray:
    """Components `[..., m, channels]` in turned, and reflected, axes."""
    alpha, beta, gamma = angles
    matrix = e3nn_jax.Irrep(irrep.degree, irrep.parity).D_from_angles(alpha, beta, gamma, reflected)
    return np.einsum("mn,...nc->...mc", np.asarray(matrix), x)


@pytest.mark.parametrize("reflected", [0, 1])
def test_tensors_of_pairs_and_their_coefficients_turn(reflected):
    """All degrees and both parities; the scalars of either order of the products are the same."""
    rng = np.random.default_rng(0)
    layouts = allegro_tensors.tensor_layouts(2, 2, True, 3)
    assert [str(c.irrep) for c in layouts[1]] == ["0e", "1e", "1o", "2e", "2o"]
    products = [
        Product(a, paths, jnp.asarray(rng.normal(size=(len(paths), 2))))
        for a, b in itertools.pairwise(layouts)
        for paths in [allegro_tensors.layer_paths(a, b, 2)]
    ]
    shape = [(2 * l + 1, 2) for l in range(3)]
    around = [{l: rng.normal(size=(1, *shape[l])) for l in range(3)} for _ in products]
    tensors = {harmonic(l): rng.normal(size=shape[l]) for l in range(3)}
    angles = (0.3, 1.1, -0.7)
    moved = [
        {l: turned(a, harmonic(l), angles, reflected) for l, a in environment.items()}
        for environment in around
    ]
    own = {irrep: turned(v, irrep, angles, reflected) for irrep, v in tensors.items()}
    before, after = tensors, own
    for k, product in enumerate(products):
        before = forward(product, before, {l: a[0] for l, a in around[k].items()})
        after = forward(product, after, {l: a[0] for l, a in moved[k].items()})
        assert set(before) == {c.irrep for c in layouts[k + 1]}
        for irrep, v in before.items():
            expected = turned(v, irrep, angles, reflected)
            np.testing.assert_allclose(after[irrep], expected, atol=1e-12 * np.abs(v).max())
        found = [
            allegro_tensors.scalar_coefficients(products[: k + 1], on_device(arrays[: k + 1]))
            for arrays in (around, moved)
        ]
        for irrep, u in found[0].items():
            expected = turned(np.asarray(u), irrep, angles, reflected)
            np.testing.assert_allclose(found[1][irrep], expected, atol=1e-12 * np.abs(u).max())
        scalars = sum(np.sum(v * np.asarray(found[0][irrep])[0], 0) for irrep, v in tensors.items())
        np.testing.assert_allclose(scalars, before[SCALAR][0], rtol=1e-12)


def test_layouts_hold_what_scalars_depend_on():
    def names(l_max, parity, num_layers):
        layouts = allegro_tensors.tensor_layouts(l_max, 4, parity, num_layers)
        return ["+".join(str(c.irrep) for c in layout) for layout in layouts]

    # pseudoscalars cannot become scalars in one product with harmonics, nor axial vectors
    assert names(1, True, 2) == ["0e+1o", "0e+1o", "0e"]
    assert names(1, True, 3) == ["0e+1o", "0e+1e+1o", "0e+1o", "0e"]
    assert names(1, False, 3) == ["0e+1o", "0e+1o", "0e+1o", "0e"]
    assert names(0, True, 2) == ["0e", "0e", "0e"]


def test_an_atom_sees_only_its_neighbours():
    """Beyond the cutoff nothing counts, with any number of layers."""
    model = Allegro(**{**FIELDS, "l_max": 1})

    def chain(distance: float) -> Structure:
        x = np.array([0.0, 2.5, 2.5 + distance])
        positions = np.stack([x, np.zeros(3), np.zeros(3)], axis=1)
        return Structure(np.array([14, 8, 14]), positions, np.zeros((3, 3)), np.zeros(3, bool))

    predict = jax.jit(predict_fn(model))
    near, far = (graph_of(chain(d)) for d in (1.8, 2.6))
    variables = jax.jit(model.init)(jax.random.key(0), near)
    first, second = (predict(variables, graph).atom_energies for graph in (near, far))
    np.testing.assert_array_equal(first[0], second[0])
    assert abs(first[1] - second[1]) > 1e-6
    alone = Structure(np.array([8]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, bool))
    found = predict(variables, graph_of(alone))
    assert found.energy[0] == 0.0
    np.testing.assert_array_equal(found.forces, 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"avg_num_neighbors": None}, "avg_num_neighbors: not given"),
        ({"avg_num_neighbors": (3.0,)}, "got .3.0,. for 2 species"),
        ({"avg_num_neighbors": 0.0}, "got 0.0 for 2 species; expected a positive"),
        ({"species": None}, "species: not given"),
        ({"energy_scale": None}, "energy_scale: not given"),
        ({"num_scalar_features": 5}, "embedding_features: got 5"),
        ({"cutoff": 0.0}, "cutoff: got 0.0"),
    ],
)
def test_impossible_fields_are_refused(changes, message):
    model = Allegro(**{**FIELDS, **changes})
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), graph_of(crystal()))
