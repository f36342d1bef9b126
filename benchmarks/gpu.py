"""Training speed of Qwen3 shapes on one accelerator, with random weights and random tokens.

    python benchmarks/gpu.py                         # the grid, and the peers that are installed
    python benchmarks/gpu.py --models 8B --lengths 32768 --peers --json > results.json
    python benchmarks/gpu.py --smoke                 # tiny shapes, also on a CPU: does it run?

Needs no network and no data. A step is forward, backward, clipping and update of one sequence of
which every fourth token carries loss; the median of --steps after three more. Useful FLOPs of it:
3 x (2 x matmul parameters x tokens, the lm_head only for tokens with loss, + 2 x layers x heads x
head size x tokens per token for causal attention); what is computed again counts nothing. Useful
MFU is their rate over --peak-tflops. Runs under torch 2.11 and 2.13.
"""

import argparse
import importlib.util
import itertools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, Qwen3Config

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.trainer.args import TrainArgs
from pipeline.trainer.attention import PER_DOCUMENT
from pipeline.trainer.compilation import Compilation
from pipeline.trainer.data.collate import IGNORE_INDEX, MicroBatch, collate_trees
from pipeline.trainer.data.example import Example, Span
from pipeline.trainer.data.prefix_tree import PrefixTree
from pipeline.trainer.flex_attention import BLOCK_MASK
from pipeline.trainer.layers import set_layers
from pipeline.trainer.objective import SupervisedObjective
from pipeline.trainer.optim import make_optimizer

_H100_BF16_TFLOPS = 989.0
_WARMUP_STEPS = 3
_OURS = {"native": (PER_DOCUMENT, "per-document SDPA"), "flex": (BLOCK_MASK, "FlexAttention")}
_TRAINED_EVERY = 4  # one token in so many carries loss


@dataclass(frozen=True)
class Shape:
    """What of Qwen3 differs between its sizes."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int = 8
    head_size: int = 128
    vocab: int = 151_936
    tied: bool = True

    def config(self, positions: int) -> Qwen3Config:
        return Qwen3Config(
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_size,
            vocab_size=self.vocab,
            tie_word_embeddings=self.tied,
            max_position_embeddings=positions,
        )

    def useful_flops(self, tokens: int, trained: int) -> float:
        """Of forward and backward over one document."""
        attention = self.heads * self.head_size
        per_layer = self.hidden * (2 * attention + 2 * self.kv_heads * self.head_size)
        per_layer += 3 * self.hidden * self.intermediate
        forward = 2 * self.layers * per_layer * tokens + 2 * self.hidden * self.vocab * trained
        return 3 * (forward + 2 * self.layers * attention * tokens * tokens)


SHAPES = {
    "tiny": Shape(64, 128, 2, 4, kv_heads=2, head_size=16, vocab=512),
    "0.6B": Shape(1024, 3072, 28, 16),
    "1.7B": Shape(2048, 6144, 28, 16),
    "4B": Shape(2560, 9728, 36, 32),
    "8B": Shape(4096, 12288, 36, 32, tied=False),
}


@dataclass(frozen=True)
class Setting:
    """One cell of the grid."""

    engine: str
    model: str
    length: int
    recompute: str
    optim: str


def main() -> None:
    options = _options()
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    # Engine by engine: Liger's kernels stay in the process once they are in.
    settings = itertools.product(
        options.engines, options.models, options.lengths, options.recompute, options.optim
    )
    report: dict[str, Any] = {"machine": _machine(device), "peak_tflops": options.peak_tflops}
    report["runs"] = []
    for values in settings:
        setting = Setting(*values)
        if (setting.engine, setting.recompute) == ("flex", "selective"):
            continue  # there is no such setting
        found = _measure_or_reason(setting, options, device)
        report["runs"].append({**asdict(setting), **found})
        if not options.json:
            shown = " ".join(str(value) for value in values)
            print(f"{shown:48} " + " ".join(f"{k}={v}" for k, v in found.items()), flush=True)
    if options.json:
        print(json.dumps(report, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["0.6B", "1.7B", "4B", "8B"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[8192, 16384, 32768, 131072])
    kinds = ["none", "selective", "full", "offload"]
    parser.add_argument("--recompute", nargs="+", choices=kinds, default=kinds[:3])
    parser.add_argument("--optim", nargs="+", default=["adamw_8bit"])
    parser.add_argument("--peers", nargs="*", default=["flex", "transformers", "liger"])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--peak-tflops", type=float, default=_H100_BF16_TFLOPS)
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, two steps")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.smoke:
        options.models, options.lengths, options.steps = ["tiny"], [64], 2
    installed = {
        "flex": torch.accelerator.is_available(),
        "transformers": True,
        "liger": importlib.util.find_spec("liger_kernel"),
    }
    options.engines = ["native", *(peer for peer in options.peers if installed[peer])]
    return options


def _machine(device: torch.device) -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
    return {
        "device": name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda,
        "date": time.strftime("%Y-%m-%d"),
    }


def _measure_or_reason(
    setting: Setting, options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    try:
        return _measure(setting, options, device)
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}
    finally:
        if device.type != "cpu":
            torch.accelerator.empty_cache()


def _measure(setting: Setting, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    shape, on_cpu = SHAPES[setting.model], device.type == "cpu"
    batch = _batch(shape, setting.length).to(device)
    trained = batch.labels.numel()
    native = setting.engine in _OURS
    attention, attention_name = _OURS.get(setting.engine, ("sdpa", "SDPA"))
    if setting.engine == "liger":
        from liger_kernel.transformers import (  # pyright: ignore[reportMissingImports]  # optional
            apply_liger_kernel_to_qwen3,
        )

        apply_liger_kernel_to_qwen3()
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(
            shape.config(setting.length),
            dtype=torch.bfloat16,
            attn_implementation=attention,
        ).train()
    recompute: Any = setting.recompute
    set_layers(model, recompute, Compilation())
    args = TrainArgs(
        model_name_or_path="random",
        dataset="random",
        dataset_dir="random",
        output_dir="none",
        optim=setting.optim,  # pyright: ignore[reportArgumentType]  # checked by it
    )
    optimizer = make_optimizer(model, args)
    total_loss = _native_loss(model, batch) if native else _peer_loss(model, batch)

    def step() -> None:
        total_loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = [_timed(step, device) for _ in range(_WARMUP_STEPS + options.steps)]
    median = statistics.median(seconds[_WARMUP_STEPS:])
    tflops = shape.useful_flops(setting.length, trained) / median / 1e12
    found = {
        "tokens_per_second": round(setting.length / median, 1),
        "useful_tflops": round(tflops, 3),
        "useful_mfu": None if on_cpu else round(tflops / options.peak_tflops, 4),
        "peak_gib": None,
        "attention": attention_name,
    }
    if device.type == "cuda":
        found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        found["kernels"] = _attention_kernels(step)
    return found


def _batch(shape: Shape, length: int) -> MicroBatch:
    """One document of which the last quarter carries loss."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(shape.vocab, (length,), generator=draw).tolist()
    example = Example(ids, [Span(length - length // _TRAINED_EVERY, length, 1.0)])
    return collate_trees([PrefixTree.of([example])], 0)


def _native_loss(model: Any, batch: MicroBatch) -> Callable[[], torch.Tensor]:
    objective = SupervisedObjective(model)
    return lambda: objective(**vars(batch)).total / batch.labels.numel()


def _peer_loss(model: Any, batch: MicroBatch) -> Callable[[], torch.Tensor]:
    labels = torch.full_like(batch.input_ids, IGNORE_INDEX)
    labels[:, batch.positions + 1] = batch.labels
    return lambda: model(input_ids=batch.input_ids, labels=labels, use_cache=False).loss


def _timed(step: Callable[[], None], device: torch.device) -> float:
    started = time.perf_counter()
    step()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - started


def _attention_kernels(step: Callable[[], None]) -> list[str]:
    """Names of the device's attention kernels that a step runs."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
    words = ("flash", "fmha", "sdpa", "attention")
    names = {event.key for event in profiler.key_averages()}
    return sorted(name[:80] for name in names if any(word in name.lower() for word in words))


if __name__ == "__main__":
    main()
