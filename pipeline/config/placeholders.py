"""Values that a template left for the user to fill in, and that nobody did."""

import re
from collections.abc import Iterator

from pipeline.config.fields import sections
from pipeline.config.problems import KeyPath, Problem, shown
from pipeline.config.schema import LOCATION_OF_SOURCE, Input

_WHOLE = re.compile(r"human|<.*>|REPLACE_ME|changeme|YOUR_API_KEY|xxx+|ghp_YOUR_TOKEN_HERE", re.I)
_PATH_PART = re.compile(r"(^|/)<[^<>/]+>(/|$)")


def placeholders(given: object, path: KeyPath) -> Iterator[Problem]:
    """Placeholders among the values of `runtime_info.input`.

    Keys that only another source type reads may keep theirs: nobody will look at them.
    """
    for section_path, model in sections(Input).items():
        section = given
        for part in section_path:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            continue
        for name in model.model_fields.keys() & section.keys():
            value, place = section[name], (*path, *section_path, name)
            is_read = section_path != ("source",) or _is_read(section, name)
            if isinstance(value, str) and is_read and _is_placeholder(value):
                what = f"still a placeholder (got {shown(value, place)}); write your own value"
                yield Problem(place, what)


def _is_placeholder(text: str) -> bool:
    return bool(_WHOLE.fullmatch(text.strip()) or _PATH_PART.search(text))


def _is_read(source: dict[str, object], name: str) -> bool:
    source_type = source.get("type") or "harbor_job"
    location = LOCATION_OF_SOURCE.get(str(source_type))  # pyright: ignore[reportArgumentType]
    return name not in LOCATION_OF_SOURCE.values() or location in (name, None)
