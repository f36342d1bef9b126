"""The benchmark for accelerators runs, here with tiny shapes on the CPU.

Run: pytest tests/test_benchmark_gpu.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_every_cell_is_measured() -> None:
    command = [sys.executable, "benchmarks/gpu.py", "--smoke", "--json"]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["machine"]["torch"] == torch.__version__
    kinds = {(run["engine"], run["recompute"]) for run in report["runs"]}
    for engine in ("native", "transformers"):
        assert {(engine, kind) for kind in ("none", "selective", "full")} <= kinds
    for run in report["runs"]:
        assert run["tokens_per_second"] > 0
        assert run["useful_mfu"] is None or torch.accelerator.is_available()


def test_useful_flops_are_those_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.gpu import SHAPES

    shape, length = SHAPES["tiny"], 32
    model = AutoModelForCausalLM.from_config(shape.config(length), attn_implementation="eager")
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.arange(length)[None], use_cache=False).logits.sum().backward()
    # An eager model computes all of attention, of which causality makes half useful.
    masked = 3 * 2 * shape.layers * shape.heads * shape.head_size * length**2
    counted = counter.get_total_flops() - masked
    assert shape.useful_flops(length, trained=length) == pytest.approx(counted, rel=0.02)
