"""Loading a model of which every rank reads its own part.

Transformers builds a model on the meta device, that is without memory, and then fills it from the
files. A parameter that is a DTensor by then is filled with the slice that belongs to this rank,
read from safetensors without the rest, also where several tensors of the file become one (experts).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from transformers import PreTrainedModel


class Partitioning(NamedTuple):
    """How a model is partitioned between its making and the reading of its weights."""

    shard: Callable[[PreTrainedModel], None]
    """Turns the parameters of a model on the meta device into DTensors."""
    device: torch.device
    """Where they go."""

    def class_for(
        self, auto: Any, config: Any, *, trust_remote_code: bool
    ) -> type[PreTrainedModel]:
        """The class that `auto`, one of `AutoModelFor...`, chooses, made to shard every new
        model."""
        with torch.device("meta"):
            empty = auto.from_config(config, trust_remote_code=trust_remote_code)
        chosen = type(empty)
        shard = self.shard

        def make_and_shard(self: Any, *args: Any, **kwargs: Any) -> None:
            chosen.__init__(self, *args, **kwargs)
            self.__class__ = chosen  # Transformers reads much from a model's class
            with torch.device("cpu"):  # where `shard` makes tensors of its own
                shard(self)

        made = type(chosen.__name__, (chosen,), {"__init__": make_and_shard})
        return cast(type[PreTrainedModel], made)
