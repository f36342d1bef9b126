"""Property: every parallel strategy computes what one process computes, interrupted or not.

Real processes under torchrun on CPU. Run: pytest tests/test_trainer_parallel.py
(without `-m "not slow"`: all strategies; about five minutes on two cores)
"""

import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from trainer_runs import (
    ROOT,
    conversations,
    losses,
    read_log,
    read_status,
    run,
    signalling_tracker,
    spoilt_model,
    start,
    train_args,
    write_dataset,
)

from pipeline.trainer.args import TrainArgs
from pipeline.trainer.output_dir import checkpoint_directories, find_resume, latest_checkpoint

_STEPS = 7
_ZERO = {stage: ROOT / f"training_config/deepspeed/ds_z{stage}_config.json" for stage in (0, 2, 3)}
_RANKS = {"one process": 1, "ddp": 2, "zero-0": 2, "zero-2": 2, "zero-3": 2, "fsdp2": 2}
_slow = pytest.mark.slow


class _Runs:
    """Runs of the same data under different strategies, each made once."""

    def __init__(self, model: Path, directory: Path) -> None:
        self.model = model
        self.directory = directory
        self.dataset_dir = write_dataset(directory / "data", conversations(11))

    def args(self, strategy: str, name: str, **changes: Any) -> TrainArgs:
        """The same global batch of four for every strategy."""
        deepspeed = _ZERO[int(strategy[-1])] if strategy.startswith("zero") else None
        values: dict[str, Any] = {
            "deepspeed": deepspeed and str(deepspeed),
            "fsdp": strategy == "fsdp2",
            "per_device_train_batch_size": 2 // _RANKS[strategy],
            "max_steps": _STEPS,
        }
        output_dir = self.directory / name.replace(" ", "-")
        return train_args(self.model, self.dataset_dir, output_dir, **{**values, **changes})

    def uninterrupted(self, strategy: str, *, bf16: bool = False) -> Path:
        args = self.args(strategy, f"{strategy} {'bf16' if bf16 else 'fp32'}", bf16=bf16)
        if not Path(args.output_dir).exists():
            run(args, ranks=_RANKS[strategy])
        return Path(args.output_dir)


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> _Runs:
    return _Runs(tiny_model, tmp_path_factory.mktemp("runs"))


@pytest.mark.slow
def test_gradient_norms_are_the_same_under_every_strategy(runs: _Runs) -> None:
    norms = [
        [line["grad_norm"] for line in read_log(runs.uninterrupted(strategy))]
        for strategy in _RANKS
    ]
    for of_strategy in norms[1:]:
        assert of_strategy == pytest.approx(norms[0], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "zero-0", "zero-2", "zero-3", "fsdp2"])
def test_bf16_stays_close_to_fp32(runs: _Runs, strategy: str) -> None:
    exact, coarse = runs.uninterrupted("one process"), runs.uninterrupted(strategy, bf16=True)
    assert losses(coarse) == pytest.approx(losses(exact), abs=0.03)
    weights = load_file(coarse / "model.safetensors")
    assert all(weight.dtype == torch.bfloat16 for weight in weights.values())
    assert json.loads((coarse / "config.json").read_bytes())["dtype"] == "bfloat16"


def _interrupted(runs: _Runs, strategy: str, *, bf16: bool) -> TrainArgs:
    """A run that one of its ranks was asked to stop at step 3. Returns: what continues it."""
    name = f"{strategy} {'bf16' if bf16 else 'fp32'} cut"
    args = runs.args(strategy, name, bf16=bf16, report_to="wandb")
    tracker = signalling_tracker(runs.directory / "tracker", step=3)
    output = run(args, ranks=_RANKS[strategy], PYTHONPATH=str(tracker))
    assert "SIGTERM: stopped after step 4 of 7, saved" in output
    status = read_status(Path(args.output_dir))
    assert (status["status"], status["step"], status["signal"]) == ("interrupted", 4, "SIGTERM")
    return args.model_copy(update={"report_to": "none", "resume_from_checkpoint": "latest"})


def _assert_equal_runs(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    assert [line["current_steps"] for line in read_log(one)] == list(range(1, _STEPS + 1))
    assert read_status(one)["status"] == "completed"
    weights = [(output_dir / "model.safetensors").read_bytes() for output_dir in (one, other)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("strategy", "bf16"),
    [
        pytest.param("ddp", False, marks=_slow),
        pytest.param("zero-0", True, marks=_slow),
        pytest.param("zero-2", True, marks=_slow),
        pytest.param("zero-3", True, marks=_slow),
        ("zero-3", False),
        pytest.param("fsdp2", True, marks=_slow),
        pytest.param("fsdp2", False, marks=_slow),
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(
    runs: _Runs, strategy: str, bf16: bool
) -> None:
    resumed = _interrupted(runs, strategy, bf16=bf16)
    run(resumed, ranks=_RANKS[strategy])
    _assert_equal_runs(Path(resumed.output_dir), runs.uninterrupted(strategy, bf16=bf16))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "zero-2", "zero-3"])
def test_eight_bit_moments_learn_and_resume_under_every_strategy(
    runs: _Runs, strategy: str
) -> None:
    whole = runs.args(strategy, f"{strategy} 8bit", optim="adamw_8bit", save_steps=4)
    run(whole, ranks=_RANKS[strategy])
    exact = losses(runs.uninterrupted("one process"))
    found = losses(Path(whole.output_dir))
    assert found == pytest.approx(exact, abs=0.05)
    assert found != pytest.approx(exact, abs=1e-6)
    shutil.rmtree(Path(whole.output_dir) / f"checkpoint-{_STEPS}")
    run(whole.model_copy(update={"resume_from_checkpoint": "latest"}), ranks=_RANKS[strategy])
    assert losses(Path(whole.output_dir)) == found


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "zero-2", "zero-3", "fsdp2"])
def test_a_gradient_that_is_no_number_stops_every_strategy(
    runs: _Runs, tmp_path: Path, strategy: str
) -> None:
    model = spoilt_model(runs.model, tmp_path / "model", "model.embed_tokens.weight", 1e25)
    changes = {"model_name_or_path": str(model), "save_steps": 1, "bf16": strategy != "zero-2"}
    args = runs.args(strategy, f"{strategy} spoilt", **changes)
    output = run(args, ranks=2, status=1)
    # DeepSpeed calls every such norm infinite.
    message = r"step 1: the gradient norm is (nan|inf) \(loss 7\.6\d*\); the update was not saved"
    assert re.search(message, output), output
    assert not list(Path(args.output_dir).glob("*checkpoint*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    [
        [("ddp", 2), ("zero-3", 2), ("fsdp2", 4), ("one process", 1)],
        [("fsdp2", 2), ("zero-2", 4), ("zero-3", 2), ("fsdp2", 1)],
    ],
    ids=lambda way: " to ".join(strategy for strategy, _ in way),
)
def test_every_strategy_continues_every_other_on_any_number_of_ranks(
    runs: _Runs, way: list[tuple[str, int]]
) -> None:
    """The same sequence of samples, and losses as if nothing had changed."""
    name = "-".join(strategy.replace(" ", "-") for strategy, _ in way)
    output_dir, exact = runs.directory / name, runs.uninterrupted("one process")
    for number, (strategy, ranks) in enumerate(way):
        micro = 2 if ranks == 1 else 1
        changes: dict[str, Any] = {
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": 4 // (ranks * micro),
            "resume_from_checkpoint": "latest" if number else None,
            "save_steps": 2,
        }
        for later in checkpoint_directories(output_dir)[number:]:
            shutil.rmtree(later)  # as if the run had ended at step 2, 4, 6
        run(runs.args(strategy, name, **changes), ranks=ranks)
    steps = [path.name for path in checkpoint_directories(output_dir)]
    assert steps == [f"checkpoint-{step}" for step in (2, 4, 6, _STEPS)]
    assert losses(output_dir) == pytest.approx(losses(exact), abs=1e-5)
    weights, expected = (load_file(path / "model.safetensors") for path in (output_dir, exact))
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-5)


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.slow
def test_kill_9_of_all_ranks_during_a_save_is_survived(runs: _Runs) -> None:
    args = runs.args("zero-3", "killed", save_steps=2)
    output_dir = Path(args.output_dir)
    process = start(args, ranks=2)
    _wait_for(lambda: (output_dir / ".checkpoint-4.partial").exists())
    family = [*psutil.Process(process.pid).children(recursive=True), process]
    for member in family:
        member.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (output_dir / "checkpoint-4").exists(), "killed too late to test anything"
    latest = latest_checkpoint(output_dir)
    assert latest is not None
    assert latest.step == 2
    run(args.model_copy(update={"resume_from_checkpoint": "latest"}), ranks=2)
    _assert_equal_runs(output_dir, runs.uninterrupted("zero-3"))
    assert not list(output_dir.glob(".checkpoint-*"))
    assert find_resume(output_dir, "latest") is not None


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_what_is_offloaded_to_the_host_is_resumed_bit_for_bit(runs: _Runs, stage: int) -> None:
    deepspeed = ROOT / f"training_config/deepspeed/ds_z{stage}_offload_config.json"
    name = f"zero-{stage} offloaded"
    args = runs.args(f"zero-{stage}", name, deepspeed=str(deepspeed), save_steps=4)
    run(args, ranks=2)
    whole = losses(Path(args.output_dir))
    assert whole == pytest.approx(losses(runs.uninterrupted("one process")), abs=1e-5)
    shutil.rmtree(Path(args.output_dir) / f"checkpoint-{_STEPS}")
    run(args.model_copy(update={"resume_from_checkpoint": "latest"}), ranks=2)
    assert losses(Path(args.output_dir)) == whole


@pytest.mark.slow
def test_a_signal_to_every_rank_saves_once(runs: _Runs) -> None:
    args = runs.args("ddp", "all signalled", max_steps=2000, report_to="none")
    output_dir = Path(args.output_dir)
    process = start(args, ranks=2)
    _wait_for(lambda: (output_dir / "trainer_log.jsonl").exists() and len(losses(output_dir)) > 3)
    for rank in psutil.Process(process.pid).children():
        rank.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    step = read_status(output_dir)["step"]
    assert [path.name for path in output_dir.glob("checkpoint-*")] == [f"checkpoint-{step}"]
    assert output.count("stopped after step") == 1
