"""Stage rm: the rewards and their loss are those of Transformers' own classification model.

Run: pytest tests/test_trainer_rewards.py
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn.functional import logsigmoid
from trainer_runs import ROOT, losses, plan_of, read_log, run, train_args, write_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    get_scheduler,
)
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import ConfigError, TrainError
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.example_trees import ExampleTrees
from pipeline.trainer.parallel.fsdp_config import sharding_of
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

STEPS = 4
NAMES = ["rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"]
_ZERO_3 = ROOT / "training_config/deepspeed/ds_z3_config.json"
_WORDS = "the file was read and then one test of it failed again so we fix it".split()

pytestmark = pytest.mark.usefixtures("rank_of_its_own")


def _rows(count: int = 9) -> list[dict[str, Any]]:
    """The chosen sides say what they think, of which the template hides a part later on; rejected
    ones may be the beginning of chosen ones."""
    rows = []
    for number in range(count):
        words = " ".join(_WORDS[: 3 + number])
        first = {"from": "gpt", "value": f"<think>\n{words}\n</think>\n\nlooked at {number}"}
        more = [{"from": "human", "value": words}, {"from": "gpt", "value": f"fixed {words}"}]
        sides = {"chosen": [first, *more], "rejected": first}
        if number % 3 == 0:
            sides["rejected"] = {"from": "gpt", "value": f"<think>\nno\n</think>\n\n{words}"}
        rows.append({"conversations": [{"from": "human", "value": f"task {words}"}], **sides})
    return rows


def _args(model: Path, directory: Path, **changes: Any) -> TrainArgs:
    data = write_dataset(directory / "data", _rows())
    info = json.loads((data / "dataset_info.json").read_bytes())
    info["demo"] |= {"ranking": True, "columns": {"chosen": "chosen", "rejected": "rejected"}}
    (data / "dataset_info.json").write_text(json.dumps(info))
    given = {"stage": "rm", "max_steps": STEPS, "learning_rate": 1e-3, **changes}
    return train_args(model, data, directory / "run", **given)


def _loaded(model: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(
        model, num_labels=1, dtype=torch.float32
    )


def _rewards(model: Any, data: ExampleTrees, pair: int) -> torch.Tensor:
    """(2,) as the model's own forward pass gives them for each side alone."""
    chosen, rejected = data.examples(pair)
    return torch.cat([model(torch.tensor([e.ids])).logits[0] for e in (chosen, rejected)])


def _expected_scores(model: Any, data: ExampleTrees, pairs: list[int]) -> list[float]:
    """The loss, then what `NAMES` says."""
    with torch.no_grad():
        rewards = torch.stack([_rewards(model, data, pair) for pair in pairs])
    margins = rewards[:, 0] - rewards[:, 1]
    means = [*rewards.mean(dim=0), (margins > 0).float().mean(), margins.mean()]
    return [-logsigmoid(margins).mean().item(), *(mean.item() for mean in means)]


def test_a_run_equals_the_plain_loop_over_transformers_model(
    tiny_model: Path, tmp_path: Path
) -> None:
    args = _args(tiny_model, tmp_path, val_size=2)
    train(args, StopRequest())
    plan, data = plan_of(args)
    model = _loaded(tiny_model)
    torch.nn.init.zeros_(model.score.weight)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2]},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, weight_decay=args.weight_decay)
    scheduler = get_scheduler(args.lr_scheduler_type, optimizer, args.warmup_steps, STEPS)
    expected = []
    for step in range(1, STEPS + 1):
        batch = plan.global_batch(step)
        expected.append(_expected_scores(model, data, batch))
        rewards = torch.stack([_rewards(model, data, pair) for pair in batch])
        (-logsigmoid(rewards[:, 0] - rewards[:, 1]).mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    output_dir = Path(args.output_dir)
    for line, scores in zip(read_log(output_dir), expected, strict=True):
        assert [line["loss"], *(line[name] for name in NAMES)] == pytest.approx(scores, abs=1e-5)
    results = json.loads((output_dir / "train_results.json").read_bytes())
    assert results["memory_plan"]["predicted_bytes"] > 0
    weights = load_file(output_dir / "model.safetensors")
    assert weights.keys() == {*model.state_dict()}
    for name, weight in weights.items():
        torch.testing.assert_close(weight, model.state_dict()[name], rtol=0, atol=1e-5)
    saved = AutoModelForSequenceClassification.from_pretrained(output_dir, dtype=torch.float32)
    measured = json.loads((output_dir / "eval_results.json").read_bytes())
    assert [measured["eval_loss"], *(measured[f"eval_{name}"] for name in NAMES)] == pytest.approx(
        _expected_scores(saved, data, plan.held_out.tolist()), abs=1e-5
    )


def test_a_side_is_the_whole_conversation_up_to_its_last_turn(
    tiny_model: Path, tmp_path: Path
) -> None:
    args = _args(tiny_model, tmp_path)
    _, data = plan_of(args)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for index in range(len(data)):
        [number] = data.rows_of(index)
        row = _rows()[number]
        for example, side in zip(data.examples(index), ("chosen", "rejected"), strict=True):
            turns = row[side] if isinstance(row[side], list) else [row[side]]
            messages = [
                {"role": "user" if turn["from"] == "human" else "assistant", **turn}
                for turn in [*row["conversations"], *turns]
            ]
            for message in messages:
                message["content"] = message.pop("value")
            text = tokenizer.apply_chat_template(messages, tokenize=False)
            assert tokenizer.decode(example.ids) == text.rstrip("\n")
    assert data.num_tokens(0) < sum(len(example.ids) for example in data.examples(0))


def test_a_resumed_run_is_the_same(tiny_model: Path, tmp_path: Path) -> None:
    whole = _args(tiny_model, tmp_path / "whole", save_steps=2)
    part = _args(tiny_model, tmp_path / "part", save_steps=2)
    train(whole, StopRequest())
    output_dir = Path(part.output_dir)
    shutil.copytree(whole.output_dir, output_dir)
    shutil.rmtree(output_dir / f"checkpoint-{STEPS}")
    train(part.model_copy(update={"resume_from_checkpoint": "latest"}), StopRequest())
    assert losses(output_dir) == losses(Path(whole.output_dir))
    assert losses(output_dir)[-1] < losses(output_dir)[0]


def test_a_reward_model_is_trained_further(tiny_model: Path, tmp_path: Path) -> None:
    first = _args(tiny_model, tmp_path / "first")
    train(first, StopRequest())
    second = _args(Path(first.output_dir), tmp_path / "second", max_steps=1)
    train(second, StopRequest())
    assert read_log(Path(second.output_dir))[0]["rewards/margins"] != 0


def test_an_adapter_of_a_reward_model_is_loaded_by_peft_and_merged(
    tiny_model: Path, tmp_path: Path
) -> None:
    args = _args(tiny_model, tmp_path, finetuning_type="lora", learning_rate=5e-3, val_size=2)
    train(args, StopRequest())
    plan, data = plan_of(args)
    measured = json.loads((Path(args.output_dir) / "eval_results.json").read_bytes())
    assert measured["eval_rewards/margins"] != 0
    scores = [measured["eval_loss"], *(measured[f"eval_{name}"] for name in NAMES)]
    loaded = PeftModel.from_pretrained(_loaded(tiny_model), args.output_dir).eval()
    pairs = plan.held_out.tolist()
    assert scores == pytest.approx(_expected_scores(loaded, data, pairs), abs=1e-5)
    out = tmp_path / "merged"
    done = CliRunner().invoke(
        app, ["export", args.output_dir, "--to", "model", "--out", str(out), "--json"]
    )
    assert done.exit_code == 0, done.output
    merged = AutoModelForSequenceClassification.from_pretrained(out, dtype=torch.float32)
    assert merged.num_labels == 1
    assert scores == pytest.approx(_expected_scores(merged, data, pairs), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param({}, id="ddp"),
        pytest.param({"fsdp": True}, id="fsdp2"),
        pytest.param({"deepspeed": str(_ZERO_3)}, id="zero-3"),
        pytest.param({"finetuning_type": "freeze"}, id="freeze"),
        pytest.param({"finetuning_type": "lora", "deepspeed": str(_ZERO_3)}, id="lora, zero-3"),
    ],
)
def test_two_ranks_give_the_losses_of_one(
    tiny_model: Path, tmp_path: Path, strategy: dict[str, Any]
) -> None:
    weights = {key: value for key, value in strategy.items() if key == "finetuning_type"}
    one = _args(tiny_model, tmp_path / "one", val_size=3, **weights)
    two = _args(tiny_model, tmp_path / "two", gradient_accumulation_steps=1, val_size=3, **strategy)
    train(one, StopRequest())
    run(two, ranks=2)
    ours, theirs = read_log(Path(one.output_dir)), read_log(Path(two.output_dir))
    for name in ("loss", *NAMES):
        expected = [line[name] for line in ours]
        assert [line[name] for line in theirs] == pytest.approx(expected, abs=1e-5), name
    assert ours[-1]["rewards/margins"] > 0
    name = "adapter_model" if weights.get("finetuning_type") == "lora" else "model"
    mine, other = [load_file(Path(a.output_dir) / f"{name}.safetensors") for a in (one, two)]
    assert any("score" in weight for weight in mine)
    for name, weight in mine.items():
        torch.testing.assert_close(weight, other[name], rtol=0, atol=1e-5)


def test_a_model_whose_padding_ends_turns_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    config = json.loads((model / "config.json").read_bytes())
    config["pad_token_id"] = config["eos_token_id"]
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(TrainError, match="is both padding and the end of a turn"):
        train(_args(model, tmp_path), StopRequest())


def test_fsdp_does_not_shard_the_output_layer_of_an_adapter(
    tiny_model: Path, tmp_path: Path
) -> None:
    args = _args(tiny_model, tmp_path, finetuning_type="lora", fsdp=True)
    with pytest.raises(ConfigError, match="the adapter holds the whole output layer"):
        sharding_of(args, {})


def test_weights_in_few_bits_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stage rm trains a new output layer"):
        _args(tiny_model, tmp_path, finetuning_type="lora", quantization_bit=4)
