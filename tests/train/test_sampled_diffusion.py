"""Diffusion as an observable: refusals, and a slope that has two parts."""

import jax
import numpy as np
import pytest

from mlip_jax import config as configs
from mlip_jax import units
from mlip_jax.config import UserError
from mlip_jax.simulate import differentiable, diffusion
from mlip_jax.simulate.settings import EnsembleConfig
from mlip_jax.train import observed
from mlip_jax.train.observables import ObservablesConfig
from tests.simulate import silicon
from tests.train import stretchable

KELVIN, TIMESTEP, WINDOW = 900.0, 2.0, 24.0
TARGET = {"of": "diffusion", "value": 1.0, "tolerance": 0.1, "window": WINDOW}
SAMPLING = {
    "temperature": KELVIN,
    "timestep": TIMESTEP,
    "steps": 80,
    "interval": 20,
    "discard": 20,
    "trajectories": 2,
}


def build(directory, target=TARGET, **changes):
    system = {
        "structure": stretchable.write(directory),
        "targets": {"D": target},
        "sampling": SAMPLING | changes,
    }
    config = configs.parse(ObservablesConfig, {"systems": {"si": system}}, "observables")
    structures = observed.read_structures(config, directory)
    return observed.Observables(config, structures, stretchable.potential())


@pytest.mark.parametrize(
    ("target", "changes", "words"),
    [
        ({"window": None}, {}, "no window"),
        ({"window": 25.0}, {}, r"targets\.D\.window: got 25 fs; expected a multiple"),
        ({"element": "O"}, {}, r"targets\.D\.element: got O; .*: Si"),
        ({}, {"pressure": 0.0}, "at constant pressure"),
        ({"start": 1.0}, {}, "got start, which mean nothing for diffusion"),
    ],
)
def test_impossible_targets_are_refused(tmp_path, target, changes, words):
    with pytest.raises(UserError, match=words):
        build(tmp_path, {k: v for k, v in (TARGET | target).items() if v is not None}, **changes)


@pytest.mark.slow
def test_the_slope_has_a_part_of_the_weights_and_one_through_the_trajectories(tmp_path):
    """Of `u E`, whose frames weigh exp(-(u - 1) E / kT): `-cov(D, E) / kT` and `<dD/du>`."""
    found = build(tmp_path)
    params, step = stretchable.variables()["params"], 1e-4
    first = found.evaluate(params, {}).require()
    sample = found._systems[0].sample
    ahead, behind = (
        found.measure(stretchable.variables(1.0 + h)["params"], {}) for h in (step, -step)
    )
    slope = (ahead.loss - behind.loss) / (2.0 * step)
    assert float(first.gradient["strength"]) == pytest.approx(slope, rel=1e-5)

    start = differentiable.begin(
        stretchable.potential(),
        silicon.diamond((1, 1, 1)),
        EnsembleConfig("nve", KELVIN),
        TIMESTEP,
    )
    function = jax.jit(diffusion.coefficients_fn(start, round(WINDOW / TIMESTEP)))
    frames = jax.tree.map(lambda leaf: leaf[0], sample.frames)

    def of_frames(strength):
        variables = stretchable.variables(strength)
        values = function(variables, frames, sample.momenta, sample.neighbors).values
        return 1e3 * np.mean(np.asarray(values), axis=(1, 2))  # Å^2/ps

    here, energies = of_frames(1.0), np.asarray(sample.energies[0])
    assert first.values["si.D"] == pytest.approx(float(np.mean(here)), rel=1e-9)
    kT = units.BOLTZMANN * KELVIN
    weights = -(np.mean(here * energies) - np.mean(here) * np.mean(energies)) / kT
    path = np.mean(of_frames(1.0 + step) - of_frames(1.0 - step)) / (2.0 * step)
    outer = 2.0 * (np.mean(here) - 1.0) / 0.1**2
    assert float(first.gradient["strength"]) == pytest.approx(outer * (weights + path), rel=1e-4)
    assert min(abs(weights), abs(path)) > 0.02 * abs(weights + path)
