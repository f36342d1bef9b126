"""Training speed of Qwen3 shapes on one accelerator, with random weights and random tokens.

    python benchmarks/gpu.py --out results.jsonl             # every goal, every engine there is
    python benchmarks/gpu.py --cells 8B:32768 --engines native compiled --minutes 8
    python benchmarks/gpu.py --smoke                         # tiny shapes, also on a CPU

Needs no network and no data. A step is forward, backward, clipping and update of one sequence;
measured is the median after --warmup of them, of at most --steps and as many as --cell-seconds
allow (two at least). Each result is printed and written at once; after --minutes no other begins.
Useful FLOPs of a step: 3 x (2 x matmul parameters x tokens, the lm_head only for the --trained
share of tokens that carries loss, + 2 x layers x heads x head size x tokens per token for causal
attention); what is computed again counts nothing. Useful MFU is their rate over --peak-tflops.
Runs under torch 2.11 and 2.13.
"""

import argparse
import contextlib
import gc
import importlib.metadata
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
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.gpu_grid import ENGINES, SHAPES, Engine, Shape
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.collate import IGNORE_INDEX, MicroBatch, collate_trees
from pipeline.trainer.data.example import Example, Span
from pipeline.trainer.data.prefix_tree import PrefixTree
from pipeline.trainer.modeling.compilation import Compilation
from pipeline.trainer.modeling.layers import set_layers
from pipeline.trainer.modeling.liger import apply_liger
from pipeline.trainer.objective import SupervisedObjective
from pipeline.trainer.optimizer.make import make_optimizer

_H100_BF16_TFLOPS = 989.0
_CUDNN_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
_GOALS = ["0.6B:16384", "1.7B:16384", "4B:16384", "8B:8192", "8B:32768", "8B:131072"]


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
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    _report(options, {"machine": _machine(device), "options": vars(options)})
    grid = itertools.product(options.engines, options.cells, options.recompute, options.optim)
    ends = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    for engine, cell, recompute, optim in grid:
        if engine == "flex" and recompute == "selective":
            continue  # there is no such setting
        model, _, length = cell.partition(":")
        setting = Setting(engine, model, int(length), recompute, optim)
        found: dict[str, Any] = {"failed": "no time left"}
        if ends is None or time.monotonic() < ends:
            found = _measure_or_reason(setting, options, device)
        _report(options, {**asdict(setting), **found})


def _report(options: argparse.Namespace, result: dict[str, Any]) -> None:
    line = json.dumps(result, default=str)
    print(line, flush=True)
    if options.out:
        with options.out.open("a") as file:
            file.write(line + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", nargs="+", default=_GOALS, help="MODEL:TOKENS")
    kinds = ["none", "selective", "full", "offload"]
    parser.add_argument("--recompute", nargs="+", choices=kinds, default=kinds[:2])
    parser.add_argument("--optim", nargs="+", default=["adamw_8bit"])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--cell-seconds", type=float, default=60)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--trained", type=float, default=1.0, help="share of tokens with loss")
    parser.add_argument("--peak-tflops", type=float, default=_H100_BF16_TFLOPS)
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, two steps")
    parser.add_argument("--out", type=Path, help="JSON lines are appended to it as well")
    options = parser.parse_args()
    if options.smoke:
        options.cells, options.steps, options.warmup = ["tiny:64"], 2, 1
        options.recompute, options.backend = kinds[:3], "eager"
    options.engines = [name for name in options.engines if _is_there(ENGINES[name])]
    for cell in options.cells:
        model, _, length = cell.partition(":")
        if model not in SHAPES or not length.isdecimal():
            parser.error(f"--cells: {cell}: write MODEL:TOKENS, MODEL one of {', '.join(SHAPES)}")
    return options


def _is_there(engine: Engine) -> bool:
    if engine.package is not None and importlib.util.find_spec(engine.package) is None:
        return False
    return engine.on_cpu or torch.accelerator.is_available()


def _machine(device: torch.device) -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
    return {
        "device": name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "packages": {name: _version(name) for name in ("triton", "flash-attn", "liger-kernel")},
        "date": time.strftime("%Y-%m-%d"),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _measure_or_reason(
    setting: Setting, options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    try:
        return _measure(setting, options, device)
    except torch.OutOfMemoryError:
        reason = "out of memory"
    except Exception as error:  # the other cells are worth having
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    finally:
        torch.compiler.reset()
    _free(device)
    return {"failed": reason}


def _free(device: torch.device) -> None:
    """What the cell before has left: models are in reference cycles."""
    gc.collect()
    if device.type != "cpu":
        torch.accelerator.empty_cache()


def _measure(setting: Setting, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    _free(device)
    shape, engine, on_cpu = SHAPES[setting.model], ENGINES[setting.engine], device.type == "cpu"
    batch = _batch(shape, setting.length, options.trained).to(device)
    if engine.is_peer and engine.liger:
        from liger_kernel.transformers import (  # pyright: ignore[reportMissingImports]  # optional
            apply_liger_kernel_to_qwen3,
        )

        apply_liger_kernel_to_qwen3()
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(
            shape.config(setting.length),
            dtype=torch.bfloat16,
            attn_implementation=engine.attention,
        ).train()
    if engine.liger and not engine.is_peer:
        apply_liger(model)
    recompute: Any = setting.recompute
    set_layers(model, recompute, Compilation(engine.compiles, options.backend))
    args = TrainArgs(
        model_name_or_path="random",
        dataset="random",
        dataset_dir="random",
        output_dir="none",
        optim=setting.optim,  # pyright: ignore[reportArgumentType]  # checked by it
    )
    optimizer = make_optimizer(model, args)
    total_loss = _peer_loss(model, batch) if engine.is_peer else _native_loss(model, batch)

    def step() -> None:
        total_loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    preferred = contextlib.nullcontext()
    if engine.cudnn_first:
        preferred = sdpa_kernel(_CUDNN_FIRST, set_priority=True)
    with preferred:
        seconds = _times(step, options, device)
        kernels = _attention_kernels(step) if device.type == "cuda" else []
    median = statistics.median(seconds)
    tflops = shape.useful_flops(setting.length, batch.labels.numel()) / median / 1e12
    peak = None if on_cpu else torch.accelerator.max_memory_allocated(device)
    return {
        "tokens_per_second": round(setting.length / median, 1),
        "useful_tflops": round(tflops, 3),
        "useful_mfu": None if on_cpu else round(tflops / options.peak_tflops, 4),
        "peak_gib": None if peak is None else round(peak / 2**30, 2),
        "step_seconds": [round(each, 4) for each in seconds],
        "attention_kernels": kernels,
    }


def _times(
    step: Callable[[], None], options: argparse.Namespace, device: torch.device
) -> list[float]:
    """Seconds of every measured step."""
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats(device)
    for _ in range(options.warmup):
        _timed(step, device)
    seconds: list[float] = []
    while len(seconds) < options.steps and (
        len(seconds) < 2 or sum(seconds) < options.cell_seconds
    ):
        seconds.append(_timed(step, device))
    return seconds


def _batch(shape: Shape, length: int, share: float) -> MicroBatch:
    """One document, of which the last `share` carries loss."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(shape.vocab, (length,), generator=draw).tolist()
    example = Example(ids, [Span(length - int(share * length), length, 1.0)])
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
