"""How good the plan of a run is, over several mixes of document lengths; needs no data and no GPU.

The part of tokens.py behind `--plan`.

Fill: tokens in the room of the packed sequences. Balance: mean over maximum of the ranks' compute
per step (micro: per micro-batch), for a model whose attention costs as much as everything else at
--crossover tokens (Qwen3-8B: 47,000). `examples` is the same without packing: one document per
sequence, one sequence per micro-batch. With fewer sequences in a step than ranks, the others wait:
64 ranks and a global batch of 32 cannot be above 0.5.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass

import numpy as np

from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.plan import Plan
from pipeline.trainer.data.plan_input import Documents
from pipeline.trainer.data.plan_report import PlanQuality

RANKS = (1, 8, 64)
GLOBAL_BATCHES = (32, 64, 256)


@dataclass(frozen=True)
class Mix:
    """Log-normal lengths, cut to `cutoff_len`."""

    median: int
    sigma: float
    cutoff_len: int

    def lengths(self, count: int, seed: int) -> np.ndarray:
        drawn = np.random.default_rng(seed).lognormal(math.log(self.median), self.sigma, count)
        return np.clip(drawn, 16, self.cutoff_len).astype(np.int64)


MIXES = {
    "trajectories, 131k": Mix(15_000, 1.0, 131_072),
    "trajectories, 32k": Mix(15_000, 1.0, 32_768),
    "long trajectories, 131k": Mix(60_000, 0.7, 131_072),
    "chats, 8k": Mix(800, 1.0, 8_192),
}


def measure(
    mix: Mix, ranks: int, global_batch: int, packing: bool, options: argparse.Namespace
) -> dict[str, float]:
    """Plan and judge one epoch."""
    working = min(ranks, global_batch)
    lengths = mix.lengths(options.documents, options.seed)
    args = TrainArgs(
        model_name_or_path="none",
        dataset="none",
        dataset_dir="none",
        output_dir="none",
        packing=packing,
        group_by_length=options.group_by_length,
        cutoff_len=mix.cutoff_len,
        gradient_accumulation_steps=global_batch // working,
        num_train_epochs=1.0,
        seed=options.seed,
    )
    started = time.perf_counter()
    plan = Plan.of(args, Documents.from_lengths(lengths), working, options.crossover)
    seconds = time.perf_counter() - started
    found = PlanQuality.of(plan).to_record()
    for balance in ("balance", "micro_balance"):
        found[balance] = round(found[balance] * working / ranks, 4)
    return {**found, "steps": plan.total_steps, "seconds": round(seconds, 3)}


def add_options(parser: argparse.ArgumentParser) -> None:
    options = parser.add_argument_group("--plan")
    options.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    options.add_argument("--global-batch", type=int, nargs="+", default=GLOBAL_BATCHES)
    options.add_argument("--documents", type=int, default=20_000)
    options.add_argument("--crossover", type=int, default=47_000)
    options.add_argument("--group-by-length", action="store_true")
    options.add_argument("--seed", type=int, default=0)


def report(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """With --json one object, of the worst mix in each."""
    rows = []
    combinations = [
        (name, ranks, size)
        for name in MIXES
        for ranks in options.ranks
        for size in options.global_batch
    ]
    for name, ranks, size in combinations:
        if size % min(ranks, size):
            parser.error(f"--global-batch {size} is no multiple of --ranks {ranks}")
        for packing in (True, False):
            found = measure(MIXES[name], ranks, size, packing, options)
            rows.append({"mix": name, "packing": packing, "ranks": ranks, "global": size, **found})
    if options.json:
        packed = [row for row in rows if row["packing"]]
        worst = {key: min(row[key] for row in packed) for key in ("fill", "balance")}
        lost = max(row["tokens_lost"] for row in packed)
        print(json.dumps({**worst, "tokens_lost": lost, "plans": rows}, indent=2))
        return
    print(
        "| mix | | ranks | global batch | fill | balance | per micro-batch | lost | planned in s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        what = "packed" if row["packing"] else "examples"
        print(
            f"| {row['mix']} | {what} | {row['ranks']} | {row['global']} | {row['fill']:.4f} "
            f"| {row['balance']:.3f} | {row['micro_balance']:.3f} | {row['tokens_lost']} "
            f"| {row['seconds']:.2f} |"
        )
