"""What strategies make of the memory of one process with the whole model.

T: trained elements, F: frozen ones, A: both, N: ranks that share a copy, low: bytes of the dtype in
which layers run (bf16 2, fp32 4), moments: bytes of the optimizer's two moments (8 unless compact).

    strategy    weights    gradients    optimizer          beside them
    DDP         4 A        4 T          moments T          buckets 4 T
    ZeRO-1      low A      low T        (4 + moments) T/N  a bucket
    ZeRO-2      low A      low T/N      (4 + moments) T/N  a bucket
    ZeRO-3      low A/N    low T/N      (4 + moments) T/N  a bucket, all gathered up to max_live
    FSDP2       4 T/N      4 T/N        moments T/N        two layers and what is in none, gathered;
              + low F/N                                    the gradients of the larger of them
    with LoRA   4 T        4 T          moments T          the same, and 4 T to average gradients
              + low F/N
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.trainer.args import TrainArgs
from pipeline.trainer.memory.fake_step import GRADIENTS, OPTIMIZER, WEIGHTS, WORKING, StepMemory
from pipeline.trainer.modeling.load import load_config
from pipeline.trainer.parallel.deepspeed_config import (
    fill_deepspeed_config,
    offloads_optimizer,
    read_deepspeed_config,
)
from pipeline.trainer.parallel.fsdp_config import Sharding

COMMUNICATION = "gathered weights and buckets"


@dataclass(frozen=True)
class Divided:
    """Bytes of one rank, by class."""

    passes: dict[str, float]
    """At the peak of forward and backward passes."""
    update: dict[str, float]
    """At the peak of the optimizer's update."""
    host: float
    """In main memory instead."""


@dataclass(frozen=True)
class Zero:
    """What of DeepSpeed's ZeRO decides memory; sizes in elements."""

    stage: int
    low: bool
    """Layers run in bf16, with fp32 master weights in the optimizer."""
    reduce_bucket: int = 500_000_000
    overlaps: bool = False
    max_live: int = 1_000_000_000
    offloads_optimizer: bool = False
    offloads_weights: bool = False

    @classmethod
    def of(cls, args: TrainArgs, num_ranks: int) -> "Zero | None":
        """None: the training does not use it. Raises: ConfigError: its file cannot be used."""
        if not args.deepspeed:
            return None
        path = Path(str(args.deepspeed))
        hidden_size = load_config(args).get_text_config().hidden_size
        config = fill_deepspeed_config(
            read_deepspeed_config(path), path, args, num_ranks, hidden_size
        )
        zero = config["zero_optimization"]
        return cls(
            stage=zero["stage"],
            low=args.bf16 and bool(config["bf16"]["enabled"]),
            reduce_bucket=int(float(zero.get("reduce_bucket_size", 5e8))),
            overlaps=bool(zero.get("overlap_comm")),
            max_live=int(float(zero.get("stage3_max_live_parameters", 1e9))),
            offloads_optimizer=offloads_optimizer(config),
            offloads_weights=(zero.get("offload_param") or {}).get("device", "none") != "none",
        )


def whole_on_every_rank(step: StepMemory, num_ranks: int) -> Divided:
    buckets = {COMMUNICATION: 4 * step.num_trained} if num_ranks > 1 else {}
    return Divided({**step.passes, **buckets}, {**step.update, **buckets}, 0)


def divided_by_zero(step: StepMemory, zero: Zero, num_ranks: int) -> Divided:
    low = 2 if zero.low else 4
    trained, share = step.num_trained, step.num_trained / num_ranks
    elements = trained + step.num_frozen
    bucket = low * min(zero.reduce_bucket, trained)
    fixed = {
        WEIGHTS: low * (elements / num_ranks if zero.stage == 3 else elements),
        GRADIENTS: low * (trained if zero.stage == 1 else share),
        OPTIMIZER: 4 * share + step.moments / num_ranks,
        COMMUNICATION: bucket * (2 if zero.overlaps else 1),
    }
    if zero.stage == 3:
        fixed[COMMUNICATION] += low * min(elements, zero.max_live)
    # This rank's part is one flat tensor: its gradient in fp32, and what AdamW divides by, twice.
    working = 4 * share * (3 if step.moments >= 8 * trained else 1)
    moved = [OPTIMIZER, GRADIENTS] if zero.offloads_optimizer else []
    moved += [WEIGHTS] if zero.offloads_weights else []
    if zero.offloads_optimizer:
        working = 0
    return _moved_to_host({**step.passes, **fixed}, {**fixed, WORKING: working}, moved)


def divided_by_fsdp(
    step: StepMemory, sharding: Sharding, num_ranks: int, low: int, *, has_adapters: bool
) -> Divided:
    ranks_per_node = int(os.environ.get("LOCAL_WORLD_SIZE", num_ranks))
    num_shards = num_ranks // sharding.num_replicas(num_ranks, ranks_per_node)
    elements = step.num_trained + step.num_frozen
    unit = max(step.largest_layer, step.outside_layers)
    gathered = 2 * step.largest_layer + step.outside_layers
    if not sharding.reshard_after_forward:
        gathered = elements
    holders = 1 if has_adapters else num_shards
    frozen = low * step.num_frozen / num_shards
    fixed = {
        WEIGHTS: 4 * step.num_trained / holders,
        OPTIMIZER: step.moments / holders,
        # None is left where the backward pass updates the weights.
        GRADIENTS: 4 * step.num_trained / holders if GRADIENTS in step.update else 0,
    }
    reduced = (low + 4) * unit if step.num_trained > step.num_frozen else 0
    passes = {**step.passes, **fixed, COMMUNICATION: low * gathered + reduced}
    update = {**fixed, WORKING: step.update.get(WORKING, 0) / holders}
    if has_adapters:
        update[WORKING] = max(update[WORKING], 4 * step.num_trained)
    moved = [WEIGHTS, OPTIMIZER, GRADIENTS] if sharding.cpu_offload and not has_adapters else []
    divided = _moved_to_host(passes, update, moved)
    if sharding.cpu_offload:
        return replace(divided, host=divided.host + frozen)
    for moment in (passes, update):
        moment[WEIGHTS] += frozen
    return divided


def _moved_to_host(passes: dict[str, float], update: dict[str, float], moved: list[str]) -> Divided:
    host = sum(passes.pop(name, 0) for name in moved)
    for name in moved:
        update.pop(name, None)
    return Divided(passes, update, host)
