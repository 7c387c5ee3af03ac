"""Observables as losses: the section, values and slopes, and training with them."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlip_jax import config as configs
from mlip_jax import train, units
from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure
from mlip_jax.properties import elastic
from mlip_jax.properties.cubic import is_cubic
from mlip_jax.properties.phonons import phonon_frequencies
from mlip_jax.properties.structure import radial_distribution
from mlip_jax.train import loop, observed
from mlip_jax.train.interrupt import TrainingInterrupted
from mlip_jax.train.loss import PropertyLoss
from mlip_jax.train.observables import ObservablesConfig
from tests.simulate import silicon
from tests.train import stretchable, tiny

ELASTIC = {name: {"value": 100.0, "tolerance": 1.0} for name in ("C11", "C12", "C44")}
MODE = {"value": 15.0, "tolerance": 0.1, "wave_vector": [0.5, 0.0, 0.0], "branch": -1}
LATTICE = {"lattice_constant": {"value": 5.40, "tolerance": 0.01}}


def section(path, targets=LATTICE, **keys):
    more = {key: keys.pop(key) for key in ("weight", "interval") if key in keys}
    return {"systems": {"si": {"structure": path, "targets": targets, **keys}}, **more}


def parsed(*arguments, **keys):
    return configs.parse(ObservablesConfig, section(*arguments, **keys), "observables")


# The section.


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"targets": {"C13": {"value": 1.0, "tolerance": 1.0}}}, "did you mean 'C1"),
        ({"targets": {}}, "got none"),
        ({"targets": {"pressure": {"value": 0.0, "tolerance": 0.1}}}, "at the minimum"),
        ({"sampling": {"temperature": 50.0}}, "in a fixed cell"),
        ({"targets": ELASTIC, "sampling": {"temperature": 50.0, "pressure": 0.0}}, "constant pres"),
        ({"sampling": {"temperature": 50.0, "pressure": 0.0, "interval": 300}}, "a multiple"),
        ({"targets": {"C11": {"value": 1.0}}}, "tolerance: missing"),
        ({"targets": {"frequency": {"value": 15.0, "tolerance": 0.1}}}, "no wave_vector and no br"),
        ({"targets": {"TO": MODE | {"of": "frequenzy"}}}, "did you mean 'frequency'"),
        (
            {"targets": {"density": LATTICE["lattice_constant"] | {"of": "lattice_constant"}}},
            "Rename",
        ),
        ({"targets": {"C11": MODE}}, "wave_vector, branch, which mean nothing for C11"),
        ({"targets": {"TO": MODE | {"of": "frequency", "pair": ["Si", "Si"]}}}, "got pair"),
        ({"targets": {"rdf": {"value": 1.0, "tolerance": 0.1, "distance": 2.3}}}, "at the minimum"),
        ({"temperature": 50.0}, "unknown key 'temperature'"),
        ({"supercell": [0, 1, 1]}, "supercell"),
    ],
)
def test_impossible_sections_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        parsed("si.extxyz", **changes)


def test_structures_that_do_not_serve_are_refused(tmp_path):
    def read(path, targets=ELASTIC, **keys):
        return observed.read_structures(parsed(str(path), targets, **keys), tmp_path)

    with pytest.raises(UserError, match=r"observables\.systems\.si\.structure: .*nowhere"):
        read("nowhere.extxyz")
    path = stretchable.write(tmp_path)
    assert list(read(path)) == ["si"]
    with pytest.raises(UserError, match="index: got 3"):
        read(path, index=3)
    whole = silicon.diamond((1, 1, 1))
    path = stretchable.write(tmp_path, dataclasses.replace(whole, pbc=np.array([1, 1, 0], bool)))
    with pytest.raises(UserError, match="periodic in three"):
        read(path)
    long = dataclasses.replace(
        whole, cell=whole.cell * [[1], [1], [1.02]], positions=whole.positions * [1, 1, 1.02]
    )
    path = stretchable.write(tmp_path, long)
    with pytest.raises(UserError, match="no ideal cubic crystal"):
        read(path)
    assert list(read(path, LATTICE)) == ["si"]
    with pytest.raises(UserError, match=r"targets\.TO\.branch: got 30; .* 24 modes"):
        read(path, {"TO": MODE | {"of": "frequency", "branch": 30}})
    peak = {"of": "rdf", "distance": 2.3, "pair": ["Si", "O"], "value": 1.0, "tolerance": 0.1}
    with pytest.raises(UserError, match=r"targets\.peak\.pair: got O; .*: Si"):
        read(path, {"peak": peak}, sampling={"temperature": 50.0})


def test_what_the_section_needs_of_the_others(tmp_path):
    mapping = {
        "data": {"train": "nothing.extxyz"},
        "model": {"snap": {}},
        "observables": section("si.extxyz"),
        "training": {"precision": "float64"},
    }
    assert train.parse(mapping).observables is not None
    for changes, words in (
        ({"training": {}}, "expected float64"),
        ({"solver": {"name": "ard"}}, "Set solver.name: ridge"),
        ({"optimizer": {"name": "lbfgs"}, "observables": section("a", interval=2)}, "interval"),
    ):
        with pytest.raises(UserError, match=words):
            train.parse(mapping | changes)
    with pytest.raises(UserError, match="one device"):
        observed.build(parsed("si.extxyz"), tmp_path, stretchable.potential(), 2)


def test_which_crystals_are_cubic():
    assert is_cubic(silicon.diamond((1, 1, 1)))
    assert is_cubic(stretchable.primitive(5.43))
    assert not is_cubic(silicon.diamond((1, 1, 1), rattle=0.05))
    assert not is_cubic(silicon.diamond((2, 1, 1)))
    whole = silicon.diamond((1, 1, 1))
    c, s = np.cos(0.3), np.sin(0.3)
    turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]])
    turned = dataclasses.replace(whole, cell=whole.cell @ turn, positions=whole.positions @ turn)
    assert not is_cubic(turned)
    # Rock salt is; its lattice with a layer of another element is not.
    layered = np.where(np.isclose(whole.positions[:, 2], 0.0), 6, 14)
    assert not is_cubic(dataclasses.replace(whole, atomic_numbers=layered))
    zincblende = np.repeat([14, 6], 4)
    assert is_cubic(dataclasses.replace(whole, atomic_numbers=zincblende))
    hexagonal = np.array([[3.8, 0, 0], [-1.9, 3.29, 0], [0, 0, 6.2]])
    assert not is_cubic(Structure(np.array([14]), np.zeros((1, 3)), hexagonal, np.ones(3, bool)))


# Values and slopes. For u E(s r): a = a0/s, C = C0 u s³, so that both derivatives are known.


@pytest.mark.slow
def test_relaxed_values_and_their_slopes(tmp_path):
    path = stretchable.write(tmp_path)
    found = observed.Observables(
        parsed(path, LATTICE | ELASTIC), observed.read_structures(parsed(path), tmp_path),
        stretchable.potential(),
    )  # fmt: skip
    strength, stretch = 1.1, 1.01
    params = stretchable.variables(strength, stretch)["params"]
    near = found.linearised(params, {})
    values = near.found.values
    assert values["si.lattice_constant"] == pytest.approx(silicon.LATTICE / stretch, abs=1e-4)
    # At the minimum of the unscaled potential, by another way.
    own = silicon.diamond((1, 1, 1))
    scale = stretch * values["si.lattice_constant"] / silicon.LATTICE
    own = dataclasses.replace(own, cell=own.cell * scale, positions=own.positions * scale)
    stiffness = elastic.elastic_constants(silicon.potential(), own).stiffness / units.GPA
    for name, (i, j) in {"C11": (0, 0), "C12": (0, 1), "C44": (3, 3)}.items():
        assert values[f"si.{name}"] == pytest.approx(
            stiffness[i, j] * strength * stretch**3, rel=1e-5
        )
    for row, name in enumerate(LATTICE | ELASTIC):
        value, tolerance = values[f"si.{name}"], (LATTICE | ELASTIC)[name]["tolerance"]
        powers = (0.0, -1.0) if name == "lattice_constant" else (1.0, 3.0)
        for key, power, at in zip(
            ("strength", "stretch"), powers, (strength, stretch), strict=True
        ):
            expected = power * value / at / tolerance
            assert float(near.slopes[row][key]) == pytest.approx(expected, rel=1e-4, abs=1e-3)
    whole = found.evaluate(params, {})
    assert whole.loss == pytest.approx(float(np.sum(near.residuals**2)), rel=1e-9)
    expected = sum(2 * r * float(s["stretch"]) for r, s in zip(*near[1:], strict=True))
    assert float(whole.gradient["stretch"]) == pytest.approx(expected, rel=1e-8)


@pytest.mark.slow
def test_frequencies_of_the_relaxed_crystal_and_their_slopes(tmp_path):
    """Of the zone's centre and edge: those of the whole supercell, to the power 1/2 of u s²."""
    path = stretchable.write(tmp_path)
    targets = {
        name: MODE | {"of": "frequency", "wave_vector": point, "branch": branch}
        for name, point, branch in (("optical", [0, 0, 0], -1), ("acoustic", [0.5, 0, 0], 0))
    }
    config = parsed(path, targets, supercell=[2, 1, 1])
    found = observed.Observables(
        config, observed.read_structures(config, tmp_path), stretchable.potential()
    )
    strength, stretch = 1.2, 1.01
    near = found.linearised(stretchable.variables(strength, stretch)["params"], {})
    whole = silicon.diamond((1, 1, 1))
    points = np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
    expected = phonon_frequencies(silicon.potential(), whole, (2, 1, 1), points)
    scale = np.sqrt(strength) * stretch
    values = near.found.values
    assert values["si.optical"] == pytest.approx(scale * expected[0, -1], rel=1e-3)
    assert values["si.acoustic"] == pytest.approx(scale * expected[1, 0], rel=1e-3)
    for row, name in enumerate(targets):
        value = values[f"si.{name}"] / 0.1
        slopes = near.slopes[row]
        assert float(slopes["strength"]) == pytest.approx(0.5 * value / strength, rel=1e-4)
        assert float(slopes["stretch"]) == pytest.approx(value / stretch, rel=1e-3)


@pytest.mark.slow
def test_a_radial_distribution_is_that_of_the_frames_and_reweighted(tmp_path):
    path = stretchable.write(tmp_path)
    peak = {"of": "rdf", "distance": 2.35, "width": 0.1, "value": 5.0, "tolerance": 0.1}
    targets = {"bond": peak, "second": peak | {"distance": 3.84, "pair": ["Si", "Si"]}}
    sampling = {"temperature": 300.0, "steps": 400, "interval": 20, "discard": 100}
    config = parsed(path, targets, sampling=sampling)
    found = observed.Observables(
        config, observed.read_structures(config, tmp_path), stretchable.potential()
    )
    params = stretchable.variables()["params"]
    first = found.evaluate(params, {}).require()
    system = found._systems[0]
    frames = jax.tree.map(lambda leaf: np.asarray(leaf[0]), system.sample.frames)
    whole = silicon.diamond((1, 1, 1))
    structures = [
        dataclasses.replace(whole, positions=x, cell=c)
        for x, c in zip(frames.positions, frames.cell, strict=True)
    ]
    counted = radial_distribution(structures, cutoff=4.7, bins=4700, width=0.1)
    for name, r in (("bond", 2.35), ("second", 3.84)):
        expected = np.interp(r, counted.distances, counted.values)
        assert first.values[f"si.{name}"] == pytest.approx(expected, rel=1e-4)
    # Stronger bonds make a sharper peak; the slope is that of the reweighted average.
    step = 1e-3
    ahead, behind = (
        found.measure(stretchable.variables(1.0 + h)["params"], {}) for h in (step, -step)
    )
    slope = (ahead.loss - behind.loss) / (2.0 * step)
    assert float(first.gradient["strength"]) == pytest.approx(slope, rel=1e-4)
    assert ahead.values["si.bond"] > behind.values["si.bond"]


@pytest.mark.slow
def test_averages_of_a_cold_crystal_are_those_of_the_minimum(tmp_path):
    """At 20 K and the lattice constant of the minimum; harmonic, but for a percent."""
    path = stretchable.write(tmp_path)
    targets = {"pressure": {"value": 0.0, "tolerance": 0.1}, **ELASTIC}
    sampling = {"temperature": 20.0, "steps": 600, "interval": 20, "discard": 200, "smallest": 0.4}
    config = parsed(path, targets, sampling=sampling)
    found = observed.Observables(
        config, observed.read_structures(config, tmp_path), stretchable.potential()
    )
    params = stretchable.variables()["params"]
    first = found.evaluate(params, {}).require()
    assert first.sizes["si"] == pytest.approx(1.0, abs=1e-6)
    assert abs(first.values["si.pressure"]) < 0.1
    # Balamane, Halicioglu & Tiller (1992): 151.4, 76.4 and 56.4 GPa.
    for name, expected in {"C11": 151.4, "C12": 76.4, "C44": 56.4}.items():
        assert first.values[f"si.{name}"] == pytest.approx(expected, rel=0.03)
    # Stronger bonds, which want to be shorter: the bulk modulus times the change of the volume.
    near = stretchable.variables(1.1, 1.0005)["params"]
    moved = found.evaluate(near, {}).require()
    assert (
        float(found.anchors(near)["si"]["anchor"]["strength"]) == 1.0
    )  # reweighted, not sampled anew
    assert 0.4 < moved.sizes["si"] < 0.99
    bulk = 1.1 * (151.4 + 2 * 76.4) / 3.0
    change = moved.values["si.pressure"] - first.values["si.pressure"]
    assert change == pytest.approx(-3 * bulk * 0.0005, rel=0.1)
    far = stretchable.variables(2.0, 1.0)["params"]
    renewed = found.evaluate(far, {}).require()
    assert float(found.anchors(far)["si"]["anchor"]["strength"]) == 2.0
    assert renewed.sizes["si"] == pytest.approx(1.0, abs=1e-6)


# Training.


def task(path, targets=LATTICE, sampling=None, **training):
    plain = tiny.task(devices=1, precision="float64", ema=None, valid=False, **training)
    loss = dataclasses.replace(plain.loss, energy=None, forces=None)
    config = parsed(path, targets, weight=1.0, interval=2, sampling=sampling)
    observables = observed.Observables(
        config,
        observed.read_structures(config, Path()),
        stretchable.potential(),
    )
    return plain._replace(
        model=stretchable.Stretchable(),
        variables=jax.tree.map(np.asarray, stretchable.variables()),
        loss=dataclasses.replace(loss, stress=PropertyLoss(weight=0.0)),
        observables=observables,
    )


@pytest.mark.slow
def test_training_moves_the_lattice_constant_to_its_target(tmp_path):
    path = stretchable.write(tmp_path)
    outcome = loop.train(task(path, epochs=20), tmp_path / "run", progress=False)
    lines = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    entry = lines[-1]["observables"]["values"]["si.lattice_constant"]
    assert entry["value"] == pytest.approx(5.40, abs=0.003)
    # The other parameter, whose slope is rounding, is Adam's to move: it divides by that slope.
    assert float(outcome.variables["params"]["stretch"]) == pytest.approx(
        silicon.LATTICE / 5.40, abs=1e-3
    )
    again = task(path).observables
    assert again is not None
    record = observed.conclude(again, outcome.variables, tmp_path)
    assert record["values"]["si.lattice_constant"]["value"] == pytest.approx(5.40, abs=0.003)
    assert json.loads((tmp_path / "observables.json").read_text()) == record
    assert jnp.isfinite(record["loss"])


@pytest.mark.slow
def test_a_run_with_samples_resumes_bit_for_bit(tmp_path, monkeypatch):
    """The sample of the checkpoint is older than the parameters: it has to be drawn at its own."""
    path = stretchable.write(tmp_path)
    sampling = {"temperature": 300.0, "steps": 60, "interval": 20, "discard": 20, "smallest": 0.3}
    pressure = {"pressure": {"value": 0.3, "tolerance": 0.5}}

    def begin():
        return task(path, pressure, sampling, epochs=3)

    whole = loop.train(begin(), tmp_path / "whole", progress=False)
    steps, interrupted, count = loop.engine.take_step, begin(), 0

    def counting(*arguments):
        nonlocal count
        count += 1
        if count == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return steps(*arguments)

    monkeypatch.setattr(loop.engine, "take_step", counting)
    with pytest.raises(TrainingInterrupted, match="--resume"):
        loop.train(interrupted, tmp_path / "parts", progress=False)
    monkeypatch.undo()
    assert interrupted.observables is not None
    anchor = interrupted.observables.anchors({})["si"]["anchor"]
    resumed = loop.train(begin(), tmp_path / "parts", resume=True, progress=False)
    for one, other in zip(
        jax.tree.leaves(whole.variables), jax.tree.leaves(resumed.variables), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert anchor["stretch"] == 1.0  # of the first step, not of the step that was interrupted
