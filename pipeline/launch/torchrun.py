"""The command line and the environment that start the trainer on this machine."""

import os
import sys
from pathlib import Path

_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK")


def build_torchrun_argv(nproc_per_node: int, train_yaml: Path, log_dir: Path) -> list[str]:
    """torchrun with one process per accelerator; it picks a free port for the rendezvous itself.

    Every rank that fails leaves an `error.json` below `log_dir`.
    """
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={nproc_per_node}",
        f"--log-dir={log_dir}",
        "-m",
        "pipeline.trainer",
        str(train_yaml),
    ]


def build_llamafactory_argv(python: Path, train_yaml: Path) -> list[str]:
    """LLaMA-Factory's own launcher, which starts torchrun itself (FORCE_TORCHRUN)."""
    return [str(python), "-m", "llamafactory.cli", "train", str(train_yaml)]


def build_environment(
    nproc_per_node: int, *, num_cpus: int, uses_accelerator: bool, extra: dict[str, str]
) -> dict[str, str]:
    """Our environment plus what the trainer needs; what the user has set wins over our defaults."""
    defaults = {
        # One thread per rank and core: torchrun's own default of 1 wastes the others.
        "OMP_NUM_THREADS": str(1 if uses_accelerator else max(1, num_cpus // nproc_per_node)),
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "TORCH_NCCL_AVOID_RECORD_STREAMS": "1",
        "TOKENIZERS_PARALLELISM": "true",
    }
    # An outer launcher's place in its own world would be mistaken for ours.
    inherited = {name: value for name, value in os.environ.items() if name not in _RANK_VARIABLES}
    return {
        **defaults,
        **inherited,
        "FORCE_TORCHRUN": "1",
        "NPROC_PER_NODE": str(nproc_per_node),
        "PYTHONUNBUFFERED": "1",
        **extra,
    }


def prepend_path(directory: Path) -> str:
    """PATH with `directory` first."""
    return os.pathsep.join([str(directory), os.environ.get("PATH", os.defpath)])
