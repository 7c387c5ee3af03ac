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


@pytest.fixture
def files(tmp_path):
    """Two layers, which other tests may change."""
    source = next(path for path in POTENTIALS if path.name == "seeded-l2")
    for name in ("config.json", "weights.safetensors"):
        shutil.copyfile(source / name, tmp_path / name)
    return [tmp_path / "config.json", tmp_path / "weights.safetensors"]


def rewrite(files, changes, arrays):
    """Changes arguments, and arrays by functions of them; by name."""
    config = json.loads(files[0].read_text()) | changes
    files[0].write_text(json.dumps(config))
    state = safetensors.numpy.load_file(files[1])
    for name, function in arrays.items():
        state[name] = np.array(function(state[name]), order="C")
    safetensors.numpy.save_file(state, files[1])


def test_an_import_survives_the_disk(files, tmp_path):
    potential = weights.read("allegro", files)
    storage.save(potential, tmp_path / "potential")
    again = storage.load(tmp_path / "potential")
    assert again.model == potential.model
    assert again.reference_energies == potential.reference_energies
    jax.tree.map(np.testing.assert_array_equal, again.variables, potential.variables)


SPLINES = {"_target_": "allegro.nn.TwoBodySplineScalarEmbed"}
EMBEDDING = "model.func.radial_chemical_embed."


@pytest.mark.parametrize(
    ("changes", "arrays", "message"),
    [
        ({"radial_chemical_embed": SPLINES}, {}, "TwoBodySplineScalarEmbed; only allegro.nn"),
        ({"pair_potential": {"_target_": "ZBL"}}, {}, "got pair_potential"),
        ({"per_edge_type_cutoff": {"H": 3.0}}, {}, "got per_edge_type_cutoff"),
        ({"allegro_mlp_nonlinearity": "gelu"}, {}, "got allegro_mlp_nonlinearity = 'gelu'"),
        ({"weight_individual_irreps": False}, {}, "got weight_individual_irreps"),
        ({"l_max": 1}, {}, "env_embed_linear.*expected"),
        ({"num_layers": 1}, {}, r"latents\.0.*expected"),
        ({"num_layers": 3}, {}, r"latents\.1.*expected"),
        ({"tp_path_channel_coupling": False}, {}, r"tps\.0\.weights: got the shape"),
        ({"r_max": 4.0}, {}, r"_rmax_recip: got 0\.2; expected 0\.25"),
        ({"type_names": ["H", "C"]}, {}, "center_embed.*expected"),
        ({}, {f"{EMBEDDING}bessel_encode.bessel_weights": lambda x: 1.1 * x}, "bessel_weights"),
        ({}, {"model.func.allegro.tps.0.w3j": lambda x: -x}, r"tps\.0\.w3j: got other products"),
        ({}, {"model.func.allegro.tps.0.weights": lambda x: x * np.nan}, "not finite"),
        (
            {},
            {"model.func.per_type_energy_scale_shift.shifts": lambda x: x[:3]},
            "shifts: got 3 numbers for 8 elements",
        ),
    ],
)
def test_what_is_not_supported_is_named(files, changes, arrays, message):
    rewrite(files, changes, arrays)
    with pytest.raises(UserError, match=message):
        weights.read("allegro", files)


def test_arguments_that_are_missing_are_named(files):
    for name in ("type_names", "r_max", "l_max", "avg_num_neighbors", "num_tensor_features"):
        kept = files[0].read_text()
        config = json.loads(kept)
        del config[name]
        files[0].write_text(json.dumps(config))
        with pytest.raises(UserError, match=f"the config has no '{name}'"):
            weights.read("allegro", files)
        files[0].write_text(kept)


def test_arrays_without_a_place_are_refused(files):
    state = safetensors.numpy.load_file(files[1])
    state["model.func.pair_potential.qqr"] = np.ones(1)
    safetensors.numpy.save_file(state, files[1])
    with pytest.raises(UserError, match=r"got the array model\.func\.pair_potential\.qqr"):
        weights.read("allegro", files)


def test_trained_frequencies_and_numbers_for_each_element_are_read(files):
    """As the program has them where `bessel_trainable` is set, or one scale for all elements."""
    plain = weights.read("allegro", files)
    names = json.loads(files[0].read_text())["type_names"]
    radial = {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "bessel_trainable": True}
    shifting = "model.func.per_type_energy_scale_shift."
    rewrite(
        files,
        {"radial_chemical_embed": radial, "avg_num_neighbors": dict.fromkeys(names, 21.4)},
        {
            f"{EMBEDDING}bessel_encode.bessel_weights": lambda x: 1.1 * x,
            f"{shifting}scales": lambda x: np.full((1, 1), 0.5),
            f"{shifting}shifts": lambda x: np.zeros(0),
        },
    )
    potential = weights.read("allegro", files)
    assert potential.model.avg_num_neighbors == (21.4,) * len(names)
    params = potential.variables["params"]
    np.testing.assert_allclose(params["frequencies"], 1.1 * np.arange(1, 9))
    np.testing.assert_array_equal(params["scale"], np.full(len(names), 0.5))
    assert set(potential.reference_energies.values()) == {0.0}
    np.testing.assert_array_equal(params["centre"], plain.variables["params"]["centre"])
