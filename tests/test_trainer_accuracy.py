"""Property: accuracies are those of the saved model's likeliest tokens, one example at a time.

Run: pytest tests/test_trainer_accuracy.py
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainer_runs import examples_of, plan_of, run, train_args, write_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.errors import ConfigError
from pipeline.trainer.args import TrainArgs, load_train_args
from pipeline.trainer.data.collate import collate, collate_trees
from pipeline.trainer.data.example import Example, Span
from pipeline.trainer.data.prefix_tree import PrefixTree
from pipeline.trainer.evaluation.accuracy import Scorer
from pipeline.trainer.evaluation.best import has_stopped_improving
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

pytestmark = pytest.mark.usefixtures("rank_of_its_own")

_TOOLS = json.dumps([{"name": "run", "description": "", "parameters": {"type": "object"}}])


def _rows(count: int) -> list[dict[str, Any]]:
    """Two calls with reasoning before each, and a reply: three examples that begin alike."""
    rows = []
    for number in range(count):
        turns = [{"from": "human", "value": "fix the test"}]
        for command in ("ls", f"cat file{number % 3}"):
            call = json.dumps({"name": "run", "arguments": {"command": command}})
            turns += [
                {"from": "function_call", "value": f"<think>\nwe look\n</think>\n\n{call}"},
                {"from": "observation", "value": "the file"},
            ]
        turns.append({"from": "gpt", "value": "<think>\nso\n</think>\n\nit is fixed"})
        rows.append({"conversations": turns, "tools": _TOOLS})
    return rows


def _args(model: Path, dataset_dir: Path, output_dir: Path, **changes: Any) -> TrainArgs:
    values = {
        "val_size": 3,
        "max_steps": 8,
        "learning_rate": 1e-2,
        "compute_accuracy": True,
        "per_device_eval_batch_size": 2,
        **changes,
    }
    return train_args(model, dataset_dir, output_dir, **values)


def _found(output_dir: Path) -> dict[str, float]:
    results = json.loads((output_dir / "eval_results.json").read_bytes())
    return {key: value for key, value in results.items() if "acc" in key or "exact" in key}


def _spans_of(example: Example, tokenizer: Any) -> list[tuple[int, int, int]]:
    """Where calls begin, their arguments begin, and calls end, by reading the text."""
    begin, end = tokenizer.convert_tokens_to_ids(["<tool_call>", "</tool_call>"])
    found = []
    for span in example.spans:
        place = span.start
        while begin in example.ids[place : span.end]:
            first = example.ids.index(begin, place)
            last = example.ids.index(end, first)
            arguments = next(
                k
                for k in range(first, last)
                if tokenizer.decode(example.ids[first : k + 1]).split('"arguments": ')[1:] > [""]
            )
            found.append((first, arguments, last))
            place = last + 1
    return found


def _plainly(args: TrainArgs) -> dict[str, float]:
    """One example at a time; documents are the examples."""
    model = AutoModelForCausalLM.from_pretrained(args.output_dir, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(args.output_dir)
    plan, data = plan_of(args)
    shares, calls, arguments, whole = [], [], [], []
    for example in examples_of(data, plan.held_out.tolist()):
        with torch.no_grad():
            best = model(torch.tensor([example.ids])).logits[0].argmax(dim=-1).tolist()
        right = [False] + [best[k - 1] == example.ids[k] for k in range(1, len(best))]
        shares.append(np.mean([r for span in example.spans for r in right[span.start : span.end]]))
        for first, inner, last in _spans_of(example, tokenizer):
            calls += right[first : last + 1]
            arguments += right[inner:last]
            whole.append(all(right[first : last + 1]))
    return {
        "eval_accuracy": float(np.mean(shares)),
        "eval_call_accuracy": float(np.mean(calls)),
        "eval_argument_accuracy": float(np.mean(arguments)),
        "eval_call_exact_match": float(np.mean(whole)),
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"share_prefixes": False},
        {"share_prefixes": False, "packing": True, "cutoff_len": 512},
        {"share_prefixes": True},
    ],
    ids=["padded", "packed", "trees"],
)
def test_accuracies_are_those_of_the_saved_model(
    tiny_model: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    dataset_dir = write_dataset(tmp_path / "data", _rows(12))
    args = _args(tiny_model, dataset_dir, tmp_path / "run", **changes)
    train(args, StopRequest())
    expected, found = _plainly(args), _found(tmp_path / "run")
    assert all(0 < share < 1 for name, share in expected.items() if "exact" not in name)
    if args.share_prefixes:  # there a document is a tree
        del expected["eval_accuracy"]
        assert 0 < found.pop("eval_accuracy") < 1
    assert found == pytest.approx(expected, abs=1e-9)


def test_each_dataset_has_its_own(tiny_model: Path, tmp_path: Path) -> None:
    dataset_dir = write_dataset(tmp_path / "data", _rows(6))
    write_dataset(dataset_dir, _rows(2), "calls")
    plain = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "fix the test"}]
    write_dataset(dataset_dir, [{"conversations": plain}], "chat")
    changes = {"val_size": 0.0, "eval_dataset": "calls,chat", "eval_on_each_dataset": True}
    train(_args(tiny_model, dataset_dir, tmp_path / "run", max_steps=2, **changes), StopRequest())
    found = _found(tmp_path / "run")
    kinds = ("accuracy", "call_accuracy", "argument_accuracy", "call_exact_match")
    assert found.keys() == {
        *(f"eval_{kind}" for kind in kinds),
        *(f"eval_calls_{kind}" for kind in kinds),
        "eval_chat_accuracy",
    }


class _Tokenizer:
    """Tokens are characters, but two."""

    def get_vocab(self) -> dict[str, int]:
        return {"<tool_call>": 1, "</tool_call>": 2}

    def decode(self, ids: list[int]) -> str:
        return chr(ids[0])


def _example(text: str) -> Example:
    ids = [0, *(1 if c == "[" else 2 if c == "]" else ord(c) for c in text)]
    return Example(ids, [Span(1, len(ids), 1.0)])


def _scores(examples: list[Example], wrong: str = "") -> dict[str, float]:
    """All is predicted right but the characters `wrong`; packed and padded alike."""
    scorer = Scorer(_Tokenizer())
    found = []
    for batch in (
        collate(examples, 0),
        collate_trees([PrefixTree.of([example]) for example in examples], 0),
    ):
        missed = torch.isin(batch.labels, torch.tensor([ord(c) for c in wrong]))
        found.append(scorer.metrics(scorer.count(batch, torch.where(missed, 0, batch.labels))))
    assert found[0] == found[1]
    return found[0]


def test_a_call_is_right_when_all_of_it_is() -> None:
    calls = _example('ok[{"name": "x", "arguments": {"a": 1}}][{"name": "y", "arguments": {}}]')
    assert set(_scores([calls]).values()) == {1.0}
    found = _scores([calls, _example("ok")], wrong="1")
    assert found["call_exact_match"] == 0.5
    assert found["argument_accuracy"] == pytest.approx(1 - 1 / (len('{"a": 1}}') + len("{}}")))
    assert found["accuracy"] == pytest.approx((1 + (1 - 1 / (len(calls.ids) - 1))) / 2)
    assert _scores([calls], wrong="o")["call_exact_match"] == 1.0, "not of the call"


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("[<function=x>\n<parameter=a>1</parameter></function>]", "<parameter=a>1</parameter></f"),
        ('[{"name": "x", "parameters": {"a": 1}}]', '{"a": 1}}'),
    ],
    ids=["xml", "llama"],
)
def test_arguments_are_found_in_every_format(text: str, arguments: str) -> None:
    found = _scores([_example(text)], wrong="1")
    size = len(arguments) if arguments[0] == "{" else len("<parameter=a>1</parameter></function>")
    assert found["argument_accuracy"] == pytest.approx(1 - 1 / size)


@pytest.mark.parametrize("text", ["ok", "[cut off", "no begin]", "[no arguments]"])
def test_what_is_not_there_is_not_counted(text: str) -> None:
    found = _scores([_example(text)])
    assert "argument_accuracy" not in found
    assert ("call_accuracy" in found) == (text == "[no arguments]")


@pytest.mark.parametrize(
    ("losses", "patience", "stops"),
    [
        ([3, 2, 1], 1, False),
        ([3, 2, 2], 1, True),
        ([3, 2, 4, 3, 2.5], 3, True),
        ([3, 2, 4, 3, 1.5], 3, False),
        ([3, 4], 2, False),
        ([3, 4, 5], None, False),
    ],
)
def test_patience_is_counted_in_evaluations(
    losses: list[float], patience: int | None, stops: bool
) -> None:
    assert has_stopped_improving(losses, patience) == stops


def test_a_run_ends_when_it_improves_no_more(tiny_model: Path, tmp_path: Path) -> None:
    """The learning rate is far too high, so the loss rises."""
    dataset_dir = write_dataset(tmp_path / "data", _rows(12))
    changes = {"eval_strategy": "steps", "eval_steps": 2, "early_stopping_steps": 2}
    changes |= {"max_steps": 16, "learning_rate": 3.0, "save_steps": 3, "compute_accuracy": False}
    args = _args(tiny_model, dataset_dir, tmp_path / "run", **changes)
    train(args, StopRequest())
    status = json.loads((tmp_path / "run" / "trainer_status.json").read_bytes())
    lines = [json.loads(line) for line in (tmp_path / "run" / "trainer_log.jsonl").open()]
    losses = [line["eval_loss"] for line in lines if "eval_loss" in line]
    assert status["status"] == "completed"
    assert status["step"] == 2 * len(losses) < 16
    assert has_stopped_improving(losses, 2)
    assert not has_stopped_improving(losses[:-1], 2)
    train(args.model_copy(update={"resume_from_checkpoint": "latest"}), StopRequest())
    lines = [json.loads(line) for line in (tmp_path / "run" / "trainer_log.jsonl").open()]
    assert [line["eval_loss"] for line in lines if "eval_loss" in line] == losses


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("sequence_parallel_size: 2\ncompute_accuracy: true", "compute_accuracy: needs sequences"),
        ("early_stopping_steps: 2", "early_stopping_steps: needs evaluations"),
    ],
)
def test_keys_that_cannot_work_together_are_refused(
    tmp_path: Path, lines: str, message: str
) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(f"model_name_or_path: m\ndataset: d\ndataset_dir: .\noutput_dir: o\n{lines}\n")
    with pytest.raises(ConfigError, match=message):
        load_train_args(file)


@pytest.mark.slow
def test_ranks_share_the_counting(tiny_model: Path, tmp_path: Path) -> None:
    dataset_dir = write_dataset(tmp_path / "data", _rows(12))
    args = _args(tiny_model, dataset_dir, tmp_path / "run", share_prefixes=False, fsdp=True)
    run(args, ranks=2)
    assert _found(tmp_path / "run") == pytest.approx(_plainly(args), abs=1e-9)
