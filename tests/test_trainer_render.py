"""Property: the ids that are trained on are the ids that are served, for any chat template.

Run: pytest tests/test_trainer_render.py
"""

from collections import Counter
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError, TemplateSyntaxError
from trainer_templates import FAMILIES, NO_END, Family, tokenizer_for

from pipeline.errors import DataError
from pipeline.trainer.data.cutoff import cut_example
from pipeline.trainer.data.example import Example, Span
from pipeline.trainer.data.render import Renderer

_REFUSED = {
    FAMILIES["deepseek_r1"].template: "differently from the request",
}
_TOOL = {"type": "function", "function": {"name": "run", "description": "runs <a> \u00e9"}}

# Short texts of what makes seams difficult: newlines, spaces, markup, text beyond ASCII.
_text = st.lists(
    st.sampled_from(["\n", "\n\n", " ", "a", "hello", "{", '"', "<", "\u00e9", "\u4e16", "|>"])
    | st.sampled_from(["</think>", "<think>", "<tool_call>", "</tool_call>", "\U0001f600", "\t"]),
    max_size=5,
).map("".join)

_function = st.fixed_dictionaries(
    {"name": st.just("run"), "arguments": st.dictionaries(st.just("cmd"), _text)}
)


@st.composite
def _conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(_text)})
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(_text)})
        for _ in range(draw(st.integers(0, 2))):
            messages += draw(_assistant_turn(st.integers(1, 2)))
        messages += draw(_assistant_turn(st.just(0)))
    return messages


@st.composite
def _assistant_turn(draw: st.DrawFn, num_calls: st.SearchStrategy[int]) -> list[dict[str, Any]]:
    message: dict[str, Any] = {"role": "assistant", "content": draw(_text)}
    message["weight"] = draw(st.sampled_from([1.0, 1.0, 0.5, 0.0]))
    if reasoning := draw(_text):
        message["reasoning_content"] = reasoning
    calls = [
        {"id": f"call0000{number}", "type": "function", "function": draw(_function)}
        for number in range(draw(num_calls))
    ]
    if calls:
        message["tool_calls"] = calls
    return [
        message,
        *({"role": "tool", "content": draw(_text), "tool_call_id": call["id"]} for call in calls),
    ]


class _UnservedError(Exception):
    """No request could have produced a turn of the conversation, or the template refuses it."""


def _served_turns(family: Family, messages: list[dict[str, Any]], tools: list[Any]) -> Counter[Any]:
    """(request ids, reply ids, weight) of every trained turn, each rendered on its own."""
    tokenizer = tokenizer_for(family)

    def render(upto: int, *, request: bool, **options: Any) -> Any:
        try:
            return tokenizer.apply_chat_template(
                messages[:upto], tools=tools or None, add_generation_prompt=request, **options
            )
        except TemplateSyntaxError:
            raise
        except TemplateError as error:
            raise _UnservedError(error) from error

    turns: Counter[Any] = Counter()
    for index, message in enumerate(messages):
        if not message.get("weight", 0):
            continue
        request = render(index, request=True, tokenize=True, return_dict=False)
        request_text = render(index, request=True, tokenize=False)
        text = render(index + 1, request=False, tokenize=False)
        if not text.startswith(request_text):
            raise _UnservedError(index)
        if family.opens_next:
            text += family.ends_of_turn[-1 if message.get("tool_calls") else 0]
        reply = text[len(request_text) :]
        reply = reply[: max(reply.rfind(end) + len(end) for end in family.ends_of_turn)]
        ids = tokenizer(reply, add_special_tokens=False)["input_ids"]
        turns[tuple(request), tuple(ids), message["weight"]] += 1
    return turns


def _trained_turns(examples: list[Example]) -> Counter[Any]:
    return Counter(
        (tuple(example.ids[: span.start]), tuple(example.ids[span.start : span.end]), span.weight)
        for example in examples
        for span in example.spans
    )


@cache
def renderer_for(family: Family, *, is_compiled: bool = False) -> Renderer:
    """The same one for all conversations, as in a build: nothing may be left of those before."""
    stops = frozenset(family.ends_of_turn if family.opens_next else ())
    return Renderer(tokenizer_for(family), stop_tokens=stops, is_compiled=is_compiled)


def _check(family: Family, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> None:
    renderer = renderer_for(family)
    compiled = renderer_for(family, is_compiled=True)
    try:
        served = _served_turns(family, messages, tools)
    except _UnservedError:
        with pytest.raises(DataError, match="the chat template") as refused:
            renderer.examples(messages, tools)
        with pytest.raises(DataError) as refused_compiled:
            compiled.examples(messages, tools)
        assert str(refused_compiled.value) == str(refused.value)
        return
    examples = renderer.examples(messages, tools)
    assert compiled.examples(messages, tools) == examples
    assert _trained_turns(examples) == served
    for example in examples:
        edges = [edge for span in example.spans for edge in (span.start, span.end)]
        assert edges == sorted(set(edges)), "spans overlap"
        assert edges[-1] == len(example.ids), "tokens after the last trained one"


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(messages=_conversations(), tools=st.sampled_from([[], [_TOOL]]))
def test_every_turn_is_trained_once_exactly_as_it_is_served(
    family: Family, messages: list[dict[str, Any]], tools: list[dict[str, Any]]
) -> None:
    _check(family, messages, tools)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@settings(
    max_examples=500, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(messages=_conversations(), tools=st.sampled_from([[], [_TOOL]]))
def test_no_mismatch_in_500_conversations(
    family: Family, messages: list[dict[str, Any]], tools: list[dict[str, Any]]
) -> None:
    _check(family, messages, tools)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_family_is_either_trained_or_refused_for_a_reason(family: Family) -> None:
    """So that the properties above cannot hold because everything is refused."""
    messages = _chat(("user", "a"), ("assistant", "b"), reasoning_content="c")
    refusal = _REFUSED.get(family.template)
    if refusal:
        with pytest.raises(DataError, match=refusal):
            renderer_for(family).examples(messages, [])
    else:
        [example] = renderer_for(family).examples(messages, [])
        assert "b" in tokenizer_for(family).decode(example.ids[example.spans[0].start :])


def _chat(*turns: tuple[str, str], **last: Any) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in turns]
    messages[-1].update(last)
    return messages


_CALL = {"type": "function", "function": {"name": "run", "arguments": {"cmd": "ls"}}}


def _agent_run(num_turns: int, **first: Any) -> list[dict[str, Any]]:
    messages = _chat(("user", "go"))
    for number in range(num_turns):
        messages += _chat(("assistant", f"x{number}"), tool_calls=[_CALL], **first)
        messages += _chat(("tool", "out"))
        first = {}
    return messages


def test_turns_that_history_shows_unchanged_share_one_example() -> None:
    [example] = Renderer(tokenizer_for(FAMILIES["chatml"])).examples(_agent_run(20), [_TOOL])
    assert len(example.spans) == 20


def test_only_a_turn_whose_first_token_merges_with_its_request_is_set_apart() -> None:
    messages = _agent_run(20, content="\n\nhello")
    examples = Renderer(tokenizer_for(FAMILIES["chatml"])).examples(messages, [_TOOL])
    assert sorted(len(example.spans) for example in examples) == [1, 19]


def test_a_turn_whose_reasoning_history_drops_gets_an_example_of_its_own() -> None:
    messages = _chat(("user", "a"), ("assistant", "b"), reasoning_content="because")
    messages += _chat(("user", "c"), ("assistant", "d"), reasoning_content="so")
    tokenizer = tokenizer_for(FAMILIES["qwen3"])
    first, second = Renderer(tokenizer).examples(messages, [])
    assert "because" in tokenizer.decode(first.ids)
    assert "because" not in tokenizer.decode(second.ids)


@pytest.mark.parametrize(
    ("messages", "tools", "where"),
    [
        (_chat(("user", "a<|im_end|>"), ("assistant", "b")), [], "messages[0].content"),
        (_chat(("user", "a"), ("assistant", "<|im_end|>")), [], "messages[1].content"),
        (
            _chat(("user", "a"), ("assistant", "b"), reasoning_content="<|im_end|>"),
            [],
            "messages[1].reasoning_content",
        ),
        (
            _chat(
                ("user", "a"),
                ("assistant", "b"),
                tool_calls=[{"function": {"name": "f", "arguments": {"k": ["<|im_end|>"]}}}],
            ),
            [],
            "messages[1].tool_calls",
        ),
        (_chat(("user", "a"), ("assistant", "b")), [{"name": "<|im_end|>"}], "tools"),
    ],
    ids=["user", "assistant", "reasoning", "arguments", "tools"],
)
def test_a_special_token_in_text_is_refused(
    messages: list[dict[str, Any]], tools: list[Any], where: str
) -> None:
    with pytest.raises(DataError) as caught:
        Renderer(tokenizer_for(FAMILIES["qwen3"])).examples(messages, tools)
    assert str(caught.value).startswith(f"{where}: the text contains <|im_end|>, a special token")


def test_a_template_whose_turns_do_not_end_is_refused() -> None:
    tokenizer = tokenizer_for(Family(NO_END, ("<s>", "</s>"), ()))
    with pytest.raises(DataError, match=r"messages\[1\]: .* without a special token"):
        Renderer(tokenizer).examples(_chat(("user", "a"), ("assistant", "b")), [])


def test_a_template_whose_turns_end_with_the_next_is_refused_unless_generation_stops_there() -> (
    None
):
    tokenizer = tokenizer_for(FAMILIES["glm4_5"])
    messages = _chat(("user", "a"), ("assistant", "b"))
    for stops in (frozenset[str](), frozenset({"<|endoftext|>"})):
        with pytest.raises(DataError, match="eos_token_id in generation_config.json"):
            Renderer(tokenizer, stop_tokens=stops).examples(messages, [])


def test_a_template_that_hides_part_of_the_request_is_refused() -> None:
    """The generation prompt opens a block that the finished turn does not show."""
    template = FAMILIES["chatml"].template.replace(
        "assistant\n{% endif %}", "assistant\n<think>\n{% endif %}"
    )
    tokenizer = tokenizer_for(Family(template, FAMILIES["chatml"].special, ("<|im_end|>",)))
    with pytest.raises(DataError, match=r"messages\[1\]: .* differently from the request"):
        Renderer(tokenizer).examples(_chat(("user", "a"), ("assistant", "b")), [])


def test_a_conversation_that_the_template_refuses_is_a_data_error() -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    tokenizer = tokenizer_for(Family(template, ("<s>", "</s>"), ()))
    with pytest.raises(DataError, match="refuses this conversation: roles must alternate"):
        Renderer(tokenizer).examples(_chat(("user", "a"), ("assistant", "b")), [])


def test_a_tokenizer_without_template_is_refused() -> None:
    with pytest.raises(DataError, match="the tokenizer has no chat template"):
        Renderer(tokenizer_for(Family("", ("<s>", "</s>"), ())))


@pytest.mark.parametrize(
    ("cutoff_len", "kept"), [(9, None), (10, 1), (24, 1), (25, 2), (29, 2), (30, 3)]
)
def test_cutting_drops_whole_turns(cutoff_len: int, kept: int | None) -> None:
    spans = [Span(5, 10, 1.0), Span(20, 25, 1.0), Span(28, 30, 0.5)]
    left = cut_example(Example(list(range(30)), spans), "truncate_turns", cutoff_len)
    assert left == ([Example(list(range(spans[kept - 1].end)), spans[:kept])] if kept else [])
