"""What the chat template may do, what becomes of reasoning it hides, and the weights of tokens.

Run: pytest tests/test_trainer_chat_template.py
"""

import contextlib
import copy
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from trainer_templates import FAMILIES, Family, tokenizer_for

from pipeline.errors import ConfigError, DataError
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data import chat_template
from pipeline.trainer.data.cutoff import cut_example
from pipeline.trainer.data.example import Example, Span
from pipeline.trainer.data.render import Renderer
from pipeline.trainer.data.rendering import ClassWeights, Rendering
from pipeline.trainer.data.sandbox import limited
from pipeline.trainer.keys.rendering import LossWeights

CHATML_TOKENS = FAMILIES["chatml"].special


def family(template: str) -> Family:
    return Family(template, CHATML_TOKENS, ("<|im_end|>",))


def assistant(text: str, reasoning: str = "", *, calls: int = 0, **more: Any) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "run", "arguments": {"cmd": "ls"}}}
    message: dict[str, Any] = {"role": "assistant", "content": text, **more}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [call] * calls
    return message


def said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


TWO_QUERIES = [
    said("user", "q1"),
    assistant("", "why1", calls=1),
    said("tool", "out"),
    assistant("a1", "why2"),
    said("user", "q2"),
    assistant("a2", "why3"),
]


@cache
def tokenizer_of(name: str) -> Any:
    """With markup that merges with no text, as published tokenizers have it."""
    tokenizer = copy.deepcopy(tokenizer_for(FAMILIES[name]))
    tokenizer.add_tokens(["<think>", "</think>", "<tool_call>", "</tool_call>"])
    return tokenizer


def render(name: str, messages: list[dict[str, Any]], **options: Any) -> list[Example]:
    return Renderer(tokenizer_of(name), Rendering(**options)).examples(messages, [])


def decode(name: str, example: Example) -> tuple[str, list[str]]:
    """The whole text, and that of every span."""
    tokenizer = tokenizer_of(name)
    trained = [tokenizer.decode(example.ids[span.start : span.end]) for span in example.spans]
    return tokenizer.decode(example.ids), trained


# --- limits


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (LOOP, "refuses this conversation: it ran for more than 0.2 s"),
        ("{{ ('a' * 4000000000) | length }}", "needs too much memory"),
    ],
    ids=["time", "memory"],
)
def test_a_template_cannot_take_the_machine(
    template: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template, "limited", lambda: limited(0.2))
    with pytest.raises(DataError, match=message):
        Renderer(tokenizer_for(family(template))).examples([said("user", "q"), assistant("a")], [])
    assert len(bytearray(3 << 30)) == 3 << 30, "the limit outlives the template"


def test_the_limits_are_set_once_and_the_time_is_for_each_rendering(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A long conversation is rendered many times, and none of them may be what stops it."""
    happened: list[str] = []

    @contextlib.contextmanager
    def limits() -> Iterator[Any]:
        happened.append("limits")
        yield lambda: happened.append("clock")

    monkeypatch.setattr(chat_template, "limited", limits)
    render("chatml", TWO_QUERIES)
    assert happened == ["limits", *["clock"] * 6]


def test_a_template_renders_in_other_threads_too() -> None:
    found: list[Example] = []
    thread = threading.Thread(target=lambda: found.extend(render("qwen3", TWO_QUERIES)))
    thread.start()
    thread.join()
    assert found == render("qwen3", TWO_QUERIES)


# --- generation marks


def marked(opening: str, closing: str) -> Family:
    return family(
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        f"{opening}{{{{ m.content }}}}{closing}\n"
        "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}"
        "{% endfor %}{{ '<|im_start|>assistant\n' if add_generation_prompt }}"
    )


START, END = "{{ '<|im_start|>assistant\n' }}", "<|im_end|>"
MARK, END_MARK = "{% generation %}", "{% endgeneration %}"


@pytest.mark.parametrize(
    "template",
    [marked(START + MARK, END + END_MARK), marked(MARK + START, END + "\n" + END_MARK)],
    ids=["exact", "with_header"],
)
def test_a_reply_within_a_generation_block_is_trained(template: Family) -> None:
    tokenizer = tokenizer_for(template)
    [example] = Renderer(tokenizer).examples([said("user", "q"), assistant("a")], [])
    [span] = example.spans
    assert tokenizer.decode(example.ids[span.start : span.end]) == "a<|im_end|>"


@pytest.mark.parametrize(
    "template",
    [marked(START + MARK, END_MARK + END), marked(START, MARK + END + END_MARK)],
    ids=["no_end_of_turn", "no_text"],
)
def test_a_generation_block_that_leaves_out_part_of_a_reply_is_refused(template: Family) -> None:
    with pytest.raises(DataError, match=r"messages\[1\]: .* generation block leaves out part of"):
        Renderer(tokenizer_for(template)).examples([said("user", "q"), assistant("a")], [])


# --- reasoning of earlier turns


def test_as_template_trains_every_turn_once() -> None:
    examples = render("qwen3", TWO_QUERIES)
    trained = [turn for example in examples for turn in decode("qwen3", example)[1]]
    assert sorted("why1 why2 why3".split()) == sorted(
        word for turn in trained for word in ("why1", "why2", "why3") if word in turn
    )
    assert "why1" not in decode("qwen3", examples[-1])[0]


def test_last_turn_makes_one_example_of_what_the_last_rendering_shows() -> None:
    [example] = render("qwen3", TWO_QUERIES, reasoning_history="last_turn")
    assert example == render("qwen3", TWO_QUERIES)[-1]
    assert decode("qwen3", example)[1] == ["<think>\nwhy3\n</think>\n\na2<|im_end|>"]


@pytest.mark.parametrize("name", ["qwen3", "last_reasoning", "think_prompt", "minimax_m2"])
def test_keep_shows_every_turn_as_it_was_generated(name: str) -> None:
    [example] = render(name, TWO_QUERIES, reasoning_history="keep")
    text, trained = decode(name, example)
    replies = [turn for alone in render(name, TWO_QUERIES) for turn in decode(name, alone)[1]]
    assert sorted(trained) == sorted(replies)
    assert [text.count(word) for word in ("why1", "why2", "why3", "out", "q2")] == [1] * 5


def test_keep_equals_the_template_where_that_drops_nothing() -> None:
    messages = TWO_QUERIES[:4]
    assert render("qwen3", messages, reasoning_history="keep") == render("qwen3", messages)


def test_keep_trains_no_turn_of_weight_0_but_shows_it() -> None:
    messages = [dict(message) for message in TWO_QUERIES]
    messages[3]["weight"] = 0.0
    [example] = render("qwen3", messages, reasoning_history="keep")
    text, trained = decode("qwen3", example)
    assert "why2" in text
    assert len(trained) == 2


def test_keep_is_refused_where_a_turn_cannot_be_told_apart() -> None:
    """Harmony ends an answer with another token in history than as the last turn."""
    messages = [TWO_QUERIES[0], *TWO_QUERIES[3:]]
    with pytest.raises(DataError, match=r"messages\[1\]: .*; use training.reasoning_history: as_t"):
        render("gpt_oss", messages, reasoning_history="keep")


# --- weights of reasoning, calls and text


def test_tokens_weigh_by_what_they_say() -> None:
    messages = [said("user", "q"), assistant("hello", "why", calls=1, weight=0.5)]
    weights = ClassWeights(reasoning=0.0, call=2.0, text=1.0)
    [example] = render("qwen3", messages, class_weights=weights)
    _, texts = decode("qwen3", example)
    assert [span.weight for span in example.spans] == [0.0, 0.5, 1.0]
    assert "why" in texts[0]
    assert "hello" in texts[1]
    assert "run" in texts[2]
    assert texts[2].endswith("<|im_end|>")
    [plain] = render("qwen3", messages)
    assert plain.ids == example.ids
    assert (plain.spans[0].start, plain.spans[0].end) == (
        example.spans[0].start,
        example.spans[-1].end,
    )


def test_a_turn_is_cut_whole_whatever_its_parts_weigh() -> None:
    spans = [Span(2, 4, 0.0), Span(4, 6, 1.0), Span(8, 9, 0.0), Span(9, 12, 1.0)]
    example = Example(list(range(12)), spans)
    assert example.turn_ends == [6, 12]
    assert cut_example(example, "truncate_turns", 10) == [Example(list(range(6)), spans[:2])]
    assert cut_example(example, "truncate_turns", 5) == []


def test_parts_that_weigh_the_same_are_one_span() -> None:
    messages = [said("user", "q"), assistant("hello", "why", calls=1)]
    [example] = render("qwen3", messages, class_weights=ClassWeights(call=2.0))
    assert [span.weight for span in example.spans] == [1.0, 2.0]
    assert example.turn_ends == [len(example.ids)]


def test_turns_that_touch_are_cut_apart() -> None:
    """As with train_on_prompt, where everything carries loss."""
    example = Example(list(range(9)), [Span(0, 4, 1.0), Span(4, 9, 1.0)])
    assert example.turn_ends == [4, 9]
    assert cut_example(example, "truncate_turns", 8) == [Example([0, 1, 2, 3], [Span(0, 4, 1.0)])]


# --- the keys


def args(**keys: Any) -> TrainArgs:
    return TrainArgs(model_name_or_path="m", dataset="d", dataset_dir="x", output_dir="o", **keys)


def test_every_key_arrives() -> None:
    weights = LossWeights(reasoning=0.5)
    assert Rendering.of(args(reasoning_history="keep", loss_weights=weights)) == Rendering(
        reasoning_history="keep", class_weights=ClassWeights(reasoning=0.5)
    )
    given: dict[str, Any] = {"template": "qwen3", "train_on_prompt": True, "mask_history": True}
    given |= {"enable_thinking": False, "preserve_thinking": True, "template_date": "x"}
    assert Rendering.of(args(**given)) == Rendering(**given)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mask_history": True}, "training.mask_history: needs a named template (template is auto"),
        ({"template": "qwen", "reasoning_history": "keep"}, "training.reasoning_history: needs te"),
        (
            {"template": "qwen", "loss_weights": LossWeights(call=2.0)},
            "training.loss_weights: needs template: auto (template is qwen)",
        ),
    ],
)
def test_a_key_of_the_other_kind_of_template_is_an_error(
    keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Rendering.of(args(**keys))
    assert str(caught.value).startswith(message)
