"""Free energies of two phases: a change that is known, its slope, and steps that are too long."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np
import pytest

from mlip_jax import config as configs
from mlip_jax import train
from mlip_jax.config import UserError
from mlip_jax.data import formats
from mlip_jax.data.collate import make_graph
from mlip_jax.potential import predict_fn
from mlip_jax.simulate import free_energy
from mlip_jax.simulate.batch_relax import relax_many
from mlip_jax.simulate.settings import BatchRelaxationConfig
from mlip_jax.train import checkpoint, free_energies, observed
from mlip_jax.train.free_energies import Bridge, Place
from mlip_jax.train.observables import ObservablesConfig
from tests.simulate import silicon
from tests.train import stretchable

START = 3.0
TARGET = {"free_energy": {"value": 8.0, "tolerance": 0.5, "start": START}}
SAMPLING = {"temperature": 60.0, "steps": 400, "interval": 10, "discard": 100}


def section(directory, **changes):
    """The crystal, and as the other phase the same, wider by 2 %, in a fixed cell."""
    whole = silicon.diamond((1, 1, 1))
    wide = dataclasses.replace(whole, cell=1.02 * whole.cell, positions=1.02 * whole.positions)
    formats.write(directory / "crystal.extxyz", [whole])
    formats.write(directory / "wide.extxyz", [wide])
    system = {
        "structure": "crystal.extxyz",
        "other_phase": {"structure": "wide.extxyz"},
        "targets": TARGET,
        "sampling": SAMPLING,
    }
    return {"systems": {"si": {k: v for k, v in (system | changes).items() if v is not None}}}


def build(directory, **changes):
    config = configs.parse(ObservablesConfig, section(directory, **changes), "observables")
    structures = observed.read_structures(config, directory)
    return observed.Observables(config, structures, stretchable.potential())


def difference(directory):
    """Energy of the wide crystal less that of the other, meV per atom."""
    energies = []
    for name in ("wide", "crystal"):
        structure = formats.read(directory / f"{name}.extxyz")[0]
        graph = jax.tree.map(np.asarray, make_graph([structure], 4.2, dtype=np.float64))
        prediction = predict_fn(stretchable.Stretchable())(stretchable.variables(), graph)
        energies.append(1e3 * float(prediction.energy[0]) / structure.num_atoms)
    return energies[0] - energies[1]


# The section.


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"other_phase": None}, "no other_phase"),
        ({"targets": {"pressure": {"value": 0.0, "tolerance": 0.1}}}, "no target free_energy"),
        ({"targets": {"free_energy": {"value": 1.0, "tolerance": 1.0}}}, "no start"),
        ({"sampling": None}, "at the minimum"),
    ],
)
def test_sections_that_lack_something_are_refused(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        build(tmp_path, **changes)


def test_phases_of_other_compositions_are_refused(tmp_path):
    config = configs.parse(ObservablesConfig, section(tmp_path), "observables")
    whole = silicon.diamond((1, 1, 1))
    doped = np.where(np.arange(8) == 0, 6, 14)
    formats.write(tmp_path / "wide.extxyz", [dataclasses.replace(whole, atomic_numbers=doped)])
    with pytest.raises(UserError, match=r"si\.other_phase: has other parts"):
        observed.read_structures(config, tmp_path)


def test_the_potential_of_the_start_has_to_be_given(tmp_path):
    mapping = {
        "data": {"train": "nothing.extxyz"},
        "model": {"snap": {}},
        "observables": section(tmp_path),
        "training": {"precision": "float64"},
    }
    with pytest.raises(UserError, match=r"training\.start"):
        train.parse(mapping)


# Steps.


class Springs(NamedTuple):
    """Frames of springs `U = k x² / 2`, and the free energy that was carried to their k."""

    k: float
    squares: np.ndarray
    carried: float


KT, DIMENSIONS = 0.025, 20


def draw(k):
    x = np.random.default_rng(1).normal(0.0, np.sqrt(KT / k), (2000, DIMENSIONS))
    return Springs(float(k), np.sum(x**2, axis=1), 0.0)


def overlap(k, sample):
    logarithms = -0.5 * (k - sample.k) * sample.squares / KT
    weights = np.exp(logarithms - logarithms.max())
    weights /= np.sum(weights)
    return float(np.exp(-np.sum(weights * np.log(np.maximum(weights, 1e-300)))) / len(weights))


def change(old, old_sample, new, sample):
    """Of springs against something that does not depend on k."""
    there, back = (0.5 * (new - old) * part.squares for part in (old_sample, sample))
    return free_energy.bennett(there, back, KT)


def follow(to, **options):
    drawn = []

    def note(k):
        drawn.append(float(k))
        return draw(k)

    bridge, here = Bridge(overlap, change), Place(np.array(1.0), draw(1.0))
    found = free_energies.follow(bridge, here, np.array(to), note, float, 0.3, **options)
    return found, drawn


@pytest.mark.parametrize(("to", "between"), [(1.2, False), (8.0, True)])
def test_a_long_step_is_made_of_short_ones(to, between):
    found, drawn = follow(to)
    assert (len(drawn) > 1) == between
    assert drawn == sorted(drawn)
    assert drawn[-1] == to
    exact = 0.5 * DIMENSIONS * KT * np.log(to)
    # The mean of 40000 squares has the relative error 0.7 %, the same in all samples.
    assert float(found.sample.carried) == pytest.approx(exact, rel=0.03)


def test_a_step_that_cannot_be_followed_is_refused():
    with pytest.raises(UserError, match="cannot be followed"):
        follow(1e6, halvings=2)


# A crystal and the same at another volume. For u E both have 21 modes, whose part kT/2 ln u is the
# same: harmonic phases differ by u times the difference of their energies at rest.


@pytest.mark.slow
def test_a_crystal_at_two_volumes_and_its_slope(tmp_path):
    found = build(tmp_path)
    rest = difference(tmp_path)
    first = found.evaluate(stretchable.variables()["params"], {}).require()
    assert first.values["si.free_energy"] == pytest.approx(START, abs=1e-9)
    assert float(first.gradient["strength"]) == pytest.approx(
        2.0 * (START - 8.0) / 0.5**2 * rest, rel=0.1
    )
    # Near the anchor, with its sample: the slope is that of what is measured.
    near, step = 1.05, 1e-4
    at = found.evaluate(stretchable.variables(near)["params"], {}).require()
    assert float(found.anchors({})["si"]["anchor"]["strength"]) == 1.0
    assert at.values["si.free_energy"] - START == pytest.approx(0.05 * rest, rel=0.1)
    ahead, behind = (
        found.measure(stretchable.variables(near + h)["params"], {}).loss for h in (step, -step)
    )
    slope = (ahead - behind) / (2.0 * step)
    assert float(at.gradient["strength"]) == pytest.approx(slope, rel=1e-6)
    # Farther away samples are drawn anew, and what was found so far is carried along.
    far = stretchable.variables(1.6)["params"]
    moved = found.evaluate(far, {}).require()
    stored = found.anchors({})["si"]
    assert float(stored["anchor"]["strength"]) == 1.6
    assert float(stored["origin"]["strength"]) == 1.0
    assert 1e3 * float(stored["carried"]) + START == pytest.approx(moved.values["si.free_energy"])
    assert moved.values["si.free_energy"] - START == pytest.approx(0.6 * rest, rel=0.1)
    own = found.independent(far, {}).require().values["si.free_energy"]
    assert own != moved.values["si.free_energy"]
    assert own - START == pytest.approx(0.6 * rest, rel=0.1)
    # As a checkpoint holds it, bit for bit.
    again = build(tmp_path)
    saved = checkpoint.save(tmp_path / "at", checkpoint.Position(), {"anchors": found.anchors({})})
    again.restore(checkpoint.load_tree(saved, "anchors", again.anchors(far)), {})
    resumed = again.evaluate(far, {})
    assert resumed.loss == moved.loss
    assert float(resumed.gradient["stretch"]) == float(moved.gradient["stretch"])


@pytest.mark.slow
def test_a_vacancy_at_constant_pressure(tmp_path):
    """At zero pressure `u E` has the same minima: Gibbs's free energies differ by `u ΔE`."""
    sampling = SAMPLING | {"pressure": 0.0}
    section(tmp_path)
    whole = silicon.diamond((1, 1, 1))
    less = dataclasses.replace(
        whole, atomic_numbers=whole.atomic_numbers[1:], positions=whole.positions[1:]
    )
    formats.write(tmp_path / "vacancy.extxyz", [less])
    found = build(tmp_path, other_phase={"structure": "vacancy.extxyz"}, sampling=sampling)
    first = found.evaluate(stretchable.variables()["params"], {}).require()
    assert first.values["si.free_energy"] == pytest.approx(START, abs=1e-9)
    rest = {}
    for name, structure in {"whole": whole, "vacancy": less}.items():
        settings = BatchRelaxationConfig(precision="float64", cell="full", max_force=1e-3)
        relaxed = relax_many(stretchable.potential(), [structure], settings)[0]
        assert relaxed.converged
        energy = relaxed.structure.labels.energy
        assert energy is not None
        rest[name] = 1e3 * energy / structure.num_atoms
    change = rest["vacancy"] - rest["whole"]
    at = found.evaluate(stretchable.variables(1.03)["params"], {}).require()
    assert at.values["si.free_energy"] - START == pytest.approx(0.03 * change, rel=0.05)
