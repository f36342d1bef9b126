"""What a step costs beyond forward, backward and optimizer: this trainer and transformers.Trainer.

    python benchmarks/overhead.py --json

Both train the same tiny model on the same examples in this one process. A hook on the optimizer
notes when each update ends, so a step is measured without a change to either. The same forward and
backward passes, clipping and updates on batches made beforehand are the part that is not overhead;
each trainer is compared with its own, because their losses are computed differently. Times are CPU
time of the process, which other processes disturb little; --wall for a machine that is idle.
"""

import argparse
import itertools
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from transformers.utils.logging import disable_progress_bar

from pipeline.builtin import ensure_builtin
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.collate import IGNORE_INDEX, collate
from pipeline.trainer.data.example import Example
from pipeline.trainer.data.store import TokenStore, open_store
from pipeline.trainer.objective import SupervisedObjective
from pipeline.trainer.optimizer.make import make_optimizer
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

_ROOT = Path(__file__).resolve().parent.parent
_BATCH = 2
_WARMUP_STEPS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5, help="best of so many runs of each")
    parser.add_argument("--words", type=int, default=8, help="of each example's reply")
    parser.add_argument("--wall", action="store_true", help="real time instead of CPU time")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    disable_progress_bar()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        clock = time.perf_counter if options.wall else time.process_time
        found = measure(Path(directory), clock, options.steps, options.rounds, options.words)
    if options.json:
        print(json.dumps(found))
        return
    for name in ("native", "transformers"):
        run = found[name]
        print(
            f"{name:>12}: {run['step_ms']:6.2f} ms per step, {run['compute_ms']:.2f} of them "
            f"compute, {run['overhead_ms']:.2f} overhead"
        )
    print(f"ratio of the overheads: {found['overhead_ratio']:.2f}")


def measure(
    directory: Path, clock: Callable[[], float], steps: int, rounds: int, words: int
) -> dict[str, Any]:
    """Milliseconds per step, medians; of several rounds the one with the shortest steps."""
    model = _model(directory)
    args = _args(model, _dataset(directory, words), directory / "native", _WARMUP_STEPS + steps)
    train(args, StopRequest())  # tokenises
    store = open_store(args)
    runs: dict[str, Callable[[], None]] = {
        "native": lambda: train(args, StopRequest()),
        "native_compute": lambda: _native_compute(args, store),
        "transformers": lambda: _transformers(args, store),
        "transformers_compute": lambda: _transformers_compute(args, store),
    }
    best = dict.fromkeys(runs, float("inf"))
    for _, (name, run) in itertools.product(range(rounds), runs.items()):
        with _update_times(clock) as times:
            run()
        periods = [later - before for before, later in itertools.pairwise(times)]
        best[name] = min(best[name], 1000 * statistics.median(periods[_WARMUP_STEPS - 1 :]))
    found: dict[str, Any] = {
        name: {
            "step_ms": round(best[name], 3),
            "compute_ms": round(best[f"{name}_compute"], 3),
            "overhead_ms": round(best[name] - best[f"{name}_compute"], 3),
        }
        for name in ("native", "transformers")
    }
    ours, theirs = (found[name]["overhead_ms"] for name in ("native", "transformers"))
    parameters = AutoModelForCausalLM.from_pretrained(model).num_parameters()
    return {**found, "overhead_ratio": round(ours / theirs, 3), "parameters": parameters}


@contextmanager
def _update_times(clock: Callable[[], float]) -> Iterator[list[float]]:
    times: list[float] = []
    handle = register_optimizer_step_post_hook(lambda *_: times.append(clock()))
    try:
        yield times
    finally:
        handle.remove()


def _model(directory: Path) -> Path:
    """A Qwen3 of one million parameters with the tokenizer of the builtin one."""
    path = ensure_builtin("builtin:tiny-qwen3", directory / "cache", _ROOT / "examples" / "job")
    config = AutoConfig.from_pretrained(path)
    config.update({"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3})
    config.layer_types = ["full_attention"] * 3
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return path


def _dataset(directory: Path, words: int) -> Path:
    rows = [
        {
            "conversations": [
                {"from": "human", "value": f"task {number} " + "please fix " * (words // 2)},
                {"from": "gpt", "value": "the file was read " * (words // 4)},
            ]
        }
        for number in range(64)
    ]
    data = directory / "data"
    data.mkdir()
    (data / "demo.json").write_text(json.dumps(rows))
    info = {"demo": {"file_name": "demo.json", "formatting": "sharegpt"}}
    (data / "dataset_info.json").write_text(json.dumps(info))
    return data


def _args(model: Path, dataset_dir: Path, output_dir: Path, steps: int) -> TrainArgs:
    return TrainArgs(
        model_name_or_path=str(model),
        dataset="demo",
        dataset_dir=str(dataset_dir),
        output_dir=str(output_dir),
        overwrite_output_dir=True,
        deepspeed=None,
        use_cpu=True,
        bf16=False,
        disable_gradient_checkpointing=True,
        per_device_train_batch_size=_BATCH,
        max_steps=steps,
        save_strategy="no",
        plot_loss=False,
        preprocessing_num_workers=1,
    )


def _batches(args: TrainArgs, store: TokenStore) -> Iterator[list[Example]]:
    for step in range(args.max_steps):
        yield [store[(step * _BATCH + place) % len(store)] for place in range(_BATCH)]


def _native_compute(args: TrainArgs, store: TokenStore) -> None:
    model = AutoModelForCausalLM.from_pretrained(args.model_name_or_path)
    objective = SupervisedObjective(model.train())
    batches = [vars(collate(examples, store.pad_token_id)) for examples in _batches(args, store)]
    _compute(args, model, [lambda b=b: objective(**b).total / 100 for b in batches])


def _transformers_compute(args: TrainArgs, store: TokenStore) -> None:
    model = AutoModelForCausalLM.from_pretrained(args.model_name_or_path).train()
    batches = [
        _collate([_features(e) for e in examples], store) for examples in _batches(args, store)
    ]
    _compute(args, model, [lambda b=b: model(**b, use_cache=False).loss for b in batches])


def _compute(args: TrainArgs, model: Any, losses: list[Callable[[], torch.Tensor]]) -> None:
    optimizer = make_optimizer(model, args)
    for loss in losses:
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()


def _transformers(args: TrainArgs, store: TokenStore) -> None:
    with tempfile.TemporaryDirectory() as output_dir:
        trainer = Trainer(
            model=AutoModelForCausalLM.from_pretrained(args.model_name_or_path),
            args=TrainingArguments(
                output_dir,
                per_device_train_batch_size=_BATCH,
                max_steps=args.max_steps,
                logging_steps=args.logging_steps,
                lr_scheduler_type=args.lr_scheduler_type,
                optim=args.optim,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
            ),
            train_dataset=[_features(store[index]) for index in range(len(store))],  # pyright: ignore[reportArgumentType]  # a list is enough
            data_collator=lambda examples: _collate(examples, store),
        )
        trainer.remove_callback(PrinterCallback)  # this trainer's own log lines are off, too
        trainer.train()


def _features(example: Example) -> dict[str, Any]:
    labels = [IGNORE_INDEX] * len(example.ids)
    for span in example.spans:
        labels[span.start : span.end] = example.ids[span.start : span.end]
    return {"input_ids": example.ids, "labels": labels}


def _collate(examples: list[dict[str, Any]], store: TokenStore) -> dict[str, torch.Tensor]:
    longest = max(len(example["input_ids"]) for example in examples)
    columns = {"input_ids": store.pad_token_id, "attention_mask": 0, "labels": IGNORE_INDEX}
    rows = [{**example, "attention_mask": [1] * len(example["input_ids"])} for example in examples]
    return {
        name: torch.tensor([row[name] + [pad] * (longest - len(row[name])) for row in rows])
        for name, pad in columns.items()
    }


if __name__ == "__main__":
    main()
