"""Stage dpo: losses, gradients and rewards of pairs are those of the formulas, however pairs are
computed.

Run: pytest tests/test_trainer_preferences.py
"""

import copy
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import logsigmoid
from trainer_runs import (
    ROOT,
    RankServer,
    losses,
    plan_of,
    read_log,
    spoilt_model,
    tokenise,
    train_args,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, get_scheduler

from pipeline.errors import ConfigError, DataError, TrainError
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.example import Example
from pipeline.trainer.data.example_trees import ExampleTrees
from pipeline.trainer.data.neighbours import within_rows
from pipeline.trainer.data.plan import Plan
from pipeline.trainer.output_dir import REFERENCE_FILE
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

STEPS = 4
ENTRY = {
    "file_name": "pairs.json",
    "formatting": "sharegpt",
    "ranking": True,
    "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
}
_ZERO_3 = ROOT / "training_config/deepspeed/ds_z3_config.json"
LOSSES: list[dict[str, Any]] = [
    {},
    {"dpo_label_smoothing": 0.2, "pref_ftx": 0.3},
    {"pref_loss": "hinge"},
    {"pref_loss": "ipo"},
    {"pref_loss": "orpo"},
    {"pref_loss": "simpo", "pref_beta": 2.0, "pref_ftx": 0.1},
]


def _pairs(count: int = 9, seed: int = 0) -> list[dict[str, Any]]:
    """Half of them differ in one turn, the others in the rest of the trajectory."""
    draw = random.Random(seed)
    vocabulary = "the file was read and then one test of it failed again so we fix it".split()

    def words(most: int) -> str:
        return " ".join(draw.choices(vocabulary, k=draw.randint(1, most)))

    def reply() -> dict[str, str]:
        return {"from": "gpt", "value": f"<think>\n{words(5)}\n</think>\n\n{words(12)}"}

    def rest() -> list[dict[str, str]]:
        turns = [reply()]
        for _ in range(draw.randint(0, 2)):
            turns += [{"from": "human", "value": words(6)}, reply()]
        return turns

    rows = []
    for number in range(count):
        prompt = [{"from": "human", "value": words(20)}, reply(), {"from": "human", "value": "go"}]
        sides: dict[str, Any] = {"chosen": reply(), "rejected": reply()}
        if number % 2:
            sides = {"chosen": rest(), "rejected": rest()}
        rows.append({"conversations": prompt, **sides})
    return rows


def _dataset(directory: Path, rows: list[Any], **entry: Any) -> Path:
    directory.mkdir(parents=True)
    (directory / "pairs.json").write_text(json.dumps(rows))
    (directory / "dataset_info.json").write_text(json.dumps({"demo": {**ENTRY, **entry}}))
    return directory


def _args(model: Path, dataset_dir: Path, **changes: Any) -> TrainArgs:
    given = {"stage": "dpo", "max_steps": STEPS, "learning_rate": 1e-3, **changes}
    return train_args(model, dataset_dir, dataset_dir.parent / "run", **given)


def _likelihoods(model: Any, pair: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """(2,) the sums over the trained tokens of both sides, and how many there are."""
    sums, counts = [torch.zeros(()), torch.zeros(())], torch.zeros(2)
    for example in pair:
        logits = model(torch.tensor([example.ids])).logits[0].log_softmax(dim=-1)
        for span in example.spans:
            side = int(span.weight < 0)
            for position in range(span.start, span.end):
                sums[side] = sums[side] + logits[position - 1, example.ids[position]]
            counts[side] += span.end - span.start
    return torch.stack(sums), counts


def _loss(args: TrainArgs, policy: torch.Tensor, reference: torch.Tensor, counts: Any) -> Any:
    """Of one pair, as the papers have it."""
    mean, beta = policy / counts, args.pref_beta
    sum_ratio = (policy[0] - policy[1]) - (reference[0] - reference[1])
    mean_ratio = (mean[0] - mean[1]) - (reference / counts)[0] + (reference / counts)[1]
    odds = [side - torch.log1p(-side.exp()) for side in mean]
    smooth = args.dpo_label_smoothing
    loss = {
        "sigmoid": -logsigmoid(beta * sum_ratio) * (1 - smooth)
        - logsigmoid(-beta * sum_ratio) * smooth,
        "hinge": (1 - beta * sum_ratio).clamp(min=0),
        "ipo": (mean_ratio - 1 / (2 * beta)) ** 2,
        "orpo": -mean[0] - beta * logsigmoid(odds[0] - odds[1]),
        "simpo": -logsigmoid(beta * (mean[0] - mean[1] - args.simpo_gamma / beta)),
    }[args.pref_loss]
    return loss - args.pref_ftx * mean[0]


def _reference_run(args: TrainArgs, plan: Plan, data: ExampleTrees) -> Any:
    """One optimizer step per global batch. Returns: losses, sums and counts, final weights."""
    model = AutoModelForCausalLM.from_pretrained(args.model_name_or_path, dtype=torch.float32)
    start = copy.deepcopy(model).eval()
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2]},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, weight_decay=args.weight_decay)
    scheduler = get_scheduler(args.lr_scheduler_type, optimizer, args.warmup_steps, STEPS)
    steps = []
    for step in range(1, STEPS + 1):
        loss, found = torch.zeros(()), []
        batch = plan.global_batch(step)
        for index in batch:
            policy, counts = _likelihoods(model, data.examples(index))
            with torch.no_grad():
                reference, _ = _likelihoods(start, data.examples(index))
            loss = loss + _loss(args, policy, reference, counts) / len(batch)
            found.append((policy - reference).detach())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        steps.append((loss.item(), torch.stack(found)))
    return steps, model.state_dict()


@pytest.mark.usefixtures("rank_of_its_own")
@pytest.mark.parametrize("changes", LOSSES, ids=lambda changes: changes.get("pref_loss", "sigmoid"))
def test_a_run_on_pairs_equals_the_plain_reference_loop(
    tiny_model: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    args = _args(tiny_model, _dataset(tmp_path / "data", _pairs()), **changes)
    train(args, StopRequest())
    plan, data = plan_of(args)
    steps, expected = _reference_run(args, plan, data)
    output_dir = Path(args.output_dir)
    assert losses(output_dir) == pytest.approx([loss for loss, _ in steps], rel=1e-6, abs=1e-5)
    for name, weight in load_file(output_dir / "model.safetensors").items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-5)
    if args.pref_loss != "sigmoid":
        return
    for line, (_, ratios) in zip(read_log(output_dir), steps, strict=True):
        rewards = args.pref_beta * ratios
        chosen, rejected = rewards.unbind(dim=1)
        assert line["rewards/chosen"] == pytest.approx(chosen.mean().item(), abs=1e-5)
        assert line["rewards/rejected"] == pytest.approx(rejected.mean().item(), abs=1e-5)
        assert line["rewards/margins"] == pytest.approx((chosen - rejected).mean().item(), abs=1e-5)
    assert read_log(output_dir)[-1]["rewards/margins"] > 0, "it learns what is preferred"


@pytest.mark.usefixtures("rank_of_its_own")
def test_pairs_are_compared_with_the_model_that_is_named(tiny_model: Path, tmp_path: Path) -> None:
    other = spoilt_model(tiny_model, tmp_path / "other", "model.norm.weight", 0.5)
    args = _args(tiny_model, _dataset(tmp_path / "data", _pairs()), ref_model=str(other))
    train(args, StopRequest())
    plan, data = plan_of(args)
    models = [
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        for path in (tiny_model, other)
    ]
    with torch.no_grad():
        ratios = [
            _likelihoods(models[0], data.examples(i))[0]
            - _likelihoods(models[1], data.examples(i))[0]
            for i in plan.global_batch(1)
        ]
    chosen = args.pref_beta * torch.stack(ratios)[:, 0].mean().item()
    assert abs(chosen) > 1e-3
    assert read_log(Path(args.output_dir))[0]["rewards/chosen"] == pytest.approx(chosen, abs=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("rank_of_its_own")
@pytest.mark.parametrize("strategy", [{"deepspeed": str(_ZERO_3)}, {"fsdp": True}])
def test_two_ranks_compare_with_the_model_that_is_named(
    tiny_model: Path, tmp_path: Path, strategy: dict[str, Any], rank_server: RankServer
) -> None:
    other = str(spoilt_model(tiny_model, tmp_path / "other", "model.norm.weight", 0.5))
    one = _args(tiny_model, _dataset(tmp_path / "one" / "data", _pairs()), ref_model=other)
    two = _args(
        tiny_model,
        _dataset(tmp_path / "two" / "data", _pairs()),
        gradient_accumulation_steps=1,
        ref_model=other,
        **strategy,
    )
    train(one, StopRequest())
    rank_server.run(two, ranks=2)
    assert losses(Path(two.output_dir)) == pytest.approx(losses(Path(one.output_dir)), abs=1e-5)


def test_a_reference_with_another_vocabulary_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["<|odd|>"])
    tokenizer.save_pretrained(other)
    args = _args(tiny_model, _dataset(tmp_path / "data", _pairs()), ref_model=str(other))
    with pytest.raises(ConfigError, match="has another vocabulary"):
        train(args, StopRequest())


@pytest.mark.usefixtures("rank_of_its_own")
def test_a_changed_reference_is_no_reason_to_go_on(tiny_model: Path, tmp_path: Path) -> None:
    args = _args(tiny_model, _dataset(tmp_path / "data", _pairs()), max_steps=2)
    train(args, StopRequest())
    changes = {"pref_loss": "ipo", "resume_from_checkpoint": "latest"}
    with pytest.raises(TrainError, match="pref_loss: sigmoid -> ipo"):
        train(args.model_copy(update=changes), StopRequest())


@pytest.mark.usefixtures("rank_of_its_own")
def test_sharing_the_conversation_changes_nothing(tiny_model: Path, tmp_path: Path) -> None:
    found = []
    for shares in (None, False):
        directory = _dataset(tmp_path / str(shares) / "data", _pairs())
        args = _args(tiny_model, directory, share_prefixes=shares)
        train(args, StopRequest())
        found.append(losses(Path(args.output_dir)))
    assert found[0] == pytest.approx(found[1], abs=1e-5)


@pytest.mark.usefixtures("rank_of_its_own")
def test_a_resumed_run_compares_with_the_same_reference(tiny_model: Path, tmp_path: Path) -> None:
    whole = _args(tiny_model, _dataset(tmp_path / "whole" / "data", _pairs()), save_steps=2)
    part = _args(tiny_model, _dataset(tmp_path / "part" / "data", _pairs()), save_steps=2)
    train(whole, StopRequest())
    output_dir = Path(part.output_dir)
    shutil.copytree(whole.output_dir, output_dir)
    shutil.rmtree(output_dir / f"checkpoint-{STEPS}")
    (output_dir / "model.safetensors").unlink()
    before = (output_dir / REFERENCE_FILE).read_bytes()
    train(part.model_copy(update={"resume_from_checkpoint": "latest"}), StopRequest())
    assert losses(output_dir) == losses(Path(whole.output_dir))
    assert (
        read_log(output_dir)[-1]["rewards/margins"]
        == (read_log(Path(whole.output_dir))[-1]["rewards/margins"])
    )
    assert (output_dir / REFERENCE_FILE).read_bytes() == before


@pytest.mark.usefixtures("rank_of_its_own")
def test_pairs_that_are_held_out_are_rewarded_by_the_model_as_it_is(
    tiny_model: Path, tmp_path: Path
) -> None:
    directory = _dataset(tmp_path / "data", _pairs())
    args = _args(tiny_model, directory, val_size=4, eval_on_each_dataset=True, bf16=False)
    train(args, StopRequest())
    plan, data = plan_of(args)
    trained = AutoModelForCausalLM.from_pretrained(args.output_dir, dtype=torch.float32)
    start = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    found = []
    with torch.no_grad():
        for index in plan.held_out:
            policy, counts = _likelihoods(trained, data.examples(index))
            reference, _ = _likelihoods(start, data.examples(index))
            rewards = args.pref_beta * (policy - reference)
            loss = _loss(args, policy, reference, counts)
            margin = rewards[0] - rewards[1]
            found.append([loss, *rewards, float(margin > 0), margin])
    expected = torch.tensor(found).mean(dim=0).tolist()
    measured = json.loads((Path(args.output_dir) / "eval_results.json").read_bytes())
    names = ["loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"]
    assert len(plan.held_out) == 4
    results = json.loads((Path(args.output_dir) / "train_results.json").read_bytes())
    assert results["memory_plan"]["predicted_bytes"] > 0
    assert [measured[f"eval_{name}"] for name in names] == pytest.approx(expected, abs=1e-5)
    assert [measured[f"eval_demo_{name}"] for name in names] == pytest.approx(expected, abs=1e-5)


@pytest.mark.usefixtures("rank_of_its_own")
@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param({}, id="ddp"),
        pytest.param({"fsdp": True}, id="fsdp2", marks=pytest.mark.slow),
        pytest.param({"deepspeed": str(_ZERO_3)}, id="zero-3", marks=pytest.mark.slow),
        pytest.param({"finetuning_type": "lora"}, id="lora", marks=pytest.mark.slow),
    ],
)
def test_two_ranks_give_the_losses_of_one(
    tiny_model: Path, tmp_path: Path, strategy: dict[str, Any], rank_server: RankServer
) -> None:
    weights = {key: value for key, value in strategy.items() if key == "finetuning_type"}
    held_out = {"val_size": 3}
    one = _args(tiny_model, _dataset(tmp_path / "one" / "data", _pairs()), **weights, **held_out)
    two = _args(
        tiny_model,
        _dataset(tmp_path / "two" / "data", _pairs()),
        gradient_accumulation_steps=1,
        **strategy,
        **held_out,
    )
    train(one, StopRequest())
    rank_server.run(two, ranks=2)
    ours, theirs = read_log(Path(one.output_dir)), read_log(Path(two.output_dir))
    [measured, again] = [
        json.loads((Path(args.output_dir) / "eval_results.json").read_bytes())[
            "eval_rewards/margins"
        ]
        for args in (one, two)
    ]
    assert measured == pytest.approx(again, abs=1e-5)
    for name in ("loss", "rewards/chosen", "rewards/margins"):
        expected = [line[name] for line in ours]
        assert [line[name] for line in theirs] == pytest.approx(expected, abs=1e-5), name
    # The first updates have a learning rate of 0: until then both sides are rewarded alike.
    expected = [line["rewards/accuracies"] for line in ours[2:]]
    assert [line["rewards/accuracies"] for line in theirs[2:]] == expected


def test_a_pair_is_trained_whole_or_not_at_all(tiny_model: Path, tmp_path: Path) -> None:
    rows = _pairs(4)
    rows[0]["rejected"]["value"] = "too long " * 400
    rows[2]["rejected"] = []
    directory = _dataset(tmp_path / "data", rows)
    store = tokenise(_args(tiny_model, directory, cutoff_len=300)).store
    data = ExampleTrees(store, within_rows(store))
    assert [data.rows_of(index) for index in range(len(data))] == [[1], [3]]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for index in range(len(data)):
        examples = data.examples(index)
        [row] = data.rows_of(index)
        assert data.num_tokens(index) < sum(len(example.ids) for example in examples), (
            "the conversation stands once"
        )
        for side, sign in (("chosen", 1.0), ("rejected", -1.0)):
            trained = "".join(
                tokenizer.decode(example.ids[span.start : span.end])
                for example in examples
                for span in example.spans
                if span.weight == sign
            )
            expected = [turn["value"] for turn in rows[row][side]][::2]
            assert trained == "".join(f"{value}<|im_end|>" for value in expected)
    [rejected] = (store.directory / "rejected.jsonl").read_text().splitlines()
    assert json.loads(rejected)["message"].startswith(
        "rejected: missing; a pair has the turns chosen and rejected"
    )


def test_pairs_are_for_stage_dpo_alone(tiny_model: Path, tmp_path: Path) -> None:
    pairs = _dataset(tmp_path / "pairs", _pairs())
    with pytest.raises(
        DataError, match="holds pairs .ranking: true., for stage dpo or rm, not sft"
    ):
        tokenise(_args(tiny_model, pairs, stage="sft"))
    plain = _dataset(tmp_path / "plain", _pairs(), ranking=False)
    with pytest.raises(DataError, match="stage dpo needs pairs .ranking: true"):
        tokenise(_args(tiny_model, plain))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"packing": True}, "stage dpo computes every pair by itself"),
        ({"cutoff_policy": "window"}, "would tear pairs apart"),
        ({"sequence_parallel_size": 2}, "stage dpo keeps every pair on one rank"),
        ({"compute_accuracy": True}, "stage dpo measures rewards/accuracies"),
        ({"pref_loss": "orpo", "ref_model": "x"}, "compares with no model"),
        ({"pref_loss": "ipo", "dpo_label_smoothing": 0.1}, "needs pref_loss: sigmoid"),
    ],
)
def test_keys_that_pairs_cannot_have_are_refused(
    tiny_model: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _args(tiny_model, tmp_path / "data", **changes)
