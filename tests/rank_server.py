"""Ranks that have imported before they start: forks of this process.

Most of a short run under torchrun is the import of torch, once per rank. This process has imported,
and forks the ranks of one run after the other, as the lines of its standard input say:

    {"config": TRAIN.yaml, "ranks": 4, "log": FILE}

Standard output: for each, the exit status, once all ranks have ended. As under torchrun, a rank
that fails ends the others; one rank is a process alone.
"""

import faulthandler
import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
_IMPORTED = (
    "pipeline.trainer.train",
    "pipeline.trainer.parallel.fsdp2",
    "pipeline.trainer.parallel.deepspeed",
    "deepspeed",
    "peft",
)
_LONGEST_RUN_SECONDS = 240


def main() -> None:
    stdout = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    for name in _IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        os.write(stdout, f"{_run(**json.loads(line))}\n".encode())


def _run(config: str, ranks: int, log: str) -> int:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    running = {_fork(config, rank, ranks, port, log) for rank in range(ranks)}

    def kill(*_: object) -> None:
        for pid in running:
            os.kill(pid, signal.SIGKILL)

    signal.signal(signal.SIGALRM, kill)
    signal.alarm(_LONGEST_RUN_SECONDS)
    status = 0
    while running:
        pid, ended = os.wait()
        running.discard(pid)
        if ended and not status:
            status = os.waitstatus_to_exitcode(ended)
            kill()
    signal.alarm(0)
    return status


def _fork(config: str, rank: int, ranks: int, port: int, log: str) -> int:
    """Returns: the process id of the rank, which itself does not return."""
    pid = os.fork()
    if pid:
        return pid
    with Path(log).open("ab") as stream, Path(os.devnull).open() as nothing:
        for number, file in enumerate((nothing, stream, stream)):
            os.dup2(file.fileno(), number)
    faulthandler.enable()
    if ranks > 1:
        os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}"}
        os.environ |= {"WORLD_SIZE": f"{ranks}", "LOCAL_WORLD_SIZE": f"{ranks}"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    from pipeline.trainer import __main__ as engine

    engine._exit(engine.main([config]))
    raise AssertionError("a rank that has exited goes on")


if __name__ == "__main__":
    main()
