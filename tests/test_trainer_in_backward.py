"""Property: updating weights in the backward pass learns the same without keeping gradients.

Run: pytest tests/test_trainer_in_backward.py
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from trainer_runs import (
    conversations,
    losses,
    read_log,
    run,
    signalling_tracker,
    tokenise,
    train_args,
    write_dataset,
)

from pipeline.errors import ConfigError, InterruptedRun
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.memory.largest_batch import largest_batch
from pipeline.trainer.memory.memory_plan import MemoryPlan, memory_plan
from pipeline.trainer.optimizer import in_backward
from pipeline.trainer.parallel.strategy import make_strategy
from pipeline.trainer.planned_run import PlannedRun
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

_PLAIN: dict[str, Any] = {"gradient_accumulation_steps": 1, "max_grad_norm": 0.0}
_IN_BACKWARD = {**_PLAIN, "optimizer_in_backward": True}


@pytest.fixture
def dataset_dir(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", conversations(8))


def _weights(output_dir: Path) -> bytes:
    return (output_dir / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("rank_of_its_own")
@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_8bit"])
def test_a_run_is_bit_for_bit_the_ordinary_one_also_resumed(
    tiny_model: Path,
    dataset_dir: Path,
    tmp_path: Path,
    optim: str,
    import_wandb_from: Callable[[Path], None],
) -> None:
    """With tied embeddings, which get gradients from two places."""
    plain = train_args(tiny_model, dataset_dir, tmp_path / "plain", **_PLAIN, optim=optim)
    train(plain, StopRequest())
    import_wandb_from(signalling_tracker(tmp_path / "tracker", step=3))
    changes = {**_IN_BACKWARD, "optim": optim, "report_to": "wandb"}
    cut = train_args(tiny_model, dataset_dir, tmp_path / "cut", **changes)
    with pytest.raises(InterruptedRun):
        train(cut, StopRequest())
    resumed = {"report_to": "none", "resume_from_checkpoint": "latest"}
    train(cut.model_copy(update=resumed), StopRequest())
    assert _weights(tmp_path / "cut") == _weights(tmp_path / "plain")
    logs = [read_log(tmp_path / name) for name in ("cut", "plain")]
    for found, expected in zip(*logs, strict=True):
        assert found["loss"] == expected["loss"]
        assert found["lr"] == expected["lr"]
        assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-6)


@pytest.mark.usefixtures("rank_of_its_own")
def test_no_two_gradients_are_there_at_once(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []

    class Watched(in_backward.UpdateInBackward):
        def _update(self, number: int, parameter: torch.Tensor) -> None:
            groups = self._optimizer.param_groups
            alive = [p for group in groups for p in group["params"] if p.grad is not None]
            counts.append(len(alive))
            super()._update(number, parameter)

    monkeypatch.setattr("pipeline.trainer.parallel.ddp.UpdateInBackward", Watched)
    train(
        train_args(tiny_model, dataset_dir, tmp_path / "run", **_IN_BACKWARD, max_steps=1),
        StopRequest(),
    )
    assert set(counts) == {1}
    assert len(counts) > 20


@pytest.mark.slow
def test_shards_are_updated_as_the_whole_is(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    changes = {"per_device_train_batch_size": 1, "fsdp": "full_shard"}
    for name, keys in (("plain", _PLAIN), ("early", _IN_BACKWARD)):
        run(train_args(tiny_model, dataset_dir, tmp_path / name, **keys, **changes), ranks=2)
    assert losses(tmp_path / "early") == losses(tmp_path / "plain")
    assert _weights(tmp_path / "early") == _weights(tmp_path / "plain")
    norms = [[line["grad_norm"] for line in read_log(tmp_path / n)] for n in ("plain", "early")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-6)


def _plan(args: TrainArgs, num_ranks: int) -> MemoryPlan:
    planned = PlannedRun.of(args, tokenise(args).store, num_ranks)
    batch = largest_batch(planned)
    return memory_plan(args, batch, None, num_ranks=num_ranks, on_accelerator=False)


@pytest.mark.parametrize("strategy", [{}, {"fsdp": "full_shard"}], ids=["one process", "FSDP2"])
def test_the_memory_plan_knows_that_gradients_are_freed(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path, strategy: dict[str, Any]
) -> None:
    num_ranks = 2 if strategy else 1
    plans = [
        _plan(
            train_args(
                tiny_model, dataset_dir, tmp_path / "run", **keys, per_device_train_batch_size=1
            ).model_copy(update=strategy),
            num_ranks,
        )
        for keys in (_PLAIN, _IN_BACKWARD)
    ]
    kept, freed = (plan.classes.get("gradients", 0) for plan in plans)
    assert freed < 0.5 * kept
    assert plans[1].total < plans[0].total


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradient_accumulation_steps": 2}, "waits .*; set gradient_accumulation_steps to 1"),
        ({"max_grad_norm": 1.0}, "norm is known when all weights are .* set max_grad_norm to 0"),
        ({"use_muon": True}, "set use_muon to false"),
        ({"deepspeed": "z2.json"}, "updates all weights at once; set deepspeed to null"),
        ({"finetuning_type": "lora"}, "gradients of adapters are small"),
        ({"on_anomaly": "skip"}, "optimizer_in_backward updates weights before .* set on_anomaly"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_needs_all_gradients_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        train_args(Path("m"), Path("d"), Path("o"), **{**_IN_BACKWARD, **changes})


def test_ranks_that_hold_the_whole_model_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    args = train_args(tiny_model, tmp_path, tmp_path / "run", **_IN_BACKWARD)
    ranks: Any = SimpleNamespace(world_size=2)
    with pytest.raises(ConfigError, match="DDP sums gradients .*; set training.fsdp to full_shard"):
        make_strategy(args, ranks)
