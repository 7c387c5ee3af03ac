"""The laws that every registered model obeys.

Each model runs in one padded bucket of two structures, compiled once per function. The file is
longer than 300 lines because all laws share these compiled functions and their structures.
"""

import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlip_jax import models
from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket, collate, make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.graph import AtomicGraph, edge_vectors
from mlip_jax.neighbors.host import neighbor_list
from mlip_jax.potential import atom_virials_fn, hessian_vector_product_fn, predict_fn
from tests.models.presets import CUTOFF, PRESETS, VARIANTS

GRAPHS, ATOMS, NEIGHBORS = 3, 24, 48
K_RANGE = (8, 8, 8)  # enough for the largest of these cells
SKIN = 0.6


def leave(*names: str) -> list:
    """Every model, with some and all variants left to the slow runs."""
    return [
        pytest.param(name, marks=pytest.mark.slow) if name in (*names, *VARIANTS) else name
        for name in sorted([*models.MODELS, *VARIANTS])
    ]


COMPOSED = (
    "ace",
    "allegro",
    "chgnet",
    "gap",
    "hdnnp_4g",
    "local",
    "m3gnet",
    "mace",
    "mtp",
    "pace",
    "painn",
    "schnet",
    "snap",
    "sum",
    "tensornet",
)
"""Their parts are tested elsewhere: plain runs leave them out."""

LONG_RANGE = ("hdnnp_4g",)
"""Models whose atoms interact at any distance; they read positions, not pair vectors."""

FAINT = {"m3gnet_sender": 3}
"""Steps as far as which the energy is seen to depend, where the last is lost in rounding."""

NAMES = leave(*COMPOSED)
SEEDS = st.integers(0, 2**16)
EXAMPLES = settings(max_examples=4)

SYMMETRY = 1e-10  # float64 rounding of sums in another order, relative to max(1, values)
DIFFERENCES = 1e-7  # fourth-order central differences at their best step, relative
SINGLE = 1e-4  # float32 against float64, relative to the largest component


class Case(NamedTuple):
    """A model with parameters in which no bias is zero."""

    module: nn.Module
    variables: dict
    prefixes: tuple


@functools.cache
def case(name: str) -> Case:
    module = models.build_model(VARIANTS.get(name) or {name: PRESETS[name]})
    prefixes = (
        tuple((float(c), NEIGHBORS - 8) for c in module.prefix_cutoffs)
        if hasattr(module, "prefix_cutoffs")
        else ()
    )
    here = Case(module, {}, prefixes)
    graph = batch(here, crystal(0), crystal(1))
    variables = jax.jit(module.init)(jax.random.key(0), graph)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: (
            x.astype(jnp.float64) + 0.05 * rng.normal(size=x.shape)
            if jnp.issubdtype(x.dtype, jnp.floating)
            else x
        ),
        variables,
    )
    if hasattr(module, "calibrate"):
        variables = module.calibrate(variables, [graph])
    return here._replace(variables=variables)


def batch(model: Case, *structures: Structure, skin=0.0, dtype=np.float64, block=0) -> AtomicGraph:
    lists = [neighbor_list(s.positions, s.cell, s.pbc, CUTOFF + skin) for s in structures]
    bucket = Bucket(GRAPHS, ATOMS, NEIGHBORS, model.prefixes, block, K_RANGE)
    reverse = bool(getattr(model.module, "needs_reverse", False))
    heads = models.requirements(model.module).heads
    structures = tuple(dataclasses.replace(s, source="fine") for s in structures)
    return collate(structures, lists, bucket, dtype=dtype, reverse=reverse, heads=heads)


@functools.cache
def compiled(name: str, transform=predict_fn):
    return jax.jit(transform(case(name).module))


@functools.cache
def loss_gradient(name: str):
    model = case(name)
    predict = predict_fn(model.module)

    def loss(variables, graph):
        prediction = predict(variables, graph)
        return jnp.sum(prediction.forces**2) + jnp.sum(prediction.energy**2)

    return jax.jit(lambda v, g: jax.value_and_grad(loss)(v, g))


def predict(name: str, *structures: Structure, **options):
    model = case(name)
    return compiled(name)(model.variables, batch(model, *structures, **options))


def crystal(seed: int, atoms: int = 8) -> Structure:
    """A strained and rattled cell with both elements; no pair is closer than some 1.3 Å."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[[0.0, 0.5]] * 3, indexing="ij"), -1).reshape(-1, 3)[:atoms]
    lengths = [4.3, 4.4, 4.6] if atoms == 8 else [2.9, 3.1, 4.6]
    fractions = grid if atoms == 8 else np.array([[0.0, 0.0, 0.0], [0.4, 0.5, 0.5]])
    cell = np.diag(lengths) + 0.15 * rng.normal(size=(3, 3))
    numbers = np.array([8, 14, 14, 8, 14, 14, 8, 14])[:atoms]
    positions = fractions @ cell + 0.1 * rng.normal(size=(atoms, 3))
    return Structure(numbers, positions, cell, np.ones(3, dtype=bool))


def molecule(positions, numbers) -> Structure:
    positions = np.asarray(positions, dtype=np.float64)
    return Structure(np.asarray(numbers), positions, np.zeros((3, 3)), np.zeros(3, dtype=bool))


def rotation(seed: int, determinant: float) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * (determinant * np.sign(np.linalg.det(q)))


def close(actual, expected, tolerance=SYMMETRY):
    actual, expected = np.asarray(actual), np.asarray(expected)
    limit = tolerance * max(1.0, float(np.abs(expected).max(initial=0.0)))
    np.testing.assert_allclose(actual, expected, rtol=0.0, atol=limit)


def test_every_registered_model_has_a_preset():
    assert set(PRESETS) == set(models.MODELS)


@pytest.mark.parametrize("determinant", [1.0, -1.0], ids=["rotation", "reflection"])
@pytest.mark.parametrize("name", NAMES)
@EXAMPLES
@given(seed=SEEDS)
def test_rotations_and_reflections(name, determinant, seed):
    structure, other = crystal(seed), crystal(seed + 1)
    q = rotation(seed, determinant)
    turned = dataclasses.replace(
        structure, positions=structure.positions @ q.T, cell=structure.cell @ q.T
    )
    before, after = predict(name, structure, other), predict(name, turned, other)
    assert np.abs(before.forces[:8]).max() > 1e-3  # the law is not empty
    close(after.energy, before.energy)
    close(after.forces[:8], before.forces[:8] @ q.T)
    close(after.stress[0], q @ before.stress[0] @ q.T)


@pytest.mark.parametrize("name", NAMES)
@EXAMPLES
@given(seed=SEEDS)
def test_translations_and_permutations(name, seed):
    structure = crystal(seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(8)
    moved = dataclasses.replace(
        structure,
        atomic_numbers=structure.atomic_numbers[order],
        positions=(structure.positions + rng.normal(size=3))[order],
    )
    before, after = predict(name, structure), predict(name, moved)
    close(after.energy, before.energy)
    close(after.atom_energies[:8], before.atom_energies[:8][order])
    close(after.forces[:8], before.forces[:8][order])
    close(after.stress, before.stress)


def best_difference(energy, expected, steps=(4e-3, 2e-3, 1e-3, 5e-4)):
    """Smallest error of fourth-order central differences over a scan of steps."""
    errors = []
    for h in steps:
        values = [float(energy(n * h)) for n in (-2, -1, 1, 2)]
        slope = (values[0] - 8.0 * values[1] + 8.0 * values[2] - values[3]) / (12.0 * h)
        errors.append(abs(slope - float(expected)))
    return min(errors)


@pytest.mark.parametrize("name", NAMES)
def test_forces_and_stress_are_derivatives(name):
    structure = crystal(3)
    prediction = predict(name, structure)
    rng = np.random.default_rng(0)

    def energy_of(positions, cell):
        return predict(name, dataclasses.replace(structure, positions=positions, cell=cell)).energy[
            0
        ]

    for atom, axis in zip(rng.integers(0, 8, 5), rng.integers(0, 3, 5), strict=True):
        unit = np.zeros((8, 3))
        unit[atom, axis] = 1.0
        error = best_difference(
            lambda h, u=unit: energy_of(structure.positions + h * u, structure.cell),
            -prediction.forces[atom, axis],
        )
        assert error <= DIFFERENCES * max(1e-2, float(np.abs(prediction.forces).max()))
    volume = abs(np.linalg.det(structure.cell))
    for a, b in ((0, 0), (1, 1), (0, 2), (1, 2)):
        strain = np.zeros((3, 3))
        strain[a, b] += 0.5
        strain[b, a] += 0.5

        def deformed(h, strain=strain):
            f = np.eye(3) + h * strain
            return energy_of(structure.positions @ f, structure.cell @ f)

        expected = prediction.stress[0, a, b] * volume
        scale = max(1e-2, float(np.abs(prediction.virial).max()))
        assert best_difference(deformed, expected) <= DIFFERENCES * scale


@pytest.mark.parametrize("name", NAMES)
def test_energies_depend_on_atoms_as_far_as_the_model_says(name):
    """A bent chain in which atoms see the next ones only: the first energy, and who moves it."""
    hops = models.requirements(case(name).module).hops
    assert (hops is None) == name.startswith(LONG_RANGE)
    chain = np.array([[1.9 * i, 0.55 * (-1) ** i, 0.1 * i**2] for i in range(6)])

    def first(moved: int) -> float:
        positions = chain.copy()
        positions[moved] += [0.1, 0.05, -0.05]
        return float(predict(name, molecule(positions, [14, 8] * 3)).atom_energies[0])

    still = float(predict(name, molecule(chain, [14, 8] * 3)).atom_energies[0])
    if hops is not None:
        assert first(FAINT.get(name, hops)) != still  # by 1e-17 eV for some
        assert all(first(k) == still for k in range(hops + 1, 6))  # bit for bit


@pytest.mark.parametrize("name", NAMES)
def test_forces_are_continuous_at_the_cutoff(name):
    """C1 at least: the jump of the force over the cutoff shrinks with the distance to it."""
    cutoffs = [CUTOFF, *(c for c, _ in case(name).prefixes)]

    def jump(cutoff, gap):
        sides = [
            predict(name, molecule([[0, 0, 0], [0, 1.7, 0], [cutoff + d, 0, 0]], [14, 8, 14]))
            for d in (-gap, gap)
        ]
        return (
            abs(float(sides[0].energy[0] - sides[1].energy[0])),
            float(np.abs(sides[0].forces - sides[1].forces).max()),
        )

    for cutoff in cutoffs:
        energies, forces = zip(*(jump(cutoff, gap) for gap in (1e-3, 1e-5)), strict=True)
        assert energies[1] <= 0.05 * energies[0] + 1e-11
        assert forces[1] <= 0.05 * forces[0] + 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_an_isolated_atom_has_zero_energy(name):
    for number in (8, 14):
        prediction = predict(name, molecule([[0.3, 0.1, 0.2]], [number]), crystal(0))
        # 1e-14: an isolated atom may stand in another row of a matrix product than its reference.
        assert abs(float(prediction.energy[0])) <= 1e-14
        close(prediction.forces[0], np.zeros(3), 1e-14)


@pytest.mark.parametrize("name", NAMES)
@EXAMPLES
@given(seed=SEEDS)
def test_far_copies_double_the_energy(name, seed):
    positions = np.random.default_rng(seed).normal(scale=0.1, size=(4, 3))
    positions += [[0, 0, 0], [1.7, 0, 0], [0, 1.8, 0], [0, 0, 1.9]]
    numbers = [14, 8, 8, 14]
    one = predict(name, molecule(positions, numbers))

    def interaction(distance):
        copies = np.concatenate([positions, positions + distance])
        return float(predict(name, molecule(copies, numbers * 2)).energy[0] - 2.0 * one.energy[0])

    if name in LONG_RANGE:
        # Neutral copies are dipoles to each other: 1/r³, or faster where these are orthogonal.
        near, far = interaction(100.0), interaction(200.0)
        assert abs(near) < 1e-4
        assert abs(far) < 0.2 * abs(near) + 1e-12
    else:
        close(interaction(50.0), 0.0, SYMMETRY * max(1.0, abs(float(one.energy[0]))))


@pytest.mark.parametrize("name", leave("behler_parrinello", *COMPOSED))
def test_supercells_batches_padding_blocks_and_jit_change_nothing(name):
    small = crystal(5, atoms=2)
    shifts = np.stack(np.meshgrid(*[[0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3) @ small.cell
    big = Structure(
        np.tile(small.atomic_numbers, 8),
        (shifts[:, None] + small.positions).reshape(-1, 3),
        2.0 * small.cell,
        small.pbc,
    )
    both = predict(name, small, big)
    close(both.energy[1], 8.0 * both.energy[0])
    close(both.forces[2:18], np.tile(both.forces[:2], (8, 1)))
    close(both.stress[1], both.stress[0])

    close(predict(name, big).energy[0], both.energy[1])
    blocks = predict(name, small, big, block=8)
    close(blocks.energy, both.energy)
    close(blocks.forces, both.forces)

    model = case(name)
    needs = models.requirements(model.module)
    exact = make_graph(
        dataclasses.replace(small, source="fine"),
        CUTOFF,
        dtype=np.float64,
        reverse=True,
        reciprocal_cutoff=needs.reciprocal_cutoff,
        heads=needs.heads,
    )
    exact = jax.tree.map(jnp.asarray, exact)
    close(model.module.apply(model.variables, exact).energies.sum(), both.energy[0])  # no jit
    alone = compiled(name)(model.variables, exact)
    close(alone.energy[0], both.energy[0])
    close(alone.forces, both.forces[:2])
    close(alone.stress[0], both.stress[0])


@pytest.mark.parametrize("name", leave("behler_parrinello", *COMPOSED))
def test_a_skin_changes_nothing(name):
    model = case(name)
    tight, skin = (batch(model, crystal(7), crystal(8), skin=s) for s in (0.0, SKIN))
    assert skin.edge_mask.sum() > tight.edge_mask.sum()
    before, after = (compiled(name)(model.variables, g) for g in (tight, skin))
    close(after.energy, before.energy)
    close(after.forces, before.forces)
    close(after.stress, before.stress)
    direction = np.random.default_rng(0).normal(size=(ATOMS, 3))
    product = compiled(name, hessian_vector_product_fn)
    close(
        product(model.variables, skin, direction), product(model.variables, tight, direction), 1e-9
    )
    gradients = [loss_gradient(name)(model.variables, g) for g in (tight, skin)]
    jax.tree.map(functools.partial(close, tolerance=1e-9), gradients[1], gradients[0])


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_a_loss_is_finite_and_right(name):
    """With padded atoms, structures and slots; one parameter direction against differences."""
    model = case(name)
    graph = batch(model, crystal(2), molecule([[0.0, 0.0, 0.0]], [8]))
    _, gradient = loss_gradient(name)(model.variables, graph)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    if "params" not in model.variables:
        return
    rng = np.random.default_rng(1)
    params = model.variables["params"]
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape), params)

    def loss(h):
        moved = jax.tree.map(lambda x, d: x + h * d, params, direction)
        return loss_gradient(name)({**model.variables, "params": moved}, graph)[0]

    products = jax.tree.map(lambda g, d: jnp.sum(g * d), gradient["params"], direction)
    expected = sum(jax.tree.leaves(products))
    steps = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
    assert best_difference(loss, expected, steps) <= 1e-6 * max(1.0, abs(float(expected)))


@pytest.mark.parametrize("name", NAMES)
def test_hessian_products_equal_differences_of_forces(name):
    model = case(name)
    structure = crystal(4)
    direction = np.zeros((ATOMS, 3))
    direction[:8] = np.random.default_rng(2).normal(size=(8, 3))
    graph = batch(model, structure, skin=0.1)  # pairs may enter while atoms move
    product = compiled(name, hessian_vector_product_fn)(model.variables, graph, direction)

    def forces(h):
        positions = graph.positions + h * direction
        moved = dataclasses.replace(graph, positions=positions)
        return np.asarray(compiled(name)(model.variables, moved).forces)

    h = 1e-4
    slope = (forces(-2 * h) - 8 * forces(-h) + 8 * forces(h) - forces(2 * h)) / (12 * h)
    # Rounding divided by the step, and jumps of the third derivative where a pair enters.
    close(product[:8], -slope[:8], 1e-6)
    close(product[8:], np.zeros((ATOMS - 8, 3)))


@pytest.mark.parametrize("name", NAMES)
def test_float32_agrees_with_float64(name):
    model = case(name)
    structures = crystal(6), crystal(9)
    single = jax.tree.map(lambda x: x.astype(jnp.float32), model.variables)
    low = compiled(name)(single, batch(model, *structures, dtype=np.float32))
    high = predict(name, *structures)
    assert low.forces.dtype == jnp.float32
    for field in ("energy", "forces", "stress"):
        expected = np.asarray(getattr(high, field))
        np.testing.assert_allclose(
            getattr(low, field), expected, rtol=0.0, atol=SINGLE * np.abs(expected).max()
        )


@pytest.mark.parametrize("name", leave("behler_parrinello", *COMPOSED))
def test_given_vectors_are_as_good_as_positions(name):
    model = case(name)
    graph = batch(model, crystal(6), crystal(9))
    if name in LONG_RANGE:
        with pytest.raises(UserError, match="have no pair form"):
            compiled(name, atom_virials_fn)(model.variables, graph)
        return
    expected = compiled(name)(model.variables, graph)
    prediction = compiled(name, atom_virials_fn)(model.variables, graph)
    close(prediction.energy, expected.energy)
    close(prediction.forces, expected.forces)
    close(prediction.virial, expected.virial)
    summed = np.stack([prediction.atom_virials[:8].sum(0), prediction.atom_virials[8:16].sum(0)])
    close(summed, expected.virial[:2])
    nowhere = dataclasses.replace(
        graph, vectors=edge_vectors(graph), positions=np.zeros_like(graph.positions)
    )
    close(compiled(name)(model.variables, nowhere).forces, expected.forces)
