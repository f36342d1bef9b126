"""`python -m pipeline.trainer TRAIN.yaml`, one process per rank, started by torchrun.

Needs nothing but the training YAML, the dataset directory it names and torchrun's environment.
Exit status: 0 done, or stopped by a signal after saving (`trainer_status.json` in output_dir tells
which, because torchrun would report any other status as a crash); otherwise that of the error.
"""

import logging
import os
import sys
import traceback
from pathlib import Path

from pipeline.errors import InterruptedRun, PipelineError
from pipeline.log import quiet_libraries
from pipeline.trainer.args import load_train_args
from pipeline.trainer.stop import StopRequest


def main(argv: list[str]) -> int:
    if len(argv) != 1:
        sys.stderr.write("usage: torchrun ... -m pipeline.trainer TRAIN.yaml\n")
        return 2
    rank = int(os.environ.get("RANK", "0"))
    _configure_logging(rank)
    stop = StopRequest()
    try:
        args = load_train_args(Path(argv[0]))
        from pipeline.trainer.train import train

        train(args, stop)
    except InterruptedRun as interruption:
        logging.getLogger(__name__).warning("%s", interruption)
        # Without a checkpoint the other ranks may wait for this one: torchrun must end them.
        return 0 if interruption.exit_code == 75 else int(interruption.exit_code)
    except Exception as error:
        _report(error, rank)
        return int(error.exit_code) if isinstance(error, PipelineError) else 1
    return 0


def _report(error: Exception, rank: int) -> None:
    """One line for the user; the traceback only for what is not a `PipelineError`.

    torchrun names a file per rank for the error (TORCHELASTIC_ERROR_FILE); the launcher reads it.
    """
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    if isinstance(error, PipelineError):
        sys.stderr.write(f"rank {rank}: {error}\n")
    else:
        traceback.print_exc()
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        get_error_handler().record_exception(error)


def _configure_logging(rank: int) -> None:
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.ERROR,
        format="%(message)s" if rank == 0 else f"rank {rank}: %(message)s",
        stream=sys.stderr,
    )
    quiet_libraries()


def _exit(status: int) -> None:
    """End without the interpreter's teardown.

    Libraries keep process groups alive until then, and their threads abort it now and then
    ("terminate called without an active exception"): a finished run would count as crashed.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _exit(main(sys.argv[1:]))
