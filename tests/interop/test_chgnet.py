"""CHGNet: what is read, what is refused, and the numbers of the program."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import jax_md
import numpy as np
import pytest
import safetensors.numpy

from mlip_jax import elements, inference, models, storage, units
from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket, make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.interop import weights
from mlip_jax.models.chgnet import CHGNet
from mlip_jax.potential import predict_fn
from mlip_jax.simulate import jax_md_energy
from tests.interop import published

SIZE, RADIAL, ANGULAR, ELEMENTS = 2, 3, 5, 90
ARGUMENTS = {
    "atom_fea_dim": SIZE,
    "bond_fea_dim": SIZE,
    "angle_fea_dim": SIZE,
    "composition_model": "MPtrj",
    "num_radial": RADIAL,
    "num_angular": ANGULAR,
    "n_conv": 3,
    "atom_conv_hidden_dim": SIZE,
    "update_bond": True,
    "bond_conv_hidden_dim": SIZE,
    "update_angle": True,
    "angle_layer_hidden_dim": 0,
    "conv_dropout": 0,
    "read_out": "ave",
    "mlp_hidden_dims": [SIZE],
    "mlp_first": True,
    "is_intensive": True,
    "non_linearity": "silu",
    "atom_graph_cutoff": 4,
    "bond_graph_cutoff": 3,
    "cutoff_coeff": 6,
    "learnable_rbf": True,
    "gMLP_norm": "layer",
    "readout_norm": "layer",
    "version": "0.3.0",
    "mlp_out_bias": False,
}


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the program's arrays."""
    found: dict[str, tuple[int, ...]] = {
        "atom_embedding.embedding.weight": (ELEMENTS, SIZE),
        "composition_model.fc.weight": (1, ELEMENTS),
        "angle_basis_expansion.fourier_expansion.frequencies": (ANGULAR // 2,),
        "bond_basis_expansion.rbf_expansion_ag.frequencies": (RADIAL,),
        "bond_basis_expansion.rbf_expansion_bg.frequencies": (RADIAL,),
    }

    def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        found[f"{name}.weight"] = (outputs, inputs)
        if bias:
            found[f"{name}.bias"] = (outputs,)

    def gated(name: str, inputs: int, deep: bool) -> None:
        for network in ("mlp_core", "mlp_gate"):
            linear(f"{name}.{network}.layers.{0 if deep else 1}", inputs, SIZE)
            if deep:
                linear(f"{name}.{network}.layers.3", SIZE, SIZE)
        for norm in ("bn1", "bn2"):
            found[f"{name}.{norm}.weight"] = found[f"{name}.{norm}.bias"] = (SIZE,)

    for name in ("bond_embedding", "bond_weights_ag", "bond_weights_bg"):
        linear(name, RADIAL, SIZE, False)
    linear("angle_embedding", ANGULAR, SIZE, False)
    for i in range(3):
        gated(f"atom_conv_layers.{i}.twoBody_atom", 3 * SIZE, True)
        linear(f"atom_conv_layers.{i}.mlp_out.layers.1", SIZE, SIZE, False)
    for i in range(2):
        gated(f"bond_conv_layers.{i}.twoBody_bond", 4 * SIZE, True)
        linear(f"bond_conv_layers.{i}.mlp_out.layers.1", SIZE, SIZE, False)
        gated(f"angle_layers.{i}.twoBody_bond", 4 * SIZE, False)
    linear("site_wise", SIZE, 1)
    found["readout_norm.weight"] = found["readout_norm.bias"] = (SIZE,)
    linear("mlp.layers.0", SIZE, SIZE)
    linear("mlp.layers.3", SIZE, 1)
    return found


def state() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=s).astype(np.float32) for name, s in shapes().items()}
    arrays["composition_model.fc.weight"][0, 69] = 1e-14  # Yb
    return arrays


def write(folder: Path, config=None, arrays=None) -> list[Path]:
    paths = [folder / "config.json", folder / "weights.safetensors"]
    paths[0].write_text(json.dumps({"model_args": ARGUMENTS} if config is None else config))
    safetensors.numpy.save_file(state() if arrays is None else arrays, str(paths[1]))
    return paths


def test_a_file_gives_the_model_and_the_energies_of_isolated_atoms(tmp_path):
    potential = weights.read("chgnet", write(tmp_path))
    model, arrays = potential.model, state()
    assert isinstance(model, CHGNet)
    # Po to Ra are not in MPtrj, and Yb has no reference energy.
    absent = {70, 84, 85, 86, 87, 88}
    assert model.species == tuple(z for z in range(1, ELEMENTS + 1) if z not in absent)
    assert (model.cutoff, model.bond_cutoff, model.polynomial_cutoff_p) == (4.0, 3.0, 6)
    assert (model.num_layers, model.readout_hidden, model.layer_norm) == (3, (SIZE,), True)
    params = potential.variables["params"]
    gate = arrays["bond_conv_layers.1.twoBody_bond.mlp_gate.layers.0.weight"]
    np.testing.assert_array_equal(
        params["bonds_1"]["message"]["first"]["kernel_0"][:, SIZE:].T, gate
    )
    assert "angles_1" not in params  # its result would not be read
    # Without neighbours: the embedding, its norm and the readout.
    x = arrays["atom_embedding.embedding.weight"][13].astype(np.float64)
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    x = x * arrays["readout_norm.weight"] + arrays["readout_norm.bias"]
    x = x @ arrays["mlp.layers.0.weight"].T + arrays["mlp.layers.0.bias"]
    x = (x / (1 + np.exp(-x))) @ arrays["mlp.layers.3.weight"].T + arrays["mlp.layers.3.bias"]
    expected = float(x[0]) + float(arrays["composition_model.fc.weight"][0, 13])
    assert potential.reference_energies[14] == pytest.approx(expected, abs=1e-12)
    # In single precision they are constants, from double.
    folded = potential.variables_in(np.float32)["constants"]["isolated_energies"]
    assert folded[13] == pytest.approx(float(x[0]), rel=1e-7)


def test_an_import_survives_the_disk(tmp_path):
    potential = weights.read("chgnet", write(tmp_path))
    storage.save(potential, tmp_path / "potential")
    loaded = storage.load(tmp_path / "potential")
    assert loaded.model == potential.model
    jax.tree.map(np.testing.assert_array_equal, dict(loaded.variables), dict(potential.variables))


def changed(**arguments) -> dict:
    return {"model_args": ARGUMENTS | arguments}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "no 'model_args'"),
        ({"model_args": []}, r"model_args: got \[\]; expected a mapping"),
        ({"model_args": {}}, "no 'atom_fea_dim'"),
        (changed(bond_fea_dim=3), r"config\.json: model_args\.bond_fea_dim: got 3; supported: 2"),
        (changed(update_angle=False), r"update_angle: got False; supported: True"),
        (changed(read_out="attn"), r"read_out: got 'attn'; supported: 'ave'"),
        (changed(gMLP_norm="batch"), r"gMLP_norm: got 'batch'; supported: None, 'layer'"),
        (changed(readout_norm=None), r"readout_norm: got None; supported: 'layer'"),
        (changed(num_heads=3), r"num_heads: got 3; supported: nothing"),
        (changed(atom_graph_cutoff="6"), r"atom_graph_cutoff: got '6'; expected a number > 0"),
        (changed(num_radial=4), r"frequencies: got the shape \[3\]; expected \[4\]"),
        (changed(n_conv=4), r"the array atom_conv_layers\.3\.\S+ is missing"),
        (changed(n_conv=2), r"got the array \S+ \(.* no place for"),
        (changed(mlp_out_bias=True), r"mlp_out\.layers\.1\.bias is missing"),
    ],
)
def test_configs_that_are_damaged_or_not_supported_are_named(tmp_path, config, message):
    with pytest.raises(UserError, match=message):
        weights.read("chgnet", write(tmp_path, config))


def graphs(folder: Path, potential, dtype: type = np.float64):
    """Graphs of one padded shape with what the model needs."""
    needs = models.requirements(potential.model)
    found = published.structures(folder)
    tight = [make_graph(s, needs.cutoff, prefix_cutoffs=needs.prefix_cutoffs) for s in found]
    bucket = Bucket(
        1,
        max(graph.num_atoms for graph in tight) + 1,
        max(graph.max_neighbors for graph in tight),
        ((needs.prefix_cutoffs[0], max(graph.prefixes[0][1] for graph in tight)),),
    )
    return (make_graph(s, needs.cutoff, dtype=dtype, reverse=True, bucket=bucket) for s in found)


reference = pytest.mark.skipif(not published.potentials("chgnet"), reason=published.REASON)


@pytest.mark.slow
@pytest.mark.reference
@reference
@pytest.mark.parametrize("folder", published.potentials("chgnet"), ids=lambda f: f.name)
def test_published_weights_give_the_numbers_of_the_program(folder):
    potential = published.read(folder)
    predict = jax.jit(predict_fn(potential.model))
    variables = potential.variables_in(np.float64)
    for expected, graph in zip(published.expected(folder), graphs(folder, potential), strict=True):
        number = len(expected["numbers"])
        found = predict(variables, graph)
        alone = np.array([potential.reference_energies[z] for z in expected["numbers"].tolist()])
        energies = np.asarray(found.atom_energies[:number]) + alone
        # Both sides are float64: rounding, which an arc cosine near π multiplies by up to 700.
        np.testing.assert_allclose(energies, expected["energies"], rtol=0, atol=1e-11)
        np.testing.assert_allclose(energies.sum(), expected["energy"], rtol=1e-12)
        np.testing.assert_allclose(found.forces[:number], expected["forces"], rtol=0, atol=1e-11)
        np.testing.assert_allclose(found.stress[0], expected["stress"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.magmoms[:number], expected["magmoms"], rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.reference
@reference
@pytest.mark.parametrize("folder", published.potentials("chgnet"), ids=lambda f: f.name)
def test_single_precision_is_close_to_the_numbers_of_the_program(folder):
    potential = published.read(folder)
    predict = jax.jit(predict_fn(potential.model))
    variables = potential.variables_in(np.float32)
    given = graphs(folder, potential, np.float32)
    for expected, graph in zip(published.expected(folder), given, strict=True):
        number = len(expected["numbers"])
        found = predict(variables, graph)
        alone = sum(potential.reference_energies[z] for z in expected["numbers"].tolist())
        # As `inference` does: energies of atoms are summed in float64.
        energy = float(np.sum(found.atom_energies[:number], dtype=np.float64)) + alone
        forces = np.asarray(found.forces[:number])
        assert abs(energy - float(expected["energy_float32"])) / number < 1e-5
        assert abs(energy - float(expected["energy"])) / number < 5e-6
        # The program itself is up to 1.2e-4 eV/Å off its numbers in float64.
        assert np.abs(forces - expected["forces"]).max() < 5e-5
        own = np.abs(expected["forces_float32"] - expected["forces"]).max()
        assert np.abs(forces - expected["forces_float32"]).max() < max(1e-4, 1.1 * own)
        moments = np.asarray(found.magmoms[:number])
        np.testing.assert_allclose(moments, expected["magmoms_float32"], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.reference
@reference
def test_prediction_and_jax_md_work_with_published_weights():
    """Eight atoms of rocksalt: the energy of jax-md's dynamics is conserved."""
    (folder,) = (f for f in published.potentials("chgnet") if f.name.endswith("0.3.0"))
    potential = published.read(folder)
    expected = published.expected(folder)[0]
    structure: Structure = published.structures(folder)[0]
    (prediction,) = inference.predict(potential, structure, precision="float64")
    assert prediction.energy == pytest.approx(float(expected["energy"]), abs=1e-10)
    np.testing.assert_allclose(prediction.magmoms, expected["magmoms"], rtol=0, atol=1e-12)

    energy_fn, neighbor_fn = jax_md_energy(potential, structure, precision="float64")
    positions = jnp.asarray(structure.positions)
    neighbor = neighbor_fn.allocate(positions)
    masses = jnp.asarray(np.array(elements.MASSES)[structure.atomic_numbers])

    def shift(position, change, **_):
        return position + change

    init, step = jax_md.simulate.nve(energy_fn, shift, 1.0 / units.TIME_UNIT)

    @jax.jit
    def advance(state, neighbor):
        state = step(state, neighbor=neighbor)
        neighbor = neighbor_fn.update(state.position, neighbor)
        kinetic = 0.5 * jnp.sum(state.momentum**2 / state.mass)
        return state, neighbor, kinetic + energy_fn(state.position, neighbor=neighbor)

    with jax.numpy_rank_promotion("allow"):
        state = init(jax.random.key(0), positions, 0.0, mass=masses, neighbor=neighbor)
        before = float(energy_fn(positions, neighbor=neighbor))
        for _ in range(10):
            state, neighbor, total = advance(state, neighbor)
    assert np.abs(state.position - positions).max() > 1e-3
    # Steps of 1 fs; the potential energy falls by 7 meV.
    assert float(total) == pytest.approx(before, abs=1e-4)
    assert float(energy_fn(state.position, neighbor=neighbor)) < before - 5e-3
