"""What became of the rows of a store, and what each cutoff policy would lose of them."""

from dataclasses import dataclass, field
from typing import get_args

import numpy as np

from pipeline.errors import DataError
from pipeline.trainer.data.cutoff import CutoffPolicy, DocumentPolicy
from pipeline.trainer.data.document_table import (
    cut_documents,
    first_turn_ends,
    loss_spans,
    turns,
    with_shared,
)
from pipeline.trainer.data.pairs import whole_pairs, with_sides_apart
from pipeline.trainer.data.shard import Shard


@dataclass(frozen=True)
class StoreCounts:
    """What became of the rows. Tokens are counted after cutting."""

    rows: int
    rows_rejected: int
    """Rows that are no conversation or that the chat template cannot render exactly."""
    examples: int
    tokens: int
    trained_tokens: int
    turns_over_cutoff: int
    """Trained turns that did not fit into cutoff_len and are not trained."""
    rows_over_cutoff: int
    """Rows of which nothing fits into cutoff_len."""
    longest: int
    """Tokens of the longest example before cutting."""
    shortest: int
    """Tokens needed for the first trained turn of the shortest example."""


@dataclass
class PolicyTally:
    """What one cutoff policy leaves. `window` may leave more examples than there were."""

    examples: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    trained_tokens_lost: int = 0
    turns_lost: int = 0
    """Trained turns of which nothing is trained."""
    rows_lost: int = 0
    """Rows of which nothing is trained, although they could be rendered."""


@dataclass
class Tally:
    """Adds up shards. The documents of the chosen policy are returned, not kept."""

    cutoff_len: int
    policy: DocumentPolicy
    holds_pairs: bool = False
    """The examples of a row are two sides, of which neither is trained without the other."""
    policies: dict[DocumentPolicy, PolicyTally] = field(init=False)
    rows: int = 0
    rows_rejected: int = 0
    longest: int = 0
    shortest: int = 0
    num_over: int = 0
    """Examples longer than cutoff_len."""
    first_over: str = ""
    first_error: str = ""

    def __post_init__(self) -> None:
        if self.policy == "blocks":
            self.policies = {self.policy: PolicyTally()}
            return
        # Under split_at_compaction rows are rendered in parts, under the others they are not: what
        # would become of them under one kind cannot be seen under the other.
        is_split = self.policy == "split_at_compaction"
        self.policies = {
            policy: PolicyTally()
            for policy in get_args(CutoffPolicy)
            if (policy == "split_at_compaction") == is_split
            and not (policy == "window" and self.holds_pairs)
        }

    def add(self, shard: Shard, whole: np.ndarray, dataset: str, first_row: int) -> np.ndarray:
        """Count one shard, whose uncut documents are `whole`.

        Returns: the documents that are left, in their order.
        """
        self.rows += len(shard.table("row_examples"))
        self.rows_rejected += len(shard.errors)
        for row, error in shard.errors.items():
            self.first_error = (
                self.first_error or f"dataset {dataset}: row {first_row + row}: {error}"
            )
        if len(whole) == 0:
            return whole
        shortest = int(first_turn_ends(shard, whole).min())
        self.shortest = min(self.shortest or shortest, shortest)
        self.longest = max(self.longest, int(whole["length"].max()))
        is_over = whole["length"] > self.cutoff_len
        fitting, over = whole[~is_over], whole[is_over]
        self.num_over += len(over)
        if len(over) and not self.first_over:
            first = over[0]
            self.first_over = (
                f"dataset {dataset}: row {first['row']} has {first['length']:,} tokens"
            )
        left = {}
        for policy, tally in self.policies.items():
            cut = cut_documents(shard, over, policy, self.cutoff_len)
            left[policy] = np.sort(np.concatenate([fitting, cut]), order="start", kind="stable")
            if self.holds_pairs:
                left[policy] = whole_pairs(left[policy])
            _count(tally, whole, left[policy])
            tally.turns_lost += max(0, _num_turns(shard, over) - _num_turns(shard, cut))
        chosen = with_shared(whole, left[self.policy])
        return with_sides_apart(shard, chosen) if self.holds_pairs else chosen

    def check(self) -> None:
        """Raises: DataError: nothing is left to train on, or an example is too long for `error`."""
        if self.policy == "error" and self.num_over:
            raise DataError(
                f"cutoff_len: {self.num_over:,} examples are longer than {self.cutoff_len:,} "
                f"tokens; the first: {self.first_over}; raise training.cutoff_len, or choose what "
                "to do with them (training.cutoff_policy)"
            )
        if self.policies[self.policy].examples:
            return
        if self.rows == 0:
            raise DataError("the dataset has no rows; convert trajectories first (STEP 0)")
        if self.longest:
            raise DataError(
                f"cutoff_len: no example fits into {self.cutoff_len} tokens; the shortest needs "
                f"{self.shortest}; raise training.cutoff_len"
            )
        reason = self.first_error or "no assistant turn has loss weight above 0"
        raise DataError(f"none of the {self.rows:,} rows can be trained on; the first: {reason}")

    def counts(self) -> StoreCounts:
        chosen = self.policies[self.policy]
        return StoreCounts(
            rows=self.rows,
            rows_rejected=self.rows_rejected,
            examples=chosen.examples,
            tokens=chosen.tokens,
            trained_tokens=chosen.trained_tokens,
            turns_over_cutoff=chosen.turns_lost,
            rows_over_cutoff=chosen.rows_lost,
            longest=self.longest,
            shortest=self.shortest,
        )


def _count(tally: PolicyTally, whole: np.ndarray, left: np.ndarray) -> None:
    tally.examples += len(left)
    tally.tokens += int(left["length"].sum())
    tally.trained_tokens += int(left["trained_tokens"].sum())
    lost = int(whole["trained_tokens"].sum()) - int(left["trained_tokens"].sum())
    tally.trained_tokens_lost += lost
    tally.rows_lost += len(set(whole["row"].tolist()) - set(left["row"].tolist()))


def _num_turns(shard: Shard, documents: np.ndarray) -> int:
    return sum(len(turns(loss_spans(shard, document))) for document in documents)
