"""Pairs of ShareGPT: one conversation and two continuations, of which the first was better.

    {"conversations": [turns, up to an input], "tools": str, "chosen": ..., "rejected": ...}

A side is one turn of the model, as LLaMA-Factory has it (`ranking: true`), or a list of turns that
begins and ends with one. Turns of the conversation carry no loss, those of a side do.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pipeline.errors import DataError
from pipeline.jsonl import encode_json
from pipeline.sharegpt import OUTPUT_TAGS, stored_messages

Continuation = Literal["trajectory", "turn"]
"""What stands on a side: all turns from where two attempts part, or the first of them."""

_LOGGED = ("tool_call_ids", "loss_weight", "messages")
"""Keys of a turn that say nothing about what was said in it, or in another way."""
_LOGGED_IN_MESSAGES = ("tool_call_id", "tool_calls", "weight")


def make_pair(
    chosen: Mapping[str, Any], rejected: Mapping[str, Any], continuation: Continuation
) -> dict[str, Any]:
    """A pair out of two examples with the same prompt and tools (see `sharegpt.to_sharegpt`).

    The attempts part with the first turn of the model that differs. Where the environment answers
    differently before that, they part with the turn that it answers, which then stands on both
    sides. Ids of calls do not count. Up to there the turns are those of the chosen example.

    Returns: as above, with `_instance_id`, and `_trial_id` and `_chain_id` of each side.
    Raises: DataError: the two make no such pair; says why.
    """
    ours, theirs = chosen["conversations"], rejected["conversations"]
    start = _place_of_parting(ours, theirs, continuation)
    sides = ours[start:], theirs[start:]
    if continuation == "turn":
        sides = sides[0][:1], sides[1][:1]
    for name, side in zip(("chosen", "rejected"), sides, strict=True):
        if not _trained(side):
            raise DataError(f"{name}: no turn of it carries loss")
    if _trained(sides[0]) == _trained(sides[1]):
        raise DataError("what carries loss is the same on both sides")
    pair = {
        "conversations": ours[:start],
        "tools": chosen.get("tools", ""),
        "chosen": sides[0][0] if continuation == "turn" else sides[0],
        "rejected": sides[1][0] if continuation == "turn" else sides[1],
        "_instance_id": chosen.get("_instance_id", ""),
    }
    for name, example in (("chosen", chosen), ("rejected", rejected)):
        for key in ("_trial_id", "_chain_id"):
            pair[f"_{name}{key}"] = example.get(key, "")
    return pair


def _place_of_parting(
    ours: list[dict[str, Any]], theirs: list[dict[str, Any]], continuation: Continuation
) -> int:
    """Index of the turn of the model with which the two go different ways."""
    said = zip(map(_said, ours), map(_said, theirs), strict=False)
    common = next((i for i, (one, other) in enumerate(said) if one != other), None)
    if common is None:
        common = min(len(ours), len(theirs))
        if len(ours) == len(theirs):
            raise DataError("both say the same")
    elif ours[common]["from"] in OUTPUT_TAGS:
        return common
    if continuation == "turn":
        raise DataError("the environment answers differently before the model does")
    return common - 1


def _said(turn: dict[str, Any]) -> list[Any]:
    """A turn without what differs between two logs of the same."""
    said: list[Any] = [{key: value for key, value in turn.items() if key not in _LOGGED}]
    if turn.get("messages") is not None:
        for message in stored_messages(turn["messages"], "conversations"):
            calls = [call["function"] for call in message.get("tool_calls") or []]
            ours = {key: value for key, value in message.items() if key not in _LOGGED_IN_MESSAGES}
            said.append([ours, calls])
    return said


def _trained(turns: list[dict[str, Any]]) -> list[Any]:
    return [
        _said(turn)
        for turn in turns
        if turn["from"] in OUTPUT_TAGS and turn.get("loss_weight", 1.0) > 0
    ]


def pair_sides(row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two conversations that a pair stands for: with what was chosen, with what was rejected.

    Raises: DataError: a side is missing.
    """
    chosen, rejected = (_pair_side(row, key) for key in ("chosen", "rejected"))
    return chosen, rejected


def _pair_side(row: dict[str, Any], key: str) -> dict[str, Any]:
    turns = row.get(key)
    turns = [turns] if isinstance(turns, dict) else turns
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{key}: missing; a pair has the turns chosen and rejected")
    prompt = [
        _without_loss(turn) if turn.get("from") in OUTPUT_TAGS else turn
        for turn in row["conversations"]
    ]
    rest = {name: value for name, value in row.items() if name not in ("chosen", "rejected")}
    return {**rest, "conversations": [*prompt, *turns]}


def _without_loss(turn: dict[str, Any]) -> dict[str, Any]:
    weightless = {**turn, "loss_weight": 0.0}
    if turn.get("messages") is not None:  # they go before, with weights of their own
        stored = stored_messages(turn["messages"], "conversations")
        stored = [{**message, "weight": 0.0} for message in stored]
        weightless["messages"] = encode_json(stored).decode()
    return weightless
