"""How much memory one rank will need, from the real model config, before a weight is loaded.

Weights, gradients and optimizer state are exact up to padding; activations are an estimate for
gradient checkpointing on or off. Bytes per parameter, N ranks:

    strategy        weights     gradients   optimizer state
    DDP, ZeRO-0     4 (+2)      4           8                  fp32 weights, bf16 copies by autocast
    ZeRO-2, bf16    2           2           12 / N             fp32 master weights and two moments
    ZeRO-3, bf16    2 / N       2 / N       12 / N
    ZeRO-2/3, fp32  4 (/ N)     4 (/ N)     12 / N
    FSDP2           4 / N (+2)  4 / N       8 / N              fp32 shards; +2 unless resharded

The two moments take 8 of these bytes, 4 with optim adamw_bf16 and 2 with the 8-bit ones.
"""

import atexit
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.builtin import ensure_builtin, is_builtin
from pipeline.config.shipped import resolve_shipped
from pipeline.errors import ConfigError
from pipeline.preflight.report import Context
from pipeline.step2_train import EXAMPLES, model_path, nproc_per_node
from pipeline.trainer.parallel.deepspeed_config import read_deepspeed_config
from pipeline.trainer.parallel.fsdp_config import sharding_of
from pipeline.trainer.rope import max_positions, trained_positions

_MOMENTS = {"adamw_bf16": 4, "adamw_8bit": 2, "adamw_bnb_8bit": 2, "adamw_torch_8bit": 2}


@dataclass(frozen=True)
class ModelSize:
    """What decides memory, read from the model's config."""

    num_parameters: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    max_positions: int | None
    trained_positions: int | None
    """Before the scaling that the model came with."""


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes per rank."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    on_host: int
    """Part of the above that offloading moves to main memory."""

    @property
    def fixed(self) -> int:
        """What is needed however short the examples are, on the device."""
        return self.weights + self.gradients + self.optimizer - self.on_host

    @property
    def total(self) -> int:
        return self.fixed + self.activations


def model_size(context: Context) -> ModelSize:
    """Raises: ConfigError: there is no model, or none that this version of Transformers knows."""
    model = context.given.model
    found = _model_size(readable_model(context), model.model_revision, model.trust_remote_code)
    if isinstance(found, str):
        raise ConfigError(
            f"runtime_info.input.model.model_name_or_path: {model.model_name_or_path}: neither a "
            f"model directory nor a Hub model that can be reached ({found}); check it, or download "
            "the model first"
        )
    return found


def readable_model(context: Context) -> str:
    """What to load tokenizer and config from; a builtin model not built yet is built aside."""
    path = model_path(context.config, context.paths, build=False)
    name = context.given.model.model_name_or_path
    return _built_aside(name) if is_builtin(name) and not Path(path).is_dir() else path


@lru_cache(maxsize=2)
def _built_aside(name: str) -> str:
    """In a temporary directory that goes away with this process: a dry run changes no file."""
    scratch = Path(tempfile.mkdtemp(prefix="sft-dryrun-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    return str(ensure_builtin(name, scratch, EXAMPLES))


@lru_cache(maxsize=2)
def _model_size(model: str, revision: str, trust_remote_code: bool) -> ModelSize | str:
    """A reason instead of an exception, which would not be cached: the Hub is asked once."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config: Any = AutoConfig.from_pretrained(
            model, revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        return (str(error).strip() or repr(error)).splitlines()[0]
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    return ModelSize(
        num_parameters=sum(parameter.numel() for parameter in skeleton.parameters()),
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        intermediate_size=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        vocab_size=text.vocab_size,
        max_positions=max_positions(config),
        trained_positions=trained_positions(config),
    )


def memory_need(
    context: Context, size: ModelSize, longest: int, longest_trained: int
) -> MemoryNeed:
    """`longest` tokens in a sequence, `longest_trained` of them carry loss."""
    training = context.given.training
    ranks = nproc_per_node(context.config)
    sharding = sharding_of(training, os.environ)
    stage, offload_optimizer, offload_weights = _zero(context)
    count, low = size.num_parameters, 2 if training.bf16 else 4
    moments = _MOMENTS.get(training.optim, 8)
    gathered = 0
    if sharding is not None:
        share = count * sharding.num_replicas(ranks, ranks) / ranks
        weights, gradients, optimizer = 4 * share, 4 * share, moments * share
        gathered = 0 if sharding.reshard_after_forward else low * count
    elif stage in (None, 0):
        weights, gradients = (6 if training.bf16 else 4) * count, 4 * count
        optimizer = moments * count
    else:
        share = count / ranks
        weights = low * (share if stage == 3 else count)
        gradients = low * (share if stage == 3 else count)
        optimizer = (4 + moments) * share
    on_host = (optimizer if offload_optimizer else 0) + (weights if offload_weights else 0)
    if sharding is not None and sharding.cpu_offload:
        on_host = weights + gradients + optimizer
    weights += gathered
    tokens = longest * training.per_device_train_batch_size // training.sequence_parallel_size
    # One layer: attention and MLP inputs and outputs that autograd keeps.
    layer = tokens * low * (10 * size.hidden_size + 4 * size.intermediate_size)
    kept = layer * size.num_layers
    if training.recompute != "none":
        # Of each layer its input, on the host if it is offloaded, and what attention gave.
        per_layer = {"selective": 2, "full": 1, "offload": 0}[training.recompute]
        kept = tokens * low * size.hidden_size * size.num_layers * per_layer + layer
    # Logits in the model's precision, in fp32, and their gradient, only where a label is.
    labelled = min(longest_trained * training.per_device_train_batch_size, tokens)
    logits = labelled * size.vocab_size * (low + 8)
    return MemoryNeed(
        int(weights), int(gradients), int(optimizer), int(kept + logits), int(on_host)
    )


def _zero(context: Context) -> tuple[int | None, bool, bool]:
    """Stage (None: DDP), optimizer on the host, weights on the host."""
    asked = context.given.training.deepspeed
    if not asked:
        return None, False, False
    zero = read_deepspeed_config(resolve_shipped(str(asked))[0])["zero_optimization"]

    def offloaded(key: str) -> bool:
        return (zero.get(key) or {}).get("device", "none") != "none"

    return zero["stage"], offloaded("offload_optimizer"), offloaded("offload_param")
