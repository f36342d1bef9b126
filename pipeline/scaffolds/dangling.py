"""Calls that were never answered, because the user or a crash interrupted the agent."""

from collections import Counter
from dataclasses import replace

from pipeline.trajectory import Message


def cut_dangling(messages: list[Message], counts: Counter[str]) -> list[tuple[int, Message]]:
    """Remove calls without a result, and what follows the last turn of the agent.

    A turn that loses a call is not what the model wrote: it stays as context, if anything is left
    of it, and at the end it goes. `counts` gains dangling_calls.

    Returns: (index in `messages`, message) of what is left.
    """
    answered = {message.tool_call_id for message in messages if message.role == "tool"}
    kept: list[tuple[int, Message]] = []
    is_cut: set[int] = set()
    for index, message in enumerate(messages):
        calls = [call for call in message.tool_calls if call.id in answered]
        if len(calls) == len(message.tool_calls):
            kept.append((index, message))
            continue
        counts["dangling_calls"] += len(message.tool_calls) - len(calls)
        is_cut.add(index)
        if calls or message.content.strip():
            kept.append((index, replace(message, tool_calls=calls, weight=0.0)))
    while kept and (kept[-1][1].role != "assistant" or kept[-1][0] in is_cut):
        kept.pop()
    return kept
