"""The interface of jax-md: keywords, boxes in columns, perturbations, refusal of a bad list."""

import jax
import jax.numpy as jnp
import jax_md
import numpy as np
import pytest

from mlip_jax import units
from mlip_jax.data.structure import Structure
from mlip_jax.inference import predict
from mlip_jax.simulate import jax_md_energy
from tests.simulate.silicon import diamond, potential


def skewed():
    """Rattled diamond in a cell whose rows and columns differ."""
    straight = diamond((1, 1, 1), rattle=0.05)
    shear = np.array([[1.0, 0.0, 0.0], [0.06, 0.98, 0.0], [-0.04, 0.05, 1.03]])
    return Structure(
        straight.atomic_numbers, straight.positions @ shear, straight.cell @ shear, straight.pbc
    )


STRUCTURE = skewed()
BOX = jnp.asarray(STRUCTURE.cell.T)
FRACTIONAL = jnp.asarray(STRUCTURE.positions @ np.linalg.inv(STRUCTURE.cell))


@pytest.fixture(scope="module")
def expected():
    return predict(potential(0.0), STRUCTURE, precision="float64")[0]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(False, marks=pytest.mark.slow, id="real"),
        pytest.param(True, id="fractional"),
    ],
)
def functions(request):
    energy_fn, neighbor_fn = jax_md_energy(
        potential(), STRUCTURE, fractional_coordinates=request.param, precision="float64"
    )
    positions = FRACTIONAL if request.param else jnp.asarray(STRUCTURE.positions)
    return jax.jit(energy_fn), neighbor_fn, positions, neighbor_fn.allocate(positions, box=BOX)


def test_energy_and_forces_are_those_of_predict(functions, expected):
    energy_fn, _, positions, neighbor = functions
    energy = energy_fn(positions, neighbor=neighbor, box=BOX)
    assert float(energy) == pytest.approx(expected.energy, abs=1e-10)
    assert float(energy_fn(positions, neighbor=neighbor)) == pytest.approx(float(energy), abs=1e-10)
    # jax-md takes the derivative in real space for fractional coordinates, too.
    gradient = jax.grad(lambda r: energy_fn(r, neighbor=neighbor))(positions)
    np.testing.assert_allclose(-gradient, expected.forces, atol=1e-10)


def test_wrapped_atoms_are_followed(functions, expected):
    energy_fn, _, positions, neighbor = functions
    jump = np.zeros((8, 3))
    jump[2], jump[5] = [1, 0, -1], [0, 2, 0]
    jump = jump if positions is FRACTIONAL else jump @ STRUCTURE.cell
    assert float(energy_fn(positions + jump, neighbor=neighbor)) == pytest.approx(expected.energy)


def test_a_perturbation_strains_the_system(functions, expected):
    energy_fn, _, positions, neighbor = functions
    volume = abs(np.linalg.det(STRUCTURE.cell))

    def strained(strain):
        return energy_fn(positions, neighbor=neighbor, box=BOX, perturbation=jnp.eye(3) + strain)

    stress = jax.grad(strained)(jnp.zeros((3, 3))) / volume
    np.testing.assert_allclose(stress, expected.stress, atol=1e-10)
    scaled = jax.grad(lambda s: energy_fn(positions, neighbor=neighbor, perturbation=1.0 + s))(0.0)
    assert float(scaled) / volume == pytest.approx(np.trace(expected.stress), abs=1e-9)


def test_other_keywords_are_refused(functions):
    energy_fn, _, positions, neighbor = functions
    with pytest.raises(TypeError, match="unexpected keyword"):
        energy_fn(positions, neighbor=neighbor, kT=0.1)


def test_a_stale_or_overflowed_list_gives_no_energy(functions):
    energy_fn, neighbor_fn, positions, neighbor = functions
    moved = positions.at[0, 0].add(0.5)
    with jax.debug_nans(False):
        assert np.isnan(energy_fn(moved, neighbor=neighbor))
    updated = neighbor_fn.update(moved, neighbor, box=BOX)
    assert not updated.did_buffer_overflow
    assert np.isfinite(energy_fn(moved, neighbor=updated))


def test_extra_capacity_adds_slots(functions):
    _, neighbor_fn, positions, neighbor = functions
    larger = neighbor_fn.allocate(positions, 5)
    assert larger.listed.capacity.row == neighbor.listed.capacity.row + 5


@pytest.mark.slow
def test_npt_of_jax_md_runs_on_it():
    """Constant pressure needs fractional coordinates, `box` and `perturbation`."""
    energy_fn, neighbor_fn = jax_md_energy(
        potential(), STRUCTURE, fractional_coordinates=True, precision="float64"
    )
    _, shift = jax_md.space.periodic_general(BOX)
    init_fn, step_fn = jax_md.simulate.npt_nose_hoover(
        energy_fn, shift, 1.0 / units.TIME_UNIT, 0.0, units.BOLTZMANN * 300.0
    )
    neighbor = neighbor_fn.allocate(FRACTIONAL)
    with jax.numpy_rank_promotion("allow"):
        state = init_fn(
            jax.random.PRNGKey(0), FRACTIONAL, BOX, mass=jnp.full(8, 28.085), neighbor=neighbor
        )
        for _ in range(3):
            state = step_fn(state, neighbor=neighbor)
            box = jax_md.simulate.npt_box(state)
            neighbor = neighbor.update(state.position, box=box)
    assert np.all(np.isfinite(state.position))
    assert not neighbor.did_buffer_overflow
