"""Cross-entropy per token. The sum is weighted and normalised by the weight of the global batch."""

import torch
from torch.nn.functional import cross_entropy

from pipeline.trainer.data.collate import IGNORE_INDEX


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Negative log likelihood of every label, in fp32; 0 where the label is IGNORE_INDEX.

    logits (B, K, V), labels (B, K) -> (B, K). Whoever sums divides by the total weight of the
    *global* batch, so that the result depends neither on the number of ranks nor on how the batch
    was cut into micro-batches.
    """
    losses = cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    return losses.view_as(labels)
