"""Examples to the tensors of one micro-batch."""

from dataclasses import dataclass

import torch

from pipeline.trainer.data.render import Example

IGNORE_INDEX = -100


@dataclass
class MicroBatch:
    """B sequences of S tokens, padded on the right; K positions of which the logits are needed."""

    input_ids: torch.Tensor  # (B, S)
    attention_mask: torch.Tensor | None  # (B, S); None when nothing is padded
    positions: torch.Tensor  # (K,) in rising order, shared by all sequences of the batch
    labels: torch.Tensor  # (B, K), IGNORE_INDEX where this sequence predicts nothing there
    weights: torch.Tensor  # (B, K)
    num_tokens: int
    """Real tokens, padding not counted."""

    def to(self, device: torch.device) -> "MicroBatch":
        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=True)

        mask = None if self.attention_mask is None else move(self.attention_mask)
        return MicroBatch(
            move(self.input_ids),
            mask,
            move(self.positions),
            move(self.labels),
            move(self.weights),
            self.num_tokens,
        )


def collate(examples: list[Example], pad_token_id: int) -> MicroBatch:
    """Pad to the longest example and select the positions whose next token is trained.

    No example at all gives one pad token that carries no loss: a rank without data must still run
    the collective operations of the others.
    """
    length = max((len(example.ids) for example in examples), default=1)
    rows = max(len(examples), 1)
    input_ids = torch.full((rows, length), pad_token_id, dtype=torch.long)
    targets = torch.full((rows, length), IGNORE_INDEX, dtype=torch.long)
    weights = torch.zeros((rows, length), dtype=torch.float32)
    mask = torch.zeros((rows, length), dtype=torch.long)
    for row, example in enumerate(examples):
        ids = torch.tensor(example.ids)
        input_ids[row, : len(ids)] = ids
        mask[row, : len(ids)] = 1
        for span in example.spans:
            # The logits at position t-1 predict token t; nothing predicts token 0.
            first = max(span.start, 1)
            targets[row, first - 1 : span.end - 1] = ids[first : span.end]
            weights[row, first - 1 : span.end - 1] = span.weight
    positions = (targets != IGNORE_INDEX).any(dim=0).nonzero().squeeze(1)
    if len(positions) == 0:
        positions = torch.zeros(1, dtype=torch.long)
    num_tokens = int(mask.sum())
    return MicroBatch(
        input_ids=input_ids,
        attention_mask=None if num_tokens == mask.numel() or not examples else mask,
        positions=positions,
        labels=targets[:, positions],
        weights=weights[:, positions],
        num_tokens=num_tokens,
    )
