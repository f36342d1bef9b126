"""Conversations to token ids and loss spans, exactly as the model is served.

    messages, tools  ->  [Example(ids=[...], spans=[Span(start, end, weight), ...]), ...]

The law: for every trained turn, the ids before it are the ids of the request that inference would
send (`apply_chat_template(history, add_generation_prompt=True)`), and the trained ids are what the
template makes of the reply, from the first generated token to the end-of-turn token. Nothing else
carries loss.

A chat template may show a turn in later history otherwise than it was generated (Qwen3 drops the
reasoning of turns before the last user query). Turns that one rendering shows exactly as they were
generated share one example; any other turn gets an example of its own. So every turn is trained
once, and never on text that no request contains.
"""

import re
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.errors import DataError

Messages = list[dict[str, Any]]
Tools = list[dict[str, Any]]


class Tokenizer(Protocol):
    """What rendering needs of a `transformers` tokenizer."""

    chat_template: Any
    all_special_tokens: list[str]
    added_tokens_decoder: dict[int, Any]

    def __call__(self, text: str, **kwargs: Any) -> Any: ...
    def apply_chat_template(self, conversation: Messages, **kwargs: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Span:
    """Token positions [start, end) that carry loss, each with this weight."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True, slots=True)
class Example:
    """One training sequence. `ids` ends with the last trained token."""

    ids: list[int]
    spans: list[Span]

    def cut_to(self, cutoff_len: int) -> "Example | None":
        """Drop the turns that do not fit into `cutoff_len` tokens, whole turns only.

        Returns: None: not even the first trained turn fits.
        """
        if len(self.ids) <= cutoff_len:
            return self
        spans = [span for span in self.spans if span.end <= cutoff_len]
        return Example(self.ids[: spans[-1].end], spans) if spans else None


@dataclass(frozen=True, slots=True)
class _Turn:
    """A trained turn in text: `text[:start]` is the request, `text[start:]` the reply."""

    text: str
    start: int
    weight: float


class Renderer:
    """Renders conversations with one tokenizer and its chat template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises: DataError: the tokenizer has no chat template, or its turns have no end token."""
        if not tokenizer.chat_template:
            raise DataError(
                "the tokenizer has no chat template, so there is no knowing how the model is "
                "served; use an instruction-tuned model or add chat_template.jinja beside it"
            )
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        special = {str(token) for token in added if token.special} | {
            str(token) for token in tokenizer.all_special_tokens
        }
        longest_first = sorted(special, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def examples(self, messages: Messages, tools: Tools) -> list[Example]:
        """All training sequences of one conversation; every turn of weight > 0 is in one of them.

        `messages` are canonical: role, content, reasoning_content, tool_calls, and `weight` on
        assistant turns (default 1).

        Raises: DataError: message text holds a special token of the tokenizer, or the template
            cannot be served exactly (its request is no prefix of the conversation, it has no end
            of turn, or it refuses the conversation).
        """
        self._check_inert(messages)
        groups: list[list[_Turn]] = []  # each ends with the turn whose text shows all the others
        for index in reversed(range(len(messages))):
            weight = _weight(messages[index])
            if weight == 0:
                continue
            turn = self._turn(messages, tools, index, weight)
            for group in groups:
                if group[0].text.startswith(turn.text):
                    group.append(turn)
                    break
            else:
                groups.append([turn])
        return [
            example
            for group in reversed(groups)
            for example in self._tokenize(sorted(group, key=lambda turn: turn.start))
        ]

    def _check_inert(self, messages: Messages) -> None:
        for index, message in enumerate(messages):
            for field in ("content", "reasoning_content"):
                found = self._special.search(message.get(field) or "")
                if found:
                    raise DataError(
                        f"messages[{index}].{field}: the text contains {found.group()}, a special "
                        "token of this tokenizer; it would be read as structure, not as text"
                    )

    def _turn(self, messages: Messages, tools: Tools, index: int, weight: float) -> _Turn:
        request = self._render(messages[:index], tools, add_generation_prompt=True)
        conversation = self._render(messages[: index + 1], tools, add_generation_prompt=False)
        if not conversation.startswith(request):
            raise DataError(
                f"messages[{index}]: the chat template renders this turn differently from the "
                "request that would have produced it; train with the template the model is served "
                "with"
            )
        ends = [match.end() for match in self._special.finditer(conversation, len(request))]
        if not ends or conversation[ends[-1] :].strip():
            raise DataError(
                f"messages[{index}]: the chat template ends an assistant turn without a special "
                "token, so a model trained on it would never stop; add an end-of-turn token"
            )
        return _Turn(conversation[: ends[-1]], len(request), weight)

    def _render(self, messages: Messages, tools: Tools, *, add_generation_prompt: bool) -> str:
        try:
            return self._tokenizer.apply_chat_template(
                messages,
                tools=tools or None,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except Exception as error:  # jinja2 and the template's own raise_exception
            raise DataError(f"the chat template refuses this conversation: {error}") from error

    def _tokenize(self, turns: list[_Turn]) -> list[Example]:
        """Token ids of turns that share the text of the last one."""
        text = turns[-1].text
        ids: list[int] = []
        spans: list[Span] = []
        done = 0
        for turn in turns:
            ids += self._ids(text[done : turn.start])
            start = len(ids)
            ids += self._ids(text[turn.start : len(turn.text)])
            spans.append(Span(start, len(ids), turn.weight))
            done = len(turn.text)
        # Every reply ends with a special token and no token crosses one. So if the pieces are what
        # the whole text gives, every request's ids are a prefix of these.
        if len(turns) == 1 or ids == self._ids(text):
            return [Example(ids, spans)]
        return [example for turn in turns for example in self._tokenize([turn])]

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


def _weight(message: dict[str, Any]) -> float:
    return float(message.get("weight", 1.0)) if message["role"] == "assistant" else 0.0
