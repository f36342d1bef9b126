"""Property: `fsdp` means what it means in Transformers, or is refused with the reason.

Run: pytest tests/test_trainer_fsdp_config.py
"""

from pathlib import Path
from typing import Any

import pytest
from trainer_runs import conversations, run, train_args, write_dataset

from pipeline.errors import ConfigError
from pipeline.trainer.args import load_train_args
from pipeline.trainer.parallel.fsdp_config import Sharding, sharding_of

_LORA = {"finetuning_type": "lora"}
_REQUIRED = "model_name_or_path: m\ndataset: d\ndataset_dir: data\noutput_dir: out\n"


def _sharding(environment: dict[str, str] | None = None, **keys: Any) -> Sharding | None:
    return sharding_of(
        train_args(Path("model"), Path("data"), Path("out"), **keys), environment or {}
    )


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, None),
        ({"fsdp": False, "fsdp_config": {"cpu_offload": True}}, None),
        ({"fsdp": ""}, None),
        ({"fsdp": True}, Sharding()),
        ({"fsdp": "full_shard auto_wrap"}, Sharding()),
        ({"fsdp": "full_shard offload"}, Sharding(cpu_offload=True)),
        ({"fsdp": "shard_grad_op"}, Sharding(reshard_after_forward=False)),
        (
            {"fsdp": "shard_grad_op", "fsdp_config": {"reshard_after_forward": True}},
            Sharding(reshard_after_forward=True),
        ),
        ({"fsdp": "hybrid_shard"}, Sharding(is_hybrid=True)),
        (
            {"fsdp": "hybrid_shard_zero2", "fsdp_config": {"mp_shard_size": 4}},
            Sharding(is_hybrid=True, group_size=4, reshard_after_forward=False),
        ),
        (
            {
                "fsdp": True,
                "fsdp_config": {
                    "version": 2,
                    "transformer_layer_cls_to_wrap": "Qwen3DecoderLayer,Other",
                    "cpu_ram_efficient_loading": True,
                },
            },
            Sharding(layer_classes=("Qwen3DecoderLayer", "Other")),
        ),
    ],
    ids=str,
)
def test_keys_of_transformers_keep_their_meaning(
    keys: dict[str, Any], expected: Sharding | None
) -> None:
    assert _sharding(**keys) == expected


def test_the_environment_of_accelerate_launch_counts() -> None:
    launched = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    assert _sharding(launched) == Sharding()
    assert _sharding({**launched, "FSDP_RESHARD_AFTER_FORWARD": "false"}) == Sharding(
        reshard_after_forward=False
    )
    assert _sharding({**launched, "FSDP_OFFLOAD_PARAMS": "true"}) == Sharding(cpu_offload=True)
    assert _sharding({**launched, "ACCELERATE_USE_FSDP": "false"}) is None
    assert _sharding(launched, fsdp="hybrid_shard") == Sharding(is_hybrid=True), "the file wins"


def test_what_the_environment_asks_for_in_vain_is_refused() -> None:
    with pytest.raises(ConfigError, match="with FSDP_VERSION 1; the native engine has FSDP 2 only"):
        _sharding({"ACCELERATE_USE_FSDP": "1"})
    with pytest.raises(ConfigError, match=r"so is training\.deepspeed, and both partition the"):
        _sharding({"ACCELERATE_USE_FSDP": "1", "FSDP_VERSION": "2"}, deepspeed="ds.json")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({**_LORA, "use_dora": True}, r"training\.use_dora: needs whole weights, and with fsdp"),
        ({**_LORA, "quantization_bit": 4}, r"training\.quantization_bit: needs whole weights"),
        (
            {**_LORA, "adapter_name_or_path": "a,b"},
            "adapters cannot be merged into weights that fsdp shards; merge them first",
        ),
        (
            {"use_muon": True, "fsdp_config": {"cpu_offload": True}},
            r"training\.use_muon: computes with whole matrices, and fsdp is to keep them on the",
        ),
    ],
)
def test_what_needs_whole_tensors_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _sharding(fsdp=True, **keys)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("fsdp: full_shard", "5:7: fsdp: contradicts deepspeed, which partitions the model too"),
        ("fsdp: no_shard", "5:7: fsdp: unknown option no_shard; choose among full_shard, "),
        ("fsdp: full_shard hybrid_shard", "5:7: fsdp: names more than one of full_shard, "),
        ("fsdp_config: {version: 1}", "5:24: fsdp_config.version: must be 2 (got 1)"),
        (
            "fsdp_config: {fsdp_cpu_offload: true}",
            "5:15: fsdp_config.fsdp_cpu_offload: unknown key",
        ),
        ("fsdp_config: {offload_params: true}", "fsdp_config.offload_params: written cpu_offload"),
        (
            "fsdp_config: {use_orig_params: true}",
            "5:15: fsdp_config.use_orig_params: a detail of FSDP 1, which FSDP 2 has no need of",
        ),
        ("fsdp_config: {mp_shard_size: 0}", "5:30: fsdp_config.mp_shard_size: must be a whole"),
        ("fsdp_config: {ofload: true}", "5:15: fsdp_config.ofload: unknown key"),
    ],
)
def test_a_wrong_line_is_answered_at_its_place(tmp_path: Path, lines: str, message: str) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(_REQUIRED + lines + "\n")
    with pytest.raises(ConfigError) as caught:
        load_train_args(file)
    assert message in str(caught.value)


def test_replicas_are_groups_of_equal_size() -> None:
    assert Sharding().num_replicas(8, 4) == 1
    assert Sharding(is_hybrid=True).num_replicas(8, 4) == 2
    assert Sharding(is_hybrid=True, group_size=2).num_replicas(8, 4) == 4
    with pytest.raises(ConfigError, match=r"8 ranks cannot be split into groups of 3; change"):
        Sharding(is_hybrid=True, group_size=3).num_replicas(8, 4)


def test_a_class_that_the_model_has_not_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", conversations(3))
    changes = {"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": ["BertLayer"]}}
    output = run(train_args(tiny_model, data, tmp_path / "out", **changes), status=1)
    assert (
        "fsdp: Qwen3ForCausalLM has no module of class BertLayer; name the class of its "
        "transformer layers in fsdp_config.transformer_layer_cls_to_wrap"
    ) in output
