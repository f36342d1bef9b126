"""What the model says itself: greedy continuations of held out conversations, beside the true ones.

The prompt of a sample is what stands before a trained turn, token for token: the request that a
server would send. The samples are the same at every evaluation. eval_samples.jsonl has of each

    {"step": 200, "dataset": "demo", "row": 17, "prompt_tail": "...<|im_start|>assistant\\n",
     "generated": "...", "expected": "...", "ended": true, "call_matches": false}

`ended`: at the end of the turn, not at the limit of new tokens. `call_matches`: the tool calls are
those of the true turn; null if it has none.
"""

import json
import logging
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from pipeline.files import atomic_open
from pipeline.jsonl import encode_json
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.collate import MicroBatch
from pipeline.trainer.data.example_trees import ExampleTrees
from pipeline.trainer.data.prefix_tree import Segment
from pipeline.trainer.data.tokenize import TokenizerSource
from pipeline.trainer.evaluation.accuracy import Scorer
from pipeline.trainer.output_dir import SAMPLES_FILE
from pipeline.trainer.parallel.interface import Distributed
from pipeline.trainer.parallel.strategy import Strategy

logger = logging.getLogger(__name__)

_TAIL_TOKENS = 200
"""Of a prompt, which may be a whole trajectory, so many are shown."""


@dataclass(frozen=True)
class Sample:
    """A turn that the model is to write itself."""

    dataset: str
    row: int
    prompt: list[int]
    expected: list[int]


def choose_samples(
    data: ExampleTrees, held_out: Iterable[int], count: int, longest_prompt: int, seed: int
) -> tuple[list[Sample], int]:
    """One turn of each of `count` held out documents, or of as many as there are.

    Returns: the samples, and how many documents were passed over because no turn of theirs has so
        short a prompt.
    """
    draw = random.Random(seed)
    shuffled = sorted(held_out)
    draw.shuffle(shuffled)
    samples: list[Sample] = []
    too_long = 0
    for document in shuffled:
        if len(samples) == count:
            break
        turns = [
            Sample(data.dataset(document), row, example.ids[:start], example.ids[start:end])
            for row, example in data.examples_with_rows(document)
            for start, end in example.turns
            if 0 < start <= longest_prompt
        ]
        if not turns:
            too_long += 1
            continue
        samples.append(draw.choice(turns))
    return samples, too_long


class SampleWriter:
    """Writes the samples of every evaluation; its methods are called by all ranks."""

    def __init__(self, args: TrainArgs, data: ExampleTrees, held_out: Iterable[int]) -> None:
        source = TokenizerSource.of(args)
        tokenizer = source.load()
        self._file = Path(args.output_dir) / SAMPLES_FILE
        self._max_new_tokens = args.eval_generation_max_new_tokens
        self._pad_token_id = data.store.pad_token_id
        self._tokenizer = tokenizer
        self._scorer = Scorer(tokenizer)
        self._special = frozenset(tokenizer.all_special_ids)
        self._stops = frozenset(
            tokenizer.convert_tokens_to_ids(list(source.stop_tokens(tokenizer)))
        )
        self._samples, too_long = choose_samples(
            data,
            held_out,
            args.eval_generation_samples,
            args.eval_generation_max_prompt_tokens,
            args.seed,
        )
        if too_long or len(self._samples) < args.eval_generation_samples:
            logger.info(
                "eval_generation_samples: %d of %d; %d held out documents have no turn whose "
                "prompt has at most %d tokens (eval_generation_max_prompt_tokens)",
                len(self._samples),
                args.eval_generation_samples,
                too_long,
                args.eval_generation_max_prompt_tokens,
            )

    def write(self, step: int, strategy: Strategy, distributed: Distributed) -> dict[str, float]:
        """Let the model as it is write the samples.

        Returns: the share of true calls that it wrote (`generated_call_match`), if there are any.
        """
        world_size = distributed.world_size
        mine: list[dict[str, Any]] = []
        with strategy.evaluating():
            for first in range(0, len(self._samples), world_size):
                place = first + distributed.rank
                sample = self._samples[place] if place < len(self._samples) else None
                written = self._continue(sample, strategy, distributed)
                if sample is not None:
                    mine.append({"step": step, **self._line(sample, written)})
        of_ranks = distributed.all_gather(mine)
        places = range(len(self._samples))
        lines = [of_ranks[place % world_size][place // world_size] for place in places]
        if distributed.is_main:
            self._append(step, lines)
        matches = [line["call_matches"] for line in lines if line["call_matches"] is not None]
        return {"generated_call_match": sum(matches) / len(matches)} if matches else {}

    def _continue(
        self, sample: Sample | None, strategy: Strategy, distributed: Distributed
    ) -> list[int]:
        """The likeliest tokens behind the prompt, up to and with one that stops.

        All ranks take as many steps as the longest of their continuations: where weights are
        sharded, each step is a collective operation.
        """
        upcoming = sample.prompt if sample is not None else [self._pad_token_id]
        stops = self._stops_of(sample)
        cache, seen, written = DynamicCache(), 0, list[int]()
        is_done = sample is None
        for _ in range(self._max_new_tokens):
            batch = _next_token_batch(upcoming, seen, cache).to(distributed.device)
            predictions = strategy.losses(batch).predictions
            assert predictions is not None, "made where there are no gradients"
            token = int(predictions[0, 0])
            seen += len(upcoming)
            upcoming = [token]
            if not is_done:
                written.append(token)
                is_done = token in stops
            if not distributed.all_reduce(float(not is_done), "max"):
                break
        return written

    def _stops_of(self, sample: Sample | None) -> frozenset[int]:
        ends = set() if sample is None else self._special & {sample.expected[-1]}
        return self._stops | ends

    def _line(self, sample: Sample, written: list[int]) -> dict[str, Any]:
        stops = self._stops_of(sample)
        expected = self._scorer.calls(sample.expected)
        generated = self._scorer.calls(written)
        return {
            "dataset": sample.dataset,
            "row": sample.row,
            "prompt_tail": self._tokenizer.decode(sample.prompt[-_TAIL_TOKENS:]),
            "generated": self._tokenizer.decode([token for token in written if token not in stops]),
            "expected": self._tokenizer.decode([t for t in sample.expected if t not in stops]),
            "ended": bool(written) and written[-1] in stops,
            "call_matches": are_same_calls(generated, expected) if expected else None,
        }

    def _append(self, step: int, lines: list[dict[str, Any]]) -> None:
        """Behind those of earlier steps; a resumed run replaces what it writes again."""
        earlier: list[dict[str, Any]] = []
        if self._file.exists():
            earlier = [json.loads(line) for line in self._file.read_bytes().splitlines()]
        with atomic_open(self._file) as stream:
            for line in [*(line for line in earlier if line["step"] < step), *lines]:
                stream.write(encode_json(line) + b"\n")


def are_same_calls(one: list[str], other: list[str]) -> bool:
    """Whether tool calls, as they are written, mean the same: as JSON where they are JSON."""
    return [_meaning(call) for call in one] == [_meaning(call) for call in other]


def _meaning(call: str) -> Any:
    try:
        return json.loads(call)
    except ValueError:
        return call.strip()


def _next_token_batch(ids: list[int], seen: int, cache: DynamicCache) -> MicroBatch:
    """Tokens behind those in the cache; the next one is asked for."""
    ancestors = ((0, seen),) if seen else ()
    return MicroBatch(
        input_ids=torch.tensor([ids]),
        attention_mask=None,
        position_ids=torch.arange(seen, seen + len(ids))[None],
        boundaries=None,
        longest_document=None,
        segments=(Segment(seen, seen + len(ids), ancestors),),
        preorder=None,
        positions=torch.tensor([len(ids) - 1]),
        labels=torch.zeros(1, 1, dtype=torch.long),
        weights=torch.zeros(1, 1),
        num_tokens=len(ids),
        cache=cache,
    )
