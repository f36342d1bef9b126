"""LLaMA-Factory runs the training YAML that the native engine runs, chosen by one key.

Run: LLAMAFACTORY_PYTHON=<interpreter> pytest tests/test_llamafactory_engine.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.llamafactory

ROOT = Path(__file__).parent.parent


def test_engine_llamafactory_trains_from_the_same_config(tmp_path):
    python = os.environ.get("LLAMAFACTORY_PYTHON")
    if not python:
        pytest.skip("LLAMAFACTORY_PYTHON is not set")
    stub = tmp_path / "stubs" / "torchaudio"  # imported by it for text data as well
    stub.mkdir(parents=True)
    (stub / "__init__.py").touch()
    config = tmp_path / "config.yaml"
    config.write_bytes((ROOT / "config.yaml").read_bytes())
    overrides = {
        "infrastructure.artifacts_dir": tmp_path / "artifacts",
        "infrastructure.engine": "llamafactory",
        "infrastructure.llamafactory_python": python,
        "training.template": "qwen3",
        "training.bf16": "false",  # it refuses bf16 on a machine without GPU
        "training.max_steps": 2,
        "training.predict_with_generate": "false",  # known to LLaMA-Factory alone
    }
    finished = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "run"]
        + [f"{key}={value}" for key, value in overrides.items()],
        cwd=ROOT,
        env=os.environ
        | {
            "SFT_CONFIG": str(config),
            "PYTHONPATH": str(stub.parent),
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "1",
            "DS_ACCELERATOR": "cpu",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    results = json.loads((tmp_path / "artifacts/model/demo/train_results.json").read_text())
    assert results["train_loss"] > 0
    output = yaml.safe_load(config.read_text())["runtime_info"]["output"]
    assert output["run"]["status"] == "completed"
    assert output["training_metrics"]["value"]["total_steps"] == 2
