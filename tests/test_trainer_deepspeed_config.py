"""Property: DeepSpeed gets the run's own numbers, or the run is refused with the reason.

Run: pytest tests/test_trainer_deepspeed_config.py
"""

import json
from pathlib import Path
from typing import Any

import pytest
from trainer_runs import ROOT, train_args

from pipeline.errors import ConfigError
from pipeline.trainer.parallel.deepspeed_config import (
    fill_deepspeed_config,
    offloads_optimizer,
    read_deepspeed_config,
)

_SHIPPED = sorted((ROOT / "training_config" / "deepspeed").glob("*.json"))


def _fill(path: Path, **changes: Any) -> dict[str, Any]:
    args = train_args(
        Path("model"),
        Path("data"),
        Path("out"),
        **{
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 3,
            "max_grad_norm": 0.5,
            **changes,
        },
    )
    return fill_deepspeed_config(read_deepspeed_config(path), path, args, 4, hidden_size=100)


def _write(tmp_path: Path, **changes: Any) -> Path:
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3}, **changes}))
    return file


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("path", _SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_file_is_filled_completely(path: Path, bf16: bool) -> None:
    filled = _fill(path, bf16=bf16)
    assert '"auto"' not in json.dumps(filled)
    assert filled["train_micro_batch_size_per_gpu"] == 2
    assert filled["gradient_accumulation_steps"] == 3
    assert filled["train_batch_size"] == 24
    assert filled["gradient_clipping"] == 0.5
    stage = filled["zero_optimization"]["stage"]
    assert filled["bf16"]["enabled"] is (bf16 and stage > 0)  # stage 0: fp32 weights and autocast
    assert offloads_optimizer(filled) is ("offload" in path.stem)
    assert f"z{stage}" in path.stem


def test_there_are_shipped_files() -> None:
    assert len(_SHIPPED) == 5


def test_bucket_sizes_follow_the_hidden_size() -> None:
    zero = _fill(ROOT / "training_config" / "deepspeed" / "ds_z3_config.json")["zero_optimization"]
    assert zero["reduce_bucket_size"] == 100 * 100
    assert zero["stage3_prefetch_bucket_size"] == 9000
    assert zero["stage3_param_persistence_threshold"] == 1000


def test_numbers_that_agree_may_stand_in_the_file(tmp_path: Path) -> None:
    path = _write(tmp_path, train_batch_size=24, gradient_clipping=0.5, bf16={"enabled": False})
    assert _fill(path)["train_batch_size"] == 24


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"train_micro_batch_size_per_gpu": 1},
            "train_micro_batch_size_per_gpu is 1, but the run needs 2 "
            "(per_device_train_batch_size)",
        ),
        (
            {"gradient_accumulation_steps": 8},
            "gradient_accumulation_steps is 8, but the run needs 3 (gradient_accumulation_steps)",
        ),
        (
            {"train_batch_size": 16},
            "train_batch_size is 16, but the run needs 24 "
            "(per_device_train_batch_size x gradient_accumulation_steps x ranks)",
        ),
        (
            {"gradient_clipping": 1.0},
            "gradient_clipping is 1.0, but the run needs 0.5 (max_grad_norm)",
        ),
        ({"bf16": {"enabled": True}}, "bf16.enabled is True, but the run needs False (bf16)"),
        ({"fp16": {"enabled": True}}, "fp16.enabled is True, but the run needs False (fp16)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_number_of_another_run_is_refused(
    tmp_path: Path, section: dict[str, Any], message: str
) -> None:
    path = _write(tmp_path, **section)
    with pytest.raises(ConfigError) as caught:
        _fill(path)
    assert str(caught.value) == f'{path}: {message}; write "auto" there'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON: "),
        ("[]", "zero_optimization.stage must be 0, 1, 2 or 3 (got None)"),
        ("{}", "zero_optimization.stage must be 0, 1, 2 or 3 (got None)"),
        ('{"zero_optimization": 3}', "zero_optimization.stage must be 0, 1, 2 or 3 (got None)"),
        (
            '{"zero_optimization": {"stage": 4}}',
            "zero_optimization.stage must be 0, 1, 2 or 3 (got 4)",
        ),
        (
            '{"zero_optimization": {"stage": 2}, "optimizer": {"type": "AdamW"}}',
            "optimizer: set learning_rate, optim and lr_scheduler_type in config.yaml's training "
            "section instead and remove this section",
        ),
        ('{"zero_optimization": {"stage": 2}, "scheduler": {}}', "scheduler: set learning_rate"),
        ('{"zero_optimization": {"stage": 2}, "bf16": true}', "bf16: not an object (got True)"),
        (
            '{"zero_optimization": {"stage": 3, "mics_shard_size": 2}}',
            "zero_optimization.mics_shard_size: DeepSpeed has removed MiCS; use zero_hpz_partition",
        ),
        (
            '{"zero_optimization": {"stage": 3, "offload_param": "cpu"}}',
            'zero_optimization.offload_param: not an object (got cpu); write {"device": "cpu"}',
        ),
        (
            '{"zero_optimization": {"stage": 3, "offload_param": {"device": "disk"}}}',
            "zero_optimization.offload_param.device must be none or cpu (got disk)",
        ),
        (
            '{"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}',
            "zero_optimization.offload_param: stage 2 cannot keep that on cpu; use stage 3",
        ),
        (
            '{"zero_optimization": {"stage": 0, "offload_optimizer": {"device": "cpu"}}}',
            "zero_optimization.offload_optimizer: stage 0 cannot keep that on cpu; use stage 1",
        ),
        (
            '{"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}}',
            "zero_optimization.offload_optimizer.device: what DeepSpeed keeps on NVMe cannot be "
            "saved in checkpoints; offload to cpu",
        ),
    ],
    ids=[
        *("broken", "list", "empty", "no section", "stage 4", "optimizer", "scheduler", "bf16"),
        "mics",
        *("text", "device", "param, stage 2", "optimizer, stage 0", "nvme"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "ds.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        _fill(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_groups_that_do_not_divide_the_ranks_are_refused(tmp_path: Path) -> None:
    path = _write(tmp_path, zero_optimization={"stage": 3, "zero_hpz_partition_size": 3})
    with pytest.raises(ConfigError, match="4 ranks cannot be split into groups of 3; choose a"):
        _fill(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.deepspeed: .*ds\.json does not exist; use"):
        read_deepspeed_config(tmp_path / "ds.json")


def test_muon_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training.use_muon: .*; set training.deepspeed to null"):
        _fill(_write(tmp_path), use_muon=True)


def test_offloading_takes_fp32_moments_only() -> None:
    [offloading] = [path for path in _SHIPPED if path.stem == "ds_z2_offload_config"]
    assert _fill(offloading, optim="adamw_torch_fused")
    with pytest.raises(ConfigError, match=r"fp32 moments on the host, .*write adamw_torch, or do"):
        _fill(offloading, optim="adamw_8bit")
