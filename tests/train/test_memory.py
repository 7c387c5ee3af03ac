"""A step that does not fit is refused before it runs, with the batch size that would."""

import jax
import jax.numpy as jnp
import pytest

from mlip_jax.config import UserError
from mlip_jax.train import loop, memory
from tests.train import tiny


@pytest.mark.parametrize(
    ("required", "devices", "advice"),
    [
        (4e9, 1, r"4\.0 GB and 2\.0 GB are free .* Set training\.batch_size=3 or less"),
        (2e9, 2, r"4\.0 GB and 2\.0 GB are free .* Set training\.batch_size=3 or less"),
        (90e9, 1, "Not even one structure fits"),
    ],
)
def test_what_does_not_fit_is_refused_with_advice(required, devices, advice):
    with pytest.raises(UserError, match=advice):
        memory.check(int(required), int(2e9), batch_size=8, devices=devices)


def test_what_fits_or_cannot_be_told_passes():
    memory.check(int(1.7e9), int(2e9), batch_size=8)
    memory.check(int(1e12), None, batch_size=8)


def test_the_estimate_counts_arguments_temporaries_and_results():
    def outer(x):
        return jnp.sin(x[:, None] * x[None, :]) @ x

    compiled = jax.jit(outer).lower(jnp.ones(1000)).compile()
    needed = memory.required_bytes(compiled)
    assert needed >= 2 * 1000 * 8  # x and the result, float64
    assert needed < 3 * 1000**2 * 8


def test_the_free_memory_of_this_machine_is_a_positive_number():
    available = memory.available_bytes(jax.devices("cpu")[0])
    assert available is None or 0 < available < 2**50


def test_training_stops_before_its_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 100)
    with pytest.raises(UserError, match="Not even one structure fits"):
        loop.train(tiny.task(), tmp_path, progress=False)
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "metrics.jsonl").exists()
