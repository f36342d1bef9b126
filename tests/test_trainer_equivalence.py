"""Property: whoever shares the work, every step's loss and the final weights are the same.

Real processes on CPU, in fp32, against tests/reference_loop.py. Every model under every way of
sharing, on two and four processes, with accumulation over 1 and 4 micro-batches.
Run: pytest tests/test_trainer_equivalence.py
(without `-m "not slow"`: the whole matrix; about ten minutes on two cores)
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_loop import reference_run
from tiny_architectures import tiny_llama, tiny_moe
from trainer_runs import (
    ROOT,
    RankServer,
    conversations,
    examples_of,
    losses,
    plan_of,
    train_args,
    write_dataset,
)
from transformers import AutoModelForCausalLM

from pipeline.trainer.args import TrainArgs

_STEPS = 5
_GLOBAL_BATCH = 16
_MODELS: dict[str, Callable[[Path, Path], Path]] = {
    "qwen3": lambda builtin, _: builtin,
    "llama": tiny_llama,
    "moe": tiny_moe,
}
_WAYS: dict[str, dict[str, Any]] = {
    "ddp": {},
    **{f"zero-{stage}": {"deepspeed": {"stage": stage}} for stage in range(4)},
    "fsdp2": {"fsdp": "full_shard auto_wrap"},
    "hsdp": {"fsdp": "hybrid_shard", "fsdp_config": {"mp_shard_size": 2}},
    "ulysses": {"sequence_parallel_size": 2, "sequence_parallel_mode": "ulysses"},
    "ring": {"sequence_parallel_size": 2, "sequence_parallel_mode": "zigzag-ring"},
    "packed": {"packing": True, "cutoff_len": 256},
    "no trees": {"share_prefixes": False},
}
"""All but the last share prefixes: a document is a tree."""
_VARIANTS: dict[str, dict[str, Any]] = {
    "zero-3 hpz": {"deepspeed": {"stage": 3, "zero_hpz_partition_size": 2}},
    "fsdp2 zero2": {"fsdp": "shard_grad_op"},
    "fsdp2 offload": {"fsdp": True, "fsdp_config": {"cpu_offload": True}},
    "fsdp2 ulysses": {"sequence_parallel_size": 2, "fsdp": True},
    "fsdp2 packed": {"packing": True, "cutoff_len": 256, "fsdp": True},
    "zero-3 ring": {
        "sequence_parallel_size": 2,
        "sequence_parallel_mode": "zigzag-ring",
        "deepspeed": {"stage": 3},
    },
    "zero-3 packed": {"packing": True, "cutoff_len": 256, "deepspeed": {"stage": 3}},
}
_SEQUENCES = ("share_prefixes", "packing", "cutoff_len")
"""Keys that decide which examples a step trains."""
_FAST = (
    ("qwen3", "ddp", 1, 4),
    ("qwen3", "ddp", 2, 1),
    ("qwen3", "zero-3", 2, 4),
    ("moe", "fsdp2", 2, 4),
    ("llama", "hsdp", 4, 1),
)
_CASES = (
    *((model, "ddp", 1, accumulation) for model in _MODELS for accumulation in (1, 4)),
    ("qwen3", "fsdp2", 1, 4),
    *(
        (model, way, ranks, accumulation)
        for model in _MODELS
        for way in _WAYS
        for ranks in (2, 4)
        for accumulation in (1, 4)
        if (way, ranks) != ("hsdp", 2)  # replicas of one rank each
    ),
    *(("llama", variant, 4, 4) for variant in _VARIANTS),
)


class _Matrix:
    """The same data for every model; reference runs and models are made once."""

    def __init__(self, builtin: Path, directory: Path) -> None:
        self.directory = directory
        self.dataset_dir = write_dataset(directory / "data", conversations(21))
        self.model = cache(lambda name: _MODELS[name](builtin, directory / name))
        self.reference = cache(self._reference)

    def args(self, model: str, name: str, **changes: Any) -> TrainArgs:
        output_dir = self.directory / name
        changes = {"max_steps": _STEPS, "save_strategy": "no", **changes}
        return train_args(self.model(model), self.dataset_dir, output_dir, **changes)

    def _reference(
        self, model: str, **sequences: Any
    ) -> tuple[list[float], dict[str, torch.Tensor]]:
        batch = {"per_device_train_batch_size": _GLOBAL_BATCH, "gradient_accumulation_steps": 1}
        args = self.args(model, "reference", **batch, **sequences)
        plan, data = plan_of(args)
        assert len(data) % _GLOBAL_BATCH, "a small last batch belongs to these tests"
        assert plan.epoch_ends[0] < _STEPS
        steps = range(1, _STEPS + 1)
        return reference_run(args, [examples_of(data, plan.global_batch(step)) for step in steps])


@pytest.fixture(scope="module")
def matrix(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> _Matrix:
    return _Matrix(tiny_model, tmp_path_factory.mktemp("equivalence"))


def _zero_file(zero: dict[str, Any], file: Path) -> str:
    """The shipped file of a stage with `zero` in it; ZeRO 1 is ZeRO 2 but for the gradients."""
    stage = 2 if zero["stage"] == 1 else zero["stage"]
    shipped = ROOT / f"training_config/deepspeed/ds_z{stage}_config.json"
    config = json.loads(shipped.read_bytes())
    config["zero_optimization"].update(zero)
    file.write_text(json.dumps(config), "utf-8")
    return str(file)


@pytest.mark.parametrize(
    ("model", "way", "ranks", "accumulation"),
    [pytest.param(*case, marks=() if case in _FAST else pytest.mark.slow) for case in _CASES],
)
def test_equivalence_to_the_reference_loop(
    matrix: _Matrix, rank_server: RankServer, model: str, way: str, ranks: int, accumulation: int
) -> None:
    changes = dict((_WAYS | _VARIANTS)[way])
    if "deepspeed" in changes:
        changes["deepspeed"] = _zero_file(changes["deepspeed"], matrix.directory / f"{way}.json")
    group = changes.get("sequence_parallel_size", 1)
    args = matrix.args(
        model,
        f"{model}-{way}-{ranks}-{accumulation}",
        per_device_train_batch_size=_GLOBAL_BATCH * group // (ranks * accumulation),
        gradient_accumulation_steps=accumulation,
        **changes,
    )
    rank_server.run(args, ranks=ranks)
    sequences = {key: value for key, value in changes.items() if key in _SEQUENCES}
    expected_losses, expected_weights = matrix.reference(model, **sequences)
    assert losses(Path(args.output_dir)) == pytest.approx(expected_losses, abs=1e-5)
    weights = AutoModelForCausalLM.from_pretrained(args.output_dir).state_dict()
    assert weights.keys() == expected_weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected_weights[name], rtol=0, atol=1e-5)
