"""How many groups of ranks work on different data. Imports no torch: the dry run counts, too."""

from pipeline.errors import ConfigError


def num_data_ranks(world_size: int, context_size: int) -> int:
    """Groups of `context_size` ranks that share their micro-batches.

    Raises: ConfigError: the ranks cannot be split into such groups.
    """
    if world_size % context_size:
        raise ConfigError(
            f"sequence_parallel_size: {world_size} ranks cannot be split into groups of "
            f"{context_size} that share a sequence; set training.sequence_parallel_size to a "
            "divisor of the ranks, or change infrastructure.n_gpus_per_node"
        )
    return world_size // context_size
