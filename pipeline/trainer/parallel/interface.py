"""The processes of one training run: who am I, which device, and how do ranks talk.

The topology comes from torchrun's environment (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR,
MASTER_PORT); without it the process is alone. A CPU run differs from a GPU run only in the device
and the backend.
"""

import os
from datetime import timedelta

import torch
import torch.distributed as dist

_BACKENDS = {"cuda": "nccl", "npu": "hccl", "xpu": "xccl"}


class Distributed:
    """Rank, device and the few collectives that the loop needs."""

    def __init__(self, *, use_cpu: bool, timeout_seconds: float) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        kind = accelerator_kind(use_cpu=use_cpu)
        if kind == "cpu":
            self.device = torch.device("cpu")
        else:
            self.device = torch.device(kind, self.local_rank)
            torch.accelerator.set_device_index(self.local_rank)
        self.backend = _BACKENDS.get(kind, "gloo")
        if "RANK" in os.environ:
            dist.init_process_group(
                self.backend,
                timeout=timedelta(seconds=timeout_seconds),
                device_id=None if kind == "cpu" else self.device,
            )

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def is_initialized(self) -> bool:
        return dist.is_initialized()

    def barrier(self) -> None:
        if self.is_initialized:
            dist.barrier()

    def sum(self, values: list[float]) -> list[float]:
        """Element-wise sum over all ranks, in fp64; every rank gets the result."""
        if not self.is_initialized:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def close(self) -> None:
        if self.is_initialized:
            dist.destroy_process_group()


def accelerator_kind(*, use_cpu: bool) -> str:
    """`cuda`, `npu`, `xpu`, ... or `cpu`."""
    if use_cpu or not torch.accelerator.is_available():
        return "cpu"
    device = torch.accelerator.current_accelerator()
    return device.type if device is not None else "cpu"
