"""Saving in a process beside the rank: training waits for a copy in host memory only.

A process, because a thread would share the interpreter's lock with the training loop.
"""

import contextlib
import logging
import mmap
import multiprocessing
import os
import pickle
from multiprocessing import util
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import psutil
import torch

from pipeline.trainer.checkpoint.inline import InlineWriter
from pipeline.trainer.checkpoint.process import SharedDescriptor, serve
from pipeline.trainer.checkpoint.state_files import ALIGNMENT, StateFile, wait_for_copies
from pipeline.trainer.checkpoint.writer import Publication, WriteJob

logger = logging.getLogger(__name__)

_MEMORY_SHARE = 0.8
"""Of the free memory; beyond that the machine would kill the run."""


def can_save_in_background() -> bool:
    """Anonymous shared files are Linux's."""
    return hasattr(os, "memfd_create")


class BackgroundWriter:
    """One process, started with the first save and again if it died."""

    def __init__(self, ranks_per_node: int) -> None:
        self._ranks_per_node = ranks_per_node
        self._memory = _SharedMemory()
        self._inline: InlineWriter | None = None
        self._process: SpawnProcess | None = None
        self._connection: Any = None

    def write(
        self, partial: Path, rank: int, files: list[StateFile], extras: dict[str, bytes]
    ) -> None:
        places: list[tuple[str, bytes, int, int]] = []
        end = 0
        for file in files:
            start = -(-end // ALIGNMENT) * ALIGNMENT
            end = start + file.data_bytes
            places.append((file.name, file.header, start, end))
        if not self._fits(end):
            self._inline = InlineWriter()
            self._inline.write(partial, rank, files, extras)
            return
        self._inline = None
        buffer = self._memory.of_size(end or 1)
        for file, (_, _, start, stop) in zip(files, places, strict=True):
            file.copy_to(buffer[start:stop])
        wait_for_copies()
        self._send(WriteJob(partial, rank, places, extras))

    def publish(self, publication: Publication) -> None:
        self._inline = None
        self._send(publication)

    def outcome(self, *, wait: bool) -> str | None:
        if self._inline is not None:
            return self._inline.outcome(wait=wait)
        assert self._process is not None, "a job was sent"
        if not wait and not self._connection.poll():
            return None
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            status = self._process.exitcode
            self._process = None
            return f"the process that writes checkpoints died (exit status {status})"

    def close(self) -> None:
        if self._process is not None:
            self._connection.close()
            self._process.join()
        self._process = None
        self._memory.close()

    def _fits(self, size: int) -> bool:
        free = psutil.virtual_memory().available * _MEMORY_SHARE / self._ranks_per_node
        missing = size - self._memory.size
        if missing > free and self._inline is None:
            logger.warning(
                "checkpoints are saved while training waits: a copy of the state takes %.1f GB of "
                "memory per rank, and %.1f GB are free",
                missing / 1e9,
                free / 1e9,
            )
        return missing <= free

    def _send(self, job: WriteJob | Publication) -> None:
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            process = context.Process(
                target=serve,
                args=(theirs, SharedDescriptor(self._memory.descriptor), os.getpid()),
                name="checkpoint writer",
                daemon=True,
            )
            process.start()
            theirs.close()
            # At an exit that did not call `close` the process would be waited for in vain.
            util.Finalize(None, ours.close, exitpriority=1)
            self._process, self._connection = process, ours
        with contextlib.suppress(BrokenPipeError):  # it died; `outcome` says so
            # Not `send`: torch makes it pass tensors through /dev/shm.
            self._connection.send_bytes(pickle.dumps(job))


class _SharedMemory:
    """Memory that the writing process sees, too; kept from one save to the next."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("checkpoint")
        self.size = 0
        self._map: mmap.mmap | None = None
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def of_size(self, size: int) -> torch.Tensor:
        """(size,) uint8; copies from a CUDA device to it need no bounce buffer."""
        if size > self.size:
            self.close()
            os.ftruncate(self.descriptor, size)
            self._map = mmap.mmap(self.descriptor, size)
            self._buffer = torch.frombuffer(self._map, dtype=torch.uint8)
            self.size = size
            if torch.cuda.is_available():
                _cuda_runtime().cudaHostRegister(self._buffer.data_ptr(), size, 0)
        return self._buffer[:size]

    def close(self) -> None:
        """Give the mapping back; it is made anew when needed."""
        if self._map is None:
            return
        if torch.cuda.is_available():
            _cuda_runtime().cudaHostUnregister(self._buffer.data_ptr())
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._map.close()
        self._map, self.size = None, 0


def _cuda_runtime() -> Any:
    return torch.cuda.cudart()
