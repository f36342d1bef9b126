"""The renderer that a run's `stage` and `template` ask for."""

from typing import Any, Protocol

from pipeline.trainer.data.compaction import split_at_compaction
from pipeline.trainer.data.example import Example, Tokenizer
from pipeline.trainer.data.pairs import PairRenderer
from pipeline.trainer.data.render import Renderer
from pipeline.trainer.data.rendering import Rendering
from pipeline.trainer.data.templates.renderer import NamedRenderer
from pipeline.trainer.data.text import TextRenderer


class RowRenderer(Protocol):
    """Makes training sequences of a dataset's rows (see `Dataset.canonical`)."""

    def row_examples(self, row: dict[str, Any]) -> list[Example]:
        """Raises: DataError: the row cannot be rendered exactly; says why."""
        ...


def renderer_of(
    tokenizer: Tokenizer,
    rendering: Rendering,
    stop_tokens: frozenset[str],
    *,
    is_compiled: bool = False,
) -> RowRenderer:
    """
    Args:
        stop_tokens: at which generation stops, as the model's generation config says.
        is_compiled: render faster than the tokenizer itself would (see `ChatTemplate`).

    Raises: DataError: the tokenizer does not go with the template.
    """
    if rendering.stage == "pt":
        return TextRenderer(tokenizer)
    if rendering.template == "auto":
        renderer = Renderer(tokenizer, rendering, stop_tokens, is_compiled=is_compiled)
    else:
        renderer = NamedRenderer(tokenizer, rendering)
    if rendering.holds_pairs:
        return PairRenderer(renderer, only_ends=rendering.stage == "rm")
    return _WindowRenderer(renderer) if rendering.splits_at_compaction else renderer


class _WindowRenderer:
    """Renders every window of a conversation for itself."""

    def __init__(self, renderer: RowRenderer) -> None:
        self._renderer = renderer

    def row_examples(self, row: dict[str, Any]) -> list[Example]:
        return [
            example
            for window in split_at_compaction(row)
            for example in self._renderer.row_examples(window)
        ]
