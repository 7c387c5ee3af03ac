"""Pair potentials: formulas, parameters and the numbers of LAMMPS."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.models.pair import ZBL, LennardJones, Morse
from mlip_jax.models.sum import Sum
from mlip_jax.potential import predict_fn

SHARED = Path(
    os.environ.get("MLIP_JAX_SHARED", Path(__file__).resolve().parents[2] / ".." / "shared")
)


def _dimer(distance: float, numbers=(14, 8)):
    positions = np.array([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]])
    structure = Structure(np.array(numbers), positions, np.zeros((3, 3)), np.zeros(3, dtype=bool))
    return _graph(structure, 6.0)


def _graph(structure: Structure, cutoff: float):
    return jax.tree.map(jnp.asarray, make_graph(structure, cutoff, dtype=np.float64))


def _energy(model, graph) -> float:
    variables = model.init(jax.random.key(0), graph)
    return float(model.apply(variables, graph).energies.sum())


def test_minima_of_a_dimer():
    minimum = 2.5 * 2.0 ** (1.0 / 6.0)
    lennard_jones = LennardJones((8, 14), epsilon=(1.0, 0.25, 2.0), sigma=2.5, trainable=False)
    assert _energy(lennard_jones, _dimer(minimum)) == pytest.approx(-0.25, rel=1e-6)
    morse = Morse((8, 14), depth=(1.0, 0.75, 2.0), distance=2.1)
    assert _energy(morse, _dimer(2.1)) == pytest.approx(-0.75, rel=1e-6)


def test_only_trainable_parameters_are_params():
    graph = _dimer(2.0)
    assert "params" in Morse((8, 14)).init(jax.random.key(0), graph)
    assert "params" not in Morse((8, 14), trainable=False).init(jax.random.key(0), graph)
    assert "params" not in ZBL((8, 14)).init(jax.random.key(0), graph)


def test_a_sum_reads_terms_with_a_short_cutoff_from_a_prefix():
    model = Sum((Morse((8, 14), cutoff=6.0), ZBL((8, 14), cutoff=2.0)))
    assert (model.cutoff, model.prefix_cutoffs, model.species) == (6.0, (2.0,), (8, 14))
    graph = _dimer(1.5)
    terms = [_energy(term, graph) for term in model.terms]
    assert _energy(model, graph) == pytest.approx(sum(terms), rel=1e-12)


def test_mistakes_are_explained():
    with pytest.raises(UserError, match="got no species"):
        _energy(Morse(), _dimer(2.0))
    with pytest.raises(UserError, match="3 for the pairs"):
        _energy(LennardJones((8, 14), epsilon=(1.0, 2.0)), _dimer(2.0))
    with pytest.raises(UserError, match="inner"):
        _energy(ZBL((8, 14), cutoff=1.0, inner=2.0), _dimer(2.0))


@pytest.mark.reference
def test_zbl_equals_lammps():
    path = SHARED / "reference/electrostatics/zbl_lammps/expected.npz"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    expected = np.load(path, allow_pickle=False)
    for n in range(int(expected["n_structures"])):
        numbers, positions, cell, pbc, energy, energies, forces = (
            expected[f"s{n}_{key}"]
            for key in ("numbers", "positions", "cell", "pbc", "energy", "energies", "forces")
        )
        structure = Structure(numbers, positions, cell, pbc)
        species = tuple(sorted({int(z) for z in numbers}))
        model = ZBL(species, cutoff=4.0, inner=3.0)
        graph = _graph(structure, model.cutoff)
        prediction = predict_fn(model)({}, graph)
        np.testing.assert_allclose(prediction.energy[0], energy, rtol=1e-12)
        scale = np.abs(energies).max()
        np.testing.assert_allclose(
            prediction.atom_energies, energies, rtol=1e-12, atol=1e-12 * scale
        )
        largest = np.abs(forces).max()
        np.testing.assert_allclose(prediction.forces, forces, rtol=1e-12, atol=1e-12 * largest)
        if pbc.all():
            stress = expected[f"s{n}_stress"]
            full = prediction.stress[0]
            if stress.shape == (6,):
                full = np.array([full[i] for i in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))])
            largest = np.abs(stress).max()
            np.testing.assert_allclose(full, stress, rtol=1e-12, atol=1e-12 * largest)
