"""The random number generators of a rank."""

import io
import random
from pathlib import Path

import numpy as np
import torch


def random_state_file(rank: int) -> str:
    return f"rng_state_{rank}.pth"


def random_state() -> bytes:
    """The content of a rank's file."""
    state = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["accelerator"] = torch.cuda.get_rng_state()
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def restore_random_state(checkpoint: Path, rank: int) -> None:
    file = checkpoint / random_state_file(rank)
    if not file.is_file():
        return  # more ranks than before: the new ones start from the seed
    state = torch.load(file, weights_only=False)  # our own file; NumPy's state is no tensor
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "accelerator" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["accelerator"])
