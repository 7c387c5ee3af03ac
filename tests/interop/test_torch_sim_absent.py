"""Without torch-sim, what needs it says what to install."""

import importlib
import sys

import pytest

from mlip_jax import interop


def test_a_missing_torch_sim_is_named(monkeypatch):
    for name in ("torch_sim", "torch_sim.models", "torch_sim.models.interface"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "mlip_jax.interop.torch_sim", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'mlip_jax\[torch-sim\]'"):
        importlib.import_module("mlip_jax.interop.torch_sim")
    assert "torch_sim" in interop.__all__
