"""Property: the loss of a batch is the weighted sum over its trained tokens, however it is cut.

Run: pytest tests/test_trainer_loss.py
"""

import random

import pytest
import torch

from pipeline.trainer.data.collate import IGNORE_INDEX, collate
from pipeline.trainer.data.example import Example, Span
from pipeline.trainer.loss import token_losses

_VOCAB = 17


def _example(draw: random.Random) -> Example:
    length = draw.randint(4, 20)
    first = draw.randint(1, length - 3)
    spans = [Span(first, first + 1, 0.5), Span(draw.randint(first + 1, length - 1), length, 1.0)]
    return Example([draw.randrange(_VOCAB) for _ in range(length)], spans)


_DRAW = random.Random(0)
_EXAMPLES = [_example(_DRAW) for _ in range(6)]
_LOGITS_OF_TOKEN = torch.randn(_VOCAB, _VOCAB, generator=torch.Generator().manual_seed(0))


def _loss(examples: list[Example]) -> torch.Tensor:
    """A model whose logits depend on the token at their position alone."""
    batch = collate(examples, pad_token_id=0)
    logits = _LOGITS_OF_TOKEN[batch.input_ids][:, batch.positions]
    return (token_losses(logits, batch.labels) * batch.weights).sum()


def _loss_token_by_token(example: Example) -> float:
    total = 0.0
    for span in example.spans:
        for position in range(span.start, span.end):
            probabilities = _LOGITS_OF_TOKEN[example.ids[position - 1]].double().softmax(0)
            total -= span.weight * probabilities[example.ids[position]].log().item()
    return total


def test_loss_is_the_weighted_sum_over_the_trained_tokens() -> None:
    expected = sum(_loss_token_by_token(example) for example in _EXAMPLES)
    assert _loss(_EXAMPLES).item() == pytest.approx(expected, rel=1e-6)


def test_padding_and_the_cut_into_micro_batches_do_not_change_the_loss() -> None:
    one_by_one = sum(_loss([example]).item() for example in _EXAMPLES)
    assert _loss(_EXAMPLES).item() == pytest.approx(one_by_one, rel=1e-6)
    in_two = _loss(_EXAMPLES[:4]) + _loss(_EXAMPLES[4:])
    assert in_two.item() == pytest.approx(one_by_one, rel=1e-6)


def test_a_rank_without_examples_adds_nothing_but_takes_part() -> None:
    logits = torch.randn(1, 1, _VOCAB, requires_grad=True)
    batch = collate([], pad_token_id=3)
    assert (batch.input_ids.tolist(), batch.num_tokens) == ([[3]], 0)
    loss = (token_losses(logits, batch.labels) * batch.weights).sum()
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().sum() == 0


def test_only_positions_before_trained_tokens_are_asked_of_the_model() -> None:
    examples = [Example([1, 2, 3, 4, 5], [Span(3, 5, 1.0)]), Example([6, 7], [Span(1, 2, 0.5)])]
    batch = collate(examples, pad_token_id=0)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]]
    assert batch.attention_mask is not None
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert batch.positions.tolist() == [0, 2, 3]
    ignored = IGNORE_INDEX
    assert batch.labels.tolist() == [[ignored, 4, 5], [7, ignored, ignored]]
    assert batch.weights.tolist() == [[0, 1, 1], [0.5, 0, 0]]
    assert batch.num_tokens == 7


def test_nothing_padded_needs_no_mask() -> None:
    assert collate([_EXAMPLES[0]], pad_token_id=0).attention_mask is None


def test_losses_are_fp32_whatever_the_logits_are() -> None:
    batch = collate(_EXAMPLES, pad_token_id=0)
    logits = _LOGITS_OF_TOKEN.bfloat16()[batch.input_ids][:, batch.positions]
    losses = token_losses(logits, batch.labels)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, token_losses(logits.float(), batch.labels))


def test_a_position_without_a_label_has_no_loss() -> None:
    logits = torch.randn(1, 2, _VOCAB)
    losses = token_losses(logits, torch.tensor([[3, IGNORE_INDEX]]))
    assert losses[0, 0] > 0
    assert losses[0, 1] == 0
