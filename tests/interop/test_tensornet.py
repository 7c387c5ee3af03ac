"""TensorNet of matgl: what is read, what is refused, and the numbers of the program."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from mlip_jax import storage
from mlip_jax.config import UserError
from mlip_jax.interop import weights
from mlip_jax.models.tensornet import TensorNet
from mlip_jax.potential import predict_fn
from tests.interop import published

SIZE, RADIAL = 2, 3
ARGUMENTS = {
    "element_types": ["O", "Si"],
    "units": SIZE,
    "include_state": False,
    "nblocks": 1,
    "num_rbf": 32,
    "max_n": RADIAL,
    "rbf_type": "SphericalBessel",
    "use_smooth": True,
    "activation_type": "swish",
    "cutoff": 4.0,
    "equivariance_invariance_group": "O(3)",
    "width": 0.5,
    "is_intensive": False,
    "ntargets": 1,
}
CONFIG = {"init_args": ARGUMENTS}


def state() -> dict[str, np.ndarray]:
    """A state dict with the names and shapes of the program."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        shapes[f"model.{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"model.{name}.bias"] = (outputs,)

    for k in (1, 2, 3):
        linear(f"tensor_embedding.distance_proj{k}", RADIAL, SIZE)
        linear(f"tensor_embedding.linears_tensor.{k - 1}", SIZE, SIZE, False)
    linear("tensor_embedding.emb", SIZE, 2, False)
    linear("tensor_embedding.emb2", 2 * SIZE, SIZE)
    linear("tensor_embedding.linears_scalar.0", SIZE, 2 * SIZE)
    linear("tensor_embedding.linears_scalar.1", 2 * SIZE, 3 * SIZE)
    linear("layers.0.linears_scalar.0", RADIAL, SIZE)
    linear("layers.0.linears_scalar.1", SIZE, 2 * SIZE)
    linear("layers.0.linears_scalar.2", 2 * SIZE, 3 * SIZE)
    for k in range(6):
        linear(f"layers.0.linears_tensor.{k}", SIZE, SIZE, False)
    linear("linear", 3 * SIZE, SIZE)
    for network in ("layers", "gates"):
        for i, outputs in enumerate((SIZE, SIZE, SIZE, 1)):
            linear(f"final_layer.gated.{network}.{2 * i}", SIZE, outputs)
    for name, size in (("tensor_embedding.init_norm", SIZE), ("out_norm", 3 * SIZE)):
        shapes[f"model.{name}.weight"] = shapes[f"model.{name}.bias"] = (size,)
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    of_potential = {
        "data_mean": np.float32(0.0),
        "data_std": np.float32(2.0),
        "element_refs.property_offset": np.array([-1.5, -0.5]),
    }
    return arrays | {name: np.asarray(array) for name, array in of_potential.items()}


def write(folder: Path, config=None, arrays=None) -> list[Path]:
    paths = [folder / "config.json", folder / "weights.safetensors"]
    paths[0].write_text(config if isinstance(config, str) else json.dumps(config or CONFIG))
    safetensors.numpy.save_file(state() if arrays is None else arrays, str(paths[1]))
    return paths


def test_a_file_gives_the_model_and_the_energies_of_isolated_atoms(tmp_path):
    potential = weights.read("tensornet", write(tmp_path))
    model = potential.model
    assert isinstance(model, TensorNet)
    assert model.species == (8, 14)
    assert (model.num_radial, model.radial_basis, model.readout) == (3, "smooth_bessel", "gated")
    assert model.energy_scale == 2.0
    energies = potential.reference_energies
    # The readout of nothing is the same for all elements; what differs is the program's offset.
    assert energies[14] - energies[8] == pytest.approx(1.0)
    # Outputs of the radial network are ordered by part, in the file by channel.
    theirs = state()["model.layers.0.linears_scalar.2.bias"].reshape(SIZE, 3)
    ours = potential.variables["params"]["interaction_0"]["radial"]["bias_2"]
    np.testing.assert_array_equal(ours.reshape(3, SIZE), theirs.T)


def test_the_config_may_be_that_of_a_potential(tmp_path):
    whole = {"@class": "Potential", "kwargs": {"model": CONFIG, "data_std": "tensor(2.)"}}
    potential = weights.read("tensornet", write(tmp_path, whole))
    assert potential.model == weights.read("tensornet", write(tmp_path)).model


def test_an_import_survives_the_disk(tmp_path):
    potential = weights.read("tensornet", write(tmp_path))
    storage.save(potential, tmp_path / "potential")
    loaded = storage.load(tmp_path / "potential")
    assert loaded.model == potential.model
    jax.tree.map(np.testing.assert_array_equal, dict(loaded.variables), dict(potential.variables))


def changed(**arguments) -> dict:
    return CONFIG | {"init_args": ARGUMENTS | arguments}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"init_args": {},\n "data_std" 1}', r"config\.json: line 2: got Expecting"),
        ("[]", r"got a list; expected a mapping"),
        ({"init_args": 3}, r"init_args: got 3; expected a mapping"),
        ({"init_args": {}}, r"is_intensive is missing"),
        (changed(is_intensive=True), r"init_args\.is_intensive: got True; supported: False"),
        (changed(use_smooth=False), r"init_args\.use_smooth: got False"),
        (changed(rbf_type="Fourier"), r"init_args\.rbf_type: got 'Fourier'"),
        (changed(activation_type="softexp"), r"init_args\.activation_type: got 'softexp'"),
        (changed(equivariance_invariance_group="E(3)"), r"got 'E\(3\)'; supported: 'O\(3\)'"),
        (changed(element_types=["O", "Xx"]), r"init_args\.element_types: .*Xx"),
        (changed(element_types=["O"]), r"property_offset: got the shape \[2\]; expected \[1\]"),
        ({"kwargs": {"model": []}}, r"model: got \[\]; expected a mapping"),
        (changed(units=3), r"weights\.safetensors: .*got the shape .*; expected"),
        (changed(nblocks=2), r"the array model\.layers\.1\.\S+ is missing"),
        (changed(nblocks=0), r"got the array model\.layers\.0\.\S+ \(.* no place for"),
    ],
)
def test_configs_that_are_damaged_or_not_supported_are_named(tmp_path, config, message):
    with pytest.raises(UserError, match=message):
        weights.read("tensornet", write(tmp_path, config))


def test_weights_that_are_damaged_are_named(tmp_path):
    config, arrays = write(tmp_path)
    with pytest.raises(UserError, match=r"got config\.json; expected one \.json and one"):
        weights.read("tensornet", [config])
    arrays.write_bytes(arrays.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"weights\.safetensors: cannot be read as safetensors"):
        weights.read("tensornet", [config, arrays])
    shifted = state() | {"data_mean": np.array(0.5)}
    with pytest.raises(UserError, match=r"weights\.safetensors: data_mean: got 0\.5; only 0"):
        weights.read("tensornet", write(tmp_path, arrays=shifted))
    broken = state()
    broken["model.linear.bias"][0] = np.nan
    with pytest.raises(UserError, match=r"model\.linear\.bias: got numbers that are not finite"):
        weights.read("tensornet", write(tmp_path, arrays=broken))


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.skipif(not published.potentials("tensornet"), reason=published.REASON)
@pytest.mark.parametrize("folder", published.potentials("tensornet"), ids=lambda f: f.name)
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
        np.testing.assert_allclose(energy, expected["energy"], rtol=1e-12)
        for name, found in (("forces", prediction.forces[:number]), ("stress", prediction.stress)):
            if name in expected:
                values = expected[name]
                scale = np.abs(values).max()
                found = np.asarray(found).reshape(values.shape)
                np.testing.assert_allclose(found, values, rtol=0, atol=1e-11 * scale + 1e-13)
        # What the program gives in float32 differs by its own rounding.
        np.testing.assert_allclose(energy, expected["energy_float32"], rtol=1e-6)
