"""Every credential in a text, in whatever form it stands there.

Forms: plain; escaped, as in JSON inside of a string; broken over lines, as a terminal or an e-mail
wraps it; encoded in base64. All give the same `value`.

Speed: a credential with a form of its own has, or is near, 16 word characters in a row. Finding
those runs costs one translation and byte searches; what is around them, about an eighth of agent
text, is searched for the rules' anchors, and only a rule whose anchor is there runs its pattern.
Whatever maps positions is made for texts with a match.
"""

import base64
import itertools
import re
import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.quality.secrets.entropy import is_dummy, is_mixed
from pipeline.quality.secrets.keyed import find_in_urls, find_keyed
from pipeline.quality.secrets.rules import ANCHOR_REACH, RULES, Rule
from pipeline.quality.secrets.views import View, decode_escapes, join_lines, joined_view


@dataclass(frozen=True, slots=True)
class Secret:
    """One credential in a text."""

    kind: str
    value: str
    """As it is used: unescaped, on one line, decoded."""
    start: int
    end: int
    """`text[start:end]` is what stands for it."""


_MIN_TEXT = 10
_MIN_RUN = 16
_MAX_DEPTH = 2
"""How often base64 is decoded in what was decoded."""
_MAX_ENDS = 4
"""How many line ends are tried as the end of base64 that other text may follow."""
_MAX_TAIL = 400
"""Most characters from the anchor of a rule with lead to the end of the secret."""

_WORD_BYTES = bytes(
    ord("a") if chr(code).isascii() and (chr(code).isalnum() or chr(code) in "_-") else ord(" ")
    for code in range(256)
)
_RUN = b"a" * _MIN_RUN
_LOWER = string.ascii_lowercase.encode() + b"_-"

_IN_RUNS = [(rule.anchor.encode(), rule) for rule in RULES if rule.is_run]
_ALONE = [rule for rule in RULES if not rule.is_run]

# Each 4 characters of base64 are 3 bytes. Of those that stand for ASCII text, the first three are
# from parts of the alphabet: 7-bit bytes, of which only tab and line breaks are below 32. So 6
# groups of random text pass once in 2 million, and any alignment is found.
_GROUP = "[CDI-Za-f][AQgwC-HS-Xi-nyz0-3][ABEFIJMNQRUVYZcdghklopstwx014589][A-Za-z0-9+/_-]"
_BASE64_TEXT = re.compile(f"(?:{_GROUP}){{6}}")
_ASCII_GROUPS = re.compile(f"(?:{_GROUP})*")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
_BASE64_ALPHABET = string.ascii_letters + string.digits + "+/_-"
_URL_ALPHABET = str.maketrans("-_", "+/")

_KEY_BLOCK = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{2,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:.{40,20000}?-----END (?:[A-Z0-9]{2,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"|[A-Za-z0-9+/=\s:,-]{40,})",
    re.DOTALL,
)
_KEY_BODY = re.compile(r"[A-Za-z0-9+/=]{16,}")
_PLACEHOLDER = re.compile(r"<SECRET:\w{1,40}:[0-9a-f]{8}>")
_MASK = "<"  # no part of a secret
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}\Z")


def find_secrets(text: str) -> list[Secret]:
    """The credentials in `text`, in order of position, none overlapping."""
    if "<SECRET:" in text:
        text = _PLACEHOLDER.sub(lambda match: _MASK * len(match[0]), text)
    return _find(text, _MAX_DEPTH)


def _find(text: str, depth: int) -> list[Secret]:
    if len(text) < _MIN_TEXT:
        return []
    view = decode_escapes(text)
    joined = _Joined(view)
    found = _disjoint(_by_form(joined, depth))
    if found:
        # A form of its own says more than the place, and ends a value that may be on its way there.
        view = decode_escapes(_masked(text, found))
        joined = _Joined(view)
    in_urls = find_in_urls(joined.text)
    found += [Secret(item.kind, item.value, *joined.span(item.start, item.end)) for item in in_urls]
    after_keys = find_keyed(view.text)
    found += [
        Secret(item.kind, item.value, *view.span(item.start, item.end)) for item in after_keys
    ]
    return sorted(_disjoint(found), key=lambda secret: secret.start)


def _disjoint(secrets: Iterable[Secret]) -> list[Secret]:
    """Of those that overlap, the first."""
    accepted: list[Secret] = []
    for secret in secrets:
        if all(secret.end <= other.start or secret.start >= other.end for other in accepted):
            accepted.append(secret)
    return accepted


def _masked(text: str, secrets: list[Secret]) -> str:
    pieces, done = [], 0
    for secret in sorted(secrets, key=lambda secret: secret.start):
        pieces += [text[done : secret.start], _MASK * (secret.end - secret.start)]
        done = secret.end
    return "".join([*pieces, text[done:]])


class _Joined:
    """The lines of a view joined; the way back is made when the first secret needs it."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.text = join_lines(view.text)
        self._made: View | None = None

    @property
    def lines(self) -> View:
        if self._made is None:
            self._made = joined_view(self._view.text)
            assert self._made.text == self.text
        return self._made

    def span(self, start: int, end: int) -> tuple[int, int]:
        return self._view.span(*self.lines.span(start, end))

    def is_boundary(self, position: int) -> bool:
        """Whether a token may begin or end at `position`."""
        before, after = self.text[position - 1 : position], self.text[position : position + 1]
        if not (before.isascii() and before.isalnum() and after.isascii() and after.isalnum()):
            return True
        is_encoded = _PERCENT.search(self.text, max(0, position - 3), position)
        return is_encoded is not None or self.lines.is_seam(position)


def _by_form(joined: _Joined, depth: int) -> Iterator[Secret]:
    text = joined.text
    if "PRIVATE KEY" in text:
        for match in _KEY_BLOCK.finditer(text):
            # Line numbers or a quote's margin may stand between, but no text that is about keys.
            if 2 * sum(map(len, _KEY_BODY.findall(match[0]))) > len(match[0]):
                yield Secret("private_key", match[0], *joined.span(*match.span()))
    for rule in _ALONE:
        if rule.anchor in text:
            for match in rule.pattern.finditer(text):
                yield from _checked(rule, match, joined)
    data = text.encode("ascii", "replace")  # as long as the text
    runs = list(_runs(data))
    if not runs:
        return
    around = b" ".join([data[max(0, start - ANCHOR_REACH) : end] for start, end in runs])
    for rule in [rule for anchor, rule in _IN_RUNS if anchor in around]:
        for match in _matches(rule, text):
            yield from _checked(rule, match, joined)
    decoded_to = 0
    for start, end in runs if depth else ():
        if start >= decoded_to and (encoded := _BASE64_TEXT.search(text, start, end)):
            secret, decoded_to = _encoded(joined, encoded.start(), end, depth)
            if secret:
                yield secret


def _runs(data: bytes) -> Iterator[tuple[int, int]]:
    """Where 16 and more word characters are in a row, not all of them lower case."""
    words = data.translate(_WORD_BYTES)
    start = words.find(_RUN)
    while start >= 0:
        end = words.find(b" ", start + _MIN_RUN)
        end = len(words) if end < 0 else end
        if data[start:end].strip(_LOWER):
            yield start, end
        start = words.find(_RUN, end)


def _matches(rule: Rule, text: str) -> Iterator[re.Match[str]]:
    if not rule.lead:  # the pattern begins with the anchor, which `re` looks for first
        yield from rule.pattern.finditer(text)
        return
    position = text.find(rule.anchor)
    while position >= 0:
        start, end = max(0, position - rule.lead), position + _MAX_TAIL
        match = rule.pattern.search(text, start, end)
        if match and match.start() <= position:
            yield match
        position = text.find(rule.anchor, position + len(rule.anchor))


def _checked(rule: Rule, match: re.Match[str], joined: _Joined) -> Iterator[Secret]:
    start, end = match.span("secret") if "secret" in match.groupdict() else match.span()
    if start == match.start():
        end = _real_end(rule, start, end, joined)
    value = joined.text[start:end]
    is_certain = rule.checksum is not None and rule.checksum(value)
    if not is_certain and (
        not (joined.is_boundary(match.start()) and joined.is_boundary(end)) or is_dummy(value)
    ):
        return
    if rule.check is None or rule.check(value):
        yield Secret(rule.kind, value, *joined.span(start, end))


def _real_end(rule: Rule, start: int, end: int, joined: _Joined) -> int:
    """Where a secret of variable length ends that lines may have been joined to: at the first line
    end that completes it and that no random text follows."""
    seams = joined.lines.seams(start, end)
    for seam, following in itertools.pairwise([*seams, end]):
        is_complete = rule.pattern.fullmatch(joined.text, start, seam) is not None
        if is_complete and not is_mixed(joined.text[seam:following]):
            return seam
    return end


def _encoded(joined: _Joined, start: int, run_end: int, depth: int) -> tuple[Secret | None, int]:
    """The base64 at or before `start`, as one secret if it stands for any, and where it ends."""
    text = joined.text
    before = text[max(0, start - _MAX_TAIL) : start]  # + and / divide runs
    left = start - len(before) + len(before.rstrip(_BASE64_ALPHABET))
    start = _BASE64_TEXT.search(text, left, run_end).start()  # pyright: ignore[reportOptionalMemberAccess]
    end = _BASE64.match(text, start).end()  # pyright: ignore[reportOptionalMemberAccess]
    readable = _ASCII_GROUPS.match(text, start).end()  # pyright: ignore[reportOptionalMemberAccess]
    ends = [end]
    if readable + 3 < end or text[end - 1] != "=":
        # The following lines may be no base64 but join well.
        seams = joined.lines.seams(start + _MIN_RUN, end)
        first_beyond = next((number for number, seam in enumerate(seams, 1) if seam >= readable), 0)
        ends = [end, *reversed(seams[: first_beyond or None])][:_MAX_ENDS]
    best, best_end = None, end
    for last in ends:
        inner = _find(_decode(text[start:last]), depth - 1)
        if best and (not inner or inner[0].value != best.value or is_mixed(text[last:best_end])):
            break
        if inner:
            best, best_end = Secret(inner[0].kind, inner[0].value, *joined.span(start, last)), last
    return best, end


def _decode(encoded: str) -> str:
    digits = encoded.rstrip("=").translate(_URL_ALPHABET)
    digits = digits[: len(digits) - (len(digits) % 4 == 1)]
    return base64.b64decode(digits + "=" * (-len(digits) % 4)).decode("utf-8", "replace")
