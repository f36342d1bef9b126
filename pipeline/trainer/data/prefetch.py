"""Micro-batches that are ready when the device is: made on a thread, one ahead of their use."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from pipeline.trainer.data.collate import MicroBatch


def prefetch(
    make: Callable[[list[int]], MicroBatch], indices: Iterable[list[int]], device: torch.device
) -> Iterator[MicroBatch]:
    """`make(...)` of every item of `indices`, in their order, on `device`.

    While one is in use, the next is read from the store and put into pinned memory; the copy to the
    device then waits for nothing.
    """

    def on_host(wanted: list[int]) -> MicroBatch:
        batch = make(wanted)
        return batch if device.type == "cpu" else batch.pinned()

    remaining = iter(indices)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="micro-batches") as pool:
        upcoming = next(remaining, None)
        future = pool.submit(on_host, upcoming) if upcoming is not None else None
        while future is not None:
            batch = future.result()
            upcoming = next(remaining, None)
            future = pool.submit(on_host, upcoming) if upcoming is not None else None
            yield batch.to(device)
