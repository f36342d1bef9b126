"""The same YAML, data and seed train the same here and in real LLaMA-Factory.

Run: LLAMAFACTORY_PYTHON=<interpreter> pytest tests/test_llamafactory_losses.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.llamafactory

ROOT = Path(__file__).parent.parent


def test_losses_steps_weights_and_files_are_those_of_llamafactory(tmp_path: Path) -> None:
    if "LLAMAFACTORY_PYTHON" not in os.environ:
        pytest.skip("LLAMAFACTORY_PYTHON is not set")
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.llamafactory.losses", str(tmp_path), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    runs = json.loads(finished.stdout)["runs"]
    assert [run["run"] for run in runs] == ["one process", "ZeRO-3 on two processes"]
    for run in runs:
        assert run["steps"] == [20, 20]
        assert run["largest_loss_difference"] < 1e-5
        assert run["largest_weight_difference"] < 1e-5
        assert run["same_weight_names"]
        assert run["files_missing_here"] == []
