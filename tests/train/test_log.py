"""What a run tells, read back."""

import importlib.util
import sys

import pytest

from mlip_jax.config import UserError
from mlip_jax.train import log

RECORD = {
    "step": 7,
    "learning_rate": 1e-3,
    "train": {"loss": 0.5, "forces_mae": 0.25},
    "valid": {"loss": 2.0},
}


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboardX") is None, reason="tensorboardX is not installed"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of protobuf, while it is imported
def test_tensorboard_gets_every_metric(tmp_path):
    board = log.TensorBoard(tmp_path, 0)
    board.write(RECORD)
    board.write({**RECORD, "step": 9, "valid": None})
    board.close()
    (events,) = tmp_path.glob("events*")
    content = events.read_bytes()
    for name in ("loss/train", "loss/valid", "forces_mae/train", "learning_rate"):
        assert name.encode() in content


def test_without_tensorboard_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"pip install 'mlip_jax\[report\]'"):
        log.TensorBoard(tmp_path, 0)


def test_metrics_go_on_where_the_checkpoint_stood(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = log.MetricsFile(path)
    metrics.write({"epoch": 1})
    length = metrics.sync()
    metrics.write({"epoch": 2})
    metrics.close()
    again = log.MetricsFile(path, length)
    again.write({"epoch": 2, "again": True})
    again.close()
    assert log.read_metrics(path) == [{"epoch": 1}, {"epoch": 2, "again": True}]
    with pytest.raises(UserError, match="shorter than the checkpoint says"):
        log.MetricsFile(path, 10_000)
