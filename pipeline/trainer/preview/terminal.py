"""A preview in the terminal: trained text green, special tokens reversed, context plain."""

from rich.console import Console
from rich.text import Text

from pipeline.inspect.terminal import neutralize
from pipeline.trainer.preview.preview import Count, Preview, PreviewedExample, Run


def show_preview(console: Console, preview: Preview) -> None:
    """Print every example of the row, then the counts."""
    for number, example in enumerate(preview.examples, start=1):
        title = f"row {preview.row}, example {number} of {len(preview.examples)}: {facts(example)}"
        console.print(Text(title, "bold"), soft_wrap=True)
        console.print(_text(example), soft_wrap=True)
    for line in count_lines(preview):
        console.print(Text(neutralize(line)), soft_wrap=True)


def facts(example: PreviewedExample) -> str:
    share = 100 * example.num_trained / example.num_tokens
    shared = f"the first {example.num_shared:,} as the one before, " if example.num_shared else ""
    return (
        f"{example.num_tokens:,} tokens, {shared}{example.num_trained:,} trained ({share:.1f} %), "
        f"sha256 {example.sequence.digest()[:16]}"
    )


def count_lines(preview: Preview) -> list[str]:
    """Messages by role and calls by tool, as `name 12 (5 trained)`."""
    return [
        f"{title}: {', '.join(_counted(name, count) for name, count in counts.items())}"
        for title, counts in (("messages", preview.roles), ("calls", preview.tools))
        if counts
    ]


def _counted(name: str, count: Count) -> str:
    return f"{name} {count.total}" + (f" ({count.trained} trained)" if count.trained else "")


def _text(example: PreviewedExample) -> Text:
    text = Text()
    previous: float | None = None
    for run in example.runs:
        if run.weight is not None and run.weight not in (1.0, previous):
            text.append(f"[weight {run.weight:g}]", "bold yellow")
        text.append(neutralize(run.text), _style(run))
        previous = run.weight
    return text


def _style(run: Run) -> str:
    colour = "" if run.weight is None else "green" if run.weight > 0 else "yellow"
    return f"{colour} reverse" if run.is_special else colour
