"""Whether text looks drawn at random, as keys are, or written by a person, as names are.

Nothing here knows what a secret is; the callers know that a value stands where one would.
"""

import re

# Each character's class: a lower case, A upper case, 0 digit; others stand for themselves.
_CLASSES = str.maketrans(
    {
        **{chr(code): "a" for code in range(ord("a"), ord("z") + 1)},
        **{chr(code): "A" for code in range(ord("A"), ord("Z") + 1)},
        **{chr(code): "0" for code in range(ord("0"), ord("9") + 1)},
    }
)
_CHANGE = re.compile(r"(.)(?!\1|\Z)", re.DOTALL)
_WORD = re.compile(r"[a-z]{4,}|[A-Z]{4,}")
_HEX = re.compile(r"(?i)[0-9a-f]+(?:-[0-9a-f]+)*")
_DUMMY = re.compile(
    r"example|placeholder|change_?me|redacted|dummy|sample|"
    r"(?-i:fake|your|mock|\btest)|x{6}|\*{3}|\.{3}|"
    r"abcdefgh|12345678|deadbeef|(.)\1{7}",
    re.IGNORECASE,
)
_REFERENCE = re.compile(
    r"\A(?:[$<{]|%[({\w]+[)}s%]|@[{\w]+[})]|env:|file:|ENC\[|[.~]?/[a-z]+/)|\{\{|\$\{|\{\w+\}|://"
)
_MIN_DISTINCT = 6
_LONG = 16
_HEX_DIGITS = 28


def is_dummy(value: str) -> bool:
    """Whether `value` is a published example or a stand-in: too few characters, or a tell-tale."""
    return len(set(value)) < _MIN_DISTINCT or _DUMMY.search(value) is not None


def is_random(value: str, min_length: int = 16) -> bool:
    """Whether `value` has the mixture of characters that generated keys and passwords have.

    Hexadecimal text needs 28 digits. Values that refer to a secret (`${TOKEN}`) are not random.
    """
    if len(value) < min_length or is_dummy(value) or _REFERENCE.search(value):
        return False
    if _HEX.fullmatch(value):
        digits = value.replace("-", "")
        return len(digits) >= _HEX_DIGITS and not (digits.isalpha() or digits.isdecimal())
    if value.isalpha() and (value.islower() or value.isupper()):
        return False
    classes = value.translate(_CLASSES)
    changes = len(_CHANGE.findall(classes))
    in_words = sum(map(len, _WORD.findall(value)))
    # Expected for base-62 text: a change at 3 of 5 characters, a sixth of them in such words.
    # Three classes of characters make long random text likelier than a long name.
    is_rich = len(value) >= _LONG and len(set(classes)) > 2
    most_in_words = (0.7 if is_rich else 0.5) * len(value)
    return 5 * changes >= len(value) and in_words < most_in_words and len(set(classes)) > 1


def is_mixed(text: str) -> bool:
    """Whether a short piece may be the rest of a random value, rather than a word."""
    return any(character.isdigit() for character in text) or not (
        text.islower() or text.isupper() or text.istitle()
    )
