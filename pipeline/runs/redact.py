"""The one redactor, for every sink: records, diffs, logs.

    wandb_api_key: 0123abc  # mine   ->   wandb_api_key: <redacted>  # mine
    https://me:pw@host/repo          ->   https://<redacted>@host/repo

A value is a secret because its key says so (`password`, `hf_token`, `--api-key`), because it looks
like a provider's token, or because it stands where URLs carry credentials. References
(`env:NAME`, `file:path`, `$NAME`), numbers under token-like keys and tokenizer settings such as
`eos_token` stay. Line breaks, and everything around a value, are kept.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

REDACTED = "<redacted>"

# Bounded repetitions keep all of this linear in the length of a line, which may be a megabyte.

# Whatever key holds them. The look-ahead demands a digit, so that long hyphenated names stay.
_TOKENS = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        hf_[A-Za-z0-9]{20,}
      | gh[opsur]_[A-Za-z0-9]{20,} | github_pat_\w{20,}
      | sk-(?=[\w-]{0,99}\d)[\w-]{20,}
      | (?:AKIA|ASIA)[0-9A-Z]{16}
      | xox[a-z]-[A-Za-z0-9-]{10,}
      | glpat-[\w-]{16,}
      | wandb_v\d+_[\w-]{20,}
      | AIza[\w-]{35}
      | eyJ[\w-]{6,999}\.eyJ[\w-]{6,9999}\.[\w-]*          # JSON web token
    )""",
    re.VERBOSE,
)
_BEARER = re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{12,}")
_WANDB_LOGIN = re.compile(r"(\bwandb\s+login\s+(?:--?\S+\s+)*)[0-9a-f]{40}\b")
_URL_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,19}://)[^\s/@'\"<>]{1,999}@")
_PRIVATE_KEY = re.compile(
    r"(-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----)(.*?)(-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)

# "key:", "key =", '"key": ', "--key value": the separator and the quotes around it.
_KEY = re.compile(
    r"""(?<![\w.-])(?P<option>--?)?(?P<key>[A-Za-z_][\w.-]{0,99})
        (?:\\?["'])?(?P<separator>[ \t]*[:=][ \t]*|(?(option)[ \t]+|(?!)))
        (?:\[[ \t]*)?""",
    re.VERBOSE,
)
_QUOTED = re.compile(r"""\\"(.*?)\\"|"((?:[^"\\\n]|\\.)*)"|'((?:[^'\n]|'')*)'""")
_BARE_TO_SPACE = re.compile(r"""[^\s"',;&}\])[{][^\s"',;&}\])]*""")
_BARE_TO_END = re.compile(
    r"""[^\s"',}\])[{][^\n"',}\])]*?(?=[ \t]+\#|[ \t]*(?:[,}\])"']|\r?$))""", re.M
)

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET_WORDS = {"password", "passwd", "passphrase", "pwd", "secret", "apikey", "authorization"}
_KEY_KINDS = {"api", "access", "secret", "private", "auth", "signing", "encryption", "account"}
# Tokens of a tokenizer, and counts: `eos_token`, `image_token`, `loss_per_token`.
_TEXT_TOKENS = {"eos", "bos", "pad", "unk", "sep", "cls", "mask", "eot", "eom", "image", "video"}
_TEXT_TOKENS |= {"audio", "special", "per", "max", "min", "num", "stop", "start", "end", "next"}
_POINTERS = {"path", "file", "dir", "env", "name", "var", "url"}
_NO_SECRET = re.compile(r"(?i)(?:env:|file:|\$|<).*|null|none|true|false|~|", re.DOTALL)
_NUMBER = re.compile(r"[-+]?\d[\d_]*(?:\.\d*)?(?:e[-+]?\d+)?", re.IGNORECASE)

# In source code, `token = next(stream)` is no secret but `token = "..."` may be one.
_SOURCE_CODE = (".py", ".pyi", ".js", ".ts", ".tsx", ".md", ".sh", ".j2", ".jinja", ".html")
_DIFF_FILE = re.compile(r"^diff --git .*?(?P<suffix>\.\w+)?\"?\r?$", re.MULTILINE)


def redact_text(text: str) -> str:
    """`text` without its secrets, line by line the same otherwise."""
    return _redact(text, bare_values=True)


def redact_diff(diff: str) -> str:
    """A git diff without its secrets; in source code, only quoted values can be secrets."""
    starts = [match.start() for match in _DIFF_FILE.finditer(diff)]
    ends = [*starts[1:], len(diff)]
    pieces = [diff[: starts[0]] if starts else _redact(diff, bare_values=True)]
    for start, end in zip(starts, ends, strict=False):  # no file, no start
        match = _DIFF_FILE.match(diff, start)
        is_code = match is not None and match["suffix"] in _SOURCE_CODE
        pieces.append(_redact(diff[start:end], bare_values=not is_code))
    return "".join(pieces)


def redact_yaml(data: bytes) -> bytes:
    """A YAML file's bytes without its secrets, comments and layout kept.

    Values are found by parsing, so block scalars and values on lines of their own are found too;
    bytes that are not YAML are treated as text.
    """
    text = data.decode("utf-8", "surrogateescape")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        root = None
    spans = sorted(set(_secret_spans(root)) if root else (), reverse=True)
    for start, end in spans:
        text = text[:start] + REDACTED + "\n" * text.count("\n", start, end) + text[end:]
    return redact_text(text).encode("utf-8", "surrogateescape")


def redact_data(value: Any, key: str = "") -> Any:
    """A copy of plain data (of JSON or YAML) without its secrets; `key` is what it stands under."""
    if isinstance(value, dict):
        return {name: redact_data(item, str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_data(item, key) for item in value]
    if isinstance(value, str):
        return REDACTED if _is_secret(key, value) else redact_text(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return REDACTED if _is_secret(key, str(value)) else value
    return value


def _redact(text: str, *, bare_values: bool) -> str:
    text = _PRIVATE_KEY.sub(_redact_key_block, text)
    text = _redact_values(text, bare_values=bare_values)
    text = _URL_USER.sub(rf"\1{REDACTED}@", text)
    text = _BEARER.sub(rf"\1{REDACTED}", text)
    text = _WANDB_LOGIN.sub(rf"\1{REDACTED}", text)
    return _TOKENS.sub(REDACTED, text)


def _redact_key_block(match: re.Match[str]) -> str:
    body = re.sub(r"[^\s]+", REDACTED, match[2]) if "\n" in match[2] else REDACTED
    return match[1] + body + match[3]


def _redact_values(text: str, *, bare_values: bool) -> str:
    pieces, done = [], 0
    for match in _KEY.finditer(text):
        if match.start() < done or not _names_secret(match["key"]):
            continue
        value = _QUOTED.match(text, match.end())
        if value is None and bare_values:
            # After ": " a YAML value or a header may hold spaces; after "=" it ends at one.
            to_end = match["separator"].lstrip().startswith(":")
            value = (_BARE_TO_END if to_end else _BARE_TO_SPACE).match(text, match.end())
        if value is None:
            continue
        group = value.lastindex or 0
        if _is_secret(match["key"], value[group]):
            pieces += [text[done : value.start(group)], REDACTED]
            done = value.end(group)
    return "".join([*pieces, text[done:]])


def _secret_spans(node: yaml.Node, key: str = "") -> Iterator[tuple[int, int]]:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            yield from _secret_spans(value_node, str(key_node.value))
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _secret_spans(item, key)
    elif isinstance(node, yaml.ScalarNode) and _is_secret(key, node.value):
        yield node.start_mark.index, node.end_mark.index


def _is_secret(key: str, value: str) -> bool:
    if not _names_secret(key) or _NO_SECRET.fullmatch(value.strip()):
        return False
    # A PIN may be a password, but no provider's token is a number.
    return not (_words(key)[-1] == "token" and _NUMBER.fullmatch(value.strip()))


def _names_secret(key: str) -> bool:
    words = _words(key)
    if not words or words[-1] in _POINTERS:
        return False
    last, before = words[-1], set(words[:-1])
    if last == "token":
        return not before & _TEXT_TOKENS
    if last in ("key", "keys"):
        return bool(before & _KEY_KINDS)
    return last in _SECRET_WORDS or (last == "id" and {"access", "key"} <= before)


def _words(key: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(key)]
