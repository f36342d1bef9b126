"""Trajectory -> LLaMA-Factory example, and any such example -> messages for a chat template.

    {"conversations": [{"from": "system|human|gpt|function_call|observation", "value": str,
                        "loss_weight"?: float, "tool_call_ids"?: [str], "messages"?: str}, ...],
     "tools": "<JSON list as a string, empty if none>",
     "_instance_id": str, "_trial_id": str, "_chain_id": str, "_score"?: str}

`from` and `value` alone are a valid example for LLaMA-Factory: after an optional system turn,
human|observation and gpt|function_call alternate and the last turn is the model's. It ignores the
other keys. `messages` (a JSON string) stands on a turn whose value cannot express its messages
exactly: parallel results, text after a result, several user messages in a row. `from_sharegpt`
prefers it, so the round trip is exact. All added keys are strings, floats or lists of strings, so
that one Arrow schema holds every row.

Source: LLaMA-Factory 0.9.5 src/llamafactory/data/{converter,formatter}.py.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pipeline.errors import DataError
from pipeline.jsonl import encode_json
from pipeline.trajectory import Message, ToolCall, Trajectory, chat_messages

LfFormat = Literal["structured", "rendered", "text", "pairs"]
"""structured: this module's form. rendered: {"messages": [{"role", "content"}]}, plain text.
text: {"text": str}, for pre-training. pairs: structured, up to an input, and what follows it, once
`chosen` and once `rejected` (see `preference_pairs`)."""

Chat = list[dict[str, Any]]

_INPUT_TAGS = ("human", "observation")
OUTPUT_TAGS = ("gpt", "function_call")
_PLAIN_ROLES = ("system", "user", "assistant")
_THINK = re.compile(r"<think>\n(.*?)\n</think>\n\n", re.DOTALL)
_WRAPPED_CALL = re.compile(r"(.*?)(?:^|\n)<tool_call>\n(.*)\n</tool_call>", re.DOTALL)
# LLaMA-Factory finds the call with a regular expression over the whole value, so these must not
# occur inside arguments. `<` can only stand inside a JSON string there, where an escape is legal.
_TAG_IN_ARGUMENTS = re.compile(r"<(?=/?(?:think|tool_call)>)")


def to_sharegpt(trajectory: Trajectory) -> dict[str, Any]:
    """Render one trajectory as a LLaMA-Factory ShareGPT example.

    Raises: DataError: the conversation cannot alternate, or a call's arguments are not a JSON
        object. Validated trajectories never raise.
    """
    chat = _parsed_chat(trajectory)
    turns: list[dict[str, Any]] = []
    position = 0
    for messages in _turn_groups(trajectory.messages):
        turn = _turn(messages)
        expected = chat[position : position + len(messages)]
        position += len(messages)
        if _turn_messages(turn, _call_ids(turns), f"conversations[{len(turns)}]") != expected:
            turn["messages"] = encode_json(expected).decode()
        turns.append(turn)
    _check_alternation(turns)
    source = trajectory.provenance
    return {
        "conversations": turns,
        "tools": encode_json(trajectory.tools).decode() if trajectory.tools else "",
        "_instance_id": source.instance_id,
        "_trial_id": source.trial_id,
        "_chain_id": source.chain_id,
    }


def score_column(labels: Mapping[str, Any]) -> dict[str, str]:
    """The column `_score` of an example, which the trainer can order them by.

    A number as text, "" for none: a column that begins with nulls has no type in Arrow.

    Args:
        labels: `meta_info.unique_info` of the record; unscored files have no such column.
    """
    if "_score" not in labels:
        return {}
    score = (labels["_score"] or {}).get("composite_score")
    return {"_score": "" if score is None else str(score)}


def _turn_groups(messages: list[Message]) -> Iterator[list[Message]]:
    """Messages that share a turn: a run of results and user messages, or one of the others."""
    for is_input, run in itertools.groupby(messages, key=lambda m: m.role in ("user", "tool")):
        if is_input:
            yield list(run)
        else:
            yield from ([message] for message in run)


def _parsed_chat(trajectory: Trajectory) -> Chat:
    try:
        return chat_messages(trajectory)
    except ValueError as error:
        raise DataError(f"arguments: {error}") from None


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise DataError(f"conversations: {what}")


def _turn(messages: list[Message]) -> dict[str, Any]:
    first = messages[0]
    if first.role == "system":
        return {"from": "system", "value": first.content}
    if first.role != "assistant":
        tag = "observation" if first.role == "tool" else "human"
        return {"from": tag, "value": "\n\n".join(message.content for message in messages)}
    thought = f"<think>\n{first.reasoning_content}\n</think>\n\n" if first.reasoning_content else ""
    turn: dict[str, Any] = {"from": "gpt", "value": thought + first.content}
    if first.tool_calls:
        turn = {"from": "function_call", "value": _call_value(thought, first)}
        if any(call.id for call in first.tool_calls):
            turn["tool_call_ids"] = [call.id for call in first.tool_calls]
    if first.weight != 1.0:
        turn["loss_weight"] = first.weight
    return turn


def _call_value(thought: str, message: Message) -> str:
    """Bare JSON, or wrapped in tool_call tags behind reasoning or text; several calls: one list.

    Wrapped, LLaMA-Factory keeps whatever precedes the call verbatim, with any template.
    """
    if "<tool_call>" in thought + message.content:
        raise DataError("conversations: <tool_call> in the text of a turn that makes calls")
    calls = [_call_json(call) for call in message.tool_calls]
    value = calls[0] if len(calls) == 1 else f"[{', '.join(calls)}]"
    text = message.content + "\n" if message.content else ""
    return f"{thought}{text}<tool_call>\n{value}\n</tool_call>" if thought or text else value


def _call_json(call: ToolCall) -> str:
    # Not parsed and dumped: the arguments stay byte for byte what the model wrote. What is no JSON
    # object becomes a JSON string.
    text = encode_json(call.arguments).decode() if call.is_malformed else call.arguments
    arguments = _TAG_IN_ARGUMENTS.sub(r"\\u003c", text)
    return f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "arguments": {arguments}}}'


def _call_ids(turns: list[dict[str, Any]]) -> list[str]:
    return (turns[-1].get("tool_call_ids") or []) if turns else []


def from_sharegpt(row: Any) -> tuple[Chat, list[dict[str, Any]]]:
    """Messages and tools of one example, for `tokenizer.apply_chat_template(messages, tools=...)`.

    Reads our examples, plain ShareGPT examples without our keys, and {"messages": [{"role",
    "content", "loss_weight"?}]} whose text is already rendered and is passed on verbatim. Keys
    that are null count as absent, as Arrow fills them in.

    Returns: messages as `trajectory.chat_messages` gives them (`weight` on every assistant turn),
        and the list of tool schemas.
    Raises: DataError: the example would be dropped or misread; names the turn and the key.
    """
    _require(isinstance(row, dict), f"not an object (got {type(row).__name__})")
    if row.get("conversations") is None and row.get("messages") is not None:
        return _from_plain(row["messages"]), []
    turns = row.get("conversations")
    _require(isinstance(turns, list) and len(turns) > 0, "missing or empty")
    if row.get("system") and turns[0].get("from") != "system":
        turns = [{"from": "system", "value": row["system"]}, *turns]
    for index, turn in enumerate(turns):
        _check_turn(turn, ("from", "value"), f"conversations[{index}]")
    _check_alternation(turns)
    messages: Chat = []
    for index, turn in enumerate(turns):
        where = f"conversations[{index}]"
        messages += _turn_messages(turn, _call_ids(turns[:index][-1:]), where)
    return messages, _read_tools(row.get("tools"))


def detect_format(row: Any) -> LfFormat:
    """Which of the forms one example has. Raises: DataError: none of them."""
    if isinstance(row, dict) and isinstance(row.get("conversations"), list):
        return "pairs" if "chosen" in row else "structured"
    if isinstance(row, dict) and isinstance(row.get("messages"), list):
        return "rendered"
    if isinstance(row, dict) and isinstance(row.get("text"), str):
        return "text"
    raise DataError(
        "conversations: missing; expected an object with conversations, messages or text"
    )


def _check_turn(turn: Any, keys: tuple[str, ...], where: str) -> None:
    for key in keys:
        value = turn.get(key) if isinstance(turn, dict) else None
        if not isinstance(value, str):
            raise DataError(f"{where}.{key}: not a string (got {type(value).__name__})")


def _check_alternation(turns: list[dict[str, Any]], key: str = "from") -> None:
    """What LLaMA-Factory requires; it empties other examples with only a warning."""
    first = 1 if turns and turns[0][key] == "system" else 0
    inputs, outputs = (_INPUT_TAGS, OUTPUT_TAGS) if key == "from" else (("user",), ("assistant",))
    where = "conversations" if key == "from" else "messages"
    for index in range(first, len(turns)):
        allowed = outputs if (index - first) % 2 else inputs
        if turns[index][key] not in allowed:
            raise DataError(
                f"{where}[{index}].{key}: expected {' or '.join(allowed)}"
                f" (got {turns[index][key]!r}); user and model turns must alternate"
            )
    if (len(turns) - first) % 2 or len(turns) == first:
        raise DataError(f"{where}: does not end on a turn of the model")


def _turn_messages(turn: dict[str, Any], previous_ids: list[str], where: str) -> Chat:
    """The canonical messages that one turn stands for; `previous_ids`: calls it may answer."""
    if turn.get("messages") is not None:
        return stored_messages(turn["messages"], where)
    tag, value = turn["from"], turn["value"]
    if tag == "system":
        return [{"role": "system", "content": value}]
    if tag == "human":
        return [{"role": "user", "content": value}]
    if tag == "observation":
        identity = {"tool_call_id": previous_ids[0]} if previous_ids and previous_ids[0] else {}
        return [{"role": "tool", "content": value, **identity}]
    message: dict[str, Any] = {"role": "assistant", "content": value}
    thought = _THINK.match(value)
    if thought:
        message["content"] = value[thought.end() :]
        if thought[1]:
            message["reasoning_content"] = thought[1]
    if tag == "function_call":
        text, calls = _read_calls(message["content"], where)
        ids = turn.get("tool_call_ids") or []
        message["content"] = text
        message["tool_calls"] = [
            ({"id": ids[i]} if i < len(ids) and ids[i] else {}) | call
            for i, call in enumerate(calls)
        ]
    message["weight"] = _weight(turn.get("loss_weight"), f"{where}.loss_weight")
    if message["weight"] > 0:
        _require_objects(message.get("tool_calls") or [], f"{where}.value")
    return [message]


def _require_objects(calls: Chat, where: str) -> None:
    if any(isinstance(call["function"]["arguments"], str) for call in calls):
        raise DataError(
            f"{where}: a call needs a name and arguments that are a JSON object (others only in "
            "turns with loss_weight 0)"
        )


def stored_messages(value: Any, where: str) -> Chat:
    """What a turn's `messages` hold. Raises: DataError."""
    try:
        stored = json.loads(value)
    except (TypeError, ValueError):
        stored = None
    if not isinstance(stored, list) or not all(isinstance(item, dict) for item in stored):
        raise DataError(
            f"{where}.messages: not a JSON list of messages in a string; convert the data again"
        )
    return stored


def _read_calls(value: str, where: str) -> tuple[str, Chat]:
    wrapped = _WRAPPED_CALL.fullmatch(value)
    text, calls_json = (wrapped[1], wrapped[2]) if wrapped else ("", value)
    try:
        calls = json.loads(calls_json)
    except ValueError:
        raise DataError(f"{where}.value: the call is not JSON (got {value[:80]!r})") from None
    calls = calls if isinstance(calls, list) else [calls]
    _require(bool(calls), f"{where}.value: no call")
    return text, [_read_call(call, f"{where}.value") for call in calls]


def _read_call(call: Any, where: str) -> dict[str, Any]:
    name = call.get("name") if isinstance(call, dict) else None
    arguments = call.get("arguments") if isinstance(call, dict) else None
    if isinstance(arguments, str):
        call_of_text = ToolCall("", "", arguments)
        arguments = arguments if call_of_text.is_malformed else call_of_text.parsed_arguments()
    if not isinstance(name, str) or not isinstance(arguments, dict | str):
        raise DataError(f"{where}: a call needs a name and arguments that are a JSON object")
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _weight(value: Any, where: str) -> float:
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise DataError(f"{where}: not a number of at least 0 (got {value!r})")
    return float(value)


def _read_tools(value: Any) -> list[dict[str, Any]]:
    """LLaMA-Factory takes tools with and without the OpenAI wrapper; templates need the wrapper."""
    if not value:
        return []
    try:
        tools = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise DataError(f"tools: not JSON ({error})") from None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError("tools: not a list of objects")
    return [
        tool if tool.get("type") == "function" else {"type": "function", "function": tool}
        for tool in tools
    ]


def _from_plain(turns: Any) -> Chat:
    _require(isinstance(turns, list) and len(turns) > 0, "messages missing or empty")
    messages: Chat = []
    for index, turn in enumerate(turns):
        where = f"messages[{index}]"
        _check_turn(turn, ("role", "content"), where)
        if turn["role"] not in _PLAIN_ROLES:
            raise DataError(f"{where}.role: unknown (got {turn['role']!r})")
        message: dict[str, Any] = {"role": turn["role"], "content": turn["content"]}
        if turn["role"] == "assistant":
            message["weight"] = _weight(turn.get("loss_weight"), f"{where}.loss_weight")
        messages.append(message)
    _check_alternation(turns, "role")
    return messages
