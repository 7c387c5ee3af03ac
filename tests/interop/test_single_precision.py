"""Published potentials in float32: every one within the tolerances of `published`."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from mlip_jax.potential import predict_fn
from tests.interop import published

FAMILIES = ("ace", "gap", "hdnnp", "m3gnet", "mtp", "snap", "tensornet")
FOLDERS = [
    folder
    for family in FAMILIES
    for folder in published.potentials(family)
    # Charges that are equilibrated are refused.
    if not folder.name.endswith("_4G")
]


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.skipif(not FOLDERS, reason=published.REASON)
@pytest.mark.parametrize(
    "folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}"
)
def test_single_precision_is_close_to_the_reference(folder):
    potential = published.read(folder)
    variables = potential.variables_in(np.float32)
    predict = jax.jit(predict_fn(potential.model))
    graphs = published.graphs(folder, potential.cutoff, np.float32)
    for expected, graph in zip(published.expected(folder), graphs, strict=True):
        number = len(expected["numbers"])
        prediction = predict(variables, graph)
        assert prediction.forces.dtype == np.float32
        alone = sum(potential.reference_energies[z] for z in expected["numbers"].tolist())
        energy = float(prediction.energy[0]) + alone
        assert abs(energy - float(expected["energy"])) / number < published.ENERGY
        forces = np.asarray(prediction.forces[:number], np.float64)
        assert np.abs(forces - expected["forces"]).max() < published.FORCE


PROGRAM = """
import sys
import numpy as np
from mlip_jax.potential import predict_fn
from tests.interop import published
import jax
assert not jax.config.jax_enable_x64
for name in sys.argv[1:]:
    folder = next(f for family in ("ace", "gap", "hdnnp")
                  for f in published.potentials(family) if f.name == name)
    potential = published.read(folder)
    predict = jax.jit(predict_fn(potential.model))
    variables = potential.variables_in(np.float32)
    expected = published.expected(folder)
    graph = list(published.graphs(folder, potential.cutoff, np.float32))[1]
    prediction, number = predict(variables, graph), len(expected[1]["numbers"])
    alone = sum(potential.reference_energies[z] for z in expected[1]["numbers"].tolist())
    error = (float(prediction.energy[0]) + alone - float(expected[1]["energy"])) / number
    assert abs(error) < published.ENERGY, error
    force = np.abs(np.asarray(prediction.forces)[:number] - expected[1]["forces"]).max()
    assert force < published.FORCE, force
"""


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.skipif(not FOLDERS, reason=published.REASON)
def test_sums_in_float64_work_while_x64_is_off():
    """The tests run with x64 on; users of float32 have it off."""
    names = ["Cu-PBE-core-rep", "Si_soap_2b", "Mo_mlearn"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        cwd=published.ROOT,
        env={**published.os.environ, "JAX_ENABLE_X64": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
