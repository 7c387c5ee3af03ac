"""M3GNet against loops over neighbours and pairs of neighbours, written from the paper."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure
from mlip_jax.models.m3gnet import M3GNet
from mlip_jax.nn import radial
from mlip_jax.potential import predict_fn
from tests.models import loops

CUTOFF, THREEBODY = loops.CUTOFF, 2.7
MAX_N, MAX_L = 2, 3
ZEROS = np.array(
    [
        [np.pi, 2.0 * np.pi],
        [4.493409457909064, 7.725251836937707],
        [5.763459196894550, 9.095011330476355],
    ]
)
"""Of spherical Bessel functions; Abramowitz and Stegun, table 10.6."""

FIELDS = {
    "species": loops.SPECIES,
    "cutoff": CUTOFF,
    "threebody_cutoff": THREEBODY,
    "num_blocks": 2,
    "max_n": MAX_N,
    "max_l": MAX_L,
    "num_features": 4,
    "num_bond_features": 3,
    "width": 5,
    "energy_scale": 0.7,
}
OTHER = {
    "radial_basis": "spherical_bessel",
    "threebody_basis": "smooth_bessel",
    "triplets_at": "sender",
}
MODELS = {"paper": M3GNet(**FIELDS), "other": M3GNet(**FIELDS, **OTHER)}


@functools.cache
def case(name: str):
    """Variables and the compiled model."""
    rng = np.random.default_rng(0)
    given = loops.graph_of(loops.structure())
    shapes = jax.eval_shape(MODELS[name].init, jax.random.key(0), given)
    variables = jax.tree.map(lambda x: jnp.asarray(0.9 * rng.normal(size=x.shape)), shapes)
    return variables, jax.jit(predict_fn(MODELS[name]))


def gated(params, x, activate_last=True):
    gate = 1.0 / (1.0 + np.exp(-loops.network(params["gate"], x)))
    return loops.network(params["network"], x, activate_last=activate_last) * gate


def functions(kind: str, r: float, smooth: int) -> np.ndarray:
    """Radial functions: so many smooth ones, or spherical ones of all degrees."""
    if kind == "smooth_bessel":
        return np.asarray(radial.smooth_bessel(jnp.array(r), smooth, CUTOFF))
    l = np.arange(MAX_L)[:, None]
    norm = np.sqrt(2.0 / CUTOFF**3) / np.abs(scipy.special.spherical_jn(l + 1, ZEROS))
    return (norm * scipy.special.spherical_jn(l, ZEROS * r / CUTOFF)).ravel()


def weight(r: float) -> float:
    x = min(r / THREEBODY, 1.0)
    return 1.0 - 10.0 * x**3 + 15.0 * x**4 - 6.0 * x**5


def triplet_sum(model, given: Structure, i, bond, features, params) -> np.ndarray:
    """Sum over the other bonds of atom i, with angles to a bond of it."""
    total = np.zeros(MAX_N * MAX_L)
    for k, other in loops.images(given, i):
        if np.allclose(other, bond):
            continue
        r_bond, r = np.linalg.norm(bond), np.linalg.norm(other)
        basis = functions(model.threebody_basis, r, MAX_N * MAX_L)
        cosine = bond @ other / (r_bond * r)
        legendre = [scipy.special.eval_legendre(l, cosine) for l in range(MAX_L)]
        poles = np.sqrt((2 * np.arange(MAX_L) + 1) / (4.0 * np.pi))
        sent = 1.0 / (1.0 + np.exp(-loops.network(params["sender"], features[k])))
        total += basis * np.repeat(poles * legendre, MAX_N) * sent * weight(r) * weight(r_bond)
    return total


def bond_of(model, given, params, features, i, j, vector, bond):
    """Features of the bond that atom i receives from j, behind triplets and update."""
    start, from_start = (i, vector) if model.triplets_at == "receiver" else (j, -vector)
    sums = triplet_sum(model, given, start, from_start, features, params)
    bond = bond + gated(params["triplets"], sums)
    inputs = np.concatenate([features[j], features[i], bond])
    basis = functions(model.radial_basis, np.linalg.norm(vector), MAX_N)
    return bond + gated(params["bond"], inputs) * (basis @ params["bond_filter"]["kernel_0"])


def atom_energies(model, params, given: Structure) -> np.ndarray:
    """Outputs of the readout."""
    index = [loops.SPECIES.index(z) for z in given.atomic_numbers]
    features = params["embedding"][index]
    pairs = [(i, j, v) for i in range(len(index)) for j, v in loops.images(given, i)]
    bases = [functions(model.radial_basis, np.linalg.norm(v), MAX_N) for *_, v in pairs]
    bonds = [loops.network(params["bond_embedding"], b, activate_last=True) for b in bases]
    for block in (params["block_0"], params["block_1"]):
        bonds = [
            bond_of(model, given, block, features, *pair, bond)
            for pair, bond in zip(pairs, bonds, strict=True)
        ]
        new = features.copy()
        for (i, j, _), basis, bond in zip(pairs, bases, bonds, strict=True):
            inputs = np.concatenate([features[j], features[i], bond])
            new[i] += gated(block["atom"], inputs) * (basis @ block["atom_filter"]["kernel_0"])
        features = new
    return np.array([gated(params["readout"], x, activate_last=False)[0] for x in features])


@pytest.mark.parametrize("name", ["paper", "other"])
def test_energies_are_those_of_loops_over_pairs_of_neighbours(name):
    given = loops.structure()
    variables, predict = case(name)
    params = jax.tree.map(np.asarray, variables["params"])
    found = predict(variables, loops.graph_of(given)).atom_energies
    raw = atom_energies(MODELS[name], params, given)
    lone = [atom_energies(MODELS[name], params, loops.lone_atom(z)) for z in given.atomic_numbers]
    expected = 0.7 * (raw - np.concatenate(lone))
    assert np.abs(expected).max() > 0.1
    # both sides are float64: rounding of sums in another order
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    without = jax.tree.map(np.zeros_like, params["block_0"]["triplets"])
    changed = {**params, "block_0": {**params["block_0"], "triplets": without}}
    assert np.abs(atom_energies(MODELS[name], changed, given) - raw).max() > 1e-3


@pytest.mark.parametrize("name", ["paper", "other"])
def test_forces_are_finite_where_atoms_stand_in_a_line(name):
    """Angles of 0 and 180 degrees, where the derivative of an arc cosine is not."""
    variables, predict = case(name)
    positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.2], [0.0, 0.0, 2.3]])
    line = Structure(np.array([8, 14, 8]), positions, np.zeros((3, 3)), np.zeros(3, bool))
    forces = predict(variables, loops.graph_of(line)).forces
    assert np.abs(forces[:, 2]).max() > 1e-2
    np.testing.assert_allclose(forces[:, :2], 0.0, atol=1e-14)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"species": None}, "species: not given"),
        ({"energy_scale": None}, "energy_scale: not given"),
        ({"max_l": 0}, "max_l: got 0; expected a positive number"),
        ({"threebody_cutoff": 4.0}, r"threebody_cutoff: got 4\.0 Å; expected at most .* 3\.4 Å"),
    ],
)
def test_impossible_fields_are_refused(changes, message):
    model = M3GNet(**(FIELDS | changes))
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), loops.graph_of(loops.structure()))
