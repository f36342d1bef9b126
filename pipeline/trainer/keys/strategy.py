"""How the ranks share the work."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from pipeline.config.strict import EmptyIsNull, OptionalText, StrictModel

AUTO = "auto"
"""Of `deepspeed`: decided before the ranks start, which never see it."""
_SHARDINGS = ("full_shard", "shard_grad_op", "hybrid_shard", "hybrid_shard_zero2")
_OPTIONS = (*_SHARDINGS, "offload", "auto_wrap")
_FSDP1_ONLY = (
    *("backward_prefetch", "forward_prefetch", "limit_all_gathers", "min_num_params"),
    *("sharding_strategy", "sync_module_states", "use_orig_params"),
)


class FsdpConfig(StrictModel):
    """Details of `fsdp`, under Transformers' names."""

    foreign_keys: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(_FSDP1_ONLY, "a detail of FSDP 1, which FSDP 2 has no need of; remove it"),
        "offload_params": "written cpu_offload",
        "activation_checkpointing": "decided by disable_gradient_checkpointing; remove it",
    }

    version: Literal[2] = 2
    """PyTorch's `fully_shard`; its predecessor, version 1, is not supported."""
    reshard_after_forward: bool | None = None
    """Free a layer's gathered weights between its forward and its backward pass. null: as `fsdp`
    says."""
    cpu_offload: bool = False
    """Keep weights, gradients and optimizer state in the memory of the host."""
    mp_shard_size: Annotated[int, Field(ge=1)] | None = None
    """Ranks that share one copy of the model; groups of them hold the same (hybrid sharding). null:
    all ranks, or with `hybrid_shard` those of one node."""
    transformer_layer_cls_to_wrap: str | list[str] | None = None
    """Classes of the modules that are gathered one at a time. null: the model's own layers."""
    auto_wrap_policy: Literal["TRANSFORMER_BASED_WRAP"] = "TRANSFORMER_BASED_WRAP"
    """The one there is."""
    state_dict_type: Literal["FULL_STATE_DICT", "SHARDED_STATE_DICT"] = "FULL_STATE_DICT"
    """No effect: weights are saved whole, the optimizer's state in shards."""
    cpu_ram_efficient_loading: bool = True
    """No effect: every rank always reads only its own part of the weights."""

    @property
    def layer_classes(self) -> tuple[str, ...]:
        given = self.transformer_layer_cls_to_wrap or ()
        return tuple(given.replace(",", " ").split()) if isinstance(given, str) else tuple(given)


def _known_options(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    options = value.split()
    unknown = [option for option in options if option not in _OPTIONS]
    if unknown:
        choices = ", ".join(_OPTIONS)
        raise ValueError(f"unknown option {', '.join(unknown)}; choose among {choices}, or null")
    if sum(option in _SHARDINGS for option in options) > 1:
        raise ValueError(f"names more than one of {', '.join(_SHARDINGS)}; keep one")
    return value


class StrategyKeys(StrictModel):
    """How the ranks share the work."""

    native_keys: ClassVar[frozenset[str]] = frozenset(
        {"sequence_parallel_size", "sequence_parallel_mode"}
    )

    deepspeed: OptionalText = "training_config/deepspeed/ds_z3_config.json"
    """DeepSpeed JSON, relative to the project root. null: `fsdp` or DistributedDataParallel. auto:
    the first of DDP, ZeRO-2, ZeRO-3 and these two with offload that fits by its memory plan."""
    fsdp: Annotated[bool | str | None, EmptyIsNull, BeforeValidator(_known_options)] = None
    """Shard weights, gradients and optimizer state with PyTorch's FSDP2: true, or words of
    Transformers: `full_shard`; `shard_grad_op` keeps layers gathered until their backward pass;
    `hybrid_shard`, `hybrid_shard_zero2`: the same within each node, which holds a whole model;
    `offload`: in the memory of the host. Needs `deepspeed: null`."""
    fsdp_config: FsdpConfig = FsdpConfig()
    """Details of `fsdp`."""
    use_cpu: bool = False
    """Train on CPU although an accelerator is visible."""
    ddp_timeout: int = Field(default=1800, ge=1)
    """Seconds that a rank waits for the others in a collective operation."""
    sequence_parallel_size: int = Field(default=1, ge=1)
    """Ranks that share every micro-batch, each with a part of its tokens (context parallelism), for
    documents that one rank has no memory for. It divides the number of ranks; the examples of a
    micro-batch are then one sequence, as with `packing`."""
    sequence_parallel_mode: Literal["auto", "ulysses", "zigzag-ring"] = "auto"
    """How they share attention. `ulysses`: each has some heads, of which it divides the number;
    `zigzag-ring`: keys and values go round; `auto`: ulysses where it can."""

    @field_validator("fsdp")
    @classmethod
    def _one_partitioning(cls, fsdp: bool | str | None, info: ValidationInfo) -> bool | str | None:
        if fsdp and info.data.get("deepspeed"):
            raise ValueError(
                "contradicts deepspeed, which partitions the model too: set it to null"
            )
        return fsdp

    @property
    def fsdp_options(self) -> frozenset[str] | None:
        """The words of `fsdp`; None: it is off."""
        if not self.fsdp:
            return None
        return frozenset(self.fsdp.split() if isinstance(self.fsdp, str) else ())
