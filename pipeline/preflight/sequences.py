"""Whether the ranks can share sequences as `sequence_parallel_size` says."""

from collections.abc import Iterator

from pipeline.preflight.model import readable_model
from pipeline.preflight.report import Check, Context
from pipeline.preflight.train_args import train_args
from pipeline.step2_train import nproc_per_node
from pipeline.trainer.parallel.context.choice import choose_mode
from pipeline.trainer.parallel.groups import num_data_ranks


def check_shared_sequences(context: Context) -> Iterator[Check]:
    """Nothing where every rank has its own.

    Raises:
        ConfigError: the ranks cannot be split into groups.
        TrainError: the model's attention cannot be shared so.
    """
    size = context.given.training.sequence_parallel_size
    if context.given.infrastructure.engine != "native" or size == 1:
        return
    ranks = nproc_per_node(context.config)
    num_data_ranks(ranks, size)
    from pipeline.trainer.modeling.load import load_config

    args = train_args(context, readable_model(context))
    mode = choose_mode(args, load_config(args))
    yield Check("OK", "sequences", f"each is shared by {size} of {ranks} ranks ({mode})")
