"""What is about to be trained, in a few lines, before the first step."""

import logging

from pipeline.trainer.args import TrainArgs
from pipeline.trainer.modeling.compilation import Compilation
from pipeline.trainer.modeling.load import attention_kernel, load_config
from pipeline.trainer.output_dir import Checkpoint
from pipeline.trainer.parallel.context.context_parallel import ContextParallel
from pipeline.trainer.parallel.interface import Distributed
from pipeline.trainer.parallel.strategy import Strategy
from pipeline.trainer.planned_run import PlannedRun

logger = logging.getLogger(__name__)


def announce(
    planned: PlannedRun,
    strategy: Strategy,
    distributed: Distributed,
    context: ContextParallel | None,
    checkpoint: Checkpoint | None,
) -> None:
    args, plan, data = planned.args, planned.plan, planned.data
    counts = data.store.counts
    logger.info(
        "%s on %d ranks (%s, %s), %s parameters, %s",
        strategy.name,
        distributed.world_size,
        distributed.device.type,
        distributed.backend,
        f"{strategy.num_parameters:,}",
        "bf16" if args.bf16 else "fp32",
    )
    logger.info("attention: %s", attention_kernel(args, load_config(args)))
    logger.info(
        "%s examples from %s rows, %s tokens, %s of them trained (%.1f %%)",
        f"{counts.examples:,}",
        f"{counts.rows:,}",
        f"{counts.tokens:,}",
        f"{counts.trained_tokens:,}",
        100 * counts.trained_tokens / counts.tokens,
    )
    extra = counts.examples - (counts.rows - counts.rows_rejected - counts.rows_over_cutoff)
    if extra > 0 and args.stage == "sft":
        logger.info(
            "%d turns have an example of their own: the chat template shows them differently in "
            "later history than the model generates them (training.reasoning_history)",
            extra,
        )
    if args.share_prefixes:
        computed = int(data.lengths.sum())
        logger.info(
            "shared prefixes: %s examples are %s trees of %s tokens, %.1f times fewer",
            f"{counts.examples:,}",
            f"{len(data):,}",
            f"{computed:,}",
            counts.tokens / computed,
        )
    if args.compiles:
        backend = Compilation.of(args).backend
        logger.info("torch_compile: every layer, all but its attention, with %s", backend)
    for line in _rendering_lines(args):
        logger.info("%s", line)
    if counts.rows_rejected:
        logger.warning(
            "%d rows cannot be rendered and are left out: %s",
            counts.rows_rejected,
            data.store.directory / "rejected.jsonl",
        )
    if counts.turns_over_cutoff:
        logger.warning(
            "cutoff_len %d: %d turns do not fit and are not trained (longest example: %d tokens); "
            "%d rows are left out altogether",
            args.cutoff_len,
            counts.turns_over_cutoff,
            counts.longest,
            counts.rows_over_cutoff,
        )
    documents = "trees" if args.share_prefixes else "examples"
    if args.trains_pairs:
        documents = "pairs"
    what = documents
    if plan.capacity is not None:
        what = "sequences"
        packed = plan.epochs[0]
        logger.info(
            "packed: %s %s in %s sequences of at most %s tokens (%.1f %% full)",
            f"{len(packed.documents):,}",
            documents,
            f"{len(packed):,}",
            f"{plan.capacity:,}",
            100 * plan.documents.lengths[packed.documents].sum() / (len(packed) * plan.capacity),
        )
    if len(plan.held_out):
        logger.info("held out for evaluation: %s %s", f"{len(plan.held_out):,}", documents)
    group = "rank"
    if context is not None:
        group = "group"
        logger.info(
            "groups of %d ranks share their sequences (%s)", distributed.context_size, context.mode
        )
    logger.info(
        "global batch %d %s = %d per %s x %d accumulation x %d %ss; %d steps of %d per epoch; "
        "plan %s",
        plan.global_batch_size,
        what,
        plan.micro_batch_size,
        group,
        plan.accumulation_steps,
        plan.world_size,
        group,
        plan.total_steps,
        plan.epoch_ends[0],
        plan.hash,
    )
    if checkpoint is not None:
        logger.info("continuing after step %d from %s", checkpoint.step, checkpoint.directory)


def _rendering_lines(args: TrainArgs) -> list[str]:
    """What decides the tokens and is not the default."""
    lines = []
    if args.template != "auto":
        lines.append(f"template {args.template}: tokens and loss as LLaMA-Factory makes them")
    if args.reasoning_history == "keep":
        lines.append("reasoning_history keep: every turn keeps its reasoning; serve it so, too")
    if args.reasoning_history == "last_turn":
        lines.append("reasoning_history last_turn: turns that history shows changed are context")
    weights = args.loss_weights.model_dump()
    if set(weights.values()) != {1.0}:
        shown = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
        lines.append(f"loss weights within a turn: {shown}")
    return lines
