"""What a data step tells its caller: one line for people, counts for the record."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class StepReport:
    """The outcome of one step."""

    step: int
    summary: str
    """What happened, without the step's number: "24 trials read, 20 kept, 4 rejected"."""
    skipped: bool = False
    reason: str = ""
    """Why it was skipped, or why it had to run."""
    counts: Mapping[str, int] = field(default_factory=dict)
    outputs: Mapping[str, Path] = field(default_factory=dict)
    """What each file is -> where it is; the main one first."""
    notes: tuple[str, ...] = ()
    """What a user should know although nothing failed."""

    def line(self) -> str:
        """`step 0: 24 trials read, 20 kept, 4 rejected (3 side_call, ...) -> path`."""
        skipped = f" (skipped: {self.reason})" if self.skipped else ""
        path = next((f" -> {path}" for path in self.outputs.values()), "")
        return f"step {self.step}: {self.summary}{skipped}{path}"
