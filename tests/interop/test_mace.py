"""Weights of mace-torch: the numbers of the reference, and what is refused."""

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

POTENTIALS = published.potentials("mace")
PUBLISHED = pytest.mark.skipif(not POTENTIALS, reason=published.REASON)

RELATIVE = 1e-12  # float64 on both sides
FORCES = 1e-11
"""Relative to the largest force of all structures, stress likewise."""


@pytest.mark.reference
@PUBLISHED
@pytest.mark.parametrize("path", POTENTIALS, ids=lambda path: path.name)
def test_published_weights_give_the_numbers_of_mace_torch(path):
    potential = published.read(path)
    expected = published.expected(path)
    predict = jax.jit(predict_fn(potential.model))
    largest = {
        name: max(np.abs(e[name]).max() for e in expected if name in e)
        for name in ("forces", "stress")
    }
    graphs = published.graphs(path, potential.model.cutoff)
    for structure, e, graph in zip(published.structures(path), expected, graphs, strict=True):
        found = predict(potential.variables, graph)
        count = structure.num_atoms
        free = np.array(
            [potential.reference_energies[z] for z in structure.atomic_numbers.tolist()]
        )
        np.testing.assert_allclose(found.energy[0] + free.sum(), e["energy"], rtol=RELATIVE)
        np.testing.assert_allclose(found.atom_energies[:count] + free, e["energies"], rtol=RELATIVE)
        np.testing.assert_allclose(
            found.forces[:count], e["forces"], rtol=0, atol=FORCES * largest["forces"]
        )
        if "stress" in e:
            np.testing.assert_allclose(
                found.stress[0], e["stress"], rtol=0, atol=FORCES * largest["stress"]
            )


@pytest.fixture
def files(tmp_path):
    for name in ("config.json", "weights.safetensors"):
        shutil.copyfile(POTENTIALS[0] / name, tmp_path / name)
    return [tmp_path / "config.json", tmp_path / "weights.safetensors"]


@pytest.mark.reference
@PUBLISHED
def test_an_import_survives_the_disk(tmp_path):
    potential = published.read(POTENTIALS[0])
    storage.save(potential, tmp_path / "potential")
    again = storage.load(tmp_path / "potential")
    assert again.model == potential.model
    assert again.reference_energies == potential.reference_energies
    jax.tree.map(np.testing.assert_array_equal, again.variables, potential.variables)


@pytest.mark.reference
@PUBLISHED
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("interaction_cls", "RealAgnosticAttResidualInteractionBlock", "supported are"),
        ("radial_type", "gaussian", "radial_type = 'gaussian'"),
        ("hidden_irreps", "16x0e+8x1o", "as many channels"),
        ("correlation", [3, 2], "one for all layers"),
        ("distance_transform", "Magic", "got distance_transform Magic"),
        ("num_interactions", 2, r"array .*1.* is missing"),
        ("r_max", None, "no 'r_max'"),
    ],
)
def test_what_is_not_supported_is_named(files, key, value, message):
    config = json.loads(files[0].read_text())
    if value is None:
        del config[key]
    else:
        config[key] = value
    files[0].write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        weights.read("mace", files)


@pytest.mark.reference
@PUBLISHED
def test_damaged_files_are_named(files):
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"weights\.safetensors.*safetensors"):
        weights.read("mace", files)
    files[1].write_bytes(whole)
    files[0].write_text("{")
    with pytest.raises(UserError, match=r"config\.json"):
        weights.read("mace", files)
    with pytest.raises(UserError, match=r"expected one \.json"):
        weights.read("mace", files[:1])


@pytest.mark.reference
@PUBLISHED
def test_tensors_that_are_not_equivariant_are_refused(files):
    arrays = safetensors.numpy.load_file(files[1])
    name = "products.0.symmetric_contractions.contractions.0.U_matrix_2"
    arrays[name] = arrays[name].copy()
    arrays[name][1, 1] += 1.0
    safetensors.numpy.save_file(arrays, files[1])
    with pytest.raises(UserError, match="not a sum of equivariant"):
        weights.read("mace", files)


@pytest.mark.reference
@PUBLISHED
@pytest.mark.parametrize(
    "name",
    [
        "radial_embedding.bessel_fn.bessel_weights",
        "radial_embedding.distance_transform.q",
        "radial_embedding.distance_transform.covalent_radii",
        "pair_repulsion_fn.p",
        "pair_repulsion_fn.a_exp",
    ],
)
def test_trained_constants_are_refused(tmp_path, name):
    source = next(path for path in POTENTIALS if "mp0b" in path.name)
    shutil.copyfile(source / "config.json", tmp_path / "config.json")
    arrays = dict(safetensors.numpy.load_file(source / "weights.safetensors"))
    arrays[name] = np.asarray(arrays[name] + 1, arrays[name].dtype)
    safetensors.numpy.save_file(arrays, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=f"{name}: got"):
        weights.read("mace", [tmp_path / "config.json", tmp_path / "weights.safetensors"])


@pytest.mark.reference
@PUBLISHED
def test_one_of_several_heads(files):
    """Two heads of which one is the original, one has twice its readouts."""
    config = json.loads(files[0].read_text())
    arrays = dict(safetensors.numpy.load_file(files[1]))
    alone = weights.read("mace", files)
    config["heads"] = ["first", "second"]
    linear = arrays["readouts.0.linear.weight"]
    arrays["readouts.0.linear.weight"] = np.stack([2.0 * linear, linear], axis=1).ravel()
    free = arrays["atomic_energies_fn.atomic_energies"].reshape(1, -1)
    arrays["atomic_energies_fn.atomic_energies"] = np.concatenate([free + 1.0, free])
    for name in ("scale_shift.scale", "scale_shift.shift"):
        arrays[name] = np.repeat(np.atleast_1d(arrays[name]), 2)
    files[0].write_text(json.dumps(config))
    safetensors.numpy.save_file(arrays, files[1])
    with pytest.raises(UserError, match="first, second"):
        weights.read("mace", files)
    second = weights.read("mace", files, head="second")
    jax.tree.map(np.testing.assert_array_equal, second.variables, alone.variables)
    assert second.reference_energies == alone.reference_energies
    first = weights.read("mace", files, head="first")
    np.testing.assert_array_equal(
        first.variables["params"]["readout_0"]["weight_0"],
        2.0 * alone.variables["params"]["readout_0"]["weight_0"],
    )
