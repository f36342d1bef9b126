"""Rows to ids and loss spans exactly as LLaMA-Factory 0.9.5 makes them with a named template.

    {"conversations": [{"from", "value", "loss_weight"?}, ...], "tools": str}  ->  [Example]

For users whose models were trained there. Unlike the model's own chat template, these formats are
not proved to be what a server sends, history keeps its reasoning, and the newline after a turn is
trained. What differs from LLaMA-Factory: nothing is cut inside a turn, `loss_weight` counts, and a
special token in the text of a row is refused instead of being read as structure.

Source: LLaMA-Factory 0.9.5 src/llamafactory/data/{template,formatter}.py, processor/supervised.py.
"""

import json
import re
from typing import Any

from pipeline.errors import DataError
from pipeline.trainer.data.example import Example, Span, Tokenizer, check_inert, special_tokens
from pipeline.trainer.data.rendering import Rendering
from pipeline.trainer.data.templates.named import (
    BOS,
    CONTENT,
    EOS,
    TEMPLATES,
    NamedTemplate,
    Pieces,
)
from pipeline.trainer.data.templates.tool_formats import Call

_THINK, _END_THINK = "<think>\n", "\n</think>\n\n"
_THOUGHT = re.compile(f"{re.escape(_THINK)}.*?{re.escape(_END_THINK)}", re.DOTALL)
_CALLS = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


class NamedRenderer:
    """Renders rows with one tokenizer and one of `TEMPLATES`."""

    def __init__(self, tokenizer: Tokenizer, rendering: Rendering) -> None:
        """Raises: DataError: no such template, or the tokenizer lacks one of its tokens."""
        template = TEMPLATES.get(rendering.template)
        if template is None:
            raise DataError(
                f"training.template: {rendering.template!r} is unknown to the native engine; use "
                f"auto or one of {', '.join(sorted(TEMPLATES))}, or infrastructure.engine: "
                "llamafactory"
            )
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in template.required_tokens if token not in vocabulary]
        if missing:
            raise DataError(
                f"training.template: {rendering.template} needs {', '.join(missing)}, which this "
                "tokenizer does not have; use auto"
            )
        known = tokenizer.special_tokens_map
        self._own = {
            piece: [vocabulary[known[name]]] if known.get(name) else []
            for piece, name in ((BOS, "bos_token"), (EOS, "eos_token"))
        }
        self._tokenizer = tokenizer
        self._template: NamedTemplate = template
        self._rendering = rendering
        self._special = special_tokens(tokenizer)

    def row_examples(self, row: dict[str, Any]) -> list[Example]:
        """The training sequence of one row, or none if no turn of it carries loss.

        Raises: DataError: the row is no such conversation, a call is not JSON, or text holds a
            special token of the tokenizer.
        """
        system, turns = _system_and_turns(row)
        tools = row.get("tools") or ""
        fields = [("tools", tools), ("system", system)]
        fields += [(f"conversations[{i}].value", turn["value"]) for i, turn in enumerate(turns)]
        check_inert(self._special, fields)
        ids: list[int] = []
        spans: list[Span] = []
        for number, (prompt, reply) in enumerate(self._pairs(turns, system, tools)):
            if self._rendering.train_on_prompt and prompt:
                spans.append(Span(len(ids), len(ids) + len(prompt), 1.0))
            ids += prompt
            is_trained = not self._rendering.mask_history or 2 * number + 2 == len(turns)
            weight = float(turns[2 * number + 1].get("loss_weight", 1.0)) if is_trained else 0.0
            if weight > 0 and reply:
                spans.append(Span(len(ids), len(ids) + len(reply), weight))
            ids += reply
        return [Example(ids[: spans[-1].end], spans)] if spans else []

    def _pairs(
        self, turns: list[dict[str, Any]], system: str, tools: str
    ) -> list[tuple[list[int], list[int]]]:
        """Ids of each prompt and of the reply to it."""
        rendering, template = self._rendering, self._template
        begin = self._begin_of_thoughts(turns)
        pairs = []
        for index in range(0, len(turns), 2):
            value = turns[index + 1]["value"]
            if template.reasons and (not rendering.enable_thinking or index < begin):
                value = _THOUGHT.sub("", value).lstrip("\n")
            prompt = self._opening(system, tools) if index == 0 else []
            prompt += self._prompt(turns[index], index)
            reply = self._reply({**turns[index + 1], "value": value}, index + 1)
            has_thought = _THINK.strip() in value or _END_THINK.strip() in value
            if template.reasons and not has_thought and index >= begin:
                empty = self._ids(_THINK + _END_THINK)
                if rendering.enable_thinking:
                    reply = empty + reply
                else:
                    prompt += empty
            pairs.append((prompt, reply))
        return pairs

    def _begin_of_thoughts(self, turns: list[dict[str, Any]]) -> int:
        """The turns before this one lose their thoughts, and get no empty ones: what LLaMA-Factory
        does with history where a part of the replies, or of a pair, is not trained."""
        if self._rendering.preserve_thinking:
            return 0
        if self._rendering.mask_history:
            return len(turns) - 2
        replies = range(1, len(turns), 2)
        trained = (index - 1 for index in replies if turns[index].get("loss_weight", 1.0) > 0)
        return next(trained, 0) if self._rendering.holds_pairs else 0

    def _opening(self, system: str, tools: str) -> list[int]:
        system = system or self._template.default_system
        ids = self._encode(self._template.prefix, "")
        if system or tools:
            ids += self._encode(self._template.system, system + self._announcement(tools))
        return ids

    def _announcement(self, tools: str) -> str:
        if not tools:
            return ""
        try:
            listed = json.loads(tools) if isinstance(tools, str) else tools
            date = self._rendering.template_date
            return self._template.tools.announce(listed, date) if listed else ""
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"tools: template {self._rendering.template} cannot announce them ({error!r})"
            ) from error

    def _prompt(self, turn: dict[str, Any], index: int) -> list[int]:
        if turn["from"] == "observation":
            return self._encode(self._template.observation, turn["value"])
        # A placeholder of LLaMA-Factory's own, which it fills in the text of users as well.
        value = turn["value"].replace("{{idx}}", str(index // 2), 1)
        return self._encode(self._template.user, value)

    def _reply(self, turn: dict[str, Any], index: int) -> list[int]:
        value = turn["value"]
        if turn["from"] == "function_call":
            text, calls = _read_calls(value, f"conversations[{index}].value")
            try:
                value = text + self._template.tools.write_calls(calls)
            except AttributeError:
                where = f"conversations[{index}].value"
                raise DataError(f"{where}: the arguments of a call are no JSON object") from None
        return self._encode(self._template.assistant, value)

    def _encode(self, pieces: Pieces, content: str) -> list[int]:
        ids: list[int] = []
        for piece in pieces:
            if isinstance(piece, str):
                ids += self._ids(piece.replace(CONTENT, content, 1))
            else:
                ids += self._own[piece]
        return ids

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


def _system_and_turns(row: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    turns = row.get("conversations")
    if not isinstance(turns, list):
        raise DataError("conversations: missing; a named template reads structured rows")
    system = ""
    if turns and turns[0].get("from") == "system":
        system, turns = turns[0]["value"] or "", turns[1:]
    if not turns or len(turns) % 2:
        raise DataError("conversations: does not end on a turn of the model")
    for index, turn in enumerate(turns):
        allowed = ("gpt", "function_call") if index % 2 else ("human", "observation")
        if turn.get("from") not in allowed or not isinstance(turn.get("value"), str):
            raise DataError(
                f"conversations[{index}]: expected {' or '.join(allowed)} with a text (got "
                f"{turn.get('from')!r}); user and model turns must alternate"
            )
    return system, turns


def _read_calls(value: str, where: str) -> tuple[str, list[Call]]:
    """What stands around the calls (or the reasoning before bare ones), and the calls."""
    wrapped = _CALLS.search(value)
    if wrapped:
        text, source = value.replace(wrapped[0], ""), wrapped[1]
    else:
        thought = _THOUGHT.search(value)
        text = thought[0] if thought else ""
        source = value.replace(text, "") if text else value
    try:
        calls = json.loads(source)
        calls = calls if isinstance(calls, list) else [calls]
        return text, [(call["name"], call["arguments"]) for call in calls]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where}: the call is not JSON with name and arguments") from error
