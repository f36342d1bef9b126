"""The benchmark for accelerators runs, here with tiny shapes on the CPU.

Run: pytest tests/test_benchmark_gpu.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).parent.parent


def _measured(out: Path, *options: str) -> list[dict[str, Any]]:
    command = [sys.executable, "benchmarks/gpu.py", "--smoke", "--out", str(out), *options]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == out.read_text()
    machine, *runs = map(json.loads, done.stdout.splitlines())
    assert machine["machine"]["torch"] == torch.__version__
    return runs


@pytest.mark.slow
def test_every_cell_is_measured(tmp_path: Path) -> None:
    runs = _measured(tmp_path / "out.jsonl")
    kinds = {(run["engine"], run["recompute"]) for run in runs}
    for engine in ("native", "compiled", "transformers"):
        assert {(engine, kind) for kind in ("none", "selective", "full")} <= kinds
    for run in runs:
        assert run["tokens_per_second"] > 0, run
        assert run["useful_mfu"] is None or torch.accelerator.is_available()


@pytest.mark.slow
def test_a_cell_that_fails_and_the_end_of_the_time_lose_no_other_cell(tmp_path: Path) -> None:
    runs = _measured(tmp_path / "a.jsonl", "--engines", "native", "--optim", "none", "adamw_8bit")
    failed = [run for run in runs if "failed" in run]
    assert len(failed) == len(runs) / 2
    assert all(run["failed"].startswith("ValidationError: 1 validation") for run in failed)
    runs = _measured(tmp_path / "b.jsonl", "--minutes", "0", "--engines", "native")
    assert {run["failed"] for run in runs} == {"no time left"}


def test_useful_flops_are_those_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.gpu_grid import SHAPES

    shape, length = SHAPES["tiny"], 32
    model = AutoModelForCausalLM.from_config(shape.config(length), attn_implementation="eager")
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.arange(length)[None], use_cache=False).logits.sum().backward()
    # An eager model computes all of attention, of which causality makes half useful.
    masked = 3 * 2 * shape.layers * shape.heads * shape.head_size * length**2
    counted = counter.get_total_flops() - masked
    assert shape.useful_flops(length, trained=length) == pytest.approx(counted, rel=0.02)
