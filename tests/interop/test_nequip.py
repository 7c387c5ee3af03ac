"""Energies, forces and stress of the program nequip 0.19.1, float64, from its own weights."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

from mlip_jax.data.collate import Bucket, make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.interop import weights
from mlip_jax.potential import predict_fn

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("MLIP_JAX_SHARED", ROOT / "../shared"))
REFERENCE = SHARED / "reference/nequip"

pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference values in {REFERENCE}"),
]


@pytest.mark.parametrize("name", ["seeded-l1-parity", "seeded-l2-noparity"])
def test_published_weights_give_the_published_numbers(name):
    folder = REFERENCE / name
    potential = weights.read("nequip", [folder / "config.json", folder / "weights.safetensors"])
    model, variables = potential.model, potential.variables
    predict = jax.jit(predict_fn(model))
    expected = np.load(folder / "expected.npz")
    structures = [structure_of(expected, i) for i in range(int(expected["n_structures"]))]
    graphs = [make_graph(structure, model.cutoff) for structure in structures]
    # one padded shape for all, so that one compilation serves them
    atoms = max(graph.num_atoms for graph in graphs)
    bucket = Bucket(1, atoms, max(graph.max_neighbors for graph in graphs))
    for i, structure in enumerate(structures):
        graph = make_graph(structure, model.cutoff, dtype=np.float64, bucket=bucket)
        prediction = predict(variables, graph)
        shifts = sum(potential.reference_energies[int(z)] for z in structure.atomic_numbers)
        # both sides are float64: a few 1e-16 of the largest number in the sums
        np.testing.assert_allclose(
            prediction.energy[0] + shifts, expected[f"s{i}_energy"], rtol=1e-12
        )
        forces = prediction.forces[: structure.num_atoms]
        np.testing.assert_allclose(forces, expected[f"s{i}_forces"], atol=1e-12)
        if f"s{i}_stress" in expected:
            np.testing.assert_allclose(prediction.stress[0], expected[f"s{i}_stress"], atol=1e-12)


def structure_of(expected, i: int) -> Structure:
    fields = ("numbers", "positions", "cell", "pbc")
    return Structure(*(expected[f"s{i}_{field}"] for field in fields))
