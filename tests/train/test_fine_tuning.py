"""Whole runs of fine-tuning: with low-rank terms, with older data, with both."""

import json

import jax
import numpy as np
import pytest

import mlip_jax
from mlip_jax import models, storage, train
from mlip_jax.config import UserError
from mlip_jax.data import formats
from mlip_jax.data.collate import make_graph
from mlip_jax.potential import Potential
from mlip_jax.train.interrupt import TrainingInterrupted
from tests.train import tiny
from tests.train.test_loop import assert_same, metrics_of, stop_at


def sections(path, **changes):
    small = {"cutoff": 3.0, "num_radial": 4, "num_angular": 1, "zetas": [1], "hidden": [4, 4]}
    training = {"epochs": 2, "batch_size": 4, "devices": 1, "report": False, "start": "first"}
    mapping = {
        "data": {"train": str(path), "valid": 0.2},
        "model": {"behler_parrinello": small},
        "training": {
            **training,
            "lora": {"match": "kernel", "rank": 2, "trained": "kernel_2|bias"},
        },
    }
    return mapping | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"lora": {"match": "."}}}, r"training: lora: got it without start"),
        (
            {"training": {"start": "x", "lora": {"match": "("}}},
            r"lora: match: got '\('; expected a",
        ),
        ({"optimizer": {"name": "lbfgs", "curvature_batches": 1}}, "curvature_batches"),
        ({"solver": {"name": "ridge"}}, r"training\.start: got a potential together with solver"),
    ],
)
def test_configs_that_cannot_be_adapted_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        train.parse(sections("data.extxyz", **changes))


def written(directory):
    """Data, and a potential to begin with."""
    items = tiny.structures(8)
    formats.write(directory / "data.extxyz", items)
    (fields,) = sections("")["model"].values()
    fields = {**fields, "species": ["Si"], "energy_scale": 0.1}
    module = models.build_model({"behler_parrinello": fields})
    variables = jax.jit(module.init)(jax.random.key(1), make_graph(items, 3.0))
    variables = jax.tree.map(np.asarray, variables)
    storage.save(Potential(module, variables, tiny.REFERENCE), directory / "first")
    return items, variables


def test_a_run_ends_as_an_ordinary_potential(tmp_path, capsys):
    variables = written(tmp_path)[1]
    fitted = train.fit(train.parse(sections("data.extxyz")), tmp_path / "run", base=tmp_path)
    said = capsys.readouterr().out
    trained, of = (fitted.card["lora"][key] for key in ("trained_parameters", "parameters"))
    assert f"LoRA: {trained} parameters were trained of {of} of the potential" in said
    assert trained < of == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    loaded = mlip_jax.load(tmp_path / "run" / "potential")
    assert jax.tree.structure(dict(loaded.variables)) == jax.tree.structure(dict(variables))
    assert max(fitted.card["moved"].values()) > 0.0
    # The saved potential has the errors of the last validation, of merged parameters, too.
    valid = [line["valid"] for line in metrics_of(tmp_path / "run")]
    best = min(valid, key=lambda metrics: metrics["loss"])
    errors = json.loads((tmp_path / "run" / "errors.json").read_text())["valid"]["total"]
    assert errors["forces"]["mae"] == pytest.approx(best["forces_mae"], rel=1e-4)


@pytest.mark.slow
def test_a_run_with_replay_is_resumed_bit_for_bit(tmp_path, monkeypatch):
    items = written(tmp_path)[0]
    formats.write(tmp_path / "old.extxyz", items[::-1])
    mapping = sections("data.extxyz")
    mapping["training"] |= {"replay": {"files": "old.extxyz", "valid": 0.25}, "ema": 0.9}
    parsed = train.parse(mapping)
    whole = train.fit(parsed, tmp_path / "a", base=tmp_path, progress=False)
    stop_at(monkeypatch, 5)
    with pytest.raises(TrainingInterrupted):
        train.fit(parsed, tmp_path / "b", base=tmp_path, progress=False)
    monkeypatch.undo()
    resumed = train.fit(parsed, tmp_path / "b", base=tmp_path, resume=True, progress=False)
    assert_same(dict(whole.variables), dict(resumed.variables))
    assert metrics_of(tmp_path / "a") == metrics_of(tmp_path / "b")
    errors = [json.loads((tmp_path / name / "errors.json").read_text()) for name in "ab"]
    assert errors[0] == errors[1]
