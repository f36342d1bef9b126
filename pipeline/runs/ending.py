"""How a run ended, and that it is written down whichever way."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.errors import ExitCode, InterruptedRun, PipelineError, explain_os_error
from pipeline.runs.record import RunStatus

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """What stands in the record, the index and config.yaml. `notes` is the reason, one line."""

    status: RunStatus
    exit_code: int
    notes: str = ""


@contextmanager
def ending_recorded(close: Callable[[Ending], None]) -> Iterator[None]:
    """Call `close` with how the block ended, whichever way.

    Raises: what the block raised; that nothing more can be written (a full disk) must not hide it.
    """
    try:
        yield
    except BaseException as error:
        try:
            close(_ending_of(error))
        except OSError as failure:
            logger.error("how the run ended cannot be recorded: %s", explain_os_error(failure))
        raise
    close(Ending(RunStatus.COMPLETED, int(ExitCode.DONE)))


def _ending_of(error: BaseException) -> Ending:
    if isinstance(error, InterruptedRun):
        return Ending(RunStatus.INTERRUPTED, int(error.exit_code), str(error))
    if isinstance(error, PipelineError):
        refused = error.exit_code == ExitCode.REFUSED
        status = RunStatus.REFUSED if refused else RunStatus.FAILED
        return Ending(status, int(error.exit_code), str(error))
    failed = int(ExitCode.FAILED)
    if isinstance(error, OSError):
        return Ending(RunStatus.FAILED, failed, explain_os_error(error))
    return Ending(RunStatus.FAILED, failed, f"a bug of the pipeline: {error!r}")
