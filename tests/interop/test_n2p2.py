"""Files of n2p2: what is read, what is refused, and the numbers of n2p2."""

import dataclasses

import jax
import numpy as np
import pytest

from mlip_jax import storage
from mlip_jax.config import UserError
from mlip_jax.data.collate import Bucket, make_graph
from mlip_jax.descriptors.symmetry_functions import Angular, Radial
from mlip_jax.interop import weights
from mlip_jax.interop.weights.n2p2 import ENERGIES, LENGTHS
from mlip_jax.interop.weights.n2p2_settings import read_settings
from mlip_jax.potential import predict_fn
from tests.interop import published

POTENTIALS = published.potentials("hdnnp")
SHORT_RANGE = [path for path in POTENTIALS if not path.name.endswith("_4G")]
INPUT = """# a comment
elements O H            ! not in the order of atomic numbers
cutoff_type 6 0.25
scale_symmetry_functions
atom_energy O -75.0
mean_energy -2.0
conv_energy 4.0
conv_length 3.0
global_hidden_layers_short 1
global_nodes_short 2
element_nodes_short H 1 1
global_activation_short p l
symfunction_short O 2 H 2.0 0.0 6.0
symfunction_short O 2 H 1.0 0.0 6.0
symfunction_short O 12 0.5 0.0 6.0
symfunction_short O 9 O H 0.5 -1 1.0 6.0 0.5
symfunction_short H 2 H 2.0 0.0 6.0
"""
SCALING = """# a comment
1 1 0.0 2.0 1.0 0.5
2 1 0.0 2.0 1.0 0.5
2 2 0.0 4.0 1.0 0.5
2 3 1.0 3.0 1.0 0.5
2 4 0.0 1.0 0.5 0.25
"""
HYDROGEN = """0.5 a 1 0 1 1 1
0.1 b 2 1 1
2.0 a 3 1 1 2 1
0.3 b 4 2 1
"""
OXYGEN = "".join(
    [f"0.{i}{j} a 1 0 {i} 1 {j}\n" for i in (1, 2, 3, 4) for j in (1, 2)]
    + ["0.0 b 9 1 1\n0.0 b 9 1 2\n", "1.0 a 9 1 1 2 1\n-1.0 a 9 1 2 2 1\n", "0.0 b 9 2 1\n"]
)
FILES = {
    "input.nn": INPUT,
    "scaling.data": SCALING,
    "weights.001.data": HYDROGEN,
    "weights.008.data": OXYGEN,
}


def write(folder, **changes):
    """Writes the files; a change `{name: (old, new)}` edits one, and `None` leaves it out."""
    for name, text in FILES.items():
        old, new = changes.get(name, ("", ""))
        assert old in text
        (folder / name).write_text(text.replace(old, new))
    return [folder / name for name in FILES]


def test_functions_scaling_and_networks_are_those_of_the_files(tmp_path):
    potential = weights.read("n2p2", write(tmp_path), length="angstrom", energy="eV")
    model, constants = potential.model, potential.variables["constants"]
    assert model.descriptor.radial == (
        Radial(1.0, 0.0, 6.0, neighbor=1),
        Radial(2.0, 0.0, 6.0, neighbor=1),
        Radial(0.5, 0.0, 6.0, weighted=True),
    )
    assert model.descriptor.angular == (Angular(0.5, 0.5, -1.0, 1.0, 6.0, neighbors=(1, 8)),)
    assert (model.descriptor.envelope, model.descriptor.plateau) == ("polynomial", 0.25)
    assert (model.regressor.hidden, model.regressor.activation) == ((2,), ("softplus",))
    # n2p2 sorts by type before all else, so oxygen's fourth row is the weighted function.
    np.testing.assert_array_equal(constants["factor"], [[0, 0.5, 0, 0], [0.5, 0.25, 1.0, 0.5]])
    np.testing.assert_array_equal(constants["shift"], [[0, 0, 0, 0], [0, 0, 0, 1.0]])
    kernel = potential.variables["params"]["regressor"]["kernel_0"]
    np.testing.assert_array_equal(kernel[0], [[0, 0], [0.5, 0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(kernel[1, :, 0], [0.11, 0.21, 0.41, 0.31])
    assert model.energy_scale == 0.25
    # Hydrogen alone: softplus(0.1) through the network, then the mean energy.
    alone = 0.25 * (2.0 * np.log1p(np.exp(0.1)) + 0.3) - 2.0
    assert potential.reference_energies[1] == pytest.approx(alone, rel=1e-14)


def test_units_are_converted(tmp_path):
    bohr = 1.0 / 1.8897261328
    potential = weights.read("n2p2", write(tmp_path))
    assert potential.model.cutoff == pytest.approx(6.0 * bohr, rel=1e-15)
    assert potential.model.descriptor.radial[1].eta == pytest.approx(2.0 / bohr**2, rel=1e-15)
    assert potential.model.descriptor.angular[0].r_shift == pytest.approx(0.5 * bohr, rel=1e-15)
    assert potential.model.energy_scale == pytest.approx(0.25 / 0.0367493254, rel=1e-15)
    with pytest.raises(UserError, match=r"length unit 'nm'; expected one of bohr, angstrom"):
        weights.read("n2p2", write(tmp_path), length="nm")
    with pytest.raises(UserError, match="got length; snap files say that themselves"):
        weights.read("snap", [], length="bohr")


def test_an_import_survives_the_disk(tmp_path):
    potential = weights.read("n2p2", write(tmp_path))
    storage.save(potential, tmp_path / "potential")
    loaded = storage.load(tmp_path / "potential")
    assert loaded.model == potential.model
    jax.tree.map(np.testing.assert_array_equal, dict(loaded.variables), dict(potential.variables))


def test_nodes_are_normalized_where_the_file_says(tmp_path):
    change = {"input.nn": ("cutoff_type", "normalize_nodes\ncutoff_type")}
    parameters = weights.read("n2p2", write(tmp_path, **change)).variables["params"]["regressor"]
    np.testing.assert_allclose(parameters["kernel_0"][1, :, 0], np.array([11, 21, 41, 31]) / 400)
    np.testing.assert_allclose(parameters["kernel_1"][1, :, 0], [0.5, -0.5])


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("input.nn", "elements O H", "elements O Hx", r"line 2: got 'Hx'; .* element"),
        ("input.nn", "elements O H", "elements H", r"O is used, and `elements` names H"),
        ("input.nn", "elements O H", "", r"elements is missing"),
        ("input.nn", "cutoff_type 6", "cutoff_type 3", r"line 3: got cutoff_type 3; .* 1, 2, 6"),
        ("input.nn", "6 0.25", "6 1.0", r"line 3: got the inner cutoff 1\.0"),
        ("input.nn", "conv_length 3.0", "", r"conv_energy, mean_energy; expected all or none"),
        ("input.nn", "global_nodes_short 2", "global_nodes_short", r"line 10: .* incomplete"),
        ("input.nn", "short p l", "short r l", r"line 12: got the activation 'r'; .* t \(tanh\)"),
        ("input.nn", "short p l", "short p t", r"line 12: got the activation 't' of the output"),
        ("input.nn", "short p l", "short p p l", r"got 3 activations for 1 hidden layers"),
        ("input.nn", "O 2 H 2.0", "O 20 H 2.0", r"line 13: got .* type 20; .* 2, 3, 9, 12, 13"),
        ("input.nn", "2.0 0.0 6.0\nsym", "2.0 x 6.0\nsym", r"line 13: got 'x'; .* number"),
        ("input.nn", "2.0 0.0 6.0\nsym", "2.0\nsym", r"line 13: .* neighbour eta r_shift cutoff"),
        ("input.nn", "O 2 H 1.0", "O 2 H 2.0", r"line 14: got .* for the second time"),
        ("input.nn", "-1 1.0 6.0 0.5", "-1 0.5 6.0 0.5", r"line 16: got .* and zeta 0\.5"),
        ("input.nn", "H 2 H", "O 2 O", r"no symmetry functions for H"),
        ("input.nn", "# a comment", "nnp_type Q-HDNNP", r"line 1: got 'nnp_type Q-HDNNP'"),
        ("input.nn", "# a comment", "nnp_type 4", r"input.nn: fixed_gausswidth is missing"),
        ("scaling.data", "2 2 0.0", "2 3 0.0", r"line 4: got '2 3'; .* 2 of 4 of element 2"),
        ("scaling.data", "2 4 0.0 1.0 0.5 0.25\n", "", r"line 6: got 'the end of the file'"),
        ("scaling.data", "2 2 0.0 4.0", "2 2 0.0 nan", r"line 4: got 'nan'"),
        ("scaling.data", "2 2 0.0 4.0", "2 2 4.0 4.0", r"line 4: got the range 4\.0 to 4\.0"),
        ("weights.001.data", "0.1 b", "O.1 b", r"weights.001.data, line 2: got 'O\.1'"),
        ("weights.001.data", "0.1 b 2 1 1", "0.1 b", r"line 2: got '0\.1 b'; expected a value"),
        ("weights.001.data", "1 1 2 1", "1 2 2 1", r"line 3: .* outside a network of 1-1-1 nodes"),
        ("weights.001.data", "0.3 b 4 2 1\n", "", r"line 4: the file ends, and 1 values"),
    ],
)  # fmt: skip
def test_what_is_damaged_or_unknown_is_named(tmp_path, name, old, new, message):
    with pytest.raises(UserError, match=message):
        weights.read("n2p2", write(tmp_path, **{name: (old, new)}))


def test_files_that_lack_are_named(tmp_path):
    with pytest.raises(UserError, match=r"got input.nn, .*; weights.008.data is missing"):
        weights.read("n2p2", write(tmp_path)[:3])


@pytest.mark.reference
@pytest.mark.skipif(not POTENTIALS, reason=f"no reference values in {published.SHARED}")
@pytest.mark.parametrize("path", SHORT_RANGE, ids=lambda path: path.name)
def test_published_files_give_the_numbers_of_n2p2(path):
    potential, structures, graphs = load(path, np.float64)
    energy_unit = 1.0 if path.name in published.IN_EV else ENERGIES["hartree"]
    columns, offsets = columns_of(path, potential), offsets_of(path, energy_unit)
    networks = {z: e - offsets[z] for z, e in potential.reference_energies.items()}
    predict = jax.jit(predict_fn(potential.model))
    for structure, graph, found in zip(structures, graphs, published.expected(path), strict=True):
        prediction = predict(potential.variables, graph)
        number, species = structure.num_atoms, structure.atomic_numbers.tolist()
        # 1e-11 and 1e-10: rounding of both programs; seen are 1e-13 and 6e-13.
        energy = prediction.energy[0] + sum(potential.reference_energies[z] for z in species)
        np.testing.assert_allclose(energy, found["energy"], rtol=1e-11)
        largest = max(1.0, np.abs(found["forces"]).max())
        forces = prediction.forces[:number]
        np.testing.assert_allclose(forces, found["forces"], rtol=0, atol=1e-10 * largest)
        outputs = prediction.atom_energies[:number] + np.array([networks[z] for z in species])
        expected = found["atomic_nn_energies_Ha"] * energy_unit
        np.testing.assert_allclose(outputs, expected, rtol=1e-10, atol=1e-10)
        assert prediction.features is not None
        features = np.asarray(prediction.features)
        for atom, z in enumerate(species):
            expected = found["symfuncs_scaled"][atom, : found["n_symfunc"][atom]]
            np.testing.assert_allclose(features[atom, columns[z]], expected, rtol=0, atol=1e-12)


def files_of(path):
    """The files of a potential that a user passes."""
    return [path / "input.nn", path / "scaling.data", *sorted(path.glob("weights.*.data"))]


def load(path, dtype):
    """The potential, and the structures with graphs of one padded shape."""
    units = {"length": "angstrom", "energy": "eV"} if path.name in published.IN_EV else {}
    potential = weights.read("n2p2", files_of(path), **units)
    structures, cutoff = published.structures(path), potential.model.cutoff
    exact = [make_graph(structure, cutoff) for structure in structures]
    bucket = Bucket(1, max(g.num_atoms for g in exact), max(g.max_neighbors for g in exact))
    graphs = [make_graph(s, cutoff, dtype=dtype, bucket=bucket) for s in structures]
    return potential, structures, graphs


def columns_of(path, potential):
    """Columns of the features that each element has, in n2p2's order."""
    length = 1.0 if path.name in published.IN_EV else LENGTHS["bohr"]
    descriptor = potential.model.descriptor
    functions = [*descriptor.radial, *descriptor.angular]
    listed = [dataclasses.replace(function, r_unit=None) for function in functions]
    settings = read_settings(path / "input.nn")
    return {
        z: [listed.index(f.converted(length)) for f in settings.functions[z]]
        for z in settings.species
    }


def offsets_of(path, energy_unit):
    """What is added to the networks' outputs, by element, eV."""
    settings = read_settings(path / "input.nn")
    mean = settings.normalization.get("mean_energy", 0.0)
    return {z: (mean + settings.offsets.get(z, 0.0)) * energy_unit for z in settings.species}
