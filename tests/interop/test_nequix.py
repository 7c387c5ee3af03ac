"""Files of nequix: the numbers of the reference, and what is refused."""

import json
import math

import jax
import numpy as np
import pytest
import safetensors.numpy

from mlip_jax.config import UserError
from mlip_jax.interop import weights
from mlip_jax.potential import predict_fn
from tests.interop import published

POTENTIALS = published.potentials("nequix")
PUBLISHED = pytest.mark.skipif(not POTENTIALS, reason=published.REASON)

ROUNDING = 1e-12  # eV/atom and eV/Å, float64 on both sides: sums over 60 neighbours
SINGLE = (1e-5, 1e-4)  # eV/atom and eV/Å, float32 on both sides


def written(folder, config: dict, arrays: list[np.ndarray]):
    path = folder / "x.nqx"
    with path.open("wb") as file:
        file.write((json.dumps(config) + "\n").encode())
        for array in arrays:
            np.save(file, array)
    return path


def original(potential, folder):
    """The `.nqx` file from which the reference was converted."""
    config = json.loads((potential / "config.json").read_text())
    arrays = safetensors.numpy.load_file(potential / "weights.safetensors")
    return written(folder, config, [arrays[name] for name in config["parameter_shapes"]])


@pytest.mark.reference
@PUBLISHED
@pytest.mark.parametrize("path", POTENTIALS, ids=lambda path: path.name)
def test_published_weights_give_the_numbers_of_nequix(path, tmp_path):
    potential = weights.read("nequix", [original(path, tmp_path)])
    predict = jax.jit(predict_fn(potential.model))
    single = jax.tree.map(np.float32, potential.variables)
    expected = published.expected(path)
    precisions = [(np.float64, potential.variables), (np.float32, single)]
    for dtype, variables in precisions if path == POTENTIALS[0] else precisions[:1]:
        graphs = published.graphs(path, potential.model.cutoff, dtype)
        energy, force = (ROUNDING, ROUNDING) if dtype == np.float64 else SINGLE
        suffix = "" if dtype == np.float64 else "_float32"
        for structure, e, graph in zip(published.structures(path), expected, graphs, strict=True):
            found = predict(variables, graph)
            count = structure.num_atoms
            numbers = structure.atomic_numbers.tolist()
            total = float(found.energy[0]) + sum(potential.reference_energies[z] for z in numbers)
            assert abs(total - e[f"energy{suffix}"]) <= energy * count
            np.testing.assert_allclose(
                found.forces[:count], e[f"forces{suffix}"], rtol=0, atol=force
            )
            if f"stress{suffix}" in e:
                np.testing.assert_allclose(
                    found.stress[0], e[f"stress{suffix}"], rtol=0, atol=force
                )


CONFIG = {
    "atomic_numbers": [8, 14],
    "hidden_irreps": "3x0e + 2x1o",
    "lmax": 1,
    "cutoff": 4.0,
    "n_layers": 2,
    "radial_basis_size": 5,
    "radial_mlp_size": 6,
    "radial_mlp_layers": 1,
    "radial_polynomial_p": 6.0,
    "index_weights": True,
    "layer_norm": False,
    "shift": 0.25,
    "scale": 2.0,
    "avg_n_neighbors": 9.0,
}
SHAPES = [  # in the order of the file
    *[(2,), (5, 6), (6, 4), (2, 2), (2, 5), (2, 2), (2, 2, 5)],
    *[(5, 6), (6, 5), (3, 3), (2, 2), (5, 3), (2, 3, 3), (3, 1)],
]


def arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]


def test_an_isolated_atom_has_the_energy_of_its_skip_connections(tmp_path):
    """With weights for each element; what remains without neighbours, written out."""
    given = arrays()
    potential = weights.read("nequix", [written(tmp_path, CONFIG, given)])
    gain = 1.6765620560798837
    for z, number in enumerate(CONFIG["atomic_numbers"]):
        first, second, readout = given[6][z][z], given[12][z], given[13][:, 0]
        x = gain * first[:3] / math.sqrt(2.0) / (1.0 + np.exp(-first[:3] / math.sqrt(2.0)))
        x = x @ second / math.sqrt(3.0)
        x = gain * x / (1.0 + np.exp(-x))
        energy = 2.0 * (x @ readout / math.sqrt(3.0)) + 0.25 + given[0][z]
        assert potential.reference_energies[number] == pytest.approx(energy, rel=1e-6)


def test_arrays_may_come_by_name(tmp_path):
    given = arrays()
    potential = weights.read("nequix", [written(tmp_path, CONFIG, given)])
    # In alphabetical order the names would be another potential.
    named = {f"array.{-k % 14}": array for k, array in enumerate(given)}
    config = CONFIG | {"parameter_shapes": {name: list(a.shape) for name, a in named.items()}}
    files = [tmp_path / "weights.safetensors", tmp_path / "config.json"]
    safetensors.numpy.save_file(named, files[0])
    files[1].write_text(json.dumps(config))
    other = weights.read("nequix", files)
    assert other.model == potential.model
    assert other.reference_energies == potential.reference_energies
    jax.tree.map(np.testing.assert_array_equal, other.variables, potential.variables)
    safetensors.numpy.save_file({**named, "more": given[0]}, files[0])
    with pytest.raises(UserError, match="got the array more"):
        weights.read("nequix", files)
    del config["parameter_shapes"]["array.1"]  # the last one
    files[1].write_text(json.dumps(config))
    with pytest.raises(UserError, match="the file ends before it"):
        weights.read("nequix", files)
    with pytest.raises(UserError, match=r"got 2 files .*expected one \.nqx"):
        weights.read("nequix", [files[0], files[0]])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_irreps", "3x0e + 2x1e", "parity of the harmonics"),
        ("radial_polynomial_p", 5.5, "whole number"),
        ("cutoff", None, "no 'cutoff'"),
        ("radial_mlp_size", 7, r"radial network: got an array \[5, 6\].*expected \[5, 7\]"),
        ("n_layers", 1, r"expected|got more"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, key, value, message):
    config = {k: v for k, v in {**CONFIG, key: value}.items() if v is not None}
    with pytest.raises(UserError, match=message):
        weights.read("nequix", [written(tmp_path, config, arrays())])


def test_damaged_files_are_named(tmp_path):
    path = written(tmp_path, CONFIG, arrays())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 200])
    with pytest.raises(UserError, match=r"x\.nqx: .*damaged"):
        weights.read("nequix", [path])
    path.write_bytes(whole + b"1")
    with pytest.raises(UserError, match="got more than the weights"):
        weights.read("nequix", [path])
    path.write_bytes(b"{]\n")
    with pytest.raises(UserError, match="line 1: expected the config"):
        weights.read("nequix", [path])
    with pytest.raises(UserError, match="No such file"):
        weights.read("nequix", [tmp_path / "none.nqx"])
