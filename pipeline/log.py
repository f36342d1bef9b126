"""Messages of the commands: to stderr, one line each. stdout is for results."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def configure_logging() -> None:
    """INFO and above of this package; warnings say so, so that they are not overlooked."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("pipeline").setLevel(logging.INFO)
    quiet_libraries()


def quiet_libraries() -> None:
    """Keep what other packages announce at every start out of the log; errors stay.

    To be called before they are imported.
    """
    for name in ("DeepSpeed", "httpx", "matplotlib", "torch.distributed"):
        # A filter, not a level: some of them set their own level when they are imported.
        logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.ERROR)
    # Progress bars of loading and saving, once per rank, only tear the log apart.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # It announces every retry twice; what came of them is in the error.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")


@contextmanager
def silenced(level: int) -> Iterator[None]:
    """Within it, messages up to `level` are dropped: of work on the side, not of the run itself."""
    before = logging.root.manager.disable
    logging.disable(max(level, before))
    try:
        yield
    finally:
        logging.disable(before)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno >= logging.WARNING:
            return f"{record.levelname.lower()}: {text}"
        return text
