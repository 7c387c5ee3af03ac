"""Which of XLA's emitters compile which programs."""

import types

import jax
import pytest

from mlip_jax import compilation
from mlip_jax.models.chgnet import CHGNet
from mlip_jax.models.mace import MACE

FLAG = "--xla_cpu_use_fusion_emitters"


def test_the_older_emitters_are_chosen_where_their_flag_is_known(monkeypatch):
    def flags(version: str, **environment: str) -> str | None:
        monkeypatch.setattr(compilation.importlib.metadata, "version", lambda _: version)
        monkeypatch.setattr(compilation.os, "environ", dict(environment))
        compilation.use_older_emitters()
        return compilation.os.environ.get("XLA_FLAGS")

    assert flags("0.10.1") == f"{FLAG}=false"
    assert flags("0.10.1", XLA_FLAGS="--a=b") == f"--a=b {FLAG}=false"
    assert flags("0.10.1", XLA_FLAGS=f"{FLAG}=true") == f"{FLAG}=true"
    assert flags("0.10.1", MLIP_JAX_TUNE="0") is None
    assert flags("1.0.0") is None


@pytest.mark.parametrize(
    ("flags", "backend", "model", "expected"),
    [
        (f"--a=b {FLAG}=false", "cpu", CHGNet(), {FLAG.removeprefix("--"): True}),
        (f"{FLAG}=false", "cpu", MACE(), None),
        (f"{FLAG}=false", "cpu", None, None),
        (f"{FLAG}=false", "gpu", CHGNet(), None),
        (f"{FLAG}=true", "cpu", CHGNet(), None),
        ("", "cpu", CHGNet(), None),
    ],
)
def test_models_with_many_activations_get_the_newer_ones(
    monkeypatch, flags, backend, model, expected
):
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert compilation.options(model) == expected


def test_a_program_accepts_the_options(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"{FLAG}=false")
    if jax.default_backend() != "cpu":
        pytest.skip("options are for CPUs")
    chosen = compilation.options(types.SimpleNamespace(many_activations=True))
    assert jax.jit(lambda x: 2 * x, compiler_options=chosen)(1.5) == 3.0
