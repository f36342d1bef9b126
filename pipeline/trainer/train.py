"""The native engine: from the training YAML to the first step, the steps, and the end.

What can be refused is refused first: keys, output directory, checkpoint, data, and only then the
model is loaded.
"""

import gc
import os
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipeline.errors import ConfigError
from pipeline.progress import show_progress
from pipeline.trainer.announce import announce
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.checkpoint.random_state import restore_random_state
from pipeline.trainer.checkpoint.state_files import SavedState
from pipeline.trainer.checkpoint.verify import whole_checkpoint
from pipeline.trainer.data.build import open_or_build
from pipeline.trainer.data.store import TokenStore, open_store
from pipeline.trainer.keys.strategy import AUTO
from pipeline.trainer.loop import Run
from pipeline.trainer.memory.check import MemoryCheck
from pipeline.trainer.modeling.compilation import Compilation
from pipeline.trainer.modeling.flex_attention import check_has_gradients
from pipeline.trainer.modeling.float8 import check_float8
from pipeline.trainer.modeling.kernels import with_installed_kernels
from pipeline.trainer.modeling.load import load_config
from pipeline.trainer.modeling.rope import check_positions
from pipeline.trainer.output_dir import (
    Checkpoint,
    check_output_dir,
    clear_output_dir,
    clear_partial_checkpoints,
    find_resume,
)
from pipeline.trainer.parallel.context.context_parallel import ContextParallel
from pipeline.trainer.parallel.interface import Distributed, accelerator_kind
from pipeline.trainer.parallel.strategy import make_strategy
from pipeline.trainer.planned_run import PlannedRun
from pipeline.trainer.references import reference_likelihoods
from pipeline.trainer.reporting.trackers import check_installed
from pipeline.trainer.resume import (
    check_same_sequence,
    check_same_weights,
)
from pipeline.trainer.stop import StopRequest


def train(args: TrainArgs, stop: StopRequest) -> None:
    """Run the whole training that `args` describes; called by every rank.

    Raises:
        ConfigError: keys contradict each other, or the data.
        TrainError: the output directory or the checkpoint cannot be used, or the loss is no number.
        DataError: the dataset cannot be rendered with the model's chat template.
        InterruptedRun: a signal came; `saved` says whether a checkpoint was written.
    """
    stop.check()
    device = accelerator_kind(use_cpu=args.use_cpu)
    _check_keys(args, device)
    output_dir = Path(args.output_dir)
    find_resume(output_dir, args.resume_from_checkpoint)  # refused before anything takes time
    store = _open_data(args)
    distributed = Distributed(
        use_cpu=args.use_cpu,
        timeout_seconds=args.ddp_timeout,
        context_size=args.sequence_parallel_size,
    )
    planned = PlannedRun.of(args, store, distributed.num_data_ranks)
    # After the plan, which is the same on machines with and without them.
    planned = replace(planned, args=with_installed_kernels(planned.args, device))
    args = planned.args
    checkpoint = whole_checkpoint(output_dir, args.resume_from_checkpoint, distributed)
    check_same_sequence(checkpoint, store, planned.plan)
    check_same_weights(checkpoint, args)
    _prepare_output_dir(args, checkpoint, distributed)
    context = ContextParallel.of(args, distributed)
    memory = MemoryCheck(planned, distributed)
    references = None
    if args.stage == "dpo" and args.ref_model:
        resumes = checkpoint is not None
        references = reference_likelihoods(planned, None, distributed, resumes=resumes)
        gc.collect()  # the model and its strategy refer to each other
    _seed(args, args.seed)  # new adapters are the same on all ranks, dropout is not
    with memory.explained(step=None):
        strategy = make_strategy(args, distributed)
    _seed(args, args.seed + distributed.rank)
    if args.trains_pairs and references is None:
        resumes = checkpoint is not None
        references = reference_likelihoods(planned, strategy, distributed, resumes=resumes)
    if checkpoint is not None:
        with SavedState(checkpoint.directory) as saved:
            strategy.load_state(saved)
        restore_random_state(checkpoint.directory, distributed.rank)
    run = Run(planned, references, strategy, distributed, context, memory, checkpoint)
    if distributed.is_main:
        announce(planned, strategy, distributed, context, checkpoint)
        memory.announce()
    stop.begin_training()
    try:
        run.steps(stop)
        run.finish()
    finally:
        run.close()
    distributed.barrier()  # a rank that leaves early would be taken for lost
    distributed.close()


def _check_keys(args: TrainArgs, device: str) -> None:
    """What can be refused before data and model are read, but not by the keys alone."""
    if args.eval_strategy != "no" and not args.evaluates:
        raise ConfigError(
            f"eval_strategy: {args.eval_strategy}: there is nothing to evaluate on; set val_size "
            "or eval_dataset"
        )
    if args.deepspeed == AUTO:
        raise ConfigError(
            "deepspeed: auto is decided before the ranks start (sft train); name a DeepSpeed file, "
            "or write null for DDP"
        )
    if args.flash_attn == "flex":
        check_has_gradients(device)
    if args.fp8:
        check_float8(device)
    Compilation.of(args).check(device)
    check_installed(args.report_to)
    check_positions(load_config(args), args.cutoff_len, args.rope_scaling)


def _open_data(args: TrainArgs) -> TokenStore:
    """Under torchrun the launcher has tokenised; a process alone does it now."""
    if "WORLD_SIZE" in os.environ:
        return open_store(args)
    with show_progress("tokenise", "rows") as progress:
        return open_or_build(args, progress).store


def _prepare_output_dir(
    args: TrainArgs, checkpoint: Checkpoint | None, distributed: Distributed
) -> None:
    output_dir = Path(args.output_dir)
    if distributed.is_main:
        resuming = checkpoint is not None
        check_output_dir(output_dir, overwrite=args.overwrite_output_dir, resuming=resuming)
        output_dir.mkdir(parents=True, exist_ok=True)
        clear_partial_checkpoints(output_dir)
        if not resuming:
            clear_output_dir(output_dir)
    distributed.barrier()


def _seed(args: TrainArgs, seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if args.full_determinism:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
