"""Fine-tuning in the plainest way there is: one sequence at a time, one span's loss at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, get_scheduler

from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.example import Example


def reference_run(
    args: TrainArgs,
    batches: list[list[Example]],
    adapt: Callable[[Any], Any] = lambda model: model,
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """One optimizer step per batch, of the model as `adapt` returns it.

    Returns: the loss of every step and the final weights.
    """
    model = AutoModelForCausalLM.from_pretrained(Path(args.model_name_or_path), dtype=torch.float32)
    model = adapt(model).train()
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        groups, lr=args.learning_rate, weight_decay=args.weight_decay, eps=args.adam_epsilon
    )
    scheduler = get_scheduler(
        args.lr_scheduler_type, optimizer, args.warmup_steps, num_training_steps=len(batches)
    )
    losses = []
    for batch in batches:
        # In fp32 the sum of thousands of losses would itself be off by 1e-6.
        loss, total_weight = torch.zeros((), dtype=torch.float64), 0.0
        for example in batch:
            log_probabilities = model(torch.tensor([example.ids])).logits[0].log_softmax(dim=-1)
            for span in example.spans:
                positions = torch.arange(span.start, span.end)
                tokens = torch.tensor(example.ids)[positions]
                loss = loss - span.weight * log_probabilities[positions - 1, tokens].sum()
                total_weight += span.weight * len(positions)
        (loss / total_weight).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item() / total_weight)
    return losses, model.state_dict()
