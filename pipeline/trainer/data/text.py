"""Texts of stage pt: one document each, every token of which carries loss.

    {"text": "..."}  ->  Example(ids=[bos?, ..., eos], spans=[Span(1, len(ids), 1.0)])

The ids are those that LLaMA-Factory 0.9.5 makes of a text (processor/pretrain.py). What it does
with them differs: it joins all documents and cuts the result every `cutoff_len` tokens, so that
most documents are torn and read their neighbours; here documents see themselves alone, and only
those that are longer than `cutoff_len` are cut.
"""

from typing import Any

from pipeline.errors import DataError
from pipeline.trainer.data.example import Example, Span, Tokenizer, check_inert, special_tokens


class TextRenderer:
    """Renders texts with one tokenizer, whose chat template does not matter."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises: DataError: the tokenizer has no token that ends a text."""
        vocabulary, known = tokenizer.get_vocab(), tokenizer.special_tokens_map
        if not known.get("eos_token"):
            raise DataError(
                "stage pt: the tokenizer has no eos_token, which ends every text; set it in the "
                "model's tokenizer_config.json"
            )
        self._end = [vocabulary[known["eos_token"]]]
        adds_bos = getattr(tokenizer, "add_bos_token", False) and known.get("bos_token")
        self._begin = [vocabulary[known["bos_token"]]] if adds_bos else []
        self._tokenizer = tokenizer
        self._special = special_tokens(tokenizer)

    def row_examples(self, row: dict[str, Any]) -> list[Example]:
        """The training sequence of one text.

        Raises: DataError: the row has no text, or it holds a special token of the tokenizer.
        """
        text = row.get("text")
        if not isinstance(text, str):
            raise DataError("text: missing; stage pt trains on texts, not on conversations")
        if not text:
            raise DataError("text: empty")
        check_inert(self._special, [("text", text)])
        ids = [
            *self._begin,
            *self._tokenizer(text, add_special_tokens=False)["input_ids"],
            *self._end,
        ]
        return [Example(ids, [Span(1, len(ids), 1.0)])]
