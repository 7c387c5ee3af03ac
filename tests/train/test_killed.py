"""A run that is killed and resumed is the uninterrupted run, bit for bit."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.train.test_loop import metrics_of


def run(output, *arguments):
    script = Path(__file__).with_name("killed_run.py")
    command = [sys.executable, str(script), str(output), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [3, 6])
def test_sigkill_and_resume_give_the_same_bits(tmp_path, killed_at):
    whole = run(tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    killed = run(tmp_path / "killed", "--kill", str(killed_at))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = run(tmp_path / "killed", "--resume")
    assert resumed.returncode == 0, resumed.stderr

    assert metrics_of(tmp_path / "whole") == metrics_of(tmp_path / "killed")
    expected, got = (np.load(tmp_path / name / "params.npz") for name in ("whole", "killed"))
    for name in expected:
        assert expected[name].tobytes() == got[name].tobytes()
