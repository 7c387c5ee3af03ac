"""A potential on disk: round trip, damage, versions, atomic replacement."""

import hashlib
import json
import os
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlip_jax import models, storage
from mlip_jax.config import UserError
from mlip_jax.potential import Potential


class Toy(nn.Module):
    cutoff: float = 3.0
    species: tuple[int, ...] | None = None


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(models.MODELS, "toy", f"{__name__}:Toy")


def potential(value: float = 1.0) -> Potential:
    variables = {
        "params": {
            "Dense_0": {"kernel": jnp.arange(6.0).reshape(2, 3) * value, "bias": jnp.zeros(3)},
            "scale": jnp.float32(value),
            "transposed": np.arange(6.0).reshape(2, 3).T,
            "half": jnp.ones(2, jnp.bfloat16),
            "empty": {},
        },
        "constants": {"index": np.arange(3, dtype=np.int32), "mask": np.array([True, False])},
        "nothing": {},
        "big_endian": np.arange(3, dtype=">f8"),
        "no_rows": np.zeros((0, 3)),
    }
    card = {"hash": "ab", "metrics": {"mae": np.float64(0.1)}, "elements": ("No", "Si")}
    return Potential(Toy(species=(14, 102)), variables, {14: -1 / 3, 102: 0.0}, card)


def test_round_trip_keeps_everything(tmp_path):
    saved = potential()
    storage.save(saved, tmp_path / "deep/er")
    read = storage.load(tmp_path / "deep/er")
    assert read.model == saved.model
    assert read.reference_energies == saved.reference_energies
    assert read.card == {"hash": "ab", "metrics": {"mae": 0.1}, "elements": ["No", "Si"]}
    assert jax.tree.structure(read.variables) == jax.tree.structure(saved.variables)
    for old, new in zip(
        jax.tree.leaves(saved.variables), jax.tree.leaves(read.variables), strict=True
    ):
        assert np.asarray(old).dtype.newbyteorder("=") == new.dtype
        assert np.shape(old) == new.shape
        np.testing.assert_array_equal(old, new)


def test_variables_may_be_empty(tmp_path):
    storage.save(Potential(Toy(species=(1,)), {}, {1: 0.0}), tmp_path / "p")
    assert storage.load(tmp_path / "p").variables == {}


def test_saving_again_replaces_and_leaves_nothing_behind(tmp_path):
    storage.save(potential(1.0), tmp_path / "p")
    storage.save(potential(2.0), tmp_path / "p")
    assert float(storage.load(tmp_path / "p").variables["params"]["scale"]) == 2.0
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


@given(seed=st.integers(0, 2**32 - 1))
def test_a_flipped_bit_is_found(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    path = tmp_path_factory.mktemp("flip") / "p"
    storage.save(potential(), path)
    file = path / str(rng.choice(sorted(p.name for p in path.iterdir())))
    content = bytearray(file.read_bytes())
    position = int(rng.integers(len(content)))
    content[position] ^= 1 << int(rng.integers(8))
    file.write_bytes(content)
    if file.name == storage.MANIFEST and _same_json(content, path):
        return
    with pytest.raises(UserError, match=file.name if file.name != storage.MANIFEST else "p"):
        storage.load(path)


def _same_json(content: bytearray, path: Path) -> bool:
    """Whether a flip hit white space only."""
    storage.save(potential(), path)
    original = json.loads((path / storage.MANIFEST).read_text())
    try:
        same = json.loads(content) == original
    except ValueError:
        same = False
    (path / storage.MANIFEST).write_bytes(content)
    return same


@pytest.mark.parametrize(
    "name", [storage.CONFIG, storage.PARAMETERS, storage.CARD, storage.MANIFEST]
)
def test_missing_and_truncated_files_are_named(tmp_path, name):
    storage.save(potential(), tmp_path / "p")
    content = (tmp_path / "p" / name).read_bytes()
    (tmp_path / "p" / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"{name}: damaged"):
        storage.load(tmp_path / "p")
    (tmp_path / "p" / name).unlink()
    with pytest.raises(UserError, match=name):
        storage.load(tmp_path / "p")


def test_a_newer_version_says_so(tmp_path):
    storage.save(potential(), tmp_path / "p")
    manifest = json.loads((tmp_path / "p" / storage.MANIFEST).read_text())
    manifest["version"] += 1
    (tmp_path / "p" / storage.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"format version 2; .* up to 1\. Install a newer"):
        storage.load(tmp_path / "p")


def test_an_older_version_is_migrated(tmp_path, monkeypatch):
    storage.save(potential(), tmp_path / "p")

    def rename(contents):
        model = {"toy": {**contents.config["model"]["toy"], "cutoff": 7.0}}
        return contents._replace(config={**contents.config, "model": model})

    monkeypatch.setattr(storage, "_MIGRATIONS", (rename,))
    assert storage.load(tmp_path / "p").cutoff == 7.0
    storage.save(potential(), tmp_path / "q")
    assert storage.load(tmp_path / "q").cutoff == 3.0


def test_what_is_no_potential_is_neither_read_nor_overwritten(tmp_path):
    with pytest.raises(UserError, match="no such potential"):
        storage.load(tmp_path / "nowhere")
    storage.save(potential(), tmp_path / "run/potential")
    with pytest.raises(UserError, match=r"Did you mean .*run/potential"):
        storage.load(tmp_path / "run")
    with pytest.raises(UserError, match="is no potential"):
        storage.save(potential(), tmp_path / "run")


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_a_full_disk_leaves_the_old_potential(tmp_path, monkeypatch, failing):
    storage.save(potential(1.0), tmp_path / "p")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(*((os, "fsync") if failing == "fsync" else (Path, "rename")), full)
        with pytest.raises(UserError, match="disk is full"):
            storage.save(potential(2.0), tmp_path / "p")
    assert float(storage.load(tmp_path / "p").variables["params"]["scale"]) == 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def test_opening_runs_no_code(tmp_path):
    storage.save(potential(), tmp_path / "p")
    text = (tmp_path / "p" / storage.CONFIG).read_text()
    evil = text.replace("toy:", "os:system:")
    (tmp_path / "p" / storage.CONFIG).write_text(evil)
    manifest = json.loads((tmp_path / "p" / storage.MANIFEST).read_text())
    manifest["sha256"][storage.CONFIG] = hashlib.sha256(evil.encode()).hexdigest()
    (tmp_path / "p" / storage.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"config\.yaml"):
        storage.load(tmp_path / "p")
