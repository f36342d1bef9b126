"""The processes of one training run: who am I, which device, and how do ranks talk.

The topology comes from torchrun's environment (RANK, LOCAL_RANK, LOCAL_WORLD_SIZE, WORLD_SIZE,
MASTER_ADDR, MASTER_PORT); without it the process is alone. A CPU run differs from a GPU run only in
the device and the backend. The same ranks are seen as two grids:

    data mesh  (dp, cp)                   cp neighbours share one micro-batch, dp rows differ in it
    model mesh (mp_replicate, mp_shard)   mp_shard neighbours share one copy of the model
"""

import os
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from pipeline.trainer.parallel.groups import num_data_ranks

_BACKENDS = {"cuda": "nccl", "npu": "hccl", "xpu": "xccl"}
"""The collectives of an accelerator; any other device talks through gloo, on the CPU."""
_OPERATIONS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}

Reduction = Literal["sum", "mean", "max", "min"]
_Value = TypeVar("_Value")
_Numbers = TypeVar("_Numbers", torch.Tensor, np.ndarray, float, list[float])


class Distributed:
    """Rank, device, meshes and collectives; one object per process."""

    def __init__(self, *, use_cpu: bool, timeout_seconds: float, context_size: int = 1) -> None:
        """`context_size`: ranks that share one micro-batch, each with a part of its tokens.

        Raises: ConfigError: the ranks cannot be split into groups of `context_size`.
        """
        self.rank = int(os.environ.get("RANK", "0"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.ranks_per_node = int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))
        self.context_size = context_size
        self.num_data_ranks = num_data_ranks(self.world_size, context_size)
        kind = accelerator_kind(use_cpu=use_cpu)
        if kind == "cpu":
            self.device = torch.device("cpu")
        else:
            self.device = torch.device(kind, self.local_rank)
            torch.accelerator.set_device_index(self.local_rank)
        self.backend = _BACKENDS.get(kind, "gloo")
        self._timeout = timedelta(seconds=timeout_seconds)
        if "RANK" in os.environ:
            self._init_process_group()

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def is_initialized(self) -> bool:
        return dist.is_initialized()

    @property
    def data_rank(self) -> int:
        """Which share of every global batch this rank works on; `cp` neighbours share theirs."""
        return self.rank // self.context_size

    @property
    def context_rank(self) -> int:
        """Which part of the tokens of its micro-batch this rank holds."""
        return self.rank % self.context_size

    @cached_property
    def data_mesh(self) -> DeviceMesh:
        """(dp, cp): neighbouring ranks, which talk fastest, share a micro-batch."""
        return self._mesh((self.num_data_ranks, self.context_size), ("dp", "cp"))

    def model_mesh(self, num_replicas: int) -> DeviceMesh:
        """(mp_replicate, mp_shard): `num_replicas` copies of the model, each on neighbours."""
        shape = (num_replicas, self.world_size // num_replicas)
        return self._mesh(shape, ("mp_replicate", "mp_shard"))

    def barrier(self) -> None:
        if self.is_initialized:
            dist.barrier()

    def all_reduce(
        self,
        value: _Numbers,
        reduction: Reduction = "sum",
        group: dist.ProcessGroup | None = None,
    ) -> _Numbers:
        """Element-wise over the ranks of `group` (None: all); every rank gets the result.

        Python's numbers and lists of them are reduced in fp64.
        """
        if not self.is_initialized:
            return value
        tensor = torch.as_tensor(value) if _is_array(value) else torch.tensor(value).double()
        operation = _OPERATIONS["sum" if reduction == "mean" else reduction]
        reduced = tensor.to(self._collective_device, copy=True)
        dist.all_reduce(reduced, operation, group)
        if reduction == "mean":
            reduced /= dist.get_world_size(group)
        if isinstance(value, torch.Tensor):
            return reduced.to(value.device)
        host: Any = reduced.cpu().numpy()
        return host if isinstance(value, np.ndarray) else host.tolist()

    def all_gather(self, value: _Value, group: dist.ProcessGroup | None = None) -> list[_Value]:
        """The value of every rank of `group` (None: all), by rank.

        Tensors have the same shape on every rank; anything else is pickled.
        """
        if not self.is_initialized:
            return [value]
        size = dist.get_world_size(group)
        if isinstance(value, torch.Tensor):
            sent = value.to(self._collective_device).contiguous()
            received = [torch.empty_like(sent) for _ in range(size)]
            dist.all_gather(received, sent, group)
            return [tensor.to(value.device) for tensor in received]
        gathered: list[Any] = [None] * size
        dist.all_gather_object(gathered, value, group)
        return gathered

    def broadcast(
        self, value: _Value, source: int = 0, group: dist.ProcessGroup | None = None
    ) -> _Value:
        """The value of rank `source` of `group` (None: of all ranks).

        A tensor has the same shape and type on every rank; anything else is pickled.
        """
        if not self.is_initialized:
            return value
        if isinstance(value, torch.Tensor):
            sent = value.to(self._collective_device, copy=True).contiguous()
            dist.broadcast(sent, group=group, group_src=source)
            return sent.to(value.device)
        box: list[Any] = [value]
        dist.broadcast_object_list(box, group=group, group_src=source)
        return box[0]

    def close(self) -> None:
        if self.is_initialized:
            dist.destroy_process_group()

    @property
    def _collective_device(self) -> torch.device:
        return torch.device("cpu") if self.backend == "gloo" else self.device

    def _init_process_group(self, **store: Any) -> None:
        """gloo is there on every machine: offloaded tensors and objects stay on the CPU."""
        backend, device_id = "gloo", None
        if self.backend != "gloo":
            backend, device_id = f"cpu:gloo,{self.device.type}:{self.backend}", self.device
        dist.init_process_group(backend, timeout=self._timeout, device_id=device_id, **store)

    def _mesh(self, shape: tuple[int, int], names: tuple[str, str]) -> DeviceMesh:
        if not self.is_initialized:
            alone = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]  it is documented
            self._init_process_group(store=alone, rank=0, world_size=1)
        return init_device_mesh(self._collective_device.type, shape, mesh_dim_names=names)


def accelerator_kind(*, use_cpu: bool) -> str:
    """`cuda`, `npu`, `xpu`, ... or `cpu`."""
    if use_cpu or not torch.accelerator.is_available():
        return "cpu"
    device = torch.accelerator.current_accelerator()
    return device.type if device is not None else "cpu"


def _is_array(value: object) -> bool:
    return isinstance(value, torch.Tensor | np.ndarray)
