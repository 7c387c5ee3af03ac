import dataclasses
import os
import re
from pathlib import Path

import numpy as np
import pytest

from mlip_jax import units
from mlip_jax.config import UserError
from mlip_jax.data import checks, formats
from mlip_jax.data.formats import LabelKeys
from tests.data.structures import copper

SHARED = Path(os.environ.get("MLIP_JAX_SHARED", Path(__file__).resolve().parents[2] / "../shared"))
KEYS = LabelKeys()


def relabel(structures, **changes):
    """Changes labels by functions of the old ones; absent labels stay absent."""
    result = []
    for structure in structures:
        old = {name: getattr(structure.labels, name) for name in changes}
        new = {name: changes[name](value) for name, value in old.items() if value is not None}
        labels = dataclasses.replace(structure.labels, **new)
        result.append(dataclasses.replace(structure, labels=labels))
    return result


def cycled(stress):
    """The six numbers xx yy zz xy yz zx (VASP) read as xx yy zz yz xz xy (ASE)."""
    xy, yz, xz = stress[0, 1], stress[1, 2], stress[0, 2]
    wrong = np.diag(np.diag(stress))
    wrong[1, 2] = wrong[2, 1] = xy
    wrong[0, 2] = wrong[2, 0] = yz
    wrong[0, 1] = wrong[1, 0] = xz
    return wrong


MISTAKES = {
    "stress_sign": {"stress": lambda s: -s},
    "stress_order": {"stress": cycled},
    "stress_unit": {"stress": lambda s: s / units.PRESSURE["kbar"]},
    "energy_force_unit": {"energy": lambda e: e / units.ENERGY["kcal/mol"]},
}


def verdicts(structures):
    return {check.name: check for check in checks.run(structures, KEYS)}


@pytest.fixture(scope="module", params=["strained crystals", "rattled crystals"])
def labelled(request):
    """Strained pairs of the same crystal (no forces), or none but with forces; both with EMT."""
    if request.param == "strained crystals":
        return copper(30, rattle=0.0, strain=0.06) + copper(10, rattle=0.05)
    return copper(40, rattle=0.15, strain=0.06)


def test_true_labels_hold(labelled):
    found = verdicts(labelled)
    # An offset shows in strained pairs alone.
    assert {c.verdict for c in found.values() if c.name != "stress_offset"} == {"holds"}, found
    assert found["stress_offset"].verdict in ("holds", "cannot tell")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_contradicted(labelled, name):
    found = verdicts(relabel(labelled, **MISTAKES[name]))
    assert found[name].verdict == "contradicted", found[name]


def test_advice_names_the_unit_and_the_order(labelled):
    kbar = verdicts(relabel(labelled, **MISTAKES["stress_unit"]))["stress_unit"]
    assert "data.labels.units.stress: kbar" in kbar.message
    order = verdicts(relabel(labelled, **MISTAKES["stress_order"]))["stress_order"]
    assert "'xx yy zz xy yz xz'" in order.message
    energy = verdicts(relabel(labelled, **MISTAKES["energy_force_unit"]))["energy_force_unit"]
    assert "data.labels.units.energy: kcal/mol" in energy.message


def test_a_constant_in_the_stress_is_measured():
    offset = 1.5 * units.PRESSURE["GPa"]
    frames = copper(40, rattle=0.0, strain=0.008)
    assert verdicts(frames)["stress_offset"].verdict == "holds"
    found = verdicts(relabel(frames, stress=lambda s: s + offset * np.eye(3)))["stress_offset"]
    assert found.verdict == "contradicted"
    assert re.search(r"a constant of 1\.[45]", found.message)


def test_gradients_in_place_of_forces_are_found():
    frames = relabel(copper(30, rattle=0.1), forces=lambda f: -f)
    assert "gradients" in verdicts(frames)["energy_force_unit"].message


def test_forces_that_are_zero_everywhere():
    frames = relabel(copper(10), forces=np.zeros_like)
    assert verdicts(frames)["zero_forces"].verdict == "contradicted"
    # A single rattled frame shows that forces were computed; perfect crystals have none.
    assert verdicts(frames + copper(1))["zero_forces"].verdict == "holds"


def test_without_evidence_nothing_stops():
    frames = relabel(copper(2), stress=lambda s: -s)
    found = checks.run(frames, KEYS)
    assert {c.name: c.verdict for c in found}["stress_sign"] == "cannot tell"
    checks.enforce(found, {})


def test_a_contradiction_stops_unless_accepted_by_name():
    found = checks.run(relabel(copper(30, strain=0.06), stress=lambda s: -s), KEYS)
    with pytest.raises(UserError, match=r"stress_sign: .*data.labels.stress_sign") as error:
        checks.enforce(found, {})
    assert "data.checks: {stress_sign: accept}" in str(error.value)
    checks.enforce(found, {"stress_sign": "accept"})
    with pytest.raises(UserError, match="unknown name 'sign'"):
        checks.enforce(found, {"sign": "accept"})


REFERENCE = {
    "mlearn/Si_train": set(MISTAKES),
    "mlearn/Ge_train": set(MISTAKES),
    "mlearn/Li_test": set(MISTAKES),
    "mlearn/Mo_train": set(MISTAKES),
    "mlearn/Cu_test": set(MISTAKES),
    "mlearn/Cu_train": set(),
    "mlearn/Ni_train": set(),
    "ta-snap/train": set(MISTAKES),
    "inp-snap/train": set(MISTAKES),
    "wbe-snap/train": set(MISTAKES),
    "monbtaw/elemental": set(MISTAKES),
    "monbtaw/test_elemental_binary": {"stress_sign", "stress_unit", "energy_force_unit"},
    "acac/train_300K": {"energy_force_unit"},
    "3bpa/train_mixedT_400of500": {"energy_force_unit"},
    "3bpa/train_300K": set(),
    "ethanol/train": {"energy_force_unit"},
    "mattersim-benchmarks/mpf-TP": {"energy_force_unit"},
    "mattersim-benchmarks/mptrj-random-1k": set(),
}


OFFSET = {
    name: {"stress_offset"} for name in ("mlearn/Cu_test", "mlearn/Cu_train", "mlearn/Ni_train")
}
"""Their stresses are 2.3 to 2.8 GPa off the derivatives of their energies."""


@pytest.mark.reference
@pytest.mark.parametrize("name", sorted(OFFSET))
def test_an_offset_taken_off_is_not_found_again(name):
    path = SHARED / "data" / f"{name}.extxyz.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    message = {c.name: c for c in checks.run(formats.read(path), KEYS)}["stress_offset"].message
    advice = re.search(r"data\.labels\.stress_offset: (\S+) to", message)
    keys = dataclasses.replace(KEYS, stress_offset=float(advice[1]))
    corrected = checks.run(formats.read(path, keys=keys), keys)
    assert {c.name: c.verdict for c in corrected}["stress_offset"] == "holds"


@pytest.mark.reference
@pytest.mark.parametrize("name", REFERENCE)
def test_published_sets_hold_and_their_mistakes_are_found(name):
    path = SHARED / "data" / f"{name}.extxyz.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    structures = formats.read(path)
    contradicted = {c.name for c in checks.run(structures, KEYS) if c.verdict == "contradicted"}
    assert contradicted == OFFSET.get(name, set())
    for mistake in REFERENCE[name]:
        found = verdicts(relabel(structures, **MISTAKES[mistake]))
        assert found[mistake].verdict == "contradicted", found[mistake]
