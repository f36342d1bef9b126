"""Property: the figures of speed in a log line are what the run did, and nothing is guessed.

Run: pytest tests/test_trainer_speed_figures.py
"""

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from trainer_runs import (
    CROSSOVER,
    conversations,
    plan_of,
    read_log,
    run,
    train_args,
    write_dataset,
)
from transformers import AutoModelForCausalLM, Qwen3Config

from pipeline.trainer.data.plan import Plan
from pipeline.trainer.data.plan_input import Documents
from pipeline.trainer.flops import ModelFlops
from pipeline.trainer.peak_flops import peak_bf16_flops, peak_of
from pipeline.trainer.reporting.rank_clock import RankClock, RankReport, reports
from pipeline.trainer.reporting.step_window import StepWindow
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

pytestmark = pytest.mark.usefixtures("rank_of_its_own")


def _plan(lengths: list[int], ranks: int, **changes: Any) -> Plan:
    keys = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, **changes}
    args = train_args(Path("model"), Path("data"), Path("run"), max_steps=2, **keys)
    return Plan.of(args, Documents.from_lengths(np.asarray(lengths)), ranks, CROSSOVER)


def test_a_window_says_what_its_steps_were() -> None:
    plan = _plan([10, 40, 10, 40, 10, 40, 10, 40], ranks=2)
    window = StepWindow(plan, 2, useful_flops=lambda step: 1e12 * step, peak_flops=1e13)
    window.add(1, 1.0, [])
    assert window.take()["useful_mfu"] == pytest.approx(1e12 / (2 * 1e13))
    window.add(1, 1.0, [])
    window.add(2, 3.0, [RankReport(0.5, 0.1, 7e9), RankReport(0.9, 0.2, 8e9)])
    found = window.take()
    rooms = [2 * max(batch) for batch in _lengths(plan)]
    assert found["tokens_per_second_per_device"] == pytest.approx(200 / 4.0 / 2)
    assert found["padding"] == pytest.approx(1 - 200 / sum(rooms), abs=1e-4)
    assert 0 < found["balance"] <= 1
    assert (found["step_seconds_p50"], found["step_seconds_max"]) == (2.0, 3.0)
    assert found["step_seconds_p95"] == pytest.approx(2.9)
    assert found["peak_memory_bytes"] == 8e9
    assert found["data_wait"] == pytest.approx(0.2 / 1.0)  # of the step that it is about
    assert found["slowest_rank"] == 1
    assert found["slowest_rank_lag_seconds"] == pytest.approx(0.9 - 0.7)
    assert found["useful_mfu"] == pytest.approx(3e12 / (4.0 * 2 * 1e13))


def _lengths(plan: Plan) -> list[list[int]]:
    batches = [batch for s in (1, 2) for r in (0, 1) for batch in plan.micro_batches(s, r)]
    return [plan.documents.lengths[batch].tolist() for batch in batches]


def test_what_is_not_known_is_left_out() -> None:
    window = StepWindow(_plan([10] * 8, ranks=2), 2, lambda _: 1e12, peak_flops=None)
    window.add(1, 1.0, [])
    found = window.take()
    assert not {"useful_mfu", "peak_memory_bytes", "data_wait", "slowest_rank"} & found.keys()
    assert found["padding"] == 0
    assert found["balance"] == 1
    window.add(2, 1.0, [RankReport(0.5, 0.1, 7e9)])
    assert "slowest_rank" not in window.take(), "one rank waits for nobody"


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)
def test_the_peak_of_a_device_is_known_by_its_whole_name(name: str, peak: float | None) -> None:
    assert peak_of(name) == peak


def test_a_processor_has_no_known_peak() -> None:
    assert peak_bf16_flops(torch.device("cpu")) is None


def test_useful_flops_are_those_that_a_training_step_runs() -> None:
    """Against PyTorch's counter, which counts masked attention too: the square is doubled here."""
    config = Qwen3Config(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
    )
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config)
    ids = torch.arange(50)[None]
    with FlopCounterMode(display=False) as counter:
        model(ids, labels=ids, use_cache=False).loss.backward()
    numbers = (np.asarray([number]) for number in (50, 2 * 50 * 50, 50))
    [useful] = ModelFlops.of(model).useful(*numbers)
    # The first layer's input needs no gradient of its own, but all weights do.
    assert useful == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_a_rank_times_what_it_does_before_it_meets_the_others() -> None:
    clock = RankClock(torch.device("cpu"))
    clock.begin()
    assert reports(clock.table(0, 1).tolist()) == []
    with clock.waiting_for_data():
        time.sleep(0.05)
    clock.computed()
    time.sleep(0.1)
    clock.begin()
    table = clock.table(1, 3).tolist()
    assert table[:3] == table[6:] == [0.0] * 3
    (report,) = reports(table[3:6])
    assert 0.05 <= report.data_wait_seconds <= report.own_seconds < 0.1
    assert report.peak_memory_bytes > 50e6  # PyTorch alone


def test_a_run_logs_them(tiny_model: Path, tmp_path: Path) -> None:
    dataset_dir = write_dataset(tmp_path / "data", conversations(23))
    changes = {"logging_steps": 2, "save_steps": 3, "share_prefixes": False}
    args = train_args(tiny_model, dataset_dir, tmp_path / "run", **changes)
    train(args, StopRequest())
    lines = read_log(tmp_path / "run")
    assert [line["current_steps"] for line in lines] == [2, 4, 6]
    plan, _ = plan_of(args)
    for line in lines:
        steps = (line["current_steps"] - 1, line["current_steps"])
        batches = [
            plan.documents.lengths[batch] for s in steps for batch in plan.micro_batches(s, 0)
        ]
        room = sum(len(batch) * batch.max() for batch in batches)
        real = sum(batch.sum() for batch in batches)
        assert line["padding"] == pytest.approx(1 - real / room, abs=1e-4)
        assert line["balance"] == 1
        assert 0 < line["step_seconds_p50"] <= line["step_seconds_p95"] <= line["step_seconds_max"]
        assert line["tokens_per_second_per_device"] > 0
        assert 0 < line["data_wait"] < 1
        assert line["peak_memory_bytes"] > 100e6
        assert not {"useful_mfu", "slowest_rank"} & line.keys()
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    train(args.model_copy(update={"resume_from_checkpoint": "latest"}), StopRequest())
    assert [line["loss"] for line in read_log(tmp_path / "run")] == [line["loss"] for line in lines]


def test_ranks_tell_how_long_each_took(tiny_model: Path, tmp_path: Path) -> None:
    dataset_dir = write_dataset(tmp_path / "data", conversations(23))
    args = train_args(tiny_model, dataset_dir, tmp_path / "run", max_steps=3)
    run(args, ranks=2)
    first, *rest = read_log(tmp_path / "run")
    assert "slowest_rank" not in first
    for line in rest:
        assert line["slowest_rank"] in (0, 1)
        assert line["slowest_rank_lag_seconds"] >= 0
        assert 0 < line["balance"] <= 1
