"""How long training waits for a checkpoint: written beside it (`async_save`) and by itself.

    python benchmarks/checkpoint_stall.py --megabytes 100 --json

A model of random weights, its AdamW state and everything else that a checkpoint holds are saved
several times with each writer. `stall` is the time until training could go on, `complete` until the
checkpoint is on the disk. The first save of a writer, which starts its process, is not counted.
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from pipeline.builtin import ensure_builtin
from pipeline.log import quiet_libraries
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.checkpoint.model_files import ModelFiles
from pipeline.trainer.checkpoint.saver import Saver, make_writer
from pipeline.trainer.checkpoint.writer import Publication
from pipeline.trainer.parallel.ddp import DataParallel
from pipeline.trainer.parallel.interface import Distributed
from pipeline.trainer.parallel.parts import initialize_optimizer_state

_ROOT = Path(__file__).resolve().parent.parent
_BYTES_PER_PARAMETER = 12
"""fp32 weights and both moments of AdamW."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=100, help="of weights and optimizer state")
    parser.add_argument("--saves", type=int, default=5, help="that are counted, of each writer")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    disable_progress_bar()
    quiet_libraries()  # of the process that writes
    with tempfile.TemporaryDirectory() as directory:
        found = measure(Path(directory), options.megabytes, options.saves)
    if options.json:
        print(json.dumps(found))
        return
    for name in ("beside", "waiting"):
        run = found[name]
        print(f"{name:>8}: stall {run['stall_s']:.3f} s, complete {run['complete_s']:.3f} s")
    print(f"ratio of the stalls for {found['megabytes']} MB: {found['stall_ratio']:.3f}")


def measure(directory: Path, megabytes: int, saves: int) -> dict[str, Any]:
    """Seconds, medians."""
    model = _model(directory, megabytes * 1_000_000 // _BYTES_PER_PARAMETER)
    found = {
        name: _saves(_args(model, directory / name, is_async=is_async), saves)
        for name, is_async in (("beside", True), ("waiting", False))
    }
    size = sum(file.stat().st_size for file in (directory / "beside").glob("checkpoint-0/state/*"))
    ratio = found["beside"]["stall_s"] / found["waiting"]["stall_s"]
    return {**found, "stall_ratio": round(ratio, 4), "megabytes": round(size / 1e6)}


def _saves(args: TrainArgs, count: int) -> dict[str, float]:
    distributed = Distributed(use_cpu=args.use_cpu, timeout_seconds=60)
    strategy = DataParallel(args, distributed)
    initialize_optimizer_state(strategy._optimizer)
    saver = Saver(strategy, distributed, make_writer(args, distributed))
    stalls, totals = [], []
    for _ in range(1 + count):
        publication = Publication(
            output_dir=Path(args.output_dir),
            step=0,
            world_size=1,
            manifest={},
            model_files=ModelFiles.of(args, strategy.model),
            save_total_limit=None,
            best_first=[],
        )
        started = time.perf_counter()
        saver.save(publication, {})
        stalls.append(time.perf_counter() - started)
        saver.settle(must_succeed=True)
        totals.append(time.perf_counter() - started)
    saver.close()
    return {
        # Without a process beside it training waits for all of it.
        "stall_s": round(statistics.median((stalls if args.async_save else totals)[1:]), 4),
        "complete_s": round(statistics.median(totals[1:]), 4),
    }


def _model(directory: Path, parameters: int) -> Path:
    """A Qwen3 of about so many parameters, all but few in its layers."""
    path = ensure_builtin("builtin:tiny-qwen3", directory / "cache", _ROOT / "examples" / "job")
    config = AutoConfig.from_pretrained(path)
    config.update({"hidden_size": 256, "intermediate_size": 1024})
    per_layer = 3 * 256 * 1024 + 2 * 256 * (
        (config.num_attention_heads + config.num_key_value_heads) * config.head_dim
    )
    config.num_hidden_layers = max(1, (parameters - 256 * config.vocab_size) // per_layer)
    config.layer_types = ["full_attention"] * config.num_hidden_layers
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return path


def _args(model: Path, output_dir: Path, *, is_async: bool) -> TrainArgs:
    return TrainArgs(
        model_name_or_path=str(model),
        dataset="none",
        dataset_dir="none",
        output_dir=str(output_dir),
        deepspeed=None,
        use_cpu=not torch.cuda.is_available(),
        bf16=True,
        async_save=is_async,
    )


if __name__ == "__main__":
    main()
