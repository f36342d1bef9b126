"""Models of other architectures than the builtin one, with its tokenizer and random weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedConfig,
    Qwen3MoeConfig,
)

_SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 32768,
    "dtype": "float32",
}


def tiny_llama(builtin: Path, directory: Path) -> Path:
    """Its lm_head is not tied to its embeddings. Returns: `directory`."""
    return _save(builtin, directory, LlamaConfig, intermediate_size=96, tie_word_embeddings=False)


def tiny_moe(builtin: Path, directory: Path) -> Path:
    """Four experts, two of them per token; one tensor per expert in the file, one for all of them
    in the model. Returns: `directory`."""
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    return _save(builtin, directory, Qwen3MoeConfig, intermediate_size=48, **experts)


def _save(
    builtin: Path, directory: Path, kind: Callable[..., PreTrainedConfig], **changes: Any
) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(builtin)
    config = kind(
        **_SHAPE,
        **changes,
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
