"""Property: samples are what the saved model generates from the true history.

Run: pytest tests/test_trainer_samples.py
(without `-m "not slow"`: under every strategy)
"""

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from trainer_runs import ROOT, RankServer, conversations, plan_of, train_args, write_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.errors import ConfigError
from pipeline.trainer.args import TrainArgs, load_train_args
from pipeline.trainer.data.collate import MicroBatch
from pipeline.trainer.evaluation.samples import Sample, SampleWriter, are_same_calls, choose_samples
from pipeline.trainer.objective import Losses
from pipeline.trainer.parallel.interface import Distributed
from pipeline.trainer.parallel.strategy import Strategy
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

pytestmark = pytest.mark.usefixtures("rank_of_its_own")

_TOOLS = json.dumps([{"name": "run", "description": "", "parameters": {"type": "object"}}])
_CALL = json.dumps({"name": "run", "arguments": {"command": "ls"}})


def _rows() -> list[dict[str, Any]]:
    """The same call in all, behind different requests, and a last turn that differs."""
    rows = conversations(12)
    for row in rows:
        call = f"<think>\nwe look\n</think>\n\n{_CALL}"
        row["conversations"][:0] = [
            {"from": "human", "value": "fix the test"},
            {"from": "function_call", "value": call},
            {"from": "observation", "value": "the file"},
            {"from": "gpt", "value": "<think>\nso\n</think>\n\nit is fixed"},
        ]
        row["tools"] = _TOOLS
    return rows


def _args(model: Path, tmp_path: Path, **changes: Any) -> TrainArgs:
    dataset_dir = write_dataset(tmp_path / "data", _rows())
    values = {
        "val_size": 5,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "learning_rate": 1e-2,
        "eval_generation_samples": 3,
        "eval_generation_max_new_tokens": 24,
        **changes,
    }
    return train_args(model, dataset_dir, tmp_path / "run", **values)


def _lines(args: TrainArgs) -> list[dict[str, Any]]:
    file = Path(args.output_dir) / "eval_samples.jsonl"
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def _samples(args: TrainArgs, step: int) -> list[dict[str, Any]]:
    lines = _lines(args)
    assert {line["step"] for line in lines} == {4, 6}
    return [line for line in lines if line["step"] == step]


def _generated(args: TrainArgs) -> list[str]:
    """By transformers, from the saved model."""
    model: Any = AutoModelForCausalLM.from_pretrained(args.output_dir, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(args.output_dir)
    plan, data = plan_of(args)
    chosen, _ = choose_samples(data, plan.held_out.tolist(), 3, 8192, args.seed)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    texts = []
    for sample in chosen:
        assert sample.expected[-1] == end
        ids = model.generate(
            torch.tensor([sample.prompt]), max_new_tokens=24, do_sample=False, eos_token_id=end
        )
        new = ids[0, len(sample.prompt) :].tolist()
        texts.append(tokenizer.decode([token for token in new if token != end]))
    return texts


@pytest.mark.parametrize(
    "changes",
    [{}, {"packing": True, "cutoff_len": 512}, {"share_prefixes": False, "flash_attn": "disabled"}],
    ids=["trees", "packed", "padded, eager"],
)
def test_samples_are_what_the_saved_model_generates(
    tiny_model: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    args = _args(tiny_model, tmp_path, **changes)
    train(args, StopRequest())
    last = _samples(args, 6)
    assert [line["generated"] for line in last] == _generated(args)
    earlier = _samples(args, 4)
    kept = ("dataset", "row", "prompt_tail", "expected")
    assert [[line[key] for key in kept] for line in last] == [
        [line[key] for key in kept] for line in earlier
    ]
    assert all(line["prompt_tail"].endswith("<|im_start|>assistant\n") for line in last)


_SHARDED = {
    "ddp": {},
    "fsdp2": {"fsdp": True},
    "zero-2": {"deepspeed": str(ROOT / "training_config/deepspeed/ds_z2_config.json")},
    "zero-3": {"deepspeed": str(ROOT / "training_config/deepspeed/ds_z3_config.json")},
}


@pytest.mark.parametrize(
    "way",
    [way if way == "fsdp2" else pytest.param(way, marks=pytest.mark.slow) for way in _SHARDED],
)
def test_ranks_share_the_samples_out(
    tiny_model: Path, tmp_path: Path, rank_server: RankServer, way: str
) -> None:
    args = _args(tiny_model, tmp_path, per_device_train_batch_size=1, **_SHARDED[way])
    rank_server.run(args, ranks=2)
    assert [line["generated"] for line in _samples(args, 6)] == _generated(args)


class _Oracle:
    """A strategy whose model knows the true turns, but says nothing to every second prompt."""

    def __init__(self, samples: list[Sample]) -> None:
        self._samples = iter(enumerate(samples))
        self._text: list[int] = []

    def evaluating(self) -> AbstractContextManager[None]:
        return nullcontext()

    def losses(self, batch: MicroBatch) -> Losses:
        assert batch.position_ids is not None
        places = batch.position_ids[0].tolist()
        if places[0] == 0:
            number, sample = next(self._samples)
            ends = sample.expected[-1:]
            self._text = sample.prompt + (ends if number % 2 else sample.expected)
        nothing = torch.zeros(1)
        token = torch.tensor([[self._text[places[-1] + 1]]])
        return Losses(nothing, nothing, predictions=token)


def test_calls_match_where_they_are_the_true_ones(tiny_model: Path, tmp_path: Path) -> None:
    args = _args(tiny_model, tmp_path, eval_generation_samples=5)
    plan, data = plan_of(args)
    held_out = plan.held_out.tolist()
    limited = args.model_copy(update={"eval_generation_max_new_tokens": 500})
    chosen, _ = choose_samples(data, held_out, 5, 8192, args.seed)
    distributed = Distributed(use_cpu=True, timeout_seconds=60)
    writer = SampleWriter(limited, data, held_out)
    strategy = cast(Strategy, _Oracle(chosen))
    Path(args.output_dir).mkdir()
    scores = writer.write(4, strategy, distributed)
    lines = _lines(args)
    assert [line["generated"] == line["expected"] for line in lines] == [True, False] * 2 + [True]
    calls = ["<tool_call>" in line["expected"] for line in lines]
    assert True in calls[::2]
    assert True in calls[1::2]
    right = [number % 2 == 0 for number in range(5)]
    expected = [ok if has_call else None for ok, has_call in zip(right, calls, strict=True)]
    assert [line["call_matches"] for line in lines] == expected
    share = sum(map(bool, expected)) / sum(calls)
    assert scores == {"generated_call_match": pytest.approx(share)}
    assert all(line["ended"] for line in lines)
    # Written again, as a resumed run does.
    writer.write(4, cast(Strategy, _Oracle(chosen)), distributed)
    assert _lines(args) == lines


def test_turns_that_are_too_long_are_no_samples(tiny_model: Path, tmp_path: Path) -> None:
    plan, data = plan_of(_args(tiny_model, tmp_path))
    held_out = plan.held_out.tolist()
    starts = [data.examples(document)[0].turns[0][0] for document in held_out]
    for limit, fitting in ((min(starts) - 1, 0), (max(starts), len(held_out))):
        samples, too_long = choose_samples(data, held_out, 100, limit, seed=0)
        assert (len(samples), too_long) == (fitting, len(held_out) - fitting)
        assert all(len(sample.prompt) <= limit for sample in samples)


def test_calls_are_compared_as_json() -> None:
    one, other = '{"name": "run", "arguments": {"a": 1, "b": 2}}', '{"name":"run",'
    other += '"arguments": {"b": 2, "a": 1}}'
    assert are_same_calls([one], [other])
    assert not are_same_calls([one], [other.replace("2", "3")])
    assert not are_same_calls([one], [one, one])
    assert are_same_calls(["<function=run>\n"], ["<function=run>"])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("eval_generation_samples: 2", "there is nothing to take samples of; set val_size or"),
        (
            "val_size: 2\nstage: pt\neval_generation_samples: 2",
            "eval_generation_samples: is about turns of conversations: stage sft; remove it",
        ),
        (
            "val_size: 2\nsequence_parallel_size: 2\neval_generation_samples: 2",
            "needs sequences that one rank has whole",
        ),
        (
            "val_size: 2\nflash_attn: flex\neval_generation_samples: 2",
            "flash_attn: flex cannot generate; set eval_generation_samples to 0, or auto",
        ),
    ],
)
def test_what_cannot_generate_is_refused(tmp_path: Path, lines: str, message: str) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(f"model_name_or_path: m\ndataset: d\ndataset_dir: d\noutput_dir: o\n{lines}\n")
    with pytest.raises(ConfigError, match=message):
        load_train_args(file)
