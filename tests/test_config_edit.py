"""An edit changes the bytes of one value, or is refused.

Run: python -m pytest tests/test_config_edit.py
"""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.config.document import Document
from pipeline.config.edit import EditRefused, replace_value

KEY = ("runtime_info", "output")
NEW = {"checkpoint": {"value": "a b"}, "steps": [1, 2]}


def read(source: bytes) -> dict:
    return Document.parse(source, "test").data


def edit(text: str, value: object = NEW, key: tuple[str, ...] = KEY) -> str:
    return replace_value(text.encode(), key, value).decode()


BLOCK = """\
    checkpoint:
      value: a b
    steps:
    - 1
    - 2
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            "# top\nruntime_info:\n  input: {a: '1'}  # keep\n  output: {}  # results\n# end\n",
            "# top\nruntime_info:\n  input: {a: '1'}  # keep\n  output:  # results\n"
            f"{BLOCK}# end\n",
            id="comment behind the key",
        ),
        pytest.param(
            "runtime_info:\n  output:  # results\n    # of the last run\n    old: 1\n    # in\n\n"
            "  # behind\n  input: 1\n",
            f"runtime_info:\n  output:  # results\n    # of the last run\n{BLOCK}    # in\n\n"
            "  # behind\n  input: 1\n",
            id="comments around the block, output before input",
        ),
        pytest.param(
            "other:\n  output: 1\nruntime_info:\n  input: 1\n\n# end\n",
            f"other:\n  output: 1\nruntime_info:\n  input: 1\n  output:\n{BLOCK}\n# end\n",
            id="absent, and a namesake in another section",
        ),
        pytest.param(
            "runtime_info:\n  input: 1\n  output:",
            f"runtime_info:\n  input: 1\n  output:\n{BLOCK}".rstrip("\n"),
            id="null without final newline",
        ),
        pytest.param(
            "runtime_info:\n  input: 1",
            f"runtime_info:\n  input: 1\n  output:\n{BLOCK}".rstrip("\n"),
            id="absent without final newline",
        ),
        pytest.param(
            "runtime_info:\n  output: ~\n  input: \u00e9\n",
            f"runtime_info:\n  output:\n{BLOCK}  input: \u00e9\n",
            id="tilde",
        ),
        pytest.param(
            "a: '\u6f22 \U0001f600'\nruntime_info:\n  output: {a: 1,\n    b: 2}  # x\n  z: 1\n",
            "a: '\u6f22 \U0001f600'\nruntime_info:\n  output:  # x\n" + BLOCK + "  z: 1\n",
            id="flow over lines behind non-ASCII text",
        ),
        pytest.param(
            "runtime_info:\n  output:\n    {a: 1}  # x\n  z: 1\n",
            f"runtime_info:\n  output:\n    # x\n{BLOCK}  z: 1\n",
            id="flow on its own line",
        ),
        pytest.param(
            "runtime_info:\n  output: |\n    text\n    # text\n\n  # comment\n  z: 1\n",
            f"runtime_info:\n  output:\n{BLOCK}\n  # comment\n  z: 1\n",
            id="block scalar",
        ),
        pytest.param(
            "makefile: |\n  all:\n  \tx\nruntime_info:\n  output: 1\n",
            f"makefile: |\n  all:\n  \tx\nruntime_info:\n  output:\n{BLOCK}",
            id="tabs inside a text",
        ),
        pytest.param(
            "runtime_info:\n  output:\n  - 1\n  - 2  # gone\n  z: 1\n",
            f"runtime_info:\n  output:\n{BLOCK}  z: 1\n",
            id="list",
        ),
        pytest.param(
            "---\n'runtime_info' :\n  \"output\" : 5\n...\n",
            f"---\n'runtime_info' :\n  \"output\" :\n{BLOCK}...\n",
            id="quoted keys between document marks",
        ),
        pytest.param(
            "x: &a 1\ny: *a\nruntime_info:\n  output:\n    b: *a\n    c: &c 1\n",
            f"x: &a 1\ny: *a\nruntime_info:\n  output:\n{BLOCK}",
            id="anchors elsewhere",
        ),
    ],
)
def test_only_the_value_changes(before: str, after: str) -> None:
    assert edit(before) == after


def test_crlf_bom_and_a_wider_indentation_are_kept() -> None:
    before = "\ufeff# c\r\nruntime_info:\r\n    input:\r\n        a: 1\r\n    output:\r\n# e\r\n"
    assert edit(before, {"a": {"b": 1}}) == (
        "\ufeff# c\r\nruntime_info:\r\n    input:\r\n        a: 1\r\n    output:\r\n"
        "        a:\r\n            b: 1\r\n# e\r\n"
    )


@pytest.mark.parametrize(
    "parent",
    ["runtime_info:\n", "runtime_info: {}\n", "runtime_info: null\n", ""],
)
def test_absent_parents_are_made(parent: str) -> None:
    assert edit(f"a: 1\n{parent}", {"b": 1}) == "a: 1\nruntime_info:\n  output:\n    b: 1\n"


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, "null"), ({}, "{}"), ([], "[]"), (5, "5"), ("no", "'no'"), ("1e5", "'1e5'")],
)
def test_a_value_of_one_line_stays_on_the_line_of_its_key(value: object, written: str) -> None:
    before = "runtime_info:\n  output:  # c\n    a:\n      b: 1\n  z: 1\n"
    assert edit(before, value) == f"runtime_info:\n  output: {written}  # c\n  z: 1\n"


def test_a_loss_that_is_not_a_number_can_be_written() -> None:
    edited = replace_value(b"a: 1\n", ("loss",), {"final": math.nan, "first": math.inf})
    assert edited == b"a: 1\nloss:\n  final: .nan\n  first: .inf\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("runtime_info:\n  output: &a {}\nz: *a\n", "output has an anchor, an alias or a tag"),
        ("z: &a {}\nruntime_info:\n  output: *a\n", "output has an anchor, an alias or a tag"),
        ("runtime_info:\n  output: !!map {}\n", "output has an anchor, an alias or a tag"),
        ("runtime_info: &a\n  output: 1\nz: *a\n", "runtime_info has an anchor, an alias or a"),
        ("z: &a {x: 1}\nruntime_info:\n  <<: *a\n", "runtime_info has a merge key"),
        ("runtime_info:\n  output:\n    b: &a 1\nz: *a\n", "an alias uses the anchor a inside out"),
        ("runtime_info:\n  output: 1\n  output: 2\n", "duplicate key; the first is at 2:3"),
        ("a: 1\na: 2\n", "duplicate key; the first is at 1:1"),
        ("runtime_info: {output: 1}\n", "runtime_info is written in {braces}"),
        ("runtime_info: 5\n", "runtime_info is not a mapping"),
        ("runtime_info:\n- output\n", "runtime_info is not a mapping"),
        ("runtime_info:\n  ? output\n  : 1\n", "output is not written as `key: value`"),
        ("a: 1\n---\nb: 1\n", "a second document starts here"),
        ("runtime_info:\n\toutput: 1\n", "a tab cannot indent"),
        ("runtime_info:\n  output: 1\n \t# c\n", "the file:3:2: a tab cannot indent"),
        ("a: [\n", "not valid YAML"),
        ("", "the file holds nothing"),
    ],
)
def test_what_cannot_be_edited_exactly_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(EditRefused) as caught:
        edit(text)
    assert reason in str(caught.value)


def test_bytes_that_are_not_utf_8_are_refused() -> None:
    with pytest.raises(EditRefused, match="not UTF-8"):
        replace_value(b"a: \xff", ("a",), 1)


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
OLD = [
    *("", " {}", " null # c", " 'x'", " {a: 1}", " [1,\n    2] # c", " >-\n    a\n    b"),
    *("\n    a: 1 # c\n    # d", "\n  - 1\n  - a: 2", "\n    # c\n    a:\n      b:\n"),
]
BEHIND = [
    "",
    "\n",
    "\n\n  # c\n# d\n",
    "\n  z: |\n    a\n\n",
    "\n# c\n\nz: [1, 2]",
    "\n  z:\n    - 1\n",
]


@settings(max_examples=300, deadline=None)
@given(
    old=st.sampled_from(OLD),
    behind=st.sampled_from(BEHIND),
    newline=st.sampled_from(["\n", "\r\n"]),
    bom=st.sampled_from(["", "\ufeff"]),
    value=values,
)
@example(old="", behind="", newline="\n", bom="", value="\xa0")
@example(old="", behind="", newline="\n", bom="", value="a\u3000")
@example(old="", behind="", newline="\n", bom="", value={"b": "\u2003"})
def test_any_value_goes_into_any_form_and_a_second_edit_changes_nothing(
    old: str, behind: str, newline: str, bom: str, value: object
) -> None:
    head = f"{bom}# \U0001f600 c\na: '\u00e9'\nruntime_info:\n  input: {{b: 1}} # c\n  output:"
    source = f"{head}{old}{behind}".replace("\n", newline).encode()
    edited = replace_value(source, KEY, value)
    wanted = read(source)
    wanted["runtime_info"]["output"] = value
    assert read(edited) == wanted
    assert edited.startswith(head.replace("\n", newline).encode())
    assert edited.endswith(behind.replace("\n", newline).encode()) or not behind.strip("\n")
    assert replace_value(edited, KEY, value) == edited
