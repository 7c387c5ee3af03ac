"""CHGNet against loops over atoms, bonds and angles, written from the paper and its program."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax import inference, train
from mlip_jax.config import UserError
from mlip_jax.data import formats
from mlip_jax.data.collate import Bucket, make_graph
from mlip_jax.data.structure import Structure, StructureLabels
from mlip_jax.inference.graph_series import GraphSeries
from mlip_jax.models import chgnet_basis
from mlip_jax.models.chgnet import CHGNet
from mlip_jax.potential import Potential, predict_fn

CUTOFF, BOND_CUTOFF = 3.6, 2.8
FIELDS = {
    "species": (8, 14),
    "cutoff": CUTOFF,
    "bond_cutoff": BOND_CUTOFF,
    "num_layers": 3,
    "num_features": 3,
    "num_radial": 2,
    "num_angular": 3,
    "polynomial_cutoff_p": 4,
    "readout_hidden": (4,),
    "mlp_out_bias": True,
    "predict_magmoms": True,
    "energy_scale": 0.7,
}
MODEL = CHGNet(**FIELDS)
PREDICT = jax.jit(predict_fn(MODEL))


def structure() -> Structure:
    """A cell smaller than two cutoffs, with bonds of atoms to their own images."""
    positions = np.array([[0.1, 0.0, 0.2], [1.6, 1.2, 0.9], [0.3, 1.9, 1.9]])
    cell = np.array([[2.7, 0.0, 0.0], [0.7, 3.8, 0.0], [0.2, -0.4, 4.1]])
    return Structure(np.array([8, 14, 14]), positions, cell, np.ones(3, dtype=bool))


def molecule(positions, numbers) -> Structure:
    return Structure(np.array(numbers), np.array(positions), np.zeros((3, 3)), np.zeros(3, bool))


def graph_of(given: Structure):
    """In one padded shape, so that one compilation serves all."""
    bucket = Bucket(1, 5, 28, ((BOND_CUTOFF, 12),))
    graph = make_graph(given, CUTOFF, dtype=np.float64, reverse=True, bucket=bucket)
    return jax.tree.map(jnp.asarray, graph)


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), graph_of(structure()))
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), shapes)


def silu(x):
    return x / (1.0 + np.exp(-x))


def normalised(norm, x):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * norm["scale"] + norm["shift"]


def gated(params, x):
    core, gate = np.split(x @ params["first"]["kernel_0"] + params["first"]["bias_0"], 2)
    if "core" in params:
        core = silu(core) @ params["core"]["kernel_0"] + params["core"]["bias_0"]
        gate = silu(gate) @ params["gate"]["kernel_0"] + params["gate"]["bias_0"]
    core, gate = normalised(params["core_norm"], core), normalised(params["gate_norm"], gate)
    return silu(core) / (1.0 + np.exp(-gate))


def basis(r, frequencies, cutoff):
    p, x = FIELDS["polynomial_cutoff_p"], r / cutoff
    envelope = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1)
    envelope = envelope - p * (p + 1) / 2 * x ** (p + 2)
    return np.sqrt(2 / cutoff) * np.sin(np.pi * frequencies * x) / r * envelope * (x < 1)


def directed_edges(given: Structure):
    """`(i, j, S) -> vector` of all pairs within the cutoff."""
    edges = {}
    steps = np.stack(np.meshgrid(*[range(-2, 3)] * 3, indexing="ij"), -1).reshape(-1, 3)
    for shift in map(tuple, steps if given.pbc.any() else np.zeros((1, 3), int)):
        for i, start in enumerate(given.positions):
            for j, end in enumerate(given.positions):
                vector = end + np.array(shift) @ given.cell - start
                if 1e-9 < np.linalg.norm(vector) < CUTOFF:
                    edges[i, j, shift] = vector
    return edges


def undirected(edge):
    i, j, shift = edge
    return min(edge, (j, i, tuple(-s for s in shift)))


def angle_basis(u, v, frequencies):
    cosine = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
    phases = np.arccos(cosine * (1 - 1e-6)) * frequencies
    return np.concatenate([[np.sqrt(0.5)], np.sin(phases), np.cos(phases)]) / np.sqrt(np.pi)


def outputs(params, given: Structure):
    """The readout's energies and the moments of all atoms."""
    edges = directed_edges(given)
    bond_of = {edge: undirected(edge) for edge in edges}
    lengths = {bond_of[edge]: np.linalg.norm(vector) for edge, vector in edges.items()}
    near = {e: v for e, v in edges.items() if np.linalg.norm(v) < BOND_CUTOFF}
    v = list(params["embedding"][[FIELDS["species"].index(z) for z in given.atomic_numbers]])
    far_basis = {b: basis(r, params["atom_frequencies"], CUTOFF) for b, r in lengths.items()}
    e = {b: x @ params["bond_embedding"]["kernel_0"] for b, x in far_basis.items()}
    atom_weight = {b: x @ params["atom_weights"]["kernel_0"] for b, x in far_basis.items()}
    bond_weight = {
        b: basis(r, params["bond_frequencies"], BOND_CUTOFF) @ params["bond_weights"]["kernel_0"]
        for b, r in lengths.items()
    }
    pairs = [(a, b) for a in near for b in near if a != b and a[0] == b[0]]
    angles = {
        (a, b): angle_basis(near[a], near[b], params["angle_frequencies"])
        @ params["angle_embedding"]["kernel_0"]
        for a, b in pairs
    }
    moments = None
    for layer in range(3):
        moments = [
            abs((x @ params["moment"]["kernel_0"] + params["moment"]["bias_0"])[0]) for x in v
        ]
        weights, sums = params[f"atoms_{layer}"], [np.zeros(3) for _ in v]
        for edge in edges:
            b = bond_of[edge]
            x = np.concatenate([v[edge[0]], e[b], v[edge[1]]])
            sums[edge[0]] += gated(weights["message"], x) * atom_weight[b]
        out = weights["output"]
        v = [x + s @ out["kernel_0"] + out["bias_0"] for x, s in zip(v, sums, strict=True)]
        if layer == 2 or not pairs:
            continue
        weights, change = params[f"bonds_{layer}"], {b: np.zeros(3) for b in e}

        def inputs(a, b, v=v, e=e, angles=angles):
            return np.concatenate([e[bond_of[a]], e[bond_of[b]], angles[a, b], v[a[0]]])

        for a, b in pairs:
            factor = bond_weight[bond_of[a]] * bond_weight[bond_of[b]]
            change[bond_of[a]] += gated(weights["message"], inputs(a, b)) * factor
        out = weights["output"]
        e = {b: x + change[b] @ out["kernel_0"] + out["bias_0"] for b, x in e.items()}
        if layer == 0:
            angles = {p: x + gated(params["angles_0"], inputs(*p, e=e)) for p, x in angles.items()}
    return np.array([readout(params, x) for x in v]), np.array(moments)


def readout(params, x):
    x = normalised(params["norm"], x)
    layers = params["readout"]
    hidden = silu(x @ layers["kernel_0"] + layers["bias_0"])
    return (hidden @ layers["kernel_1"] + layers["bias_1"])[0]


@pytest.mark.parametrize(
    "given",
    [
        structure(),
        molecule([[0, 0, 0], [1.6, 0, 0], [-1.5, 0.9, 0], [0.2, 3.1, 0.4]], [14, 8, 8, 14]),
        # No bond meets another: the biases of bonds are left out.
        molecule([[0, 0, 0], [1.7, 0.2, 0.1], [-3.2, 0, 0.3]], [14, 8, 8]),
    ],
    ids=["crystal", "molecule", "no angle"],
)
def test_outputs_are_those_of_loops_over_edges_and_angles(variables, given):
    params = jax.tree.map(np.asarray, variables["params"])
    found, number = PREDICT(variables, graph_of(given)), given.num_atoms
    energies, moments = outputs(params, given)
    nowhere = np.zeros((1, 3))
    alone = [outputs(params, molecule(nowhere, [z]))[0][0] for z in given.atomic_numbers]
    assert np.abs(energies - alone).max() > 0.1
    # Both sides are float64: rounding of sums in another order, times 1e3 behind the arc cosine.
    np.testing.assert_allclose(
        found.atom_energies[:number], 0.7 * (energies - alone), rtol=0, atol=1e-11
    )
    np.testing.assert_allclose(found.magmoms[:number], moments, rtol=0, atol=1e-11)
    of_elements = MODEL.apply(variables, np.dtype(np.float64), method="isolated_energies")
    index = [FIELDS["species"].index(z) for z in given.atomic_numbers]
    np.testing.assert_allclose(of_elements[np.array(index)], 0.7 * np.array(alone), atol=1e-13)


def test_angles_of_parallel_bonds_have_finite_derivatives():
    """Angles 0 and π, and an angle that is nearly one, in single precision."""

    def total(directions):
        here, there = jnp.repeat(directions, 3, axis=0), jnp.tile(directions, (3, 1))
        functions = chgnet_basis.angular_basis(here, there, jnp.arange(1.0, 4.0))
        return jnp.sum(functions * jnp.arange(1.0, 8.0)[None])

    line = jnp.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.6, 0.8, 0.0]])
    gradient, curvature = jax.jit(lambda x: (jax.grad(total)(x), jax.hessian(total)(x)))(line)
    assert np.isfinite(gradient).all()
    assert np.isfinite(curvature).all()
    tilt = 1e-3
    here = jnp.array([[1.0, 0.0, 0.0]])
    there = jnp.array([[-np.cos(tilt), np.sin(tilt), 0.0]])
    frequencies = jnp.arange(1.0, 4.0)
    double = chgnet_basis.angular_basis(here, there, frequencies)
    cosine = np.cos(np.pi - tilt) * (1 - 1e-6)
    sines = np.sin(np.arange(1, 4) * np.arccos(cosine)) / np.sqrt(np.pi)
    # The arc cosine multiplies rounding by 1 / sin θ = 600.
    np.testing.assert_allclose(double[0, 1:4], sines, rtol=0, atol=1e-12)
    single = chgnet_basis.angular_basis(
        *(a.astype(jnp.float32) for a in (here, there, frequencies))
    )
    np.testing.assert_allclose(single, double, rtol=0, atol=1e-6)


def crystal(seed: int, lattice: float = 6.0) -> Structure:
    """So many atoms that groups have several pieces of pairs."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3) / 3.0
    positions = lattice * places + rng.normal(scale=0.2, size=(27, 3))
    return Structure(rng.choice([8, 14], 27), positions, lattice * np.eye(3), np.ones(3, bool))


@pytest.mark.slow
def test_room_for_the_pairs_that_are_there_changes_nothing(variables):
    """And too little room gives no number."""
    many = crystal(3)
    roomy = make_graph(many, CUTOFF, prefix_cutoffs=(BOND_CUTOFF,), dtype=np.float64, reverse=True)
    tight = make_graph(
        many,
        CUTOFF,
        prefix_cutoffs=(BOND_CUTOFF,),
        pair_cutoffs=MODEL.pair_cutoffs,
        dtype=np.float64,
        reverse=True,
    )
    ((cutoff, places),) = tight.pair_rooms
    assert cutoff == BOND_CUTOFF
    assert 256 < places < 16 * tight.prefixes[0][1] ** 2
    expected, found = PREDICT(variables, roomy), PREDICT(variables, tight)
    np.testing.assert_allclose(found.energy, expected.energy, rtol=1e-12)
    scale = np.abs(expected.forces).max()
    np.testing.assert_allclose(found.forces, expected.forces, rtol=0, atol=1e-11 * scale)
    np.testing.assert_allclose(found.magmoms, expected.magmoms, rtol=1e-10, atol=1e-12)
    with jax.debug_nans(False):
        lacking = dataclasses.replace(tight, pair_rooms=((cutoff, places // 2),))
        assert np.isnan(PREDICT(variables, lacking).energy[0])


@pytest.mark.slow
def test_batches_and_series_have_room_for_their_pairs(variables):
    """Denser and wider crystals in few shapes, and one that is compressed step by step."""
    potential = Potential(MODEL, variables, {8: 0.0, 14: 0.0})
    crystals = [crystal(seed, lattice) for seed, lattice in enumerate((6.0, 7.5, 6.2, 9.0, 6.1))]
    shapes = set()
    together = inference.predict(
        potential, crystals, precision="float64", batch_atoms=60, shapes=shapes
    )
    assert all(shape.pair_rooms for shape in shapes)
    assert len(shapes) < len(crystals)
    series = GraphSeries(potential, np.float64, skin=0.3, block=0)
    rooms = []
    for given, found in zip(crystals[:2], together[:2], strict=True):
        graph = series.graph(given)
        rooms.append(graph.pair_rooms[0][1])
        np.testing.assert_allclose(PREDICT(variables, graph).energy, found.energy, rtol=1e-12)
    for scale in (1.0, 0.97, 0.94):
        pressed = dataclasses.replace(
            crystals[0], positions=scale * crystals[0].positions, cell=scale * crystals[0].cell
        )
        rooms.append(series.graph(pressed).pair_rooms[0][1])
    assert rooms[2] <= rooms[3] <= rooms[4]


def test_a_graph_without_reverse_edges_is_refused(variables):
    with pytest.raises(UserError, match="reverse=True"):
        PREDICT(variables, dataclasses.replace(graph_of(structure()), reverse=None))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"species": None}, "species: not given"),
        ({"energy_scale": None}, "energy_scale: not given"),
        ({"num_layers": 0}, "num_layers: got 0"),
        ({"bond_cutoff": 4.0}, r"bond_cutoff: got 4\.0 Å; expected at most the cutoff"),
        ({"num_angular": 4}, "num_angular: got 4; expected an odd number"),
        ({"polynomial_cutoff_p": 1}, "polynomial_cutoff_p: got 1; expected at least 2"),
    ],
)
def test_impossible_fields_are_refused(changes, message):
    model = CHGNet(**(FIELDS | changes))
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), graph_of(structure()))


def magnetic_data(path):
    """Structures whose moments have signs; their sizes depend on the element alone."""
    rng = np.random.default_rng(0)
    moments = np.array([0.1, -2.0, 2.0])
    structures = []
    for index in range(10):
        moved = structure().positions + rng.normal(0.0, 0.05, (3, 3))
        labels = StructureLabels(
            energy=float(rng.normal(-5.0, 0.1)),
            forces=rng.normal(0.0, 0.1, (3, 3)),
            magmoms=moments * (-1.0) ** index,
        )
        structures.append(dataclasses.replace(structure(), positions=moved, labels=labels))
    formats.write(path, structures)
    return structures


@pytest.mark.slow
def test_moments_are_trained_and_reported(tmp_path):
    structures = magnetic_data(tmp_path / "data.extxyz")
    fields = {k: v for k, v in FIELDS.items() if k not in ("species", "energy_scale")}
    config = {
        "data": {"train": str(tmp_path / "data.extxyz"), "valid": 0.2},
        "model": {"chgnet": fields | {"num_layers": 2, "mlp_out_bias": False}},
        "loss": {"magmoms": {"weight": 1.0}},
        "optimizer": {"name": "adam", "learning_rate": 0.02},
        "training": {"epochs": 40, "batch_size": 4, "devices": 1, "workers": 0},
    }
    potential = train.fit(train.parse(config), tmp_path / "run", progress=False)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    first, last = (json.loads(line)["valid"]["magmoms_mae"] for line in (lines[0], lines[-1]))
    assert last < 0.2
    assert last < 0.5 * first
    errors = inference.evaluate(potential, structures)
    assert errors["total"]["magmoms"]["mae"] < 0.2
    config["loss"] = {}
    with pytest.raises(UserError, match="predicts magnetic moments, which nothing would"):
        train.fit(train.parse(config), tmp_path / "other", progress=False)
