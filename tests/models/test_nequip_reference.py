"""Energies, forces and stress of the program nequip 0.19.1, float64, from its own weights."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.interop.weights import nequip
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
    state = load_file(folder / "weights.safetensors")
    config = json.loads((folder / "config.json").read_text())
    model, variables, reference_energies = nequip.convert(state, config)
    predict = jax.jit(predict_fn(model))
    expected = np.load(folder / "expected.npz")
    for i in range(int(expected["n_structures"])):
        numbers = expected[f"s{i}_numbers"]
        structure = Structure(
            atomic_numbers=numbers,
            positions=expected[f"s{i}_positions"],
            cell=expected[f"s{i}_cell"],
            pbc=expected[f"s{i}_pbc"],
        )
        graph = make_graph(structure, model.cutoff, dtype=np.float64)
        prediction = predict(variables, graph)
        energy = prediction.energy[0] + sum(reference_energies[int(z)] for z in numbers)
        # both sides are float64: 1e-15 of the largest number in a sum of some 10^4 terms
        np.testing.assert_allclose(energy, expected[f"s{i}_energy"], rtol=1e-12)
        np.testing.assert_allclose(prediction.forces, expected[f"s{i}_forces"], atol=1e-12)
        if f"s{i}_stress" in expected:
            np.testing.assert_allclose(prediction.stress[0], expected[f"s{i}_stress"], atol=1e-12)
