"""Property: freeze and lora train what they say, exactly, and write what others load.

Run: pytest tests/test_trainer_finetuning.py
"""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from reference_loop import reference_run
from safetensors.torch import load_file
from trainer_runs import (
    ROOT,
    RankServer,
    conversations,
    examples_of,
    losses,
    plan_of,
    run,
    train_args,
    write_dataset,
)
from transformers import AutoModelForCausalLM

from pipeline.errors import ConfigError, TrainError
from pipeline.trainer.args import TrainArgs, load_train_args
from pipeline.trainer.checkpoint.state_files import SavedState
from pipeline.trainer.data.example import Example
from pipeline.trainer.modeling.load import load_model
from pipeline.trainer.optimizer.make import make_optimizer, set_learning_rate
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

pytestmark = pytest.mark.usefixtures("rank_of_its_own")

_LORA = {"finetuning_type": "lora", "learning_rate": 1e-2}
_ZERO_3 = str(ROOT / "training_config/deepspeed/ds_z3_config.json")


class _Tuning:
    """Short runs on the same data."""

    def __init__(self, model: Path, directory: Path) -> None:
        self.model = model
        self.directory = directory
        self.dataset_dir = write_dataset(directory / "data", conversations(11))

    def args(self, name: str, **changes: Any) -> TrainArgs:
        return train_args(self.model, self.dataset_dir, self.directory / name, **changes)

    def train(self, name: str, **changes: Any) -> Path:
        args = self.args(name, **changes)
        train(args, StopRequest())
        return Path(args.output_dir)


@pytest.fixture
def tuning(tiny_model: Path, tmp_path: Path) -> _Tuning:
    return _Tuning(tiny_model, tmp_path)


def _batches(args: TrainArgs) -> list[list[Example]]:
    plan, data = plan_of(args)
    steps = range(1, plan.total_steps + 1)
    return [examples_of(data, plan.global_batch(step)) for step in steps]


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(40)[None]).logits


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"lora_rank": 4, "lora_alpha": 2, "use_rslora": True},
        {"use_dora": True, "lora_target": "q_proj, v_proj"},
    ],
    ids=["defaults", "rslora", "dora"],
)
def test_lora_equals_a_plain_loop_over_pefts_model(tuning: _Tuning, keys: dict[str, Any]) -> None:
    args = tuning.args("run", **_LORA, **keys)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(
        r=args.lora_rank,
        lora_alpha=args.lora_alpha or 16,
        target_modules=["q_proj", "v_proj"] if args.use_dora else modules,
        use_rslora=args.use_rslora,
        use_dora=args.use_dora,
    )

    def adapt(model: Any) -> Any:
        torch.manual_seed(args.seed)
        return get_peft_model(model, config)

    expected_losses, weights = reference_run(args, _batches(args), adapt)
    train(args, StopRequest())
    output_dir = Path(args.output_dir)
    assert losses(output_dir) == pytest.approx(expected_losses, abs=1e-5)
    adapter = load_file(output_dir / "adapter_model.safetensors")
    expected = {
        name.replace(".default", "").removesuffix(".weight"): value
        for name, value in weights.items()
        if "lora_" in name
    }
    assert {name.removesuffix(".weight") for name in adapter} == expected.keys()
    for name, value in adapter.items():
        wanted = expected[name.removesuffix(".weight")]
        torch.testing.assert_close(value, wanted, rtol=0, atol=1e-5)


def test_peft_loads_what_lora_wrote(tuning: _Tuning) -> None:
    output_dir = tuning.train("run", **_LORA, additional_target="embed_tokens")
    assert not (output_dir / "model.safetensors").exists()
    assert (output_dir / "tokenizer.json").is_file()
    config = json.loads((output_dir / "adapter_config.json").read_bytes())
    assert config["base_model_name_or_path"] == str(tuning.model)
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (8, 16, "CAUSAL_LM")
    assert len(config["target_modules"]) > 1
    assert config["target_modules"] == sorted(config["target_modules"]), "the same in every process"
    base = AutoModelForCausalLM.from_pretrained(tuning.model, dtype=torch.float32)
    before = _logits(base)
    loaded = PeftModel.from_pretrained(base, output_dir)
    assert (_logits(loaded) - before).abs().max() > 0.1
    args = tuning.args("more", **_LORA, adapter_name_or_path=str(output_dir))
    torch.testing.assert_close(_logits(loaded), _logits(load_model(args, torch.float32)))


def test_freeze_trains_the_chosen_modules_and_nothing_else(tuning: _Tuning) -> None:
    args = tuning.args(
        "run",
        finetuning_type="freeze",
        freeze_trainable_layers=1,
        freeze_trainable_modules="mlp, input_layernorm",
        freeze_extra_modules="norm",
    )
    trained = ("model.layers.1.mlp.", "model.layers.1.input_layernorm.", "model.norm.")

    def adapt(model: Any) -> Any:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(trained))
        return model

    expected_losses, weights = reference_run(args, _batches(args), adapt)
    train(args, StopRequest())
    assert losses(Path(args.output_dir)) == pytest.approx(expected_losses, abs=1e-5)
    before = load_file(tuning.model / "model.safetensors")
    after = load_file(Path(args.output_dir) / "model.safetensors")
    assert after.keys() == before.keys()
    for name, value in after.items():
        assert torch.equal(value, before[name]) != name.startswith(trained), name
        torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("count", "layers"), [(2, {0, 1}), (9, {0, 1}), (-1, {0})])
def test_freeze_counts_layers_from_the_end_or_the_start(
    tuning: _Tuning, count: int, layers: set[int]
) -> None:
    args = tuning.args("run", finetuning_type="freeze", freeze_trainable_layers=count)
    model = load_model(args, torch.float32)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert {int(name.split(".")[2]) for name in trained} == layers
    assert len(trained) == 11 * len(layers)


def test_frozen_weights_are_bf16_and_trained_ones_fp32(tuning: _Tuning) -> None:
    args = tuning.args("run", **_LORA, bf16=True)
    dtypes = {p.requires_grad: p.dtype for p in load_model(args, torch.float32).parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}


@pytest.mark.parametrize(
    "keys",
    [
        {"lora_dropout": 0.2, "loraplus_lr_ratio": 4.0},
        pytest.param({"bf16": True, "pissa_init": True}, marks=pytest.mark.slow),
    ],
    ids=["dropout", "pissa"],
)
def test_a_resumed_adapter_is_that_of_the_whole_run(tuning: _Tuning, keys: dict[str, Any]) -> None:
    whole = tuning.train("whole", **_LORA, **keys, save_steps=3)
    checkpoint = whole / "checkpoint-3"
    assert not (checkpoint / "model.safetensors").exists()
    with SavedState(checkpoint) as saved:
        assert all("lora_" in name for name, _ in saved.weights())
    cut = tuning.directory / "cut"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoint-6")
    tuning.train("cut", **_LORA, **keys, resume_from_checkpoint="latest")
    assert losses(cut) == losses(whole)
    adapters = [(run / "adapter_model.safetensors").read_bytes() for run in (cut, whole)]
    assert adapters[0] == adapters[1]
    with pytest.raises(TrainError, match=r"no longer the same \(lora_rank: 8 -> 4\); restore"):
        tuning.train("cut", **_LORA, **keys, lora_rank=4, resume_from_checkpoint="latest")


def test_adapters_are_trained_on_or_merged_below_a_new_one(tuning: _Tuning) -> None:
    first = tuning.train("first", **_LORA)
    more = tuning.train("more", **_LORA, adapter_name_or_path=str(first))
    both = f"{first},{more}"
    new = tuning.train("new", **_LORA, adapter_name_or_path=both, create_new_adapter=True)
    # The learning rate of the first step is 0.
    assert losses(more)[0] < losses(first)[0] - 0.05
    assert losses(new)[0] < losses(more)[0] - 0.05
    assert json.loads((new / "merged_adapters.json").read_bytes()) == [str(first), str(more)]
    assert not (more / "merged_adapters.json").exists()


@pytest.mark.parametrize("bits", [4, 8])
def test_qlora_trains_beside_quantised_weights(tuning: _Tuning, bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    exact = tuning.train("exact", **_LORA)
    quantised = tuning.train("quantised", **_LORA, quantization_bit=bits)
    assert losses(quantised) == pytest.approx(losses(exact), abs=0.02)
    assert losses(quantised) != losses(exact)
    args = tuning.args("run", **_LORA, quantization_bit=bits)
    weight = load_model(args, torch.float32).model.layers[0].mlp.up_proj.base_layer.weight
    assert weight.dtype == {4: torch.uint8, 8: torch.int8}[bits]


def test_quantised_weights_take_no_other_adapters(
    tuning: _Tuning, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    args = tuning.args("run", **_LORA, quantization_bit=4, adapter_name_or_path="a,b")
    with pytest.raises(ConfigError, match="adapters cannot be merged into quantised weights; mer"):
        load_model(args, torch.float32)


def test_loraplus_trains_b_faster(tuning: _Tuning) -> None:
    args = tuning.args("run", **_LORA, loraplus_lr_ratio=16.0)
    model = load_model(args, torch.float32)
    optimizer = make_optimizer(model, args)
    set_learning_rate(optimizer.param_groups, 1e-3)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {
        names[id(p)].split(".")[-3]: group["lr"]
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert rates == pytest.approx({"lora_A": 1e-3, "lora_B": 16e-3})


@pytest.mark.parametrize("use_rslora", [False, True])
def test_a_converted_pissa_adapter_fits_the_original_weights(
    tuning: _Tuning, use_rslora: bool
) -> None:
    keys = {**_LORA, "pissa_init": True, "use_rslora": use_rslora}
    args = tuning.args("run", **keys, pissa_convert=True, max_steps=3)
    train(args, StopRequest())
    output_dir = Path(args.output_dir)
    torch.manual_seed(args.seed)
    trained = load_model(args, torch.float32)  # with what PiSSA leaves of the weights
    weights = load_file(output_dir / "adapter_model.safetensors")
    set_peft_model_state_dict(
        trained, {name.removeprefix("base_model.model."): w for name, w in weights.items()}
    )
    base = AutoModelForCausalLM.from_pretrained(tuning.model, dtype=torch.float32)
    before = _logits(base)
    converted = PeftModel.from_pretrained(base, output_dir / "pissa_converted")
    torch.testing.assert_close(_logits(converted), _logits(trained), rtol=0, atol=1e-5)
    assert (_logits(converted) - before).abs().max() > 0.1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"lora_target": "w_pack"},
            "training.lora_target: w_pack: .* Linear modules of this model",
        ),
        ({"adapter_name_or_path": "/no/such"}, "/no/such: cannot load the adapter: Can't find"),
        (
            {"finetuning_type": "freeze", "freeze_trainable_modules": "attention"},
            "freeze_trainable_modules: the model has no module attention; choose from all, ",
        ),
        (
            {"finetuning_type": "freeze", "freeze_extra_modules": "lm_head"},
            "freeze_extra_modules: the model has no module lm_head; choose from embed_tokens, norm",
        ),
        (
            {"finetuning_type": "freeze", "freeze_trainable_layers": 0},
            "finetuning_type freeze: nothing would be trained; set freeze_trainable_layers or",
        ),
    ],
)
def test_what_the_model_does_not_have_is_refused(
    tuning: _Tuning, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainError, match=message):
        load_model(tuning.args("run", **{**_LORA, **keys}), torch.float32)


@pytest.mark.parametrize(
    "line", ["use_dora: true", "adapter_name_or_path: a", "loraplus_lr_ratio: 4.0"]
)
def test_keys_of_adapters_need_one(tmp_path: Path, line: str) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(f"model_name_or_path: m\ndataset: d\ndataset_dir: d\noutput_dir: o\n{line}\n")
    key = line.split(":")[0]
    message = f"5:{len(key) + 3}: {key}: needs an adapter: set finetuning_type: lora, or remove it"
    with pytest.raises(ConfigError, match=message):
        load_train_args(file)


_SHARDED: dict[str, dict[str, Any]] = {
    "zero-3": {"deepspeed": _ZERO_3},
    "fsdp2": {"fsdp": "full_shard"},
    "fsdp2 offload": {"fsdp": "full_shard offload"},
    "hsdp": {"fsdp": "hybrid_shard", "fsdp_config": {"mp_shard_size": 2}},
}
_FREEZE = {
    "finetuning_type": "freeze",
    "freeze_trainable_layers": 1,
    "freeze_trainable_modules": "mlp",
    "freeze_extra_modules": "embed_tokens",
}


@pytest.mark.parametrize(
    ("keys", "way"),
    [
        (_LORA, "zero-3"),
        (_LORA, "fsdp2"),
        (_FREEZE, "fsdp2"),
        pytest.param(_LORA, "hsdp", marks=pytest.mark.slow),
        pytest.param(_FREEZE, "hsdp", marks=pytest.mark.slow),
        pytest.param(_LORA, "fsdp2 offload", marks=pytest.mark.slow),
        pytest.param(_FREEZE, "fsdp2 offload", marks=pytest.mark.slow),
    ],
)
def test_equivalence_of_sharded_fine_tuning_to_one_process(
    tuning: _Tuning, rank_server: RankServer, keys: dict[str, Any], way: str
) -> None:
    alone = tuning.train("alone", **keys)
    ranks = 4 if way == "hsdp" else 2
    accumulation = 4 // ranks
    changes = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": accumulation}
    args = tuning.args("sharded", **keys, **changes, **_SHARDED[way])
    output = rank_server.run(args, ranks=ranks)
    if keys is _LORA:
        assert "finetuning_type lora: 19,456 of 249,216 parameters are trained" in output
    assert losses(Path(args.output_dir)) == pytest.approx(losses(alone), abs=1e-5)
    [file] = [path.name for path in alone.glob("*.safetensors")]
    expected, found = load_file(alone / file), load_file(Path(args.output_dir) / file)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "way", "bf16"),
    [
        (_LORA, "fsdp2", True),
        *(
            pytest.param(keys, way, bf16, marks=pytest.mark.slow)
            for keys in ({**_LORA, "additional_target": "embed_tokens"}, _FREEZE)
            for way in ("zero-3", "fsdp2")
            for bf16 in (False, True)
            if not (way == "fsdp2" and "additional_target" in keys)
        ),
    ],
)
def test_what_is_partly_frozen_resumes_bit_for_bit(
    tuning: _Tuning, rank_server: RankServer, keys: dict[str, Any], way: str, bf16: bool
) -> None:
    changes = {**keys, **_SHARDED[way], "per_device_train_batch_size": 1, "bf16": bf16}
    args = tuning.args("whole", **changes, save_steps=3)
    rank_server.run(args, ranks=2)
    whole, cut = Path(args.output_dir), tuning.directory / "cut"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoint-6")
    rank_server.run(tuning.args("cut", **changes, resume_from_checkpoint="latest"), ranks=2)
    assert losses(cut) == losses(whole)
    [file] = [path.name for path in whole.glob("*.safetensors")]
    assert (cut / file).read_bytes() == (whole / file).read_bytes()


@pytest.mark.slow
def test_what_needs_whole_weights_is_refused_under_zero_3(tuning: _Tuning) -> None:
    args = tuning.args("run", **_LORA, pissa_init=True, deepspeed=_ZERO_3)
    output = run(args, ranks=2, status=1)
    assert "training.pissa_init: computes with whole weights, and under ZeRO-3 every" in output
