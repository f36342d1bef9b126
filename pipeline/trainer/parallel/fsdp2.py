"""PyTorch's FSDP2: weights, gradients and optimizer state sharded over ranks (ZeRO stage 3).

The model is built without memory, sharded, and then every rank reads its own rows of every
parameter. The masters are fp32; with `bf16` they are gathered, and layers run, in bf16, while
gradients are reduced in fp32. Frozen weights are bf16 themselves; adapters beside them are whole on
every rank.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from pipeline.errors import ConfigError, TrainError
from pipeline.trainer.adapters.beside_shards import average_gradients
from pipeline.trainer.adapters.lora import has_adapter
from pipeline.trainer.adapters.trained import freeze
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.checkpoint.state_files import SavedState
from pipeline.trainer.data.collate import MicroBatch
from pipeline.trainer.modeling.load import load_model
from pipeline.trainer.objective import Losses, make_objective
from pipeline.trainer.optimizer.in_backward import UpdateInBackward
from pipeline.trainer.optimizer.make import make_optimizer, set_learning_rate
from pipeline.trainer.parallel.fsdp_config import Sharding
from pipeline.trainer.parallel.interface import Distributed
from pipeline.trainer.parallel.partitioned_loading import Partitioning
from pipeline.trainer.parallel.parts import Part, initialize_optimizer_state, local_parts, share_of
from pipeline.trainer.parallel.strategy import Accepts, evaluating


class FullySharded:
    """`fully_shard` on every transformer layer, and on the objective for all that is outside."""

    def __init__(self, args: TrainArgs, distributed: Distributed, sharding: Sharding) -> None:
        self._args = args
        self._distributed = distributed
        self._sharding = sharding
        if args.optimizer_in_backward and sharding.cpu_offload:
            raise ConfigError(
                "training.optimizer_in_backward: gradients that FSDP2 offloads are still on their "
                "way to the host in the backward pass; remove one of the two"
            )
        num_replicas = sharding.num_replicas(distributed.world_size, distributed.ranks_per_node)
        mesh = distributed.model_mesh(num_replicas)
        self._mesh = mesh if num_replicas > 1 else mesh["mp_shard"]
        self.name = sharding.name(num_replicas)
        device = torch.device("cpu") if sharding.cpu_offload else distributed.device
        self.model = load_model(args, torch.float32, Partitioning(self._shard, device))
        for buffer in self.model.buffers():  # of an offloaded model only parameters stay behind
            buffer.data = buffer.data.to(distributed.device)
        self.num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self._optimizer = make_optimizer(self.model, args)
        self._in_backward: UpdateInBackward | None = None
        if args.optimizer_in_backward:
            self._in_backward = UpdateInBackward(self._optimizer)

    def begin_step(self, learning_rate: float) -> None:
        set_learning_rate(self._optimizer.param_groups, learning_rate)

    def losses(self, batch: MicroBatch) -> Losses:
        # FSDP casts what it gathers; adapters beside it are fp32.
        has_casts = self._args.bf16 and has_adapter(self.model)
        with torch.autocast(self._distributed.device.type, torch.bfloat16, enabled=has_casts):
            return self._objective(**vars(batch))

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        # Within a group gradients are reduced to shards at every micro-step, so that no rank holds
        # those of the whole model; replicas meet at the last one.
        cast(FSDPModule, self._objective).set_requires_all_reduce(is_last)
        # FSDP averages over ranks; the loss is normalised globally already.
        (loss * self._distributed.world_size).backward()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        with evaluating(self._objective):
            yield
        # Without a backward pass parameters stay gathered, and `state` would not find the shards.
        for module in self._objective.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def step(self, accepts: Accepts | None = None) -> torch.Tensor:
        if self._in_backward is not None:
            return _whole(self._in_backward.total_norm())
        average_gradients(self.model.parameters(), self._distributed)
        limit = self._args.max_grad_norm or float("inf")
        norm = _whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        if accepts is None or accepts(norm.item()):
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def state(self) -> list[Part]:
        mesh = self._mesh
        if mesh.ndim == 2 and mesh.get_local_rank("mp_replicate"):
            return []  # the first copy of the model is saved
        parts = local_parts(self.model, self._optimizer)
        if has_adapter(self.model):  # whole on every rank
            return share_of(parts, mesh.get_local_rank("mp_shard"), mesh["mp_shard"].size())
        return parts

    def load_state(self, saved: SavedState) -> None:
        initialize_optimizer_state(self._optimizer)
        saved.fill(local_parts(self.model, self._optimizer))

    def _shard(self, model: PreTrainedModel) -> None:
        """Called with the empty model; what is in no unit stays with the objective."""
        _tie_weights(model)
        if self._args.finetuning_type == "freeze":  # weights are read in the dtype they have here
            freeze(model, self._args, torch.float32)
        objective = make_objective(model, self._args)
        precision = torch.bfloat16 if self._args.bf16 else None
        policy = MixedPrecisionPolicy(
            param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        offload = OffloadPolicy()
        if self._sharding.cpu_offload:
            offload = CPUOffloadPolicy(pin_memory=self._distributed.device.type != "cpu")
        units = _layers(model, self._sharding.layer_classes)
        embeddings = model.get_input_embeddings()
        head = model.get_output_embeddings()
        if head is not None and head.weight is not embeddings.weight:
            units.append(embeddings)
        for unit in units:
            fully_shard(
                unit,
                mesh=self._mesh,
                reshard_after_forward=self._sharding.reshard_after_forward,
                mp_policy=policy,
                offload_policy=offload,
            )
        fully_shard(objective, mesh=self._mesh, mp_policy=policy, offload_policy=offload)
        self._objective = objective


def _tie_weights(model: PreTrainedModel) -> None:
    """Transformers does it after loading, when the weight would be in two units: gathered and
    reduced twice, its gradient complete only after the second time."""
    for name, source in model.all_tied_weights_keys.items():
        module, _, parameter = name.rpartition(".")
        setattr(model.get_submodule(module), parameter, model.get_parameter(source))


def _layers(model: PreTrainedModel, classes: tuple[str, ...]) -> list[torch.nn.Module]:
    """Modules of the given classes or, without any, of the model's own layers; inner ones first.

    Raises: TrainError: there are none.
    """
    wanted = set(classes) or set(model._no_split_modules or ())
    found = [module for module in model.modules() if type(module).__name__ in wanted]
    if not found:
        why = f"has no module of class {', '.join(sorted(wanted))}"
        if not wanted:
            why = "does not say which modules are its layers"
        raise TrainError(
            f"fsdp: {type(model).__name__} {why}; name the class of its transformer layers in "
            "fsdp_config.transformer_layer_cls_to_wrap"
        )
    return found[::-1]


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """A collective where the tensor is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
