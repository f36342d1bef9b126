"""Where raw trajectories come from: a Harbor job, or files of any known format."""

from pathlib import Path
from typing import Protocol

from pipeline.conversion.files import RawFileTree
from pipeline.conversion.harbor import HarborJob, is_job
from pipeline.conversion.trials import Inventory

__all__ = ["HarborJob", "RawFileTree", "Source", "source_at"]


class Source(Protocol):
    """What STEP 0 needs to know of a source. Names are relative to it.

    All methods raise DataError when the source is missing or holds nothing.
    """

    @property
    def path(self) -> Path:
        """The directory or file."""
        ...

    def raw_files(self) -> dict[str, Path]:
        """Name -> path, of the files that a scaffold may read."""
        ...

    def label_files(self) -> dict[str, Path]:
        """Name -> path, of all other files that decide what is written."""
        ...

    def inventory(self, scaffold: str) -> Inventory:
        """The trials. `scaffold`: a key of SCAFFOLDS, or "auto"."""
        ...


def source_at(path: Path) -> Source:
    """The source that a path names: a directory of trials is a Harbor job, all else are files."""
    return HarborJob(path) if is_job(path) else RawFileTree(path)
