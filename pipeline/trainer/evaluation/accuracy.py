"""How often the model's likeliest token is the right one: of all tokens, and of tool calls.

Teacher-forced: each token is predicted from the true ones before it. What a call is, the markers of
the tokenizer say; where there are none, calls are not counted.

    <tool_call> {"name": "run", "arguments": {"command": "ls"}} </tool_call>
    |------------------------------ call ------------------------------|
                                             |--- arguments ---|
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch

from pipeline.trainer.data.collate import IGNORE_INDEX, MicroBatch
from pipeline.trainer.data.prefix_tree import Segment

_MARKERS = (
    ("<tool_call>", "</tool_call>"),  # Qwen, Hermes, GLM
    ("<|tool_call_begin|>", "<|tool_call_end|>"),  # Kimi
    (
        "<\uff5ctool\u2581call\u2581begin\uff5c>",
        "<\uff5ctool\u2581call\u2581end\uff5c>",
    ),  # DeepSeek
    ("<minimax:tool_call>", "</minimax:tool_call>"),
)
_ARGUMENTS = re.compile(r'"(?:arguments|parameters)"\s*:\s*|(?=<parameter[= ]|<arg_key>)')
_HEAD_TOKENS = 256
"""Within so many tokens of a call its arguments begin."""
_SUMS = ("documents", "of_documents", "call_tokens", "right_call_tokens")
_SUMS += ("argument_tokens", "right_argument_tokens", "calls", "right_calls")


class Scorer:
    """Counts what was predicted right. Sums of counts over batches and ranks are `metrics`."""

    num_counts = len(_SUMS)

    def __init__(self, tokenizer: Any) -> None:
        vocabulary = tokenizer.get_vocab()
        self._markers = [
            (vocabulary[begin], vocabulary[end])
            for begin, end in _MARKERS
            if begin in vocabulary and end in vocabulary
        ]
        self._decode = tokenizer.decode
        self._text = cache(lambda token: tokenizer.decode([token]))

    def count(self, batch: MicroBatch, predictions: torch.Tensor) -> np.ndarray:
        """(num_counts,) of one micro-batch; predictions (B, K). The host waits for them."""
        counts = dict.fromkeys(_SUMS, 0.0)
        labels = batch.labels.cpu().numpy()
        is_right = predictions.cpu().numpy() == labels
        for tokens, right in zip(*_by_document(batch, labels, is_right), strict=True):
            counts["documents"] += 1
            counts["of_documents"] += float(np.concatenate(right).mean())
            for run, run_right in zip(tokens, right, strict=True):
                for first, arguments, last in self._calls(run):
                    call, inner = run_right[first : last + 1], run_right[arguments:last]
                    counts["call_tokens"] += len(call)
                    counts["right_call_tokens"] += int(call.sum())
                    counts["argument_tokens"] += len(inner)
                    counts["right_argument_tokens"] += int(inner.sum())
                    counts["calls"] += 1
                    counts["right_calls"] += bool(call.all())
        return np.array(list(counts.values()))

    def calls(self, tokens: list[int]) -> list[str]:
        """What stands between the markers of every call that is whole, in order."""
        found = sorted(self._calls(np.array(tokens)))
        return [self._decode(tokens[first + 1 : last]) for first, _, last in found]

    @staticmethod
    def metrics(counts: np.ndarray) -> dict[str, float]:
        """`accuracy` is LLaMA-Factory's: the mean over documents of the share of their tokens."""
        of = dict(zip(_SUMS, counts.tolist(), strict=True))
        shares = {
            "accuracy": (of["of_documents"], of["documents"]),
            "call_accuracy": (of["right_call_tokens"], of["call_tokens"]),
            "argument_accuracy": (of["right_argument_tokens"], of["argument_tokens"]),
            "call_exact_match": (of["right_calls"], of["calls"]),
        }
        return {name: right / total for name, (right, total) in shares.items() if total}

    def _calls(self, tokens: np.ndarray) -> Iterator[tuple[int, int, int]]:
        """Where calls that are whole begin, their arguments begin, and they end (the marker)."""
        for begin, end in self._markers:
            first = None
            for place in np.flatnonzero((tokens == begin) | (tokens == end)).tolist():
                if tokens[place] == begin:
                    first = place
                elif first is not None:
                    yield first, self._arguments(tokens, first, place), place
                    first = None

    def _arguments(self, tokens: np.ndarray, first: int, last: int) -> int:
        """The token with which the arguments of a call begin; `last` if it has none."""
        pieces = [self._text(int(token)) for token in tokens[first + 1 : last][:_HEAD_TOKENS]]
        found = _ARGUMENTS.search("".join(pieces))
        if found is None:
            return last
        ends = np.cumsum([len(piece) for piece in pieces])
        return first + 1 + int(np.searchsorted(ends, found.end(), side="right"))


_Runs = list[list[np.ndarray]]
"""Of each document, of each run of tokens one behind the other."""


def _by_document(
    batch: MicroBatch, labels: np.ndarray, is_right: np.ndarray
) -> tuple[_Runs, _Runs]:
    """The labels, and whether they were predicted; documents without labels are left out."""
    if batch.segments is None or batch.boundaries is None:
        masks = labels != IGNORE_INDEX
        rows = np.flatnonzero(masks.any(axis=1))
        return [[labels[row, masks[row]]] for row in rows], [
            [is_right[row, masks[row]]] for row in rows
        ]
    kept = np.flatnonzero(labels[0] != IGNORE_INDEX)
    if not len(kept):
        return [], []
    ids = batch.input_ids[0].cpu().numpy()
    targets = _targets(batch.positions.cpu().numpy()[kept], labels[0, kept], ids, batch.segments)
    kept, targets = kept[np.argsort(targets)], np.sort(targets)
    # A new run where a token does not follow the one before, or another segment begins.
    starts = np.array([segment.start for segment in batch.segments])
    breaks = (np.diff(targets) != 1) | np.isin(targets[1:], starts)
    runs = np.split(np.arange(len(kept)), np.flatnonzero(breaks) + 1)
    documents = np.searchsorted(batch.boundaries.cpu().numpy(), targets, side="right")
    tokens: dict[int, list[np.ndarray]] = {}
    right: dict[int, list[np.ndarray]] = {}
    for run in runs:
        document = int(documents[run[0]])
        tokens.setdefault(document, []).append(labels[0, kept[run]])
        right.setdefault(document, []).append(is_right[0, kept[run]])
    return list(tokens.values()), list(right.values())


def _targets(
    predictors: np.ndarray, labels: np.ndarray, ids: np.ndarray, segments: tuple[Segment, ...]
) -> np.ndarray:
    """(N,) the token of the sequence that each label is; a branch's first follows its ancestor."""
    targets = predictors + 1
    following: dict[int, list[int]] = {}
    for segment in segments:
        if segment.ancestors:
            following.setdefault(segment.ancestors[-1][1] - 1, []).append(segment.start)
    last = {segment.end - 1 for segment in segments}
    taken: set[int] = set()
    for place in np.flatnonzero(np.isin(predictors, list(following))):
        predictor = int(predictors[place])
        inside = [] if predictor in last else [predictor + 1]
        for token in [*inside, *following[predictor]]:
            if token not in taken and ids[token] == labels[place]:
                targets[place] = token
                taken.add(token)
                break
    return targets
