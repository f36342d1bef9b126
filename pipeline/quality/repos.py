"""Keeps tasks of evaluation repositories out of the training data.

The list is a text file, one `owner/name` per line, blank lines and `#` comments allowed. A task is
recognised by its SWE-bench id: `owner__name-123`, with an optional `__suffix`. Ids of any other
form are not recognised.
"""

import re
from collections.abc import Callable, Iterable

from pipeline.errors import DataError

_REPO = re.compile(r"[^\s/]+/[^\s/]+")


def parse_repos(text: str, file_name: str) -> list[str]:
    """The `owner/name` lines of a list. Raises: DataError: a line that is neither; names it."""
    repos: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        if not _REPO.fullmatch(entry):
            raise DataError(
                f"{file_name}:{number}: not a repository (got {entry!r}); write owner/name"
            )
        repos.append(entry)
    return repos


def repo_matcher(repos: Iterable[str]) -> Callable[[str], bool]:
    """Whether an instance id belongs to one of `repos`. Case does not matter."""
    names = [re.escape(repo.replace("/", "__", 1)) for repo in repos]
    if not names:
        return lambda instance_id: False
    pattern = re.compile(rf"(?:{'|'.join(names)})-\d+(?:__\w+)?", re.IGNORECASE)
    return lambda instance_id: pattern.fullmatch(instance_id) is not None
