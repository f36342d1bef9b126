"""Turns of a conversation in text, as the model's own chat template shows them.

    messages, tools, index of an assistant message  ->  Turn: request + reply

A request is what inference would send (`add_generation_prompt=True`); the reply is the rest of the
conversation that ends with this turn, up to the token that ends it. The template is code that
comes with a model: it runs in Jinja's sandbox with limits on time and memory.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.errors import DataError
from pipeline.trainer.data.example import Tokenizer, special_tokens
from pipeline.trainer.data.jinja.compiled import CompiledTemplate
from pipeline.trainer.data.sandbox import TimeLimitError, limited

Messages = list[dict[str, Any]]
Tools = list[dict[str, Any]]

_GENERATION_MARK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn in text: `text[:start]` is the request, `text[start:]` the reply."""

    text: str
    start: int
    index: int
    """Of its message."""

    @property
    def request(self) -> str:
        return self.text[: self.start]

    @property
    def reply(self) -> str:
        return self.text[self.start :]


class ChatTemplate:
    """The chat template of one tokenizer."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop_tokens: frozenset[str] = frozenset(),
        *,
        is_compiled: bool = False,
    ) -> None:
        """
        Args:
            stop_tokens: at which generation stops, as the model's generation config says.
            is_compiled: render what is the same in several requests once; otherwise by the
                tokenizer's own `apply_chat_template`.

        Raises: DataError: the tokenizer has no chat template.
        """
        if not tokenizer.chat_template:
            raise DataError(
                "the tokenizer has no chat template, so there is no knowing how the model is "
                "served; use an instruction-tuned model or add chat_template.jinja beside it"
            )
        self._tokenizer = tokenizer
        self._stop_tokens = stop_tokens
        self._special = special_tokens(tokenizer)
        self._special_map = dict(tokenizer.special_tokens_map)
        self._is_compiled = is_compiled
        self._compiled: dict[bool, CompiledTemplate] = {}
        """For conversations with and without tools."""
        self._plain: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
        """Messages of this conversation by their ids, and without their reasoning."""
        self._restart_clock: Callable[[], None] | None = None
        """Within limits that hold already."""

    @contextlib.contextmanager
    def conversation(self) -> Iterator[None]:
        """Everything that is rendered meanwhile belongs to one conversation.

        Its messages must not change. The limits are set once for all of it, which takes less time;
        each rendering has all of the time for itself.

        Raises: DataError: one took too long.
        """
        self._plain = {}
        for template in self._compiled.values():
            template.begin()
        try:
            with limited() as self._restart_clock:
                yield
        except TimeLimitError as error:
            raise DataError(f"the chat template refuses this conversation: {error}") from error
        finally:
            self._restart_clock = None

    def turn(self, messages: Messages, tools: Tools, index: int) -> Turn:
        """The turn of assistant message `index`.

        Raises: DataError: the template refuses the conversation, does not begin it with its
            request, ends the turn without a special token, or marks ({% generation %}) less than
            the reply.
        """
        request = self.render(messages[:index], tools, add_generation_prompt=True)
        conversation = self.render(messages[: index + 1], tools)
        if not conversation.startswith(request):
            raise DataError(
                f"messages[{index}]: the chat template renders this turn differently from the "
                "request that would have produced it; train with the template the model is served "
                "with"
            )
        marks = list(self._special.finditer(conversation, len(request)))
        if not marks or conversation[marks[-1].end() :].strip():
            conversation += self._opening_of_the_next(messages[: index + 1], tools)
            marks = list(self._special.finditer(conversation, len(request)))
        if not marks or conversation[marks[-1].end() :].strip():
            raise DataError(
                f"messages[{index}]: the chat template ends an assistant turn without a special "
                "token, so a model trained on it would never stop; add an end-of-turn token, or "
                "name the token of the next turn as eos_token_id in generation_config.json"
            )
        end = marks[-1].end()
        if _ends_twice(conversation, marks) and self._closes(messages[:index], tools):
            end = self._end_of_turn(messages[: index + 1], tools, conversation, marks)
        turn = Turn(conversation[:end], len(request), index)
        self._check_marked(messages[: index + 1], tools, turn)
        return turn

    def text_between(self, messages: Messages, tools: Tools, turn: Turn, later: Turn) -> str:
        """What a request shows from the end of `turn` to where it asks for `later`.

        The template may show the turn itself otherwise than it was generated: then two other
        answers in its place tell where it ends, because the text behind both is the same.

        Raises: DataError: that text cannot be told apart from the turn.
        """
        if later.request.startswith(turn.text):
            return later.request[len(turn.text) :]
        requests, replies = [], []
        for content in ("a", "b"):
            answer = {**messages[turn.index], "content": content}
            changed = [*messages[: turn.index], answer, *messages[turn.index + 1 :]]
            replies.append(self.turn(changed, tools, turn.index).reply)
            request = self.render(changed[: later.index], tools, add_generation_prompt=True)
            requests.append(request)
        closing, rest = _common_suffix(*replies), _common_suffix(*requests)
        between = rest.removeprefix(closing)
        if not closing or between == rest or not later.request.endswith(between):
            raise DataError(
                f"messages[{turn.index}]: the chat template drops this turn's reasoning in a way "
                "that cannot be undone; use training.reasoning_history: as_template"
            )
        return between

    def render(
        self, messages: Messages, tools: Tools, *, add_generation_prompt: bool = False
    ) -> str:
        render = self._render_compiled if self._is_compiled and messages else self._render_plain
        try:
            if self._restart_clock is None:
                with limited():
                    return render(messages, tools, add_generation_prompt)
            self._restart_clock()
            return render(messages, tools, add_generation_prompt)
        except MemoryError as error:
            raise DataError("the chat template needs too much memory") from error
        except Exception as error:  # jinja2, the template's own raise_exception, the time limit
            raise DataError(f"the chat template refuses this conversation: {error}") from error

    def _render_plain(self, messages: Messages, tools: Tools, is_request: bool) -> str:
        return self._tokenizer.apply_chat_template(
            messages,
            tools=tools or None,
            tokenize=False,
            add_generation_prompt=is_request,
        )

    def _render_compiled(self, messages: Messages, tools: Tools, is_request: bool) -> str:
        template = self._compiled.get(bool(tools))
        if template is None:
            source = self._tokenizer.get_chat_template(None, tools or None)
            template = self._compiled[bool(tools)] = CompiledTemplate(source)
        return template.render(
            **self._special_map,
            messages=messages,
            tools=tools or None,
            documents=None,
            add_generation_prompt=is_request,
        )

    def _without_reasoning(self, message: dict[str, Any]) -> dict[str, Any]:
        known = self._plain.get(id(message))
        if known is None:
            plain = {key: value for key, value in message.items() if key != "reasoning_content"}
            known = self._plain[id(message)] = (message, plain)
        return known[1]

    def _opening_of_the_next(self, messages: Messages, tools: Tools) -> str:
        """The token that opens the next turn, if that is what stops the model; else nothing.

        GLM-4.5 ends no turn: it goes on to the token of the user or of the tool, and stops there.
        """
        if not self._stop_tokens:
            return ""
        calls = messages[-1].get("tool_calls")
        role = {"role": "tool", "tool_call_id": calls[-1].get("id")} if calls else {"role": "user"}
        plain = [self._without_reasoning(m) for m in messages]  # it may vanish when a turn follows
        text = self.render(plain, tools)
        longer = self.render([*plain, {"content": "a", **role}], tools)
        opening = self._special.match(longer, len(text)) if longer.startswith(text) else None
        return opening[0] if opening and opening[0] in self._stop_tokens else ""

    def _closes(self, history: Messages, tools: Tools) -> bool:
        """Whether the text ends on several special tokens even when the last turn has some text.

        An empty answer in harmony ends on two as well, but both are its own.
        """
        text = self.render([*history, {"role": "assistant", "content": "a"}], tools)
        return _ends_twice(text, list(self._special.finditer(text)))

    def _end_of_turn(
        self, messages: Messages, tools: Tools, conversation: str, marks: list[re.Match[str]]
    ) -> int:
        """Where the last turn ends if the template closes the whole conversation with a token.

        Phi-3 does; what a request that goes on still shows belongs to the turn.
        """
        try:
            longer = self.render(messages, tools, add_generation_prompt=True)
        except DataError:  # the template lets no model turn follow another one
            return marks[-1].end()
        shared = _shared(conversation, longer)
        return max((mark.end() for mark in marks if mark.end() <= shared), default=marks[-1].end())

    def _check_marked(self, messages: Messages, tools: Tools, turn: Turn) -> None:
        """Where the template marks what is generated, the reply lies within one mark."""
        source = self._tokenizer.get_chat_template(None, tools or None)
        if not _GENERATION_MARK.search(source):
            return
        from transformers.utils import chat_template_utils

        render: Any = chat_template_utils.render_jinja_template  # annotated as if it gave text
        present = [{k: v for k, v in message.items() if v is not None} for message in messages]
        with limited():
            _, marked = render(
                conversations=[present],
                tools=tools or None,
                chat_template=source,
                return_assistant_tokens_mask=True,
                **self._tokenizer.special_tokens_map,
            )
        if not any(a <= turn.start and len(turn.text) <= b for a, b in marked[0]):
            raise DataError(
                f"messages[{turn.index}]: the chat template's generation block leaves out part of "
                "what the model generates in this turn; correct the block, or remove its marks"
            )


def _ends_twice(text: str, marks: list[re.Match[str]]) -> bool:
    """Nothing but space stands between the last two special tokens."""
    return len(marks) > 1 and not text[marks[-2].end() : marks[-1].start()].strip()


def _common_suffix(one: str, other: str) -> str:
    return one[len(one) - _shared(one[::-1], other[::-1]) :]


def _shared(one: str, other: str) -> int:
    """How many characters both begin with."""
    shared, end = 0, min(len(one), len(other))
    while shared < end:
        middle = (shared + end + 1) // 2
        if one[shared:middle] == other[shared:middle]:
            shared = middle
        else:
            end = middle - 1
    return shared
