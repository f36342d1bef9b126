"""The benchmark of checkpoints measures how long training waits for them.

Run: pytest tests/test_benchmark_checkpoint_stall.py
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_training_waits_less_for_a_process_beside_it() -> None:
    command = [sys.executable, "-m", "benchmarks.checkpoint_stall", "--megabytes", "30"]
    done = subprocess.run(
        [*command, "--saves", "3", "--json"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["megabytes"] == pytest.approx(30, rel=0.3)
    assert report["beside"]["complete_s"] >= report["beside"]["stall_s"] > 0
    assert report["stall_ratio"] < 1
