"""Property: ranks know their place in both meshes, and every collective gives what it says.

Four real processes on CPU. Run: pytest tests/test_trainer_interface.py
"""

import multiprocessing
import os
import socket
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.trainer.parallel.interface import Distributed

_RANKS = 4


def _on_rank(rank: int, port: int, work: Callable[[Distributed], Any], context_size: int) -> Any:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(_RANKS),
        WORLD_SIZE=str(_RANKS),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    distributed = Distributed(use_cpu=True, timeout_seconds=60, context_size=context_size)
    result = work(distributed)
    distributed.barrier()
    distributed.close()
    return result


def _on_all_ranks(work: Callable[[Distributed], Any], *, context_size: int = 1) -> list[Any]:
    """What `work` returns on every rank, by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "numpy"])
    with ProcessPoolExecutor(_RANKS, mp_context=context) as pool:
        ranks = [pool.submit(_on_rank, rank, port, work, context_size) for rank in range(_RANKS)]
        return [rank.result(timeout=120) for rank in ranks]


def _collectives(distributed: Distributed) -> dict[str, Any]:
    rank = distributed.rank
    tensor = torch.tensor([rank, 10 * rank])
    pairs = distributed.model_mesh(2).get_group("mp_shard")
    return {
        "sum": distributed.all_reduce([float(rank), 1.0]),
        "sum of a half-precision tensor": distributed.all_reduce(torch.ones(2).bfloat16()),
        "mean of numbers": distributed.all_reduce(float(rank), "mean"),
        "max of an array": distributed.all_reduce(np.array([rank, -rank]), "max"),
        "min in pairs": distributed.all_reduce(float(rank), "min", pairs),
        "tensors": torch.stack(distributed.all_gather(tensor)),
        "tensors in pairs": torch.stack(distributed.all_gather(tensor, pairs)),
        "objects": distributed.all_gather("x" * rank),
        "arrays": [len(array) for array in distributed.all_gather(np.zeros(rank))],
        "tensor from 2": distributed.broadcast(tensor, 2),
        "object from 3": distributed.broadcast({"rank": rank}, 3),
        "from the second of a pair": distributed.broadcast(rank, 1, pairs),
        "argument": tensor,
    }


def test_collectives_on_tensors_arrays_numbers_and_objects() -> None:
    for rank, result in enumerate(_on_all_ranks(_collectives)):
        pair = [0, 1] if rank < 2 else [2, 3]
        assert result["sum"] == [6.0, 4.0]
        half = result["sum of a half-precision tensor"]
        assert (half.dtype, half.tolist()) == (torch.bfloat16, [4.0, 4.0])
        assert result["mean of numbers"] == 1.5
        assert result["max of an array"].tolist() == [3, 0]
        assert result["min in pairs"] == pair[0]
        assert result["tensors"].tolist() == [[0, 0], [1, 10], [2, 20], [3, 30]]
        assert result["tensors in pairs"].tolist() == [[other, 10 * other] for other in pair]
        assert result["objects"] == ["", "x", "xx", "xxx"]
        assert result["arrays"] == [0, 1, 2, 3]
        assert result["tensor from 2"].tolist() == [2, 20]
        assert result["object from 3"] == {"rank": 3}
        assert result["from the second of a pair"] == pair[1]
        assert result["argument"].tolist() == [rank, 10 * rank], "arguments are left alone"


def _places(distributed: Distributed) -> dict[str, Any]:
    data, model = distributed.data_mesh, distributed.model_mesh(2)
    return {
        "data": (distributed.data_rank, distributed.num_data_ranks, distributed.context_rank),
        "data mesh": (data.get_local_rank("dp"), data.get_local_rank("cp"), data.mesh.tolist()),
        "model mesh": (
            model.get_local_rank("mp_replicate"),
            model.get_local_rank("mp_shard"),
            model.mesh.tolist(),
        ),
    }


def test_neighbours_share_a_sequence_and_a_copy_of_the_model() -> None:
    pairs = [[0, 1], [2, 3]]
    for rank, place in enumerate(_on_all_ranks(_places, context_size=2)):
        row, column = divmod(rank, 2)
        assert place["data"] == (row, 2, column)
        assert place["data mesh"] == (row, column, pairs)
        assert place["model mesh"] == (row, column, pairs)


def test_a_process_alone_is_all_ranks() -> None:
    alone = Distributed(use_cpu=True, timeout_seconds=60)
    tensor = torch.tensor([1.5])
    assert alone.all_reduce([2.0], "mean") == [2.0]
    assert alone.all_gather(tensor) == [tensor]
    assert alone.broadcast("me") == "me"
    assert (alone.data_rank, alone.num_data_ranks, alone.context_rank) == (0, 1, 0)
    try:
        assert alone.model_mesh(1).mesh.tolist() == [[0]]
        assert alone.data_mesh.mesh.tolist() == [[0]]
        assert alone.all_reduce(3.0) == 3.0
    finally:
        alone.close()


def test_ranks_that_cannot_share_sequences_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="4 ranks cannot be split into groups of 3 that share"):
        Distributed(use_cpu=True, timeout_seconds=60, context_size=3)
