"""Plain data parallelism: every rank holds the whole model; one process is the case of one rank.

Trained weights and optimizer state are fp32; with `bf16` the forward pass runs under autocast.
"""

import contextlib
from contextlib import AbstractContextManager

import torch
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import ConfigError
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.checkpoint.state_files import SavedState
from pipeline.trainer.data.collate import MicroBatch
from pipeline.trainer.modeling.load import load_model
from pipeline.trainer.objective import Losses, make_objective
from pipeline.trainer.optimizer.in_backward import UpdateInBackward
from pipeline.trainer.optimizer.make import make_optimizer, set_learning_rate
from pipeline.trainer.parallel.interface import Distributed
from pipeline.trainer.parallel.parts import (
    Part,
    initialize_optimizer_state,
    local_parts,
    share_of,
)
from pipeline.trainer.parallel.strategy import Accepts, evaluating


class DataParallel:
    """DistributedDataParallel over all ranks, or just the model when there is one."""

    def __init__(self, args: TrainArgs, distributed: Distributed) -> None:
        self._args = args
        self._distributed = distributed
        if args.optimizer_in_backward and distributed.world_size > 1:
            raise ConfigError(
                "training.optimizer_in_backward: DDP sums gradients over ranks after they are "
                "complete; set training.fsdp to full_shard"
            )
        self.model = load_model(args, torch.float32)
        torch.nn.Module.to(self.model, distributed.device)
        self.num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self._optimizer = make_optimizer(self.model, args)
        self._in_backward: UpdateInBackward | None = None
        if args.optimizer_in_backward:
            self._in_backward = UpdateInBackward(self._optimizer)
        self._wrapped: torch.nn.Module = make_objective(self.model, args)
        self.name = "single process"
        if distributed.world_size > 1:
            device_ids = None if distributed.device.type == "cpu" else [distributed.local_rank]
            self._wrapped = DistributedDataParallel(self._wrapped, device_ids=device_ids)
            self.name = "DDP"

    def begin_step(self, learning_rate: float) -> None:
        set_learning_rate(self._optimizer.param_groups, learning_rate)

    def losses(self, batch: MicroBatch) -> Losses:
        device = self._distributed.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self._args.bf16):
            return self._wrapped(**vars(batch))

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        # DistributedDataParallel averages over ranks; the loss is normalised globally already.
        loss = loss * self._distributed.world_size
        meeting: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if isinstance(self._wrapped, DistributedDataParallel) and not is_last:
            meeting = self._wrapped.no_sync()
        with meeting:
            loss.backward()

    def evaluating(self) -> AbstractContextManager[None]:
        return evaluating(self.model)

    def step(self, accepts: Accepts | None = None) -> torch.Tensor:
        if self._in_backward is not None:
            return self._in_backward.total_norm()
        limit = self._args.max_grad_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        if accepts is None or accepts(norm.item()):
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def state(self) -> list[Part]:
        parts = local_parts(self.model, self._optimizer)
        return share_of(parts, self._distributed.rank, self._distributed.world_size)

    def load_state(self, saved: SavedState) -> None:
        initialize_optimizer_state(self._optimizer)
        saved.fill(local_parts(self.model, self._optimizer))
