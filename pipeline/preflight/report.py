"""What the dry run found, one line per check."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from pipeline.config.load import LoadedConfig
from pipeline.config.schema import Config, Input
from pipeline.errors import InterruptedRun, PipelineError, explain_os_error
from pipeline.paths import RunPaths

Status = Literal["OK", "WARN", "FAIL"]


@dataclass(frozen=True)
class Check:
    """One fact about the run to come. `fix` says what to do about a WARN or FAIL."""

    status: Status
    name: str
    message: str
    fix: str = ""

    def line(self) -> str:
        """`WARN  cutoff_len: 3 of 20 examples do not fit; raise training.cutoff_len`."""
        fix = f"; {self.fix}" if self.fix else ""
        return f"{self.status:<4}  {self.name}: {self.message}{fix}"


@dataclass(frozen=True)
class Report:
    """All checks of one dry run, in order."""

    checks: tuple[Check, ...]

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if check.status == "FAIL"]

    def summary(self) -> str:
        counts = {
            status: sum(check.status == status for check in self.checks)
            for status in ("OK", "WARN", "FAIL")
        }
        return ", ".join(f"{count} {status}" for status, count in counts.items())

    def to_json(self) -> str:
        return json.dumps(
            {
                "passed": not self.failures,
                "checks": [asdict(check) for check in self.checks],
            },
            indent=2,
            ensure_ascii=False,
        )


@dataclass(frozen=True)
class Context:
    """What every check may look at. Checks read; none of them writes."""

    loaded: LoadedConfig
    paths: RunPaths

    @property
    def config(self) -> Config:
        return self.loaded.config

    @property
    def given(self) -> Input:
        return self.loaded.config.runtime_info.input


CheckFunction = Callable[[Context], Iterator[Check]]


def run_check(name: str, function: CheckFunction, context: Context) -> Iterator[Check]:
    """The checks of one function; an error that a user can mend becomes a FAIL.

    Raises: InterruptedRun: a signal came; that is no finding.
    """
    try:
        yield from function(context)
    except InterruptedRun:
        raise
    except PipelineError as error:
        for line in str(error).splitlines():
            yield Check("FAIL", name, line)
    except OSError as error:
        yield Check("FAIL", name, explain_os_error(error))
