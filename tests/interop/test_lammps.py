"""LAMMPS with our potentials: what is refused, and on one and two ranks our own numbers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import ase
import jax
import numpy as np
import pytest
from ase import units
from ase.md.verlet import VelocityVerlet

from mlip_jax import elements, models, storage
from mlip_jax.config import UserError
from mlip_jax.data.collate import make_graph
from mlip_jax.data.structure import Structure
from mlip_jax.interop.ase import MLIPCalculator
from mlip_jax.interop.lammps import attach
from mlip_jax.models.initial import initial_variables
from mlip_jax.potential import Potential
from tests.interop.exported import PEERS
from tests.models.presets import PRESETS

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = next(PEERS.glob("lammps/lib/python*/site-packages"), Path())
NEEDED = ("lammps", "lammps.libs", "mpi4py")
MISSING = [name for name in NEEDED if not (PACKAGES / name).exists()]
REASON = f"no {', '.join(MISSING)} in {PEERS / 'lammps'} (install_peers.sh)"
MPIRUN = shutil.which("mpirun")
NAMES = ("snap", "nequip")
TIMESTEP, STEPS = 2e-3, 15  # ps
BAR = 1e-4 / 160.21766208
"""eV/Å^3, with LAMMPS's own factor to 1e-7."""


class FakeLammps:
    """Answers what `attach` asks before it changes anything."""

    def __init__(self, units="metal", ntypes=1, world_size=1):
        self.settings = {"ntypes": ntypes, "world_size": world_size}
        self.units = units

    def extract_global(self, name):
        return {"units": self.units}[name]

    def extract_setting(self, name):
        return self.settings[name]

    def get_mpi_comm(self):
        return None


def potential(name: str) -> Potential:
    """A tiny model of O and Si with random parameters."""
    model = models.build_model({name: PRESETS[name]})
    needs = models.requirements(model)
    graph = make_graph(
        structure(),
        needs.cutoff,
        dtype=np.float64,
        prefix_cutoffs=needs.prefix_cutoffs,
        reverse=needs.reverse,
    )
    variables = initial_variables(model, 0, graph)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda a: a + 0.05 * rng.normal(size=np.shape(a)), variables)
    if hasattr(model, "calibrate"):
        variables = model.calibrate(variables, [graph])
    return Potential(model, variables, {8: -1.0, 14: -2.5})


def structure() -> Structure:
    """54 atoms of two elements in a triclinic cell, longest along c, outside of it some."""
    rng = np.random.default_rng(1)
    cell = np.array([[7.2, 0.0, 0.0], [0.9, 7.1, 0.0], [-0.6, 1.1, 14.6]])
    axes = [np.arange(n) / n for n in (3, 3, 6)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) + 0.02
    positions = grid @ cell + rng.uniform(-0.25, 0.25, size=grid.shape)
    numbers = np.array([8, 14])[rng.integers(2, size=len(grid))]
    return Structure(numbers, positions, cell, np.ones(3, bool))


@pytest.mark.parametrize(
    ("program", "species", "name", "message"),
    [
        (FakeLammps(units="real"), ["Si"], "snap", "units: got 'real' in LAMMPS"),
        (FakeLammps(ntypes=2), ["Si"], "snap", "species: got .'Si'. for 2 types"),
        (FakeLammps(), ["Xx"], "snap", "species: .*Xx"),
        (FakeLammps(), ["Ge"], "snap", "types of LAMMPS: got the elements ..Ge"),
        (FakeLammps(), ["Si"], "hdnnp_4g", "sums over reciprocal .* and reads total_charge"),
        (FakeLammps(world_size=2), ["Si"], "snap", "got 2 ranks without mpi4py"),
    ],
)
def test_what_cannot_work_is_refused(program, species, name, message):
    model = models.build_model({name: PRESETS[name]})
    with pytest.raises(UserError, match=message):
        attach(program, Potential(model, {"params": {}}, {8: 0.0, 14: 0.0}), species)


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    """A folder with the job of `lammps_run`, and a folder of packages without numpy."""
    folder = tmp_path_factory.mktemp("lammps")
    where, rng = structure(), np.random.default_rng(2)
    (folder / "packages").mkdir()
    for name in NEEDED:
        (folder / "packages" / name).symlink_to(PACKAGES / name)
    for name in NAMES:
        storage.save(potential(name), folder / name)
    np.savez(
        folder / "job.npz",
        species=["O", "Si"],
        masses=np.array(elements.MASSES)[[8, 14]],
        types=np.where(where.atomic_numbers == 8, 1, 2),
        positions=where.positions,
        cell=where.cell,
        velocities=rng.normal(scale=5.0, size=where.positions.shape),
        timestep=TIMESTEP,
        steps=STEPS,
        potentials=NAMES,
    )
    return folder


def run(job: Path, ranks: int) -> None:
    """`lammps_run` on one or several ranks."""
    launcher = [] if ranks == 1 else [MPIRUN, "-np", str(ranks)]
    done = subprocess.run(
        [*launcher, sys.executable, str(Path(__file__).with_name("lammps_run.py")), str(job)],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(job / "packages")]),
            "LD_LIBRARY_PATH": str(PEERS / "lammps/lib"),
            "OMP_NUM_THREADS": "1",
            "JAX_PLATFORMS": "cpu",
        },
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def expected(name: str, job: Path) -> dict:
    """Energy, forces and stress by our calculator, and a trajectory by ASE."""
    where, given = structure(), np.load(job / "job.npz")
    atoms = ase.Atoms(where.atomic_numbers, where.positions, cell=where.cell, pbc=True)
    atoms.calc = MLIPCalculator(potential(name), precision="float64")
    atoms.set_masses(given["masses"][given["types"] - 1])
    atoms.set_velocities(given["velocities"] / (1e3 * units.fs))
    found = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    found["stress"] = atoms.get_stress()[[0, 1, 2, 5, 4, 3]]
    VelocityVerlet(atoms, timestep=1e3 * TIMESTEP * units.fs).run(STEPS)
    return found | {"positions": atoms.positions, "total": atoms.get_total_energy()}


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=REASON)
@pytest.mark.parametrize("ranks", [1, 2])
def test_lammps_moves_atoms_as_our_potentials_say(job, ranks):
    if ranks > 1 and MPIRUN is None:
        pytest.skip("no mpirun (apt-get install mpich)")
    run(job, ranks)
    cell = structure().cell
    for name in NAMES:
        ours, theirs = expected(name, job), np.load(job / f"{name}-{ranks}.npz")
        assert np.abs(ours["forces"]).max() > 0.1
        np.testing.assert_allclose(theirs["forces"], ours["forces"], rtol=0, atol=1e-10)
        assert theirs["energy"] == pytest.approx(ours["energy"], abs=1e-9)
        np.testing.assert_allclose(theirs["pressure"] * BAR, -ours["stress"], rtol=2e-7, atol=1e-10)
        moves = (theirs["positions"] - ours["positions"]) @ np.linalg.inv(cell)
        moves = (moves - np.round(moves)) @ cell
        np.testing.assert_allclose(moves, 0.0, atol=1e-6)
        assert theirs["total"] == pytest.approx(ours["total"], abs=1e-5)
        assert theirs["renewals"] >= 2
        assert len(theirs["shapes"]) <= 3
        if ranks == 1:
            assert "this potential needs ghosts to a depth of" in str(theirs["refusal"])
