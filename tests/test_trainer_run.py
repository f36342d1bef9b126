"""Property: a run trains what its YAML says, stops when it should, and goes on where it stopped.

Everything here is one process without torchrun; several are in test_trainer_parallel.py.
Run: pytest tests/test_trainer_run.py
"""

import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from reference_loop import reference_run
from safetensors.torch import load_file
from trainer_runs import (
    conversations,
    examples_of,
    losses,
    plan_of,
    read_log,
    read_status,
    signalling_tracker,
    spoilt_model,
    start,
    train_args,
    write_dataset,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.errors import InterruptedRun, TrainError
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.store import TokenStore
from pipeline.trainer.output_dir import read_checkpoint
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

pytestmark = pytest.mark.usefixtures("rank_of_its_own")


@pytest.fixture
def dataset_dir(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", conversations(11))


def _train(args: TrainArgs) -> Path:
    train(args, StopRequest())
    return Path(args.output_dir)


def _store(dataset_dir: Path) -> TokenStore:
    [finished] = (dataset_dir / "tokens").glob("*/store.json")
    return TokenStore(finished.parent)


def test_a_run_of_padded_batches_equals_the_plain_reference_loop(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    changes = {"max_steps": 7, "share_prefixes": False}
    args = train_args(tiny_model, dataset_dir, tmp_path / "run", **changes)
    output_dir = _train(args)
    plan, data = plan_of(args)
    assert len(data) % plan.global_batch_size, "a small last batch belongs to this test"
    batches = [examples_of(data, plan.global_batch(step)) for step in range(1, 8)]
    expected_losses, expected_weights = reference_run(args, batches)
    assert losses(output_dir) == pytest.approx(expected_losses, abs=1e-5)
    weights = load_file(output_dir / "model.safetensors")
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected_weights[name], rtol=0, atol=1e-5)


def test_what_a_finished_run_leaves(tiny_model: Path, dataset_dir: Path, tmp_path: Path) -> None:
    args = train_args(tiny_model, dataset_dir, tmp_path / "run", plot_loss=True, bf16=True)
    output_dir = _train(args)
    plan = plan_of(args)[0].hash
    status = {
        "status": "completed",
        "step": 6,
        "total_steps": 6,
        "plan": plan,
        "wandb_run_id": None,
    }
    assert read_status(output_dir) == status
    assert losses(output_dir)[-1] < losses(output_dir)[0]
    assert (output_dir / "training_loss.png").read_bytes().startswith(b"\x89PNG")
    model, loading = AutoModelForCausalLM.from_pretrained(output_dir, output_loading_info=True)
    assert not any(loading.values())
    assert model.dtype == torch.bfloat16
    first, last = (AutoTokenizer.from_pretrained(path) for path in (tiny_model, output_dir))
    assert last.get_vocab() == first.get_vocab()
    assert last.chat_template == first.chat_template
    results = json.loads((output_dir / "train_results.json").read_bytes())
    assert results["train_loss"] == pytest.approx(sum(losses(output_dir)) / 6)


def test_bf16_stays_close_to_fp32(tiny_model: Path, dataset_dir: Path, tmp_path: Path) -> None:
    exact = _train(train_args(tiny_model, dataset_dir, tmp_path / "fp32"))
    coarse = _train(train_args(tiny_model, dataset_dir, tmp_path / "bf16", bf16=True))
    assert losses(coarse) == pytest.approx(losses(exact), abs=0.02)
    assert losses(coarse) != losses(exact)


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(
    tiny_model: Path,
    dataset_dir: Path,
    tmp_path: Path,
    import_wandb_from: Callable[[Path], None],
) -> None:
    whole = _train(train_args(tiny_model, dataset_dir, tmp_path / "whole"))
    import_wandb_from(signalling_tracker(tmp_path / "tracker", step=3))
    args = train_args(tiny_model, dataset_dir, tmp_path / "cut", report_to="wandb")
    with pytest.raises(InterruptedRun, match="SIGTERM: stopped after step 4 of 6, saved .*-4;"):
        _train(args)
    status = read_status(tmp_path / "cut")
    assert (status["status"], status["step"], status["signal"]) == ("interrupted", 4, "SIGTERM")
    changes = {"report_to": "none", "resume_from_checkpoint": "latest"}
    cut = _train(args.model_copy(update=changes))
    assert losses(cut) == losses(whole)
    assert [line["current_steps"] for line in read_log(cut)] == [1, 2, 3, 4, 5, 6]
    weights = [(run / "model.safetensors").read_bytes() for run in (whole, cut)]
    assert weights[0] == weights[1]
    assert read_status(cut)["status"] == "completed"


def test_checkpoints_of_a_process_beside_the_run_are_the_same_and_continue_it(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    runs = [
        _train(
            train_args(tiny_model, dataset_dir, tmp_path / name, save_steps=1, async_save=beside)
        )
        for name, beside in (("beside", True), ("waiting", False))
    ]
    assert losses(runs[0]) == losses(runs[1])
    for step in range(1, 7):
        beside, waiting = (read_checkpoint(run / f"checkpoint-{step}").files for run in runs)
        assert beside.keys() == waiting.keys()
        exact = [name for name in beside if name.endswith((".safetensors", ".pth"))]
        assert len(exact) == 3
        assert [beside[name] for name in exact] == [waiting[name] for name in exact]
    for run_directory in runs:
        for path in run_directory.glob("checkpoint-[456]"):
            shutil.rmtree(path)
    args = train_args(tiny_model, dataset_dir, runs[0], resume_from_checkpoint="latest")
    assert losses(_train(args)) == losses(runs[1])


def test_resuming_something_else_is_refused(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    args = train_args(tiny_model, dataset_dir, tmp_path / "run", max_steps=2, save_steps=1)
    output_dir = _train(args)
    resumed = args.model_copy(update={"resume_from_checkpoint": "latest"})

    def refusal(**changes: Any) -> str:
        with pytest.raises(TrainError) as caught:
            _train(resumed.model_copy(update=changes))
        return str(caught.value)

    where = f"{output_dir / 'checkpoint-2'}: cannot continue, the run is no longer the same "
    way_out = "; restore these settings, or start anew with another output_dir"
    changed = "(global_batch_size: 4 -> 2)"
    assert refusal(gradient_accumulation_steps=1) == where + changed + way_out
    assert refusal(data_seed=7, max_steps=3) == (
        where + "(seed: 42 -> 7; total_steps: 2 -> 3)" + way_out
    )
    write_dataset(dataset_dir, conversations(11, seed=1))
    assert "data: " in refusal()
    assert losses(output_dir) == [line["loss"] for line in read_log(output_dir)]


def _without_checkpoints(output_dir: Path) -> bool:
    return not list(output_dir.glob("*checkpoint*")) and not list(output_dir.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("name", "factor", "message"),
    [
        ("model.norm.weight", math.nan, "step 1: the loss is nan; the update was not saved"),
        # The first norm overflows: no logit depends on the input, and only the gradient shows it.
        (
            "model.embed_tokens.weight",
            1e25,
            "step 1: the gradient norm is nan (loss 7.625); the update was not saved",
        ),
    ],
    ids=["loss", "gradient"],
)
def test_what_is_no_number_stops_the_run_before_anything_is_saved(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path, name: str, factor: float, message: str
) -> None:
    model = spoilt_model(tiny_model, tmp_path / "model", name, factor)
    args = train_args(model, dataset_dir, tmp_path / "run", save_steps=1)
    with pytest.raises(TrainError) as caught:
        _train(args)
    plan, data = plan_of(args)
    named = ", ".join(str(row) for i in plan.global_batch(1) for row in data.rows_of(i))
    assert str(caught.value) == (
        f"{message}. Rows of this batch: {named}. Lower training.learning_rate, or look at these "
        "rows"
    )
    left = [path.name for path in (tmp_path / "run").iterdir()]
    assert left == ["trainer_status.json"]


def _checkpoints(output_dir: Path) -> list[str]:
    return sorted(path.name for path in output_dir.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"save_steps": 2}, [2, 4, 6]),
        ({"save_steps": 4}, [4, 6]),
        ({"save_steps": 1, "save_total_limit": 2}, [5, 6]),
        ({"save_strategy": "no"}, []),
    ],
    ids=["every second", "the last too", "limit", "none"],
)
def test_checkpoints_are_saved_when_asked(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path, changes: dict[str, Any], kept: list[int]
) -> None:
    output_dir = _train(train_args(tiny_model, dataset_dir, tmp_path / "run", **changes))
    assert _checkpoints(output_dir) == [f"checkpoint-{step}" for step in kept]


def test_epochs_can_decide_when_to_save(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    args = train_args(
        tiny_model,
        dataset_dir,
        tmp_path / "run",
        save_strategy="epoch",
        max_steps=-1,
        num_train_epochs=2,
        per_device_train_batch_size=8,
        save_only_model=True,
    )
    output_dir = _train(args)
    steps = plan_of(args)[0].epoch_ends[0]
    assert _checkpoints(output_dir) == [f"checkpoint-{steps}", f"checkpoint-{2 * steps}"]
    last = output_dir / f"checkpoint-{2 * steps}"
    assert not {"checkpoint.json", "state"} & {path.name for path in last.iterdir()}
    saved = (last / "model.safetensors").read_bytes()
    assert saved == (output_dir / "model.safetensors").read_bytes()


def test_a_signal_that_an_import_has_caught_is_not_lost(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    stop = StopRequest()
    with pytest.raises(InterruptedRun):
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(InterruptedRun, match="SIGTERM before the first step; nothing to save"):
        train(train_args(tiny_model, dataset_dir, tmp_path / "run"), stop)
    assert not (tmp_path / "run").exists()


def test_a_signal_before_the_first_step_ends_without_a_checkpoint(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    args = train_args(tiny_model, dataset_dir, tmp_path / "run", max_steps=1)
    _train(args)
    finished = _store(dataset_dir).directory
    shutil.rmtree(tmp_path / "run")
    # While another process builds the tokens, the trainer waits for it.
    with FileLock(finished.with_suffix(".lock")):
        process = start(args)
        # StopRequest stands before torch is loaded.
        while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGTERM)
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "SIGTERM before the first step; nothing to save" in output
    assert not (tmp_path / "run").exists()
