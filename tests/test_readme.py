"""What README.md promises, done."""

import re
from pathlib import Path

import jax
import numpy as np

import mlip_jax
from mlip_jax.models.pair import LennardJones
from mlip_jax.potential import Potential
from tests.simulate.silicon import diamond

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_ten_lines_of_python_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, structure = LennardJones(species=(14,), cutoff=4.0), diamond((1, 1, 1), rattle=0.05)
    variables = jax.jit(model.init)(jax.random.key(0), mlip_jax.make_graph(structure, model.cutoff))
    potential = Potential(model, variables, {14: -100.0})
    mlip_jax.save(potential, tmp_path / "runs/si/potential")
    mlip_jax.write(tmp_path / "si.extxyz", [structure])
    (lines,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(lines, names)
    atoms, first = names["atoms"], names["first"]
    np.testing.assert_allclose(atoms.get_potential_energy(), first.energy, rtol=1e-6)
    np.testing.assert_allclose(atoms.get_forces(), first.forces, atol=1e-5)
    forces = names["prediction"].forces
    np.testing.assert_allclose(forces[: len(atoms)], first.forces, atol=1e-5)


def test_every_model_of_the_registry_is_in_the_table():
    text = README.read_text(encoding="utf-8")
    assert [name for name in mlip_jax.models.MODELS if f"`{name}`" not in text] == []
