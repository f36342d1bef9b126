"""What `fsdp`, `fsdp_config` and Accelerate's environment ask for. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.trainer.args import TrainingKeys
from pipeline.trainer.keys.finetuning import split_names

_HYBRID = {"hybrid_shard", "hybrid_shard_zero2"}
_OF_WHOLE_WEIGHTS = ("additional_target", "pissa_init", "use_dora", "quantization_bit")
_TRUE = ("1", "true", "yes", "on", "y", "t")


@dataclass(frozen=True)
class Sharding:
    """How the ranks share weights, gradients and optimizer state."""

    reshard_after_forward: bool = True
    """Layers are gathered again for the backward pass, instead of kept since the forward pass."""
    cpu_offload: bool = False
    is_hybrid: bool = False
    """Sharded within groups of ranks that each hold one whole model."""
    group_size: int | None = None
    """Ranks of such a group. None: those of one node."""
    layer_classes: tuple[str, ...] = ()
    """Modules that are gathered one at a time. Empty: the model's own transformer layers."""

    def num_replicas(self, world_size: int, ranks_per_node: int) -> int:
        """Raises: ConfigError: the ranks do not form groups of the size that is asked for."""
        if not self.is_hybrid:
            return 1
        size = self.group_size or ranks_per_node
        if world_size % size:
            raise ConfigError(
                f"training.fsdp: hybrid_shard: {world_size} ranks cannot be split into groups of "
                f"{size}; change fsdp_config.mp_shard_size"
            )
        return world_size // size

    def name(self, num_replicas: int) -> str:
        """What the run calls itself."""
        hybrid = f" (HSDP, {num_replicas} replicas)" if num_replicas > 1 else ""
        return f"FSDP2{hybrid}{', CPU offload' if self.cpu_offload else ''}"


def sharding_of(keys: TrainingKeys, environment: Mapping[str, str]) -> Sharding | None:
    """The sharding of this run; None: not with FSDP.

    Raises: ConfigError: DeepSpeed is asked for as well, Accelerate asks for FSDP 1, or something
        is asked for that needs whole tensors.
    """
    sharding = _asked_for(keys, environment)
    if sharding is not None:
        _check_whole_tensors(keys, sharding)
    return sharding


def _asked_for(keys: TrainingKeys, environment: Mapping[str, str]) -> Sharding | None:
    options = keys.fsdp_options
    config = keys.fsdp_config
    if options is None:
        if not _is_true(environment.get("ACCELERATE_USE_FSDP", "")):
            return None
        _check_environment(keys, environment)
        return Sharding(
            reshard_after_forward=_is_true(environment.get("FSDP_RESHARD_AFTER_FORWARD", "true")),
            cpu_offload=_is_true(environment.get("FSDP_OFFLOAD_PARAMS", "false")),
        )
    reshard = config.reshard_after_forward
    if reshard is None:
        reshard = not options & {"shard_grad_op", "hybrid_shard_zero2"}
    return Sharding(
        reshard_after_forward=reshard,
        cpu_offload=config.cpu_offload or "offload" in options,
        is_hybrid=bool(options & _HYBRID) or config.mp_shard_size is not None,
        group_size=config.mp_shard_size,
        layer_classes=config.layer_classes,
    )


def _check_environment(keys: TrainingKeys, environment: Mapping[str, str]) -> None:
    version = environment.get("FSDP_VERSION", "1")  # Accelerate's own default
    if version != "2":
        raise ConfigError(
            f"ACCELERATE_USE_FSDP is set with FSDP_VERSION {version}; the native engine has "
            "FSDP 2 only: set FSDP_VERSION=2, or training.fsdp instead of both"
        )
    if keys.deepspeed:
        raise ConfigError(
            "ACCELERATE_USE_FSDP is set, but so is training.deepspeed, and both partition the "
            "model; set training.deepspeed: null, or unset the variable"
        )


def _check_whole_tensors(keys: TrainingKeys, sharding: Sharding) -> None:
    for key in _OF_WHOLE_WEIGHTS:
        if getattr(keys, key):
            raise ConfigError(
                f"training.{key}: needs whole weights, and with fsdp every rank holds a part of "
                "them; remove it, or use DDP (training.fsdp and training.deepspeed null)"
            )
    if keys.stage == "rm" and keys.finetuning_type == "lora":
        raise ConfigError(
            "training.stage rm: with finetuning_type lora the adapter holds the whole output layer "
            "that fsdp would shard; use DDP or DeepSpeed (training.fsdp null), or full or freeze"
        )
    adapters = split_names(keys.adapter_name_or_path)
    if len(adapters) > 1 or (adapters and keys.create_new_adapter):
        raise ConfigError(
            "training.adapter_name_or_path: adapters cannot be merged into weights that fsdp "
            "shards; merge them first with sft export --to model"
        )
    if keys.use_muon and sharding.cpu_offload:
        raise ConfigError(
            "training.use_muon: computes with whole matrices, and fsdp is to keep them on the "
            "host, which would take minutes a step; remove one of both"
        )


def _is_true(value: str) -> bool:
    return value.strip().lower() in _TRUE
