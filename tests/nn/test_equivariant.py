import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax.nn import equivariant
from mlip_jax.nn.irreps import SCALAR, Channels, Irrep, hidden_layout, layout_text, product_paths

LAYOUT = hidden_layout((4, 3), parity=True)


def random_features(layout, atoms=5):
    keys = jax.random.split(jax.random.key(0), len(layout))
    return tuple(
        jax.random.normal(k, (atoms, c.irrep.dim, c.channels))
        for k, c in zip(keys, layout, strict=True)
    )


def test_layouts_read_as_in_the_literature():
    assert layout_text(LAYOUT) == "4x0e+4x0o+3x1e+3x1o"
    assert layout_text(hidden_layout((64, 32, 32), parity=False)) == "64x0e+32x1o+32x2e"
    assert layout_text(equivariant.gate_inputs(LAYOUT)) == "10x0e+4x0o+3x1e+3x1o"


def test_paths_conserve_parity_and_triangle():
    paths = product_paths((Channels(Irrep(1, -1), 2),), 2, [c.irrep for c in LAYOUT])
    assert [(p.degree, str(p.target)) for p in paths] == [
        (0, "1o"),
        (1, "0e"),
        (1, "1e"),
        (2, "1o"),
    ]


def test_activations_have_unit_second_moment():
    # Gauss-Hermite quadrature; the constants are e3nn's estimates, good to 2e-3.
    x, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    for activation in (equivariant.silu, equivariant.tanh):
        assert weights @ np.array(activation(jnp.asarray(x))) ** 2 == pytest.approx(1.0, rel=4e-3)


def test_gate_multiplies_each_irrep_by_gates_of_its_own():
    inputs = equivariant.gate_inputs(LAYOUT)
    x = dict(zip([c.irrep for c in inputs], random_features(inputs), strict=True))
    even, odd, pseudo, vector = equivariant.gate(LAYOUT, x)
    gates = equivariant.silu(x[SCALAR])
    np.testing.assert_allclose(even, gates[:, :, :4])
    np.testing.assert_allclose(odd, equivariant.tanh(x[Irrep(0, -1)]))
    np.testing.assert_allclose(pseudo, gates[:, :, 4:7] * x[Irrep(1, 1)])
    np.testing.assert_allclose(vector, gates[:, :, 7:] * x[Irrep(1, -1)])


@pytest.mark.parametrize("num_species", [1, 2, 7])
def test_self_connection_is_bilinear_in_features_and_embedding(num_species):
    features = random_features(LAYOUT)
    embedding = jax.random.normal(jax.random.key(1), (num_species, 4))
    species = jnp.arange(5) % num_species
    module = equivariant.SelfConnection(LAYOUT, hidden_layout((2, 2), parity=False))
    result, variables = module.init_with_output(jax.random.key(2), features, embedding, species)
    assert set(result) == {SCALAR, Irrep(1, -1)}
    inputs = dict(zip([c.irrep for c in LAYOUT], features, strict=True))
    for irrep, value in result.items():
        weight = variables["params"][f"weight_{irrep}"]
        expected = jnp.einsum("imu,iv,uvw->imw", inputs[irrep], embedding[species], weight)
        fan_in = weight.shape[0] * weight.shape[1]
        np.testing.assert_allclose(value, expected / np.sqrt(fan_in), atol=1e-13)
