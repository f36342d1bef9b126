"""Property: the builtin model speaks Qwen3's conversation format and is the same on every build.

The expected texts were written out by hand from Qwen3's published rules.
Run: pytest tests/test_trainer_builtin.py
"""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.builtin import ensure_builtin
from pipeline.errors import ConfigError

_CALL = {"type": "function", "function": {"name": "run", "arguments": {"cmd": "ls <a> \u00e9"}}}
_BARE_CALL = {"name": "stop", "arguments": '{"now": true}'}
_TOOL = {"type": "function", "function": {"name": "run", "description": "runs it's <cmd>"}}
_SYSTEM = {"role": "system", "content": "Be brief."}
_ASK = {"role": "user", "content": "hi"}
_THINK = {"role": "assistant", "content": "\n\nhello", "reasoning_content": "\nr1\n"}
_ANNOUNCED = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
    '{"type": "function", "function": {"name": "run", "description": "runs it\'s <cmd>"}}\n'
    "</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
)
_CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "system turn": (
        [_SYSTEM, _ASK],
        {},
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n",
    ),
    "tools after the system text": (
        [_SYSTEM, _ASK],
        {"tools": [_TOOL]},
        f"<|im_start|>system\nBe brief.\n\n{_ANNOUNCED}<|im_start|>user\nhi<|im_end|>\n",
    ),
    "tools without a system message": (
        [_ASK],
        {"tools": [_TOOL]},
        f"<|im_start|>system\n{_ANNOUNCED}<|im_start|>user\nhi<|im_end|>\n",
    ),
    "the last turn always has a reasoning block": (
        [_ASK, {"role": "assistant", "content": "hello"}],
        {},
        "<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\nhello<|im_end|>\n",
    ),
    "reasoning is shown after the last query, without outer newlines": (
        [_ASK, _THINK],
        {},
        "<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nr1\n</think>\n\nhello<|im_end|>\n",
    ),
    "reasoning before the last query is dropped, the text stays as it is": (
        [_ASK, _THINK, _ASK],
        {},
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n\n\nhello<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n",
    ),
    "reasoning inside the text counts as reasoning": (
        [_ASK, {"role": "assistant", "content": "<think>\nr\n</think>\n\nhello"}, _ASK],
        {},
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n",
    ),
    "parallel calls, results in one user turn, reasoning kept within the tool loop": (
        [
            _ASK,
            {"role": "assistant", "content": "", "reasoning_content": "r", "tool_calls": [_CALL]},
            {"role": "tool", "content": "out 1"},
            {"role": "assistant", "content": "and", "tool_calls": [_CALL, _BARE_CALL]},
            {"role": "tool", "content": "out 2"},
            {"role": "tool", "content": "out 3"},
        ],
        {"add_generation_prompt": True},
        "<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nr\n</think>\n\n<tool_call>\n"
        '{"name": "run", "arguments": {"cmd": "ls <a> \u00e9"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nout 1\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nand\n<tool_call>\n"
        '{"name": "run", "arguments": {"cmd": "ls <a> \u00e9"}}\n</tool_call>\n<tool_call>\n'
        '{"name": "stop", "arguments": {"now": true}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nout 2\n</tool_response>\n"
        "<tool_response>\nout 3\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
    ),
    "a user message that is a tool result is no query": (
        [
            _ASK,
            {"role": "assistant", "content": "a", "reasoning_content": "r"},
            {"role": "user", "content": "<tool_response>\nout\n</tool_response>"},
        ],
        {},
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\nr\n</think>\n\na<|im_end|>"
        "\n<|im_start|>user\n<tool_response>\nout\n</tool_response><|im_end|>\n",
    ),
    "thinking can be switched off for generation": (
        [_ASK],
        {"add_generation_prompt": True, "enable_thinking": False},
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
}


@pytest.mark.parametrize(("messages", "options", "expected"), _CASES.values(), ids=_CASES)
def test_template_follows_the_published_rules(
    tiny_model: Path, messages: list[dict[str, Any]], options: dict[str, Any], expected: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert tokenizer.apply_chat_template(messages, tokenize=False, **options) == expected


def test_building_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.json").write_text('{"text": "some words and some more words"}')
    first = ensure_builtin("builtin:tiny-qwen3", tmp_path / "1", corpus)
    second = ensure_builtin("builtin:tiny-qwen3", tmp_path / "2", corpus)
    assert first.name == second.name
    contents = [{f.name: f.read_bytes() for f in d.iterdir()} for d in (first, second)]
    assert contents[0] == contents[1]
    (corpus / "a.json").write_text('{"text": "other words"}')
    assert ensure_builtin("builtin:tiny-qwen3", tmp_path / "1", corpus) != first


def test_the_model_loads_and_its_tokenizer_keeps_any_text(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text = " two  spaces,\ttabs\n\n\u00e9\u4e16\U0001f600 1234567 don't"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert model.config.vocab_size >= len(tokenizer)
    assert model.config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_an_unknown_builtin_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such builtin model \(got builtin:huge\); use"):
        ensure_builtin("builtin:huge", tmp_path, tmp_path)
