"""A run of a sample of the data, tokenised and planned as the trainer will do it with all of it."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import DataError
from pipeline.files import write_json
from pipeline.jsonl import encode_json
from pipeline.log import silenced
from pipeline.preflight.model import readable_model
from pipeline.preflight.report import Context
from pipeline.preflight.source import Sample
from pipeline.preflight.train_args import train_args
from pipeline.progress import show_progress
from pipeline.sharegpt import LfFormat, detect_format
from pipeline.step1_register import INFO_FILE, dataset_entry
from pipeline.step2_train import nproc_per_node
from pipeline.trainer.data.build import open_or_build
from pipeline.trainer.keys.finetuning import Stage

if TYPE_CHECKING:
    from pipeline.trainer.planned_run import PlannedRun

_KINDS: dict[LfFormat, str] = {
    "structured": "conversations",
    "rendered": "conversations",
    "text": "texts",
    "pairs": "pairs",
}
_TRAINED: dict[Stage, str] = {
    "sft": "conversations",
    "pt": "texts",
    "dpo": "pairs",
    "rm": "pairs",
}


@contextmanager
def sample_run(context: Context, sample: Sample) -> Iterator["PlannedRun"]:
    """One epoch of the sample, none of it held out. Its files go away with the block.

    Raises:
        DataError: nothing of the sample can be trained on; names the first reason.
        ConfigError: the keys contradict the model or the data.
    """
    from pipeline.trainer.planned_run import PlannedRun

    with tempfile.TemporaryDirectory(prefix="sft-dryrun-") as directory:
        dataset_dir = Path(directory)
        name = context.paths.dataset_name
        file = dataset_dir / "sample.jsonl"
        file.write_bytes(b"\n".join(map(encode_json, sample.rows)))
        lf_format = _format_of(sample, context.given.training.stage)
        write_json(dataset_dir / INFO_FILE, {name: dataset_entry(dataset_dir, file, lf_format)})
        args = train_args(context, readable_model(context)).model_copy(
            update={
                "dataset": name,
                "dataset_dir": directory,
                "eval_dataset": None,
                "max_steps": -1,
                "mix_strategy": "concat",
                "num_train_epochs": 1.0,
                "tokenized_path": None,
                "val_size": 0.0,
            }
        )
        with silenced(logging.INFO), show_progress("tokenise a sample", "rows") as progress:
            store = open_or_build(args, progress).store
        ranks = nproc_per_node(context.config)
        yield PlannedRun.of(args, store, max(1, ranks // args.sequence_parallel_size))


def _format_of(sample: Sample, stage: Stage) -> LfFormat:
    """Of the first row that has one. Raises: DataError: none has, or it is for another stage."""
    first_error: DataError | None = None
    for row in sample.rows:
        try:
            found = detect_format(row)
        except DataError as error:
            first_error = first_error or error
            continue
        if _KINDS[found] != _TRAINED[stage]:
            raise DataError(
                f"training.stage {stage} trains on {_TRAINED[stage]}, not on {_KINDS[found]}; "
                "choose another stage, or other data"
            )
        return found
    raise DataError(f"none of {len(sample.rows)} rows can be read: {first_error}") from first_error
