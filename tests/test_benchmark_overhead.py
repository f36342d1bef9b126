"""The benchmark of the trainer's overhead measures both trainers on the same steps.

Run: pytest tests/test_benchmark_overhead.py
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_both_trainers_are_measured() -> None:
    command = [sys.executable, "-m", "benchmarks.overhead", "--steps", "3", "--rounds", "1"]
    done = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert 0.9e6 < report["parameters"] < 1.3e6
    for name in ("native", "transformers"):
        run = report[name]
        assert run["step_ms"] > 0
        assert run["overhead_ms"] == pytest.approx(run["step_ms"] - run["compute_ms"], abs=0.01)
