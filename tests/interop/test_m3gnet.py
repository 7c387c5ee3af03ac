"""M3GNet of matgl: what is read, what is refused, and the numbers of the program."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from mlip_jax import storage
from mlip_jax.config import UserError
from mlip_jax.interop import weights
from mlip_jax.models.m3gnet import M3GNet
from mlip_jax.potential import predict_fn
from tests.interop import published

ATOM, BOND, WIDTH, MAX_N, MAX_L = 3, 2, 4, 2, 2
ARGUMENTS = {
    "element_types": ["O", "Si"],
    "is_intensive": False,
    "include_state": False,
    "ntargets": 1,
    "activation_type": "swish",
    "rbf_type": "SphericalBessel",
    "readout_type": "weighted_atom",
    "task_type": "regression",
    "use_phi": False,
    "use_smooth": False,
    "max_n": MAX_N,
    "max_l": MAX_L,
    "nblocks": 1,
    "cutoff": 4.0,
    "threebody_cutoff": 3.0,
    "dim_node_embedding": ATOM,
    "dim_edge_embedding": BOND,
    "units": WIDTH,
}


def state(smooth: bool = False) -> dict[str, np.ndarray]:
    """A state dict with the names and shapes of the program."""
    radial = MAX_N if smooth else MAX_N * MAX_L
    shapes: dict[str, tuple[int, ...]] = {"embedding.layer_node_embedding.weight": (2, ATOM)}

    def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    def gated(name: str, inputs: int, *widths: int, bias: bool = True) -> None:
        for i, outputs in enumerate(widths):
            linear(f"{name}.layers.{2 * i}", inputs, outputs, bias)
            linear(f"{name}.gates.{2 * i}", inputs, outputs, bias)
            inputs = outputs

    linear("embedding.layer_edge_embedding.layers.0", radial, BOND)
    triplets, conv = "three_body_interactions.0", "graph_layers.0.conv"
    linear(f"{triplets}.update_network_atom.layers.0", ATOM, MAX_N * MAX_L)
    gated(f"{triplets}.update_network_bond", MAX_N * MAX_L, BOND, bias=False)
    gated(f"{conv}.edge_update_func", 2 * ATOM + BOND, WIDTH, WIDTH, BOND)
    gated(f"{conv}.node_update_func", 2 * ATOM + BOND, WIDTH, WIDTH, ATOM)
    linear(f"{conv}.edge_weight_func", radial, BOND, False)
    linear(f"{conv}.node_weight_func", radial, ATOM, False)
    gated("final_layer.gated", ATOM, ATOM, WIDTH, WIDTH, 1)
    rng = np.random.default_rng(0)
    arrays = {f"model.{n}": rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    of_potential = {
        "data_mean": np.float32(0.0),
        "data_std": np.float32(2.0),
        "element_refs.property_offset": np.array([-1.5, -0.5]),
        "model.basis_expansion.sbf.cutoff": np.float32(4.0),
        "model.bond_expansion.rbf.cutoff": np.float32(4.0),
    }
    return arrays | {name: np.asarray(array) for name, array in of_potential.items()}


def write(folder: Path, arrays=None, **arguments) -> list[Path]:
    paths = [folder / "config.json", folder / "weights.safetensors"]
    paths[0].write_text(json.dumps({"init_args": ARGUMENTS | arguments}))
    safetensors.numpy.save_file(state() if arrays is None else arrays, str(paths[1]))
    return paths


def gated(arrays: dict[str, np.ndarray], x: np.ndarray) -> float:
    """The readout by hand."""
    outputs = []
    for branch in ("layers", "gates"):
        y = x
        for i in range(4):
            name = f"model.final_layer.gated.{branch}.{2 * i}"
            y = arrays[f"{name}.weight"].astype(float) @ y + arrays[f"{name}.bias"]
            y = y / (1.0 + np.exp(-y)) if i < 3 else y
        outputs.append(float(y[0]))
    return outputs[0] / (1.0 + np.exp(-outputs[1]))


def test_a_file_gives_the_model_and_the_energies_of_isolated_atoms(tmp_path):
    potential = weights.read("m3gnet", write(tmp_path))
    model = potential.model
    assert isinstance(model, M3GNet)
    assert model.species == (8, 14)
    assert (model.cutoff, model.threebody_cutoff, model.triplets_at) == (4.0, 3.0, "sender")
    assert model.radial_basis == model.threebody_basis == "spherical_bessel"
    assert model.energy_scale == 2.0
    arrays = state()
    embedding = arrays["model.embedding.layer_node_embedding.weight"]
    for number, offset, x in zip((8, 14), (-1.5, -0.5), embedding, strict=True):
        expected = offset + 2.0 * gated(arrays, x)
        assert potential.reference_energies[number] == pytest.approx(expected, rel=1e-12)


def test_smooth_functions_are_fewer(tmp_path):
    model = weights.read("m3gnet", write(tmp_path, state(smooth=True), use_smooth=True)).model
    assert isinstance(model, M3GNet)
    assert model.radial_basis == model.threebody_basis == "smooth_bessel"


def test_an_import_survives_the_disk(tmp_path):
    potential = weights.read("m3gnet", write(tmp_path))
    storage.save(potential, tmp_path / "potential")
    loaded = storage.load(tmp_path / "potential")
    assert loaded.model == potential.model
    jax.tree.map(np.testing.assert_array_equal, dict(loaded.variables), dict(potential.variables))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"is_intensive": True}, r"config\.json: init_args\.is_intensive: got True; supp.*: False"),
        ({"include_state": True}, r"include_state: got True"),
        ({"use_phi": True}, r"use_phi: got True"),
        ({"rbf_type": "Gaussian"}, r"rbf_type: got 'Gaussian'; supported: 'SphericalBessel'"),
        ({"activation_type": "tanh"}, r"activation_type: got 'tanh'; supported: 'swish'"),
        ({"readout_type": "set2set"}, r"readout_type: got 'set2set'"),
        ({"element_types": ["O", "Xx"]}, r"element_types: .*Xx"),
        ({"units": 5}, r"weights\.safetensors: .*got the shape .*; expected"),
        ({"use_smooth": True}, r"layer_edge_embedding.*got the shape \[2, 4\]; expected \[2, 2\]"),
        ({"nblocks": 2}, r"the array model\.\S+\.1\.\S+ is missing"),
        ({"nblocks": 0}, r"got the array model\.\S+\.0\.\S+ \(.* no place for"),
    ],
)
def test_configs_that_are_damaged_or_not_supported_are_named(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        weights.read("m3gnet", write(tmp_path, **arguments))


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.skipif(not published.potentials("m3gnet"), reason=published.REASON)
@pytest.mark.parametrize("folder", published.potentials("m3gnet"), ids=lambda f: f.name)
def test_published_weights_give_the_numbers_of_matgl(folder):
    potential = published.read(folder)
    variables = potential.variables_in(np.float64)
    predict = jax.jit(predict_fn(potential.model))
    graphs = published.graphs(folder, potential.cutoff)
    for expected, graph in zip(published.expected(folder), graphs, strict=True):
        number = len(expected["numbers"])
        prediction = predict(variables, graph)
        alone = sum(potential.reference_energies[z] for z in expected["numbers"].tolist())
        energy = prediction.energy[0] + alone
        # Both sides are float64 with the same constants: what is left is rounding.
        np.testing.assert_allclose(energy, expected["energy"], rtol=0, atol=1e-11 * number)
        for name, found in (("forces", prediction.forces[:number]), ("stress", prediction.stress)):
            values = expected[name]
            scale = np.abs(values).max()
            found = np.asarray(found).reshape(values.shape)
            np.testing.assert_allclose(found, values, rtol=0, atol=1e-10 * scale + 1e-13)
        # The program's own float32, with the same bonds, differs by its rounding.
        np.testing.assert_allclose(energy, expected["energy_float32"], rtol=1e-6)
