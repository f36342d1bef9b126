"""Models of two layers with large random weights: a leak is not lost in rounding."""

import random
from pathlib import Path
from typing import Any

import torch
from trainer_runs import train_args
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen3Config,
)

from pipeline.trainer.data.collate import MicroBatch
from pipeline.trainer.data.example import Example, Span
from pipeline.trainer.modeling.load import load_model
from pipeline.trainer.objective import SupervisedObjective

VOCAB = 61
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "qwen3": Qwen3Config(**SHAPE),
    "llama": LlamaConfig(**SHAPE),
    "mistral, window of 5 tokens": MistralConfig(**SHAPE, sliding_window=5),
}


def odd_examples(seed: int) -> list[Example]:
    """Lengths from 1 to 40 tokens; a document of one token carries no loss but must not leak."""
    draw = random.Random(seed)
    examples = [Example([draw.randrange(3, VOCAB)], [])]
    for length in draw.sample(range(2, 41), 6):
        first = draw.randint(0, length - 1)
        spans = [Span(first, length, draw.choice([0.5, 1.0]))]
        examples.append(Example([draw.randrange(3, VOCAB) for _ in range(length)], spans))
    draw.shuffle(examples)
    return examples


def saved(config: PretrainedConfig, directory: Path) -> Path:
    """A model of this shape. Returns: `directory`."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(directory)
    return directory


def loaded(directory: Path, **changes: Any) -> torch.nn.Module:
    """In fp32, as a run with these keys loads it."""
    return load_model(train_args(directory, directory, directory, **changes), torch.float32)


def gradients(
    model: torch.nn.Module, batches: list[MicroBatch]
) -> tuple[float, dict[str, torch.Tensor]]:
    """The sum of the losses of the batches, and its gradients by the name of the weight."""
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = SupervisedObjective(model)(**vars(batch)).total
        loss.backward()
        total += loss.item()
    return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """To 1e-5 of the largest gradient of each weight."""
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(other[name], gradient, rtol=0, atol=1e-5 * scale)
