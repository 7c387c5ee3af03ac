"""The study of universal potentials: what it leaves out, how it shifts, what it writes."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from mlip_jax.data.structure import Structure

FOLDER = Path(__file__).parents[2] / "experiments" / "universal"


def load(name):
    spec = importlib.util.spec_from_file_location(f"universal_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def structure(numbers):
    count = len(numbers)
    return Structure(np.asarray(numbers), np.zeros((count, 3)), np.eye(3), np.ones(3, bool))


def test_shifts_by_element_are_those_of_the_other_structures():
    errors = load("errors")
    generator = np.random.default_rng(0)
    items = [structure(generator.choice([8, 14, 22], 4)) for _ in range(12)]
    error = generator.normal(30.0, 10.0, 12)
    found = errors.without_own_element_shift(items, error)
    numbers = sorted({int(z) for item in items for z in item.atomic_numbers})
    fractions = np.array([[np.mean(s.atomic_numbers == z) for z in numbers] for s in items])
    centred = error - error.mean()
    for index in range(12):
        others = np.arange(12) != index
        own, target = fractions[others], centred[others]
        normal = own.T @ own + errors.RIDGE * np.eye(len(numbers))
        shifts = np.linalg.solve(normal, own.T @ target)
        assert found[index] == pytest.approx(centred[index] - fractions[index] @ shifts, abs=1e-9)


def test_records_are_tables(tmp_path):
    report = load("report")
    pair = {"mae": 1.0, "rmse": 2.0}
    record = {
        "potential": "tiny",
        "set": "few",
        "evaluated": 3,
        "in_file": 8,
        "failed": [{"index": 4, "reason": "an unknown element"}],
        "energy": {"as_is": pair, "shifted": pair, "by_element": pair, "shift": -7.0},
        "forces": pair,
        "stress": pair,
    }
    report.write_json(tmp_path / "limit-4" / "tiny" / "few.json", record)
    report.write(tmp_path)
    text = (tmp_path / "limit-4.md").read_text(encoding="utf-8")
    row = "| tiny | 3 of 8 (1 failed) | 1 / 2 | 1 / 2 | 1 / 2 | 1 / 2 | 1 / 2 | -7 |"
    assert row in text


def test_what_is_recorded_is_complete():
    for path in FOLDER.glob("results/*/*/*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        assert (record["potential"], record["set"]) == (path.parent.name, path.stem)
        assert record["evaluated"] + len(record["failed"]) == record["asked_for"]
        assert record["asked_for"] <= record["in_file"]
