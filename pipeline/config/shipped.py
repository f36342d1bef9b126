"""Paths of files that come with the project, also as the reference system spells them."""

from pathlib import Path

from pipeline.paths import PROJECT_ROOT, SHIPPED, from_root


def resolve_shipped(path: str) -> tuple[Path, str | None]:
    """The file that a config key means, and a note if it is not where the key says.

    A path that exists (relative to the project root, or absolute) is taken as it is. Otherwise the
    shipped file of the same name takes its place: configs of the reference system point into
    directories that are not here. If there is none, the path itself is returned; reporting that it
    is absent is left to the caller, who knows which key it came from.
    """
    asked = from_root(path)
    if asked.exists():
        return asked, None
    for directory in (SHIPPED, SHIPPED / "deepspeed"):
        shipped = directory / asked.name
        if shipped.is_file():
            return shipped, f"{path} does not exist; {shipped.relative_to(PROJECT_ROOT)} is used"
    return asked, None
