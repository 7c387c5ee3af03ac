"""Weights of SevenNet: the numbers of the reference, and what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest

from mlip_jax.config import UserError
from mlip_jax.interop import weights
from mlip_jax.potential import predict_fn
from tests.interop import published

POTENTIALS = published.potentials("sevennet")

pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(not POTENTIALS, reason=published.REASON),
]

ENERGY, FORCE = 1e-5, 1e-4
"""eV/atom and eV/Å: the reference ran in float32."""


@pytest.mark.parametrize("path", POTENTIALS, ids=lambda path: path.name)
def test_published_weights_give_the_numbers_of_sevenn(path):
    potential = published.read(path)
    predict = jax.jit(predict_fn(potential.model))
    graphs = published.graphs(path, potential.model.cutoff)
    for structure, e, graph in zip(
        published.structures(path), published.expected(path), graphs, strict=True
    ):
        found = predict(potential.variables, graph)
        count = structure.num_atoms
        numbers = structure.atomic_numbers.tolist()
        total = float(found.energy[0]) + sum(potential.reference_energies[z] for z in numbers)
        assert abs(total - e["energy"]) <= ENERGY * count
        np.testing.assert_allclose(found.forces[:count], e["forces"], rtol=0, atol=FORCE)
        if "stress" in e:
            np.testing.assert_allclose(found.stress[0], e["stress"], rtol=0, atol=FORCE)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("self_connection_type", "nequip", "self_connection_type = 'nequip'"),
        ("irreps_manual", ["128x0e", "128x0e+64x1e", "128x0e"], "expected the same irreps"),
        ("radial_basis", {"radial_basis_name": "gaussian"}, "expected bessel"),
        ("cutoff_function", {"cutoff_function_name": "cos"}, "expected XPLOR"),
        ("cutoff", None, "no 'cutoff'"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, key, value, message):
    files = [tmp_path / "config.json", tmp_path / "weights.safetensors"]
    for file in files:
        shutil.copyfile(POTENTIALS[0] / file.name, file)
    config = json.loads(files[0].read_text())["config"]
    config = {k: v for k, v in {**config, key: value}.items() if v is not None}
    files[0].write_text(json.dumps({"config": config}))
    with pytest.raises(UserError, match=message):
        weights.read("sevennet", files)
