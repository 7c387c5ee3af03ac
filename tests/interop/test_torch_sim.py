"""Our potentials as models of torch-sim: numbers, signs, dynamics, relaxation, changing batches."""

import dataclasses
from typing import Any

import ase.build
import jax
import numpy as np
import pytest

pytest.importorskip(
    "torch_sim", reason="torch_sim is not installed (mlip_jax[torch-sim])", exc_type=ImportError
)
import torch  # pyright: ignore[reportMissingImports]
import torch_sim as ts  # pyright: ignore[reportMissingImports]
from torch_sim.models.lennard_jones import LennardJonesModel  # pyright: ignore[reportMissingImports]

from mlip_jax import storage
from mlip_jax.config import UserError
from mlip_jax.data.collate import make_graph
from mlip_jax.data.formats.ase_files import to_atoms
from mlip_jax.data.structure import Structure
from mlip_jax.inference import predict
from mlip_jax.interop.torch_sim import TorchSimModel
from mlip_jax.models.initial import initial_variables
from mlip_jax.models.pair import LennardJones, Morse
from mlip_jax.potential import Potential
from mlip_jax.simulate.batch_relax import relax_many
from mlip_jax.simulate.settings import BatchRelaxationConfig
from tests.simulate import silicon
from tests.train import tiny

OLD = hasattr(ts, "nve")
"""0.3: integrators and optimisers are made by one function each."""
CPU = torch.device("cpu")
CUTOFF = 4.5
SHEAR = np.array([[1.0, 0.03, 0.0], [0.0, 1.0, -0.04], [0.0, 0.0, 1.02]])


def metals() -> Potential:
    """Al, Cu and Au, each pair with parameters of its own."""
    depths, distances = (0.3, 0.35, 0.4, 0.34, 0.45, 0.5), (2.9, 2.7, 2.85, 2.6, 2.75, 2.9)
    model = Morse((13, 29, 79), CUTOFF, depths, 1.5, distances)
    graph = make_graph(crystal("Cu", 3.6), CUTOFF, dtype=np.float64)
    variables = initial_variables(model, 0, graph)
    return Potential(model, variables, {13: -100.0, 29: -1.0, 79: -7.0})


def crystal(
    symbol: str, lattice: float, repeats=(1, 1, 1), rattle=0.1, seed=0, strain=SHEAR
) -> Structure:
    """Strained and rattled; every fourth atom of gold is copper."""
    atoms = ase.build.bulk(symbol, "fcc", a=lattice, cubic=True).repeat(repeats)
    if symbol == "Au":
        atoms.numbers[::4] = 29
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    atoms.rattle(rattle, seed=seed)
    return from_structure(atoms)


def from_structure(atoms: ase.Atoms) -> Structure:
    return Structure(atoms.numbers, atoms.positions, atoms.cell.array, np.array(atoms.pbc))


def batch() -> list[Structure]:
    return [crystal("Cu", 3.6), crystal("Au", 4.0, (2, 1, 1)), crystal("Al", 4.1, (1, 1, 3))]


def state_of(structures: list[Structure], dtype=torch.float64) -> Any:
    return ts.initialize_state([to_atoms(s) for s in structures], CPU, dtype)


@pytest.fixture(scope="module")
def potential() -> Potential:
    return metals()


@pytest.fixture
def model(potential) -> TorchSimModel:
    return TorchSimModel(potential, dtype=torch.float64)


def results(model: Any, state: Any) -> dict[str, np.ndarray]:
    return {name: values.numpy() for name, values in model(state).items()}


# float64: sums of the same terms in another padding. float32: rounding of positions and energies.
@pytest.mark.parametrize(
    ("dtype", "energy", "force"), [(torch.float64, 1e-10, 1e-11), (torch.float32, 1e-3, 1e-4)]
)
def test_a_batch_has_the_numbers_of_its_structures(potential, dtype, energy, force):
    model = TorchSimModel(potential, dtype=dtype)
    state = state_of(batch(), dtype)
    given = {name: getattr(state, name).clone() for name in ("positions", "cell", "system_idx")}
    found = model(state)
    assert all(torch.equal(getattr(state, name), before) for name, before in given.items())
    assert {(v.dtype, v.device) for v in found.values()} == {(dtype, CPU)}
    alone = [predict(potential, s, precision="float64")[0] for s in batch()]
    np.testing.assert_allclose(found["energy"], [p.energy for p in alone], atol=energy)
    forces = np.concatenate([p.forces for p in alone])
    assert np.abs(forces).max() > 0.5
    np.testing.assert_allclose(found["forces"], forces, atol=force)
    np.testing.assert_allclose(found["stress"], [p.stress for p in alone], atol=force)


def test_a_path_is_a_potential_and_float64_may_have_forces_of_float32(potential, tmp_path):
    storage.save(potential, tmp_path / "metals")
    saved = str(tmp_path / "metals")
    model = TorchSimModel(saved, dtype=torch.float64, precision="float32")
    found = results(model, state_of(batch()))
    for i, one in enumerate(predict(potential, batch(), precision="float32")):
        assert found["energy"][i] == pytest.approx(one.energy, abs=1e-5)
        assert found["energy"][i] != np.float32(found["energy"][i])


def test_stress_is_the_derivative_by_the_strain_of_torch_sims_cells(model):
    """Fourth-order central differences; columns of `cell` are vectors, so strain acts from left."""
    state, step = state_of(batch()[:2]), 1e-4
    stress = results(model, state)["stress"]
    volumes = np.abs(np.linalg.det(state.cell))
    for a, b in [(0, 0), (0, 1), (1, 2), (2, 2)]:
        energies = []
        for factor in (-2, -1, 1, 2):
            strain = torch.eye(3, dtype=torch.float64)
            strain[a, b] += 0.5 * factor * step
            strain[b, a] += 0.5 * factor * step
            strained = state.clone()
            strained.positions = state.positions @ strain
            strained.cell = strain @ state.cell
            energies.append(results(model, strained)["energy"])
        slopes = np.array([1, -8, 8, -1]) @ np.array(energies) / (12 * step)
        np.testing.assert_allclose(stress[:, a, b], slopes / volumes, rtol=0, atol=1e-7)


def test_lennard_jones_of_torch_sim_has_the_same_signs_and_units():
    """In 0.3.0 its forces and its stress are twice the derivatives of its energies (faults.md)."""
    sigma, epsilon = 3.375, 3 / 256  # of few digits, since parameters are float32
    cutoff = 4.6  # between the first and the second shell
    atoms = ase.build.bulk("Ar", "fcc", a=5.3, cubic=True).repeat(2)
    atoms.set_cell(atoms.cell.array * [1.0, 1.02, 0.97], scale_atoms=True)
    atoms.rattle(0.05, seed=1)
    structure = from_structure(atoms)
    term = LennardJones((18,), cutoff, epsilon, sigma, onset=cutoff - 1e-3)
    variables = initial_variables(term, 0, make_graph(structure, cutoff, dtype=np.float64))
    ours = TorchSimModel(Potential(term, variables, {18: 0.0}), dtype=torch.float64)
    theirs = LennardJonesModel(
        sigma, epsilon, dtype=torch.float64, compute_stress=True, cutoff=cutoff
    )
    state = state_of([structure])
    found, expected = results(ours, state), results(theirs, state)
    np.testing.assert_allclose(found["energy"], expected["energy"], rtol=1e-12)
    forces = found["forces"]
    factor = np.vdot(expected["forces"], forces) / np.vdot(forces, forces)
    assert factor == pytest.approx(2.0 if OLD else 1.0, rel=1e-12)
    np.testing.assert_allclose(factor * forces, expected["forces"], atol=1e-12)
    np.testing.assert_allclose(factor * found["stress"], expected["stress"], atol=1e-12)
    assert np.abs(found["stress"]).max() > 1e-3


def steps_of_nve(model: TorchSimModel, state: Any, timestep: float, temperature: float) -> Any:
    """States of torch-sim's dynamics, without end."""
    units = ts.units.MetalUnits
    kT = torch.tensor(temperature * float(units.temperature), dtype=model.dtype)
    dt = torch.tensor(timestep * float(units.time), dtype=model.dtype)
    if OLD:
        init, update = ts.nve(model, dt=dt, kT=kT, seed=1)
        state = init(state)
    else:
        state.rng = 1
        state = ts.nve_init(state, model, kT=kT)
        update = lambda state: ts.nve_step(state, model, dt=dt)  # noqa: E731
    while True:
        yield state
        state = update(state)


def test_nve_conserves_the_energy_of_each_system_in_few_programs():
    model = TorchSimModel(silicon.potential(), dtype=torch.float64)
    systems = [silicon.diamond((1, 1, 1)), silicon.diamond((2, 1, 1))]
    totals, kinetic = [], []
    for step, state in enumerate(steps_of_nve(model, state_of(systems), 1e-3, 600.0)):
        energies = (state.momenta**2).sum(1) / (2 * state.masses)
        kinetic.append(np.bincount(state.system_idx, energies))
        totals.append(kinetic[-1] + state.energy.numpy())
        if step == 60:
            break
    assert np.ptp(kinetic, axis=0).min() > 0.2
    # Velocity Verlet with 1 fs, frequencies up to 16 THz: some 1e-3 of the kinetic energy.
    assert np.ptp(totals, axis=0).max() < 6e-3
    # The second shell is just beyond the cutoff: rows become longer once.
    assert len(model.shapes) <= 2


def fire(model: TorchSimModel, structures: list[Structure], autobatcher: Any) -> Any:
    """Torch-sim's relaxation of positions and cells; it ends at forces of 1e-4 eV/Å."""
    done = ts.generate_force_convergence_fn(1e-4, include_cell_forces=True)
    if OLD:
        how = {"optimizer": ts.frechet_cell_fire}
    else:
        how = {
            "optimizer": ts.Optimizer.fire,
            "init_kwargs": {"cell_filter": ts.CellFilter.frechet},
        }
    state, how = state_of(structures), {**how, "convergence_fn": done, "max_steps": 600}
    return ts.optimize(state, model, autobatcher=autobatcher, **how)


def test_fire_with_a_cell_filter_finds_our_minima_while_systems_come_and_go(potential, model):
    starts = [
        crystal("Cu", 3.75, rattle=0.05),
        crystal("Al", 4.15, (2, 1, 1), rattle=0.05),
        crystal("Cu", 3.65, rattle=0.03, seed=3),
    ]
    settings = BatchRelaxationConfig(
        precision="float64", cell="full", max_force=1e-5, max_stress=1e-7, max_steps=2000
    )
    ours = relax_many(potential, starts, settings)
    assert [result.status for result in ours] == ["converged"] * 3
    two_at_a_time = ts.InFlightAutoBatcher(
        model, max_memory_scaler=12, memory_scales_with="n_atoms", max_memory_padding=1.0
    )
    final = fire(model, starts, autobatcher=two_at_a_time)
    # One system, then two, and longer rows as cells shrink: a shape holds those before it.
    assert len({(shape.graphs, shape.atoms) for shape in model.shapes}) <= 2
    assert len({shape.max_neighbors for shape in model.shapes}) >= len(model.shapes) - 1
    energies: Any = [result.structure.labels.energy for result in ours]
    np.testing.assert_allclose(final.energy, energies, rtol=0, atol=1e-6)
    volumes = [abs(np.linalg.det(result.structure.cell)) for result in ours]
    np.testing.assert_allclose(np.abs(np.linalg.det(final.cell)), volumes, rtol=1e-4)
    assert np.abs(results(model, final)["stress"]).max() < 1e-4


def test_batches_of_other_sizes_share_a_program(potential, model):
    program = batch()
    whole = results(model, state_of(program))
    for members in ([0, 2], [2, 1, 0], [1, 2]):
        part = results(model, state_of([program[i] for i in members]))
        np.testing.assert_allclose(part["energy"], whole["energy"][members], rtol=1e-13)
        np.testing.assert_allclose(part["stress"], whole["stress"][members], atol=1e-13)
    assert len(model.shapes) == 1


def test_molecules_have_no_stress(potential, model):
    pair = Structure(np.array([29, 79]), np.eye(3)[:2] * 2.4, np.zeros((3, 3)), np.zeros(3, bool))
    found = results(
        model, state_of([pair, dataclasses.replace(pair, atomic_numbers=np.array([29, 29]))])
    )
    assert np.isnan(found["stress"]).all()
    np.testing.assert_allclose(found["forces"][0], -found["forces"][1], atol=1e-12)
    assert found["energy"][0] < -8.0


def test_moments_have_the_names_of_torch_sim():
    structures = tiny.structures(2)
    term = tiny.Magnetic()
    variables = initial_variables(term, 1, make_graph(structures[0], tiny.CUTOFF))
    magnetic = Potential(term, variables, tiny.REFERENCE)
    found = results(TorchSimModel(magnetic, dtype=torch.float64), state_of(structures))
    expected: Any = [p.magmoms for p in predict(magnetic, structures, precision="float64")]
    assert np.max(expected[0]) > 1e-3
    np.testing.assert_allclose(found["magnetic_moments"], np.concatenate(expected), rtol=1e-12)


class Charged(tiny.Tiny):
    inputs = ("total_charge",)

    def __call__(self, graph):
        outputs = tiny.Tiny.__call__(self, graph)
        atoms = jax.ops.segment_sum(graph.atom_mask * 1.0, graph.graph_index, graph.num_graphs)
        shares = graph.total_charge / jax.numpy.maximum(atoms, 1.0)
        charges = jax.numpy.where(graph.atom_mask, shares[graph.graph_index], 0.0)
        return dataclasses.replace(outputs, charges=charges)


@pytest.mark.parametrize("name", ["charge", "total_charge"])
def test_the_charge_of_a_state_is_read_or_refused(model, name):
    state = state_of(batch()[:2])
    setattr(state, name, torch.tensor([0.0, 1.0]))
    with pytest.raises(UserError, match=r"system 1: got the total charge \+1 e"):
        model(state)
    structures = tiny.structures(2)
    term = Charged()
    variables = initial_variables(tiny.Tiny(), 1, make_graph(structures[0], tiny.CUTOFF))
    state = state_of(structures)
    setattr(state, name, torch.tensor([0.0, 1.0]))
    found = results(TorchSimModel(Potential(term, variables, tiny.REFERENCE)), state)
    sizes = [structure.num_atoms for structure in structures]
    shares = np.repeat([0.0, 1.0 / sizes[1]], sizes)
    np.testing.assert_allclose(found["partial_charges"], shares, rtol=1e-6)


def test_what_cannot_be_computed_is_named(potential, model):
    silicon_too = state_of([crystal("Cu", 3.6), silicon.diamond((1, 1, 1))])
    with pytest.raises(UserError, match=r"system 1: got the elements \['Si'\].*does not know"):
        model(silicon_too)
    state = state_of(batch())
    state.positions[5] = state.positions[6]
    with pytest.raises(UserError, match=r"system 1: .*one place"):
        model(state)
    with pytest.raises(UserError, match=r"got .float16.; expected float32 or float64"):
        TorchSimModel(potential, dtype=torch.float16)
    with jax.enable_x64(False), pytest.raises(UserError, match="64-bit arithmetic is off"):
        TorchSimModel(potential, dtype=torch.float64)
