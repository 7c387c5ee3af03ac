"""The process that a command runs in: exit codes, environment, label keys."""

import dataclasses
import os
import signal
from pathlib import Path

import pytest
import typer

from mlip_jax import storage
from mlip_jax.cli import process
from mlip_jax.config import UserError
from mlip_jax.data import formats
from mlip_jax.data.formats import LabelKeys


def test_errors_end_a_command_as_documented(capsys):
    def interrupted():
        raise KeyboardInterrupt

    def stopped():
        error = UserError("stopped")
        error.exit_code = 128 + signal.SIGTERM  # pyright: ignore
        raise error

    def broken():
        raise RuntimeError("ours")

    for command, code in ((interrupted, 130), (stopped, 143)):
        with pytest.raises(typer.Exit) as caught:
            process.guarded(command)()
        assert caught.value.exit_code == code
    with pytest.raises(RuntimeError, match="ours"):
        process.guarded(broken)()


def test_the_environment_decides_on_cache_and_restart(monkeypatch):
    assert process.cache_directory({"MLIP_JAX_CACHE": "off"}) is None
    chosen = process.cache_directory({"MLIP_JAX_CACHE": "/x"})
    assert chosen is not None
    assert chosen.parent == Path("/x")
    default = process.cache_directory({"XDG_CACHE_HOME": "/c"})
    assert default is not None
    assert default.parent == Path("/c/mlip_jax")
    monkeypatch.setattr(process.sys, "platform", "linux")
    monkeypatch.setattr(process.platform, "libc_ver", lambda: ("glibc", "2.36"))
    tuned = process.tuned_environment({"A": "b"}, ["train"])
    assert tuned == {"A": "b", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    assert process.tuned_environment(tuned, ["train"]) is None
    assert process.tuned_environment({"MLIP_JAX_TUNE": "0"}, ["train"]) is None
    assert process.tuned_environment({}, ["info"]) is None
    monkeypatch.setattr(process.sys, "platform", "darwin")
    assert process.tuned_environment({}, ["train"]) is None


def test_label_keys_come_from_the_card_and_the_command_line(potential):
    from mlip_jax.cli.use import label_keys

    loaded = storage.load(potential)
    card = {"config": {"data": {"labels": {"energy": "REF_energy"}}}}
    keys = label_keys(dataclasses.replace(loaded, card=card), ["forces=F", "units.energy=meV"])
    assert keys == LabelKeys(
        energy="REF_energy", forces="F", units=formats.LabelUnits(energy="meV")
    )
    assert os.environ["MLIP_JAX_CACHE"] == "off"
