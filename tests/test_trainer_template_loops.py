"""Property: a compiled chat template shows what transformers' shows, and runs an iteration once.

Run: pytest tests/test_trainer_template_loops.py
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.exceptions import SecurityError
from transformers.utils import chat_template_utils

from pipeline.trainer.data.jinja.compiled import CompiledTemplate

_PROLOGUE = (
    "{% set ns = namespace(count=0, query=messages | length, seen=false) %}"
    "{% set first = messages[0].content %}{% set rest = messages[1:] %}{% set title = 'T' %}"
    "{% macro show(m, text='') %}<{{ m.role }}{{ title }}{{ text }}>{% endmacro %}"
    "{% macro mark(role) %}{% set ns.count = ns.count + 1 %}[{{ role }}]{% endmacro %}"
)
_SCAN = (
    "{% for m in messages[::-1] %}{% set index = messages | length - 1 - loop.index0 %}"
    "{% if not ns.seen and m.role == 'user' %}{% set ns.query = index %}"
    "{% set ns.seen = true %}{% endif %}{% endfor %}"
)
_FORWARD = (
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.query = loop.index0 %}{% endif %}"
    "{% endfor %}"
)
_KNOWN = [  # an iteration is known again: nothing new is read, or the next item alone
    "{{ m.content }}{{ note(m.content) }}",
    "{{ loop.index0 ~ loop.index ~ loop.first ~ loop.previtem.content if loop.previtem else 0 }}",
    "{{ '.' if loop.last else loop.nextitem.role }}",
    "{{ messages[loop.index0 - 1].content if not loop.first }}",
    "{{ messages[loop.index0 + 1].content if not loop.last }}",
    "{{ messages[0].content ~ first ~ title }}",
    "{% set ns.count = ns.count + m.content | length %}{{ ns.count }}",
    "{{ show(m) ~ show(m, text='!') }}",
    "{{ mark(m.role) }}",
    "{% if m.role == 'tool' %}{% continue %}{% endif %}",
    "{% for c in m.calls or [] %}{{ loop.index ~ loop.length ~ c | tojson }}{% endfor %}",
    "{% set x = m.content | trim %}{{ x ~ (x is string) }}",
    "{% if loop.index0 > ns.query %}+{% endif %}",
    "{% generation %}{{ m.content }}{% endgeneration %}",
]
_UNKNOWN = [
    "{{ loop.length }}",
    "{{ loop.revindex }}",
    "{{ messages | length }}",
    "{{ messages[-1].content }}",
    "{{ rest[loop.index:] | length }}",
    "{{ loop.cycle('a', 'b') }}",
    "{{ '#' if loop.changed(m.role) }}",
    "{% if m.role == 'system' %}{% break %}{% endif %}",
    "{{ '?' if add_generation_prompt }}",
    "{{ rest | tojson }}",
    "{% set ns.list = (ns.list or []) + [m.role] %}{{ ns.list }}",
]
_END = "{{ ns.count ~ ns.query }}{% if add_generation_prompt %}>{% endif %}"


def _template(scan: str, *body: str) -> str:
    return f"{_PROLOGUE}{scan}{{% for m in messages %}}{''.join(body)}{{% endfor %}}{_END}"


def _expected(source: str, messages: list[dict[str, Any]], **variables: Any) -> str:
    present = [{key: m[key] for key in m if m[key] is not None} for m in messages]
    template = chat_template_utils._compile_jinja_template(source)
    return template.render(messages=present, **variables)


_message = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant", "assistant", "tool"]),
        "content": st.sampled_from(["a", " b", "\n", ""]),
        "calls": st.sampled_from([None, [], [{"n": 1}], [{"n": True}, {"m": [1.0]}]]),
    }
)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    scan=st.sampled_from(["", _SCAN, _FORWARD]),
    body=st.lists(st.sampled_from(_KNOWN + _UNKNOWN), min_size=1, max_size=4),
    messages=st.lists(_message, min_size=1, max_size=7),
    changes=st.lists(st.tuples(st.integers(0, 6), _message), max_size=2),
    data=st.data(),
)
def test_requests_of_one_conversation_are_shown_as_if_each_were_rendered_alone(
    scan: str, body: list[str], messages: list[Any], changes: list[Any], data: st.DataObject
) -> None:
    source = _template(scan, *body)
    template = CompiledTemplate(source)
    others = [[*messages[:place], other, *messages[place + 1 :]] for place, other in changes]
    requests = [
        (list_[:end], asks)
        for list_ in (messages, *others)
        for end in range(1, len(list_) + 1)
        for asks in (False, True)
    ]
    for shown, asks in data.draw(st.permutations(requests)):
        given = {"messages": shown, "add_generation_prompt": asks, "note": len}
        assert template.render(**given) == _expected(source, **given)


def _iterations(body: str, ends: range) -> int:
    """How often the body ran while the conversation was rendered up to each of `ends`."""
    noted: list[str] = []

    def note(text: str) -> str:
        noted.append(text)
        return ""

    template = CompiledTemplate(_template(_SCAN, body, "{{ note(m.content) }}"))
    roles = ["user", "assistant", "tool", "assistant", "tool"]
    messages = [{"role": roles[i % 5], "content": str(i)} for i in range(40)]
    for end in ends:
        template.render(messages=messages[:end], add_generation_prompt=False, note=note)
    return len(noted)


@pytest.mark.parametrize("body", _KNOWN)
@pytest.mark.parametrize("ends", [range(1, 41), range(40, 0, -1)], ids=["longer", "shorter"])
def test_known_iterations_do_not_run_again(body: str, ends: range) -> None:
    """Alone, 40 requests take 820 iterations; another query (8 of them) may change all before."""
    assert _iterations(body, ends) <= 320


def test_what_is_found_by_a_scan_is_not_looked_for_again() -> None:
    looked: list[str] = []
    scan = _SCAN.replace("not ns.seen", "note(m.content) and not ns.seen")
    template = CompiledTemplate(_template(scan, "{{ m.content }}"))
    messages = [{"role": "user" if not i else "tool", "content": str(i)} for i in range(40)]

    def note(text: str) -> bool:
        looked.append(text)
        return True

    for end in range(40, 0, -1):
        given = {"messages": messages[:end], "add_generation_prompt": False, "note": note}
        assert template.render(**given).endswith("00"), "the first message is the query"
    assert len(looked) == 40


def test_another_conversation_starts_anew() -> None:
    template = CompiledTemplate("{% for m in messages %}{{ m | tojson }}{% endfor %}")
    message = {"content": "a"}
    assert template.render(messages=[message]) == '{"content": "a"}'
    message["content"] = "b"
    template.begin()
    assert template.render(messages=[message]) == '{"content": "b"}'


@pytest.mark.parametrize(
    "attack",
    [
        "{{ messages.append(1) }}",
        "{{ messages[0].clear() }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages[0].__class__.__mro__ }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{% for m in messages %}{{ m.update(a=1) }}{% endfor %}",
        "{% for m in messages %}{{ loop.__init__.__globals__ }}{% endfor %}",
    ],
)
def test_the_sandbox_holds(attack: str) -> None:
    template = CompiledTemplate(attack)
    for _ in range(2):  # what was looked up once is no way around
        with pytest.raises(SecurityError):
            template.render(messages=[{"a": 0}])
