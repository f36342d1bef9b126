"""The pairs of a conversion: which converted rows make them, and the examples that are written.

Memory is that of the rows' facts; what they say is read for one pair at a time, to see whether it
is one and again to write it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from pipeline.conversion.filters import Choice
from pipeline.conversion.pairing import PairRules, pair_up
from pipeline.conversion.parts import PartRow, PartStore
from pipeline.jsonl import encode_json, parse_json
from pipeline.preference_pairs import make_pair


@dataclass(frozen=True, slots=True)
class _KeptRow:
    """A row that may be in a pair."""

    choice: Choice
    row: PartRow
    start: int
    """Where in the file of its part its example begins."""
    copies: int

    @property
    def facts(self) -> dict[str, Any]:
        return self.row.facts

    @property
    def prompt_key(self) -> bytes:
        return self.row.prompt_key

    def example(self, store: PartStore) -> dict[str, Any]:
        return parse_json(store.read(self.choice.part, self.start, self.row.lf_size))[0]


@dataclass(frozen=True, slots=True)
class PairedRows:
    """Pairs in the order in which they are written."""

    pairs: list[tuple[_KeptRow, _KeptRow]]
    rules: PairRules
    store: PartStore

    @classmethod
    def of(
        cls,
        choices: Sequence[Choice],
        copies: Sequence[int],
        rules: PairRules,
        resolved_at: float,
        store: PartStore,
    ) -> "PairedRows":
        """Drops the rows that are in no pair. Raises: OSError: a part cannot be read.

        `copies`: how often the conversations of each trial stand in the data.
        """
        rows = list(_kept_rows(choices, copies))
        pairing = pair_up(rows, rules, resolved_at, lambda kept: kept.example(store))
        for kept, defect in pairing.unpaired:
            kept.choice.drop(kept.row, defect)
        return cls(pairing.pairs, rules, store)

    def count(self) -> int:
        """How many are written: each as often as its chosen conversation stands in the data."""
        return sum(chosen.copies for chosen, _ in self.pairs)

    def examples(self) -> Iterator[bytes]:
        """As JSON. Raises: OSError: a part cannot be read."""
        for chosen, rejected in self.pairs:
            sides = chosen.example(self.store), rejected.example(self.store)
            example = encode_json(make_pair(*sides, self.rules.continuation))
            for _ in range(chosen.copies):
                yield example


def _kept_rows(choices: Sequence[Choice], copies: Sequence[int]) -> Iterator[_KeptRow]:
    for choice, times in zip(choices, copies, strict=True):
        kept = {id(row) for row in choice.kept}
        ends = accumulate(row.im_size + row.lf_size for row in choice.part.rows)
        for row, end in zip(choice.part.rows, ends, strict=True):
            if id(row) in kept:
                yield _KeptRow(choice, row, end - row.lf_size, times)
