"""Fixtures that more than one test file needs."""

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.builtin import ensure_builtin

if TYPE_CHECKING:
    from trainer_runs import RankServer

# A suite that is started with nohup or `&` inherits ignored signals, and so would every process
# that a test starts and signals.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

_JOB = Path(__file__).resolve().parent.parent / "examples" / "job"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The builtin model, as `from_pretrained` loads it."""
    return ensure_builtin("builtin:tiny-qwen3", tmp_path_factory.mktemp("cache"), corpus=_JOB)


@pytest.fixture
def rank_of_its_own() -> Iterator[None]:
    """Training in this process: undo its signal handlers; one thread, as a rank has."""
    import torch

    from pipeline.trainer.stop import SIGNALS

    before = {number: signal.getsignal(number) for number in SIGNALS}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def import_wandb_from(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Call it with a directory: `import wandb` then finds the module there, during this test."""
    sys.modules.pop("wandb", None)
    yield lambda directory: monkeypatch.syspath_prepend(str(directory))
    sys.modules.pop("wandb", None)


@pytest.fixture(scope="session")
def rank_server() -> "Iterator[RankServer]":
    from trainer_runs import RankServer

    server = RankServer()
    yield server
    server.close()
