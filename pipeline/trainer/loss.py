"""Cross-entropy that is summed, weighted and normalised once, by the weight of the global batch."""

import torch
from torch.nn.functional import cross_entropy

from pipeline.trainer.data.collate import IGNORE_INDEX


def weighted_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Sum over all labelled positions of weight x negative log likelihood, in fp32.

    logits (B, K, V), labels (B, K), weights (B, K) -> scalar. The caller divides by the total
    weight of the *global* batch, so that the result depends neither on the number of ranks nor on
    how the batch was cut into micro-batches.
    """
    losses = cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    return (losses * weights.flatten()).sum()
