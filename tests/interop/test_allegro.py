"""Weights of nequip-allegro: the numbers of the reference, and what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from mlip_jax import storage
from mlip_jax.config import UserError
from mlip_jax.interop import weights
from mlip_jax.potential import predict_fn
from tests.interop import published

POTENTIALS = published.potentials("allegro")

pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(not POTENTIALS, reason=published.REASON),
]

RELATIVE = 1e-12
"""Float64 on both sides; of forces and stress relative to the largest one of all structures."""


@pytest.mark.parametrize("path", POTENTIALS, ids=lambda path: path.name)
def test_published_weights_give_the_numbers_of_nequip_allegro(path):
    potential = published.read(path)
    expected = published.expected(path)
    predict = jax.jit(predict_fn(potential.model))
    largest = {
        name: max(np.abs(e[name]).max() for e in expected if name in e)
        for name in ("energies", "forces", "stress")
    }

    def close(found, wanted, name):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=RELATIVE * largest[name])

    graphs = published.graphs(path, potential.model.cutoff)
    for structure, e, graph in zip(published.structures(path), expected, graphs, strict=True):
        found = predict(potential.variables, graph)
        count = structure.num_atoms
        numbers = structure.atomic_numbers.tolist()
        free = np.array([potential.reference_energies[z] for z in numbers])
        np.testing.assert_allclose(found.energy[0] + free.sum(), e["energy"], rtol=RELATIVE)
        close(found.atom_energies[:count] + free, e["energies"].ravel(), "energies")
        close(found.forces[:count], e["forces"], "forces")
        if "stress" in e:
            close(found.stress[0], e["stress"], "stress")
