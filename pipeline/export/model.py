"""A trained model as one directory that every server loads, checked against what it came from.

checkpoint or output directory (model or adapter)  ->  config.json, generation_config.json,
    model*.safetensors of at most the given size, tokenizer and chat template

The source is loaded in fp32, adapters are merged in fp32 and rounded once, to the data type of the
base model. The logits of a few fixed prompts are compared twice: before and after the merge, and in
memory and as loaded from what was written. 4 bytes of memory per parameter.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from pipeline.errors import ConfigError, TrainError
from pipeline.files import sync_directory, sync_file
from pipeline.trainer.adapters.lora import (
    ADAPTER_CONFIG,
    load_adapter,
    merge_adapter,
    merged_adapters,
)
from pipeline.trainer.modeling.load import save_whole_model
from pipeline.trainer.modeling.reward_model import auto_class

_PROMPTS = (
    "The tests in tests/test_parser.py fail since the last commit. Find the cause and repair it.",
    'def add(left: int, right: int) -> int:\n    """Sum of two numbers."""\n    return left +',
    '<tool_call>\n{"name": "bash", "arguments": {"command": "git status --short"}}\n</tool_call>',
)
_SIZE = re.compile(r"\d+(\.\d+)?(KB|MB|GB)")
_TOLERANCE = 1e-3
"""Of the largest logit. Merging and adding up in fp32 in another order moves logits by 1e-5."""


@dataclass(frozen=True)
class ModelExport:
    """What `export_model` wrote."""

    adapters: list[str]
    """Merged, in this order."""
    num_parameters: int
    dtype: str
    files: list[str]
    """The safetensors."""
    largest_difference: float
    """Between a logit of the source and of what was written: what rounding to `dtype` does."""
    largest_logit: float

    def to_record(self) -> dict[str, Any]:
        return asdict(self)


def export_model(
    source: Path, out: Path, *, base: str, max_shard_size: str, trust_remote_code: bool
) -> ModelExport:
    """Write `source` to the new directory `out`.

    `base`: merge an adapter into this model instead of the one that it names.

    Raises:
        ConfigError: `source` is no model, `out` is in use, or `max_shard_size` is no size.
        TrainError: something cannot be loaded, or what was written is not what was read.
    """
    _check_places(source, out)
    if not _SIZE.fullmatch(max_shard_size):
        raise ConfigError(
            f"--max-shard-size: not a size (got {max_shard_size}); write 5GB or 500MB"
        )
    adapter = _read_adapter_config(source)
    model_name = str(source) if adapter is None else base or str(adapter["base_model_name_or_path"])
    if adapter is None and base:
        raise ConfigError(f"--model: {source} is a whole model, it needs no base; leave it out")
    trust = {"trust_remote_code": trust_remote_code}
    revision = (adapter or {}).get("revision") or "main"
    options = {**trust, "revision": "main" if base else revision}
    labels = {"num_labels": 1} if (adapter or {}).get("task_type") == "SEQ_CLS" else {}
    model, dtype = _load(model_name, options | labels), _dtype_of(model_name, options)
    tokenizer = _tokenizer(source, model_name, options)
    prompts = [tokenizer(text, return_tensors="pt").input_ids for text in _PROMPTS]
    adapters: list[str] = []
    if adapter is not None:
        adapters = [*merged_adapters(source), str(source)]
        for earlier in adapters[:-1]:
            merge_adapter(model, earlier)
        wrapper = load_adapter(model, str(source))
        expected = _logits(model, prompts)
        wrapper.merge_and_unload(safe_merge=True)
        _check_equal(expected, _logits(model, prompts), f"{source}: the merged adapter")
    else:
        expected = _logits(model, prompts)
    _round(model, dtype)
    rounded = _logits(model, prompts)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_whole_model(model, model.state_dict(), partial, dtype, max_shard_size=max_shard_size)
        tokenizer.save_pretrained(partial)
        num_parameters = model.num_parameters()
        del model
        written = _logits(_load(str(partial), trust), prompts)
        _check_equal(rounded, written, f"{out}: what was written and loaded again")
        _publish(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ModelExport(
        adapters=adapters,
        num_parameters=num_parameters,
        dtype=str(dtype).removeprefix("torch."),
        files=sorted(path.name for path in out.glob("*.safetensors")),
        largest_difference=_largest_difference(expected, written),
        largest_logit=_largest(expected),
    )


def _check_places(source: Path, out: Path) -> None:
    if not source.is_dir():
        raise ConfigError(f"{source}: no such directory; give a checkpoint or output directory")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out: {out}: exists already; choose a new directory")
    if out.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"--out: {out}: lies in the source; choose another directory")
    if not any((source / name).is_file() for name in (ADAPTER_CONFIG, "config.json")):
        raise ConfigError(
            f"{source}: no model (neither config.json nor {ADAPTER_CONFIG}); give the output_dir "
            "of a finished run, or one of its checkpoint-<step> directories"
        )


def _read_adapter_config(source: Path) -> dict[str, Any] | None:
    """adapter_config.json, or None for a whole model.

    Raises: ConfigError: an adapter that is not defined without the run that trained it.
    """
    file = source / ADAPTER_CONFIG
    if not file.is_file():
        return None
    config = json.loads(file.read_bytes())
    if str(config.get("init_lora_weights")).startswith("pissa"):
        raise ConfigError(
            f"{source}: a PiSSA adapter belongs to what its run left of the weights; export "
            "pissa_converted in the output_dir of a run with training.pissa_convert"
        )
    return config


def _load(name: str, options: dict[str, Any]) -> PreTrainedModel:
    """A causal LM, or a reward model: what has one label."""
    try:
        config = AutoConfig.from_pretrained(name, **options)
        auto = auto_class("rm" if config.num_labels == 1 else "sft")
        return auto.from_pretrained(name, dtype=torch.float32, **options).eval()
    except (ImportError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TrainError(
            f"{name}: cannot load the model: {reason}; --model names another base of an adapter"
        ) from error


def _dtype_of(name: str, options: dict[str, Any]) -> torch.dtype:
    """As the weights are stored; fp32 where the config does not say."""
    dtype = AutoConfig.from_pretrained(name, **options).dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def _tokenizer(source: Path, model_name: str, options: dict[str, Any]) -> Any:
    """The one that was saved with the training, or that of the base model."""
    has_one = (source / "tokenizer_config.json").is_file()
    return AutoTokenizer.from_pretrained(source if has_one else model_name, **options)


@torch.no_grad()
def _logits(model: PreTrainedModel, prompts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Of every prompt: (1, tokens, vocabulary), or the reward (1, 1)."""
    return [model(prompt, use_cache=False).logits for prompt in prompts]


def _largest(logits: list[torch.Tensor]) -> float:
    return max(part.abs().max().item() for part in logits)


def _differences(one: list[torch.Tensor], other: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    return (left - right for left, right in zip(one, other, strict=True))


def _largest_difference(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    return _largest(list(_differences(one, other)))


def _check_equal(expected: list[torch.Tensor], found: list[torch.Tensor], what: str) -> None:
    difference, largest = _largest_difference(expected, found), _largest(expected)
    if not difference <= _TOLERANCE * max(1.0, largest):  # also if it is no number
        raise TrainError(
            f"{what} does not compute what the source does: logits differ by {difference:.3g} (the "
            f"largest is {largest:.3g}); nothing was written"
        )


@torch.no_grad()
def _round(model: PreTrainedModel, dtype: torch.dtype) -> None:
    for parameter in model.parameters():
        parameter.copy_(parameter.to(dtype))


def _publish(partial: Path, out: Path) -> None:
    for file in partial.iterdir():
        sync_file(file)
    if out.is_dir():
        out.rmdir()
    partial.rename(out)
    sync_directory(out.parent)
