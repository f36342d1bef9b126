"""What the model finds of every pair before the training: the reference of stage dpo.

Measured once, by the model that the training starts from, or by `ref_model` before that one is
loaded, so that no two are in memory; kept in the output directory, so that a resumed run compares
with the very same numbers.

    <output_dir>/reference.npy   (pairs, 2) fp32: log likelihoods of the chosen and rejected sides
"""

import io
import logging
from pathlib import Path

import numpy as np

from pipeline.errors import ConfigError
from pipeline.files import write_bytes
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.load import load_pairs
from pipeline.trainer.data.tokenize import TokenizerSource
from pipeline.trainer.output_dir import REFERENCE_FILE
from pipeline.trainer.parallel.interface import Distributed
from pipeline.trainer.parallel.strategy import Strategy, make_strategy
from pipeline.trainer.planned_run import PlannedRun

logger = logging.getLogger(__name__)


def reference_likelihoods(
    planned: PlannedRun, strategy: Strategy | None, distributed: Distributed, *, resumes: bool
) -> np.ndarray:
    """(pairs, 2) fp32; called by all ranks. Zeros where the loss compares with nothing.

    `strategy`: with the weights that the training starts from; None: those of `ref_model` are
        loaded for this and let go.

    Raises: ConfigError: `ref_model` has another tokenizer. TrainError: it cannot be loaded.
    """
    num_pairs = len(planned.data)
    if planned.args.stage == "rm" or not planned.args.has_reference:
        return np.zeros((num_pairs, 2), dtype=np.float32)
    file = Path(planned.args.output_dir) / REFERENCE_FILE
    known = resumes and file.is_file()
    if distributed.all_reduce(float(known), "min"):
        return np.load(file)
    logger.info("reference: the likelihoods of %s pairs before the training", f"{num_pairs:,}")
    if strategy is None:
        strategy = make_strategy(_of_reference(planned.args), distributed)
    found = distributed.all_reduce(_measured(planned, strategy, distributed))
    if distributed.is_main:
        buffer = io.BytesIO()
        np.save(buffer, found)
        write_bytes(file, buffer.getvalue())
    return found


def _of_reference(args: TrainArgs) -> TrainArgs:
    """The keys with which `ref_model` is loaded."""
    changed = {"model_name_or_path": args.ref_model, "model_revision": "main"}
    changed |= {"finetuning_type": "full", "adapter_name_or_path": None, "quantization_bit": None}
    reference = args.model_copy(update=changed)
    ours, theirs = (TokenizerSource.of(keys).load().get_vocab() for keys in (args, reference))
    if ours != theirs:
        raise ConfigError(
            f"training.ref_model: {args.ref_model} has another vocabulary than "
            f"{args.model_name_or_path}; choose a model with the same tokenizer"
        )
    return reference


def _measured(planned: PlannedRun, strategy: Strategy, distributed: Distributed) -> np.ndarray:
    """(pairs, 2) fp32, zero for the pairs of other ranks."""
    args, plan, data = planned.args, planned.plan, planned.data
    none_yet = np.zeros((len(data), 2), dtype=np.float32)
    measured = none_yet.copy()
    batches = plan.evaluation(
        np.arange(len(data)), distributed.data_rank, args.per_device_eval_batch_size
    )
    with strategy.evaluating():
        for pairs in batches:
            batch = load_pairs(data, pairs, none_yet)
            likelihoods = strategy.losses(batch.to(distributed.device)).pairs
            assert likelihoods is not None
            measured[pairs] = likelihoods.cpu().numpy()
    return measured
