"""Conversations to token ids and loss spans, exactly as the model is served.

    messages, tools  ->  [Example(ids=[...], spans=[Span(start, end, weight), ...]), ...]

The law: for every trained turn, the ids before it are the ids of the request that inference would
send (`apply_chat_template(history, add_generation_prompt=True)`), and the trained ids are what the
template makes of the reply, from the first generated token to the end-of-turn token. Nothing else
carries loss.

A chat template may show a turn in later history otherwise than it was generated (Qwen3 drops the
reasoning of turns before the last user query). Turns that one rendering shows exactly as they were
generated share one example. What becomes of the others, `Rendering.reasoning_history` says:

    as_template   an example of their own: every turn is trained once, never on text that no
                  request contains
    last_turn     context only: one example per conversation, in which those turns carry no loss
    keep          all turns share one example that shows each as it was generated; requests are
                  the template's only if the model is served so, too
"""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, groupby
from typing import Any

from pipeline.sharegpt import from_sharegpt
from pipeline.trainer.data.chat_template import ChatTemplate, Messages, Tools, Turn
from pipeline.trainer.data.example import Example, Span, Tokenizer, check_inert, special_tokens
from pipeline.trainer.data.rendering import Rendering

_SpansOf = Callable[[Turn, int, list[int]], list[Span]]
"""(turn, where its reply starts in the example, ids of the reply) -> its spans."""


class Renderer:
    """Renders conversations with one tokenizer and its chat template."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        rendering: Rendering | None = None,
        stop_tokens: frozenset[str] = frozenset(),
        *,
        is_compiled: bool = False,
    ) -> None:
        """
        Args:
            stop_tokens: at which generation stops, as the model's generation config says.
            is_compiled: see `ChatTemplate`.

        Raises: DataError: the tokenizer has no chat template.
        """
        self._template = ChatTemplate(tokenizer, stop_tokens, is_compiled=is_compiled)
        self._tokenizer = tokenizer
        self._rendering = rendering or Rendering()
        self._special = special_tokens(tokenizer)

    def row_examples(self, row: dict[str, Any]) -> list[Example]:
        """`examples` of one row of a dataset, in LLaMA-Factory's form or as rendered text."""
        return self.examples(*from_sharegpt(row))

    def examples(self, messages: Messages, tools: Tools) -> list[Example]:
        """All training sequences of one conversation; every turn of weight > 0 is in one of them.

        `messages` are canonical: role, content, reasoning_content, tool_calls, and `weight` on
        assistant turns (default 1).

        Raises: DataError: a message or tool holds a special token of the tokenizer, or the template
            cannot be served exactly (its request is no prefix of the conversation, it has no end
            of turn, or it refuses the conversation).
        """
        check_inert(self._special, _texts(messages, tools))
        with self._template.conversation():
            if self._rendering.reasoning_history == "keep":
                groups = [self._kept(messages, tools)]
            else:
                groups = self._groups(messages, tools)
        if self._rendering.reasoning_history == "last_turn":
            groups = groups[-1:]
        spans_of = partial(self._spans, messages, tools)
        return [example for group in groups for example in self._tokenize(group, spans_of)]

    def _groups(self, messages: Messages, tools: Tools) -> list[list[Turn]]:
        """Trained turns by example: the text of the last turn of a group shows all the others."""
        groups: list[list[Turn]] = []
        for index in reversed(range(len(messages))):
            if _weight(messages[index]) == 0:
                continue
            turn = self._template.turn(messages, tools, index)
            for group in groups:
                if group[0].text.startswith(turn.text):
                    group.append(turn)
                    break
            else:
                groups.append([turn])
        return [sorted(group, key=lambda turn: turn.start) for group in reversed(groups)]

    def _kept(self, messages: Messages, tools: Tools) -> list[Turn]:
        """Trained turns in one text that shows every turn as it was generated."""
        turns = [
            self._template.turn(messages, tools, index)
            for index, message in enumerate(messages)
            if message["role"] == "assistant"
        ]
        if not turns:
            return []
        text, kept = turns[0].request, []
        for turn, later in zip(turns, [*turns[1:], None], strict=True):
            start = len(text)
            text += turn.reply
            if _weight(messages[turn.index]) > 0:
                kept.append(Turn(text, start, turn.index))
            if later is not None:
                text += self._template.text_between(messages, tools, turn, later)
        return kept

    def _tokenize(self, turns: Sequence[Turn], spans_of: "_SpansOf") -> list[Example]:
        """Token ids of turns that share the text of the last one.

        Where a reply starts with text that merges with the end of its request (newlines, say),
        later requests show it in other tokens than were generated: it gets an example of its own.
        """
        if len(turns) < 2:
            return [self._alone(turn, spans_of) for turn in turns]
        text = turns[-1].text
        firsts = [0, *(len(turn.text) for turn in turns[:-1])]
        halves = [
            (self._ids(text[first : turn.start]), self._ids(turn.reply))
            for first, turn in zip(firsts, turns, strict=True)
        ]
        segments = [request + reply for request, reply in halves]
        whole = self._ids(text)
        if list(chain.from_iterable(segments)) != whole:
            segments = [
                self._ids(text[first : len(turn.text)])
                for first, turn in zip(firsts, turns, strict=True)
            ]
        # Every segment ends with a special token and no token crosses one. So if the segments are
        # what the whole text gives, every request's ids are a prefix of these.
        if list(chain.from_iterable(segments)) != whole:
            return [self._alone(turn, spans_of) for turn in turns]
        alone: list[Example] = []
        ids: list[int] = []
        spans: list[Span] = []
        for turn, (request, reply), segment in zip(turns, halves, segments, strict=True):
            if segment == request + reply:
                spans += spans_of(turn, len(ids) + len(request), reply)
            else:
                alone.append(self._alone(turn, spans_of))
            ids += segment
        return [*alone, Example(ids[: spans[-1].end], spans)] if spans else alone

    def _alone(self, turn: Turn, spans_of: "_SpansOf") -> Example:
        request, reply = self._ids(turn.request), self._ids(turn.reply)
        return Example(request + reply, spans_of(turn, len(request), reply))

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def _spans(
        self, messages: Messages, tools: Tools, turn: Turn, start: int, reply: list[int]
    ) -> list[Span]:
        """The spans of one reply, which touch each other: one per weight of its tokens.

        A token is reasoning, or of a call, if leaving out the turn's reasoning, or its calls,
        changes the reply at or before (behind) it. Everything else is text. The token that ends
        the turn counts with what stands before it.
        """
        weight, factors = _weight(messages[turn.index]), self._rendering.class_weights
        if factors.are_equal:
            return [Span(start, start + len(reply), weight)]
        history, message = messages[: turn.index], messages[turn.index]
        text_from, text_to = 0, len(reply)
        if message.get("reasoning_content"):
            plain = self._reply_without(history, message, tools, "reasoning_content")
            text_from = len(reply) - len(os.path.commonprefix([reply[::-1], plain[::-1]]))
        if message.get("tool_calls"):
            plain = self._reply_without(history, message, tools, "tool_calls")
            text_to = max(text_from, len(os.path.commonprefix([reply, plain])))
        parts = [
            (factors.reasoning, text_from),
            (factors.text, text_to - text_from),
            (factors.call, len(reply) - text_to),
        ]
        spans: list[Span] = []
        for factor, tokens in groupby((f for f, count in parts for _ in range(count))):
            end = start + sum(1 for _ in tokens)
            spans.append(Span(start, end, weight * factor))
            start = end
        return spans

    def _reply_without(
        self, history: Messages, message: dict[str, Any], tools: Tools, key: str
    ) -> list[int]:
        rest = {name: value for name, value in message.items() if name != key}
        return self._ids(self._template.turn([*history, rest], tools, len(history)).reply)


def _weight(message: dict[str, Any]) -> float:
    return float(message.get("weight", 1.0)) if message["role"] == "assistant" else 0.0


def _texts(messages: Messages, tools: Tools) -> list[tuple[str, str]]:
    """(where it stands, text) of everything in a conversation that must not be structure."""
    fields = [("tools", json.dumps(tools, ensure_ascii=False))]
    for index, message in enumerate(messages):
        calls = json.dumps(message.get("tool_calls") or [], ensure_ascii=False)
        fields += [
            (f"messages[{index}].content", message.get("content") or ""),
            (f"messages[{index}].reasoning_content", message.get("reasoning_content") or ""),
            (f"messages[{index}].tool_calls", calls),
        ]
    return fields
