"""A proxy's log of LLM calls (litellm-trajectory.jsonl) -> the conversations behind it.

Each line is one call: the whole prompt so far, and the response. The log is therefore quadratic
in the number of turns, and all agents of a trial write into the same file. Two things keep the
work linear: the text of a message is looked at once (later copies are recognised by their bytes),
and calls are merged in a trie whose nodes are turns. Every leaf of the trie is one conversation;
a turn's node knows whether a recorded call produced it. Such a turn takes the text of the
response, which restores the reasoning that clients drop when they send it back, and is trained
in exactly one conversation; all other assistant turns are context (weight 0).
"""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from pipeline.jsonl import NotJsonError, parse_json
from pipeline.rejects import Defect, RejectReason
from pipeline.scaffolds import proxy_record
from pipeline.scaffolds.normalize import Turn, normalize_assistant, normalize_message
from pipeline.scaffolds.parsed import ChainReject, Conversation, Parsed
from pipeline.scaffolds.peek import first_objects
from pipeline.scaffolds.validate import find_defect, order_results
from pipeline.trajectory import Message

_NUM_CALLS_TO_RECOGNISE = 8


@dataclass(frozen=True)
class Client:
    """What is particular about the calls of one agent."""

    title_marks: tuple[str, ...] = ()
    """Lower-case parts of the system prompts of calls that only name the session."""
    volatile: re.Pattern[str] | None = None
    """Parts of the system prompt that change with every call and mean nothing."""


@dataclass(slots=True)
class _Call:
    """The recorded call that produced a turn."""

    line: int
    is_truncated: bool
    model: str
    generated_on: str
    gen_params: dict[str, Any]
    usage: dict[str, Any]


@dataclass(slots=True, eq=False)
class _Node:
    """One turn at one place: two nodes with the same parent are different turns."""

    tools: list[dict[str, Any]]
    parent: "_Node | None" = None
    sent: Turn | None = None
    """The turn as a later request sent it (also system, user and tool turns)."""
    received: Turn | None = None
    """The assistant turn as the response held it."""
    call: _Call | None = None
    children: "dict[bytes, _Node]" = field(default_factory=dict)
    is_trained: bool = False

    @property
    def turn(self) -> Turn:
        turn = self.received or self.sent
        assert turn is not None  # every node but a root is made for a turn
        return turn

    def path(self) -> "list[_Node]":
        """The nodes from the first turn to this one; the root is not a turn."""
        nodes: list[_Node] = []
        node = self
        while node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]

    def child(self, turn: Turn) -> "_Node":
        found = (self.children[key] for key in turn.keys if key in self.children)
        node = next(found, None) or _Node(tools=self.tools, parent=self)
        for key in turn.keys:
            # A key that already stands for another turn keeps doing so: none may be lost.
            self.children.setdefault(key, node)
        return node

    def answer(self, turn: Turn) -> "_Node":
        """The node of a response. A second answer to the same request that looks the same but has
        other call ids is another turn, with reasoning of its own."""
        surest, *others = turn.keys
        looks_the_same = [self.children[key] for key in others if key in self.children]
        if surest not in self.children and any(node.call for node in looks_the_same):
            node = self.children[surest] = _Node(tools=self.tools, parent=self)
            return node
        return self.child(turn)

    def message(self) -> Message:
        """The turn as it goes into a conversation."""
        message = self.turn.message
        if message.role != "assistant":
            return message
        sent = self.sent.message.tool_calls if self.sent else []
        # A client may number the calls anew; the results that follow use its numbers.
        calls = [
            replace(call, id=sent[index].id if index < len(sent) else call.id)
            for index, call in enumerate(message.tool_calls)
        ]
        is_target = self.call is not None and not self.is_trained and not self.call.is_truncated
        return replace(message, tool_calls=calls, weight=1.0 if is_target else 0.0)


def parse(lines: Iterable[bytes], client: Client) -> Parsed:
    """Read a whole log. A line that is not JSON is reported and skipped, as is a failed call."""
    log = _Log(client)
    for number, line in enumerate(lines, 1):
        if line.strip():
            log.add_line(number, line)
    return log.finish()


def first_prompts(head: bytes) -> Iterator[tuple[str, list[str]]]:
    """(system prompt, tool names) of the first calls, to tell which agent made them.

    `head`: the beginning of the log; a call that it cuts is read up to there.
    """
    for record in first_objects(head)[:_NUM_CALLS_TO_RECOGNISE]:
        body = record.get("request_body")
        if isinstance(body, dict | str):
            with contextlib.suppress(NotJsonError, msgspec.ValidationError):
                yield _Log(Client()).describe_prompt(msgspec.Raw(json.dumps(body).encode()))


class _Log:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._parsed = Parsed()
        self._roots: dict[str, _Node] = {}
        # Bytes that were seen before are not decoded again.
        self._root_of: dict[bytes, _Node] = {}
        self._turns_of: dict[bytes, list[Turn]] = {}

    def add_line(self, number: int, line: bytes) -> None:
        try:
            record = proxy_record.decode_record(line)
            if record.success is False:
                self._parsed.counts["failed_calls"] += 1
                return
            request = proxy_record.decode_request(record.request_body)
            response = proxy_record.decode_response(record.response_body)
            node = self._root(bytes(request.tools))
            turns = self._prompt(request)
        except NotJsonError as error:
            self._skip(RejectReason.BAD_JSON, f"not JSON, probably half-written: {error}", number)
            return
        except msgspec.ValidationError as error:
            self._skip(RejectReason.BAD_RECORD, f"not a record of a call: {error}", number)
            return
        if response is None:
            self._parsed.counts["empty_responses"] += 1
            return
        for turn in turns:
            node = node.child(turn)
            node.sent = node.sent or turn
        received = normalize_assistant(response.message, self._parsed.counts)
        node = node.answer(received)
        if node.call is not None:  # both hooks of the proxy logged the call, or it was repeated
            self._parsed.counts["duplicate_calls"] += 1
            return
        node.received = received
        usage = record.usage or response.usage
        node.call = _Call(
            line=number,
            is_truncated=response.is_truncated,
            model=str(response.model or request.model or ""),
            generated_on=proxy_record.date_of(record),
            gen_params=proxy_record.gen_params_of(request),
            usage=usage if isinstance(usage, dict) else {},
        )

    def describe_prompt(self, request_body: msgspec.Raw) -> tuple[str, list[str]]:
        """(system prompt, tool names). Raises: NotJsonError; msgspec.ValidationError."""
        request = proxy_record.decode_request(request_body)
        tools = self._root(bytes(request.tools)).tools
        names = [str((tool.get("function") or {}).get("name")) for tool in tools]
        first = next((turn.message for turn in self._prompt(request)), None)
        return first.content if first and first.role == "system" else "", names

    def _skip(self, reason: RejectReason, message: str, line: int | None) -> None:
        self._parsed.rejects.append(ChainReject(reason, message, line=line))

    def _root(self, raw_tools: bytes) -> _Node:
        """Conversations with different tools never share turns: they show different prompts."""
        node = self._root_of.get(raw_tools)
        if node is None:
            value = parse_json(raw_tools)[0] or []
            if not isinstance(value, list):
                raise msgspec.ValidationError("tools: not a list")
            tools = [proxy_record.tool_schema(tool) for tool in value]
            node = self._roots.setdefault(json.dumps(tools), _Node(tools=tools))
            self._root_of[raw_tools] = node
        return node

    def _prompt(self, request: proxy_record.Request) -> list[Turn]:
        """The turns of a request; the system prompts at its start become one."""
        turns = [turn for raw in request.messages for turn in self._intern(bytes(raw))]
        if request.system:
            system = {"role": "system", "content": request.system}
            turns = normalize_message(system, self._parsed.counts) + turns
        split = next((i for i, t in enumerate(turns) if t.message.role != "system"), len(turns))
        texts = [turn.message.content for turn in turns[:split] if turn.message.content]
        defect = next((turn.defect for turn in turns[:split] if turn.defect), None)
        if not texts and not defect:
            return turns[split:]
        text = "\n\n".join(texts)
        stable = self._client.volatile.sub("", text) if self._client.volatile else text
        # Compared without what changes from call to call, kept as it was sent.
        keys = normalize_message({"role": "system", "content": stable}, self._parsed.counts)[0].keys
        return [Turn(Message("system", text), keys, defect), *turns[split:]]

    def _intern(self, raw: bytes) -> list[Turn]:
        turns = self._turns_of.get(raw)
        if turns is None:
            turns = normalize_message(parse_json(raw)[0], self._parsed.counts)
            self._turns_of[raw] = turns
        return turns

    def leaves(self) -> list[_Node]:
        """The last turn of every conversation, longest conversation first, then by line."""
        found: list[tuple[int, int, _Node]] = []
        stack = [(0, root) for root in self._roots.values()]
        while stack:
            depth, node = stack.pop()
            if node.call and not node.children:
                found.append((-depth, node.call.line, node))
            stack += [(depth + 1, child) for child in dict.fromkeys(node.children.values())]
        return [node for _, _, node in sorted(found, key=lambda item: item[:2])]

    def finish(self) -> Parsed:
        paths = [leaf.path() for leaf in self.leaves()]
        has_agent = any(not _is_single_exchange(path) for path in paths)
        for number, path in enumerate(paths):
            self._finish_chain(f"chain-{number}", path, has_agent)
        if not paths and not self._parsed.rejects:
            self._skip(RejectReason.NO_CALLS, "no successful call in the log", None)
        return self._parsed

    def _finish_chain(self, chain_id: str, path: list[_Node], has_agent: bool) -> None:
        leaf = path[-1]
        assert leaf.call is not None  # only answered calls end a conversation
        messages = order_results([node.message() for node in path])
        defect = (
            _find_side_call(path, self._client, has_agent)
            or next((node.turn.defect for node in path if node.turn.defect), None)
            or find_defect(messages, leaf.tools)
        )
        if defect:
            reject = ChainReject(defect.reason, defect.message, chain_id, leaf.call.line)
            self._parsed.rejects.append(reject)
            return
        for node in path:
            node.is_trained = node.is_trained or node.call is not None
        conversation = Conversation(
            chain_id=chain_id,
            messages=messages,
            tools=leaf.tools,
            model=leaf.call.model,
            generated_on=leaf.call.generated_on,
            gen_params=leaf.call.gen_params,
            usage=leaf.call.usage,
        )
        self._parsed.conversations.append(conversation)


def _is_single_exchange(path: list[_Node]) -> bool:
    """One answer without tools: what clients ask beside the agent's work."""
    *question, answer = [node.turn.message for node in path]
    is_asked_once = all(message.role in ("system", "user") for message in question)
    return is_asked_once and not answer.tool_calls and not path[-1].tools


def _find_side_call(path: list[_Node], client: Client, has_agent: bool) -> Defect | None:
    messages = [node.turn.message for node in path]
    asked = next((message.content for message in messages if message.role == "user"), "")
    if asked.strip() == "Warmup":
        return Defect(RejectReason.WARMUP, "a warm-up call of the client")
    if not _is_single_exchange(path):
        return None
    system = messages[0].content.lower() if messages[0].role == "system" else ""
    if any(mark in system for mark in client.title_marks):
        return Defect(RejectReason.TITLE_CALL, "a call that names the session")
    if has_agent:
        return Defect(RejectReason.SIDE_CALL, "one exchange without tools beside an agent's work")
    return None
