"""One trajectory, or a list of rows, as text for a terminal, a pager or a pipe.

Text of a trajectory is data: it can neither move the cursor nor look like our own markup. Control
characters and those that reorder text are shown as escapes; colour comes from us alone, and only
where the output is a terminal that wants it.
"""

import re
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from pipeline.inspect.figures import figures_of, scaffold_of
from pipeline.inspect.rows import BadRow, Row
from pipeline.trajectory import Message

_HEAD_LINES, _TAIL_LINES = 20, 10
_HEAD_CHARACTERS, _TAIL_CHARACTERS = 3000, 1000
# All control characters but newline and tab, marks that change the direction of text, and halves
# of surrogate pairs, which no terminal can be sent.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_STYLES = {"system": "magenta", "user": "green", "assistant": "cyan", "tool": "yellow"}
_MARGIN = "  "


def neutralize(text: str) -> str:
    """`text` with everything that a terminal would act on written out, as `\\x1b[31m`."""
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def fold(text: str) -> str:
    """A long text without its middle, which is replaced by its size."""
    lines = text.split("\n")
    if len(lines) > _HEAD_LINES + _TAIL_LINES + 1:
        head, tail = "\n".join(lines[:_HEAD_LINES]), "\n".join(lines[-_TAIL_LINES:])
    else:
        head, tail = text, ""
    if len(head) + len(tail) > _HEAD_CHARACTERS + _TAIL_CHARACTERS:
        tail = (tail or head)[-_TAIL_CHARACTERS:]
        head = head[:_HEAD_CHARACTERS]
    if not tail:
        return text
    hidden = text[len(head) : len(text) - len(tail)].strip("\n")
    size = f"{len(hidden):,} characters in {hidden.count(chr(10)) + 1:,} lines"
    return f"{head}\n[... {size} not shown; --full shows all ...]\n{tail}"


def show_trajectory(console: Console, row: Row, *, full: bool) -> None:
    """Print one row: where it comes from, its tools, and every message."""
    trajectory, figures = row.trajectory, figures_of(row)
    source = trajectory.provenance
    _print(console, f"row {row.number}: {row.id}", "bold")
    facts = {
        "instance": source.instance_id,
        "scaffold": scaffold_of(row),
        "model": source.model,
        "source": source.source_file,
        "reward": "" if source.reward is None else _figure(source.reward),
        "exception": source.exception,
        "turns": f"{figures.turns} turns, {figures.tool_calls} calls, {figures.tool_errors} errors",
        "tools": ", ".join(_tool_names(row)),
        "scores": ", ".join(_scores(row)),
    }
    for name, value in facts.items():
        if value:
            _print(console, f"{_MARGIN}{name:<10}{value}", "dim")
    for index, message in enumerate(trajectory.messages):
        _show_message(console, index, message, full)


def _show_message(console: Console, index: int, message: Message, full: bool) -> None:
    style = _STYLES[message.role]
    header = Text(f"\n[{index}] {message.role}", f"bold {style}")
    if message.role == "assistant":
        trained = message.weight > 0
        header.append(f"  weight {message.weight:g}", "bold green" if trained else "bold red")
    if message.tool_call_id:
        header.append(f"  answers {neutralize(message.tool_call_id)}", "dim")
    if message.is_error:
        header.append("  error", "bold red")
    header.append(f"  {len(message.content):,} characters", "dim")
    console.print(header, soft_wrap=True)
    if message.reasoning_content:
        _show_text(console, "reasoning", message.reasoning_content, "italic dim", full)
    if message.content:
        _show_text(console, "", message.content, style if message.role == "tool" else "", full)
    for call in message.tool_calls:
        label = f"call {call.name} {call.id}".rstrip()
        _show_text(console, label, call.arguments, "blue", full)


def _show_text(console: Console, label: str, text: str, style: str, full: bool) -> None:
    if label:
        _print(console, f"{_MARGIN}{label}:", f"bold {style}")
    shown = neutralize(text if full else fold(text))
    _print(console, "\n".join(_MARGIN + line for line in shown.split("\n")), style)


def list_rows(console: Console, rows: Iterable[Row | BadRow]) -> None:
    """Print one line per row as they are read."""
    columns = ("row", "turns", "calls", "errors", "reward", "score", "scaffold", "trial")
    _print(console, _line(*columns), "bold")
    for row in rows:
        if isinstance(row, BadRow):
            _print(console, f"{row.number:>6}  cannot be read: {row.message}", "red")
            continue
        figures = figures_of(row)
        counts = (row.number, figures.turns, figures.tool_calls, figures.tool_errors)
        labels = (_figure(figures.reward), _figure(figures.score), scaffold_of(row), row.id)
        _print(console, _line(*counts, *labels), "")


def _line(*cells: object) -> str:
    row, turns, calls, errors, reward, score, scaffold, trial = cells
    numbers = f"{row:>6} {turns:>6} {calls:>6} {errors:>6} {reward:>7} {score:>7}"
    return f"{numbers}  {scaffold:<18} {trial}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _scores(row: Row) -> list[str]:
    values = {key: value for key, value in row.scores.items() if key.endswith("_score")}
    return [f"{key.removesuffix('_score')} {v}" for key, v in values.items() if v is not None]


def _tool_names(row: Row) -> list[str]:
    functions = [tool.get("function") for tool in row.trajectory.tools if isinstance(tool, dict)]
    return [str(item.get("name")) for item in functions if isinstance(item, dict)]


def _print(console: Console, text: str, style: str) -> None:
    # Text, not str: rich would read [brackets] in a str as markup.
    console.print(Text(neutralize(text), style), soft_wrap=True)
