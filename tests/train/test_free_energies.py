"""Free energies of two phases: a change that is known, its slope, and steps that are too long."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest

from mlip_jax import config as configs
from mlip_jax import train
from mlip_jax.config import UserError
from mlip_jax.data import formats
from mlip_jax.train import free_energies, loop, observed
from mlip_jax.train.free_energies import Bridge, Place
from mlip_jax.train.interrupt import TrainingInterrupted
from mlip_jax.train.loss import PropertyLoss
from mlip_jax.train.observables import ObservablesConfig
from tests.simulate import silicon
from tests.train import stretchable, tiny

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
    found = []
    for name in ("wide", "crystal"):
        structure = formats.read(directory / f"{name}.extxyz")[0]
        found.append(silicon.potential(0.0).predict_energy(structure) / 8.0)
    return 1e3 * (found[0] - found[1])


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


def springs(stiffness):
    """Twenty phases of springs with `F = kT/2 ln k`, and another one whose F is constant."""
    kT = 0.025

    def draw(k):
        squares = np.random.default_rng(1).normal(0.0, np.sqrt(kT / k), (4000, 20)) ** 2
        return _Sample(0.5 * squares.sum(axis=1), 0.0)

    def overlap(k, sample):
        weights = np.exp(-(k - sample.k) * sample.halves / kT)
        weights /= weights.sum()
        return float(np.exp(-np.sum(weights * np.log(weights + 1e-300)))) / len(weights)

    del stiffness
    return kT, draw, overlap
