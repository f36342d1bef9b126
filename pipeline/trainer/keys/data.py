"""Which rows are trained, and how they are tokenised."""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from pipeline.config.strict import OptionalText, StrictModel
from pipeline.trainer.data.cutoff import CutoffPolicy


def _never_streams(streaming: bool) -> bool:
    if streaming:
        raise ValueError(
            "the whole run is planned from the lengths of all examples, so all are tokenised "
            "before the first step: once, in constant memory, and never again; remove it "
            "(max_samples tries a part of the data)"
        )
    return streaming


MixStrategy = Literal["concat", "interleave_under", "interleave_over", "interleave_once"]


class DataKeys(StrictModel):
    """Which rows are trained, and how they are tokenised."""

    native_keys: ClassVar[frozenset[str]] = frozenset({"cutoff_policy"})

    cutoff_len: int = Field(default=32768, ge=1)
    """Longest example, in tokens."""
    cutoff_policy: CutoffPolicy = "truncate_turns"
    """What becomes of longer examples. `truncate_turns`: the turns that fit, whole turns only;
    `window`: overlapping windows, nothing is lost, the repeated part carries no loss; `drop`: left
    out; `error`: the run ends; `split_at_compaction`: conversations, long or not, that go on behind
    a summary of themselves are split there, as the model saw them (STEP 0 has split its own), then
    as `truncate_turns`."""
    max_samples: Annotated[int, Field(ge=1)] | None = None
    """At most this many rows per dataset. null: all."""
    mix_strategy: MixStrategy = "concat"
    """How the rows of several datasets become one epoch. `concat`: all of them; the others take
    one row of each dataset in turn, or of datasets drawn by `interleave_probs`, until one is used
    up (`interleave_under`), until all are, beginning again with those that are earlier
    (`interleave_over`), or until all are, each row once (`interleave_once`)."""
    interleave_probs: OptionalText = None
    """How likely the next row is one of each dataset, separated by commas: `0.7,0.3`. null: in
    turn."""
    streaming: Annotated[bool, AfterValidator(_never_streams)] = False
    """Only false in the native engine, which knows the length of every example before it starts."""
    tokenized_path: OptionalText = None
    """Directory of the token store, which is made there if it is not. null: below the dataset
    directory, one for each state of the data."""
    overwrite_cache: bool = False
    """Tokenize again although a matching token store exists."""
    preprocessing_num_workers: Annotated[int, Field(ge=1)] | None = None
    """Processes that tokenize. null: all cores."""
    dataloader_num_workers: int = Field(default=0, ge=0)
    """No effect in the native engine, which reads batches from a memory-mapped file."""

    @field_validator("interleave_probs")
    @classmethod
    def _are_probabilities(cls, interleave_probs: str | None, info: ValidationInfo) -> str | None:
        if interleave_probs is None:
            return None
        if info.data.get("mix_strategy") == "concat":
            raise ValueError("needs mix_strategy interleave_under, interleave_over or _once")
        try:
            numbers = [float(part) for part in interleave_probs.split(",")]
        except ValueError:
            numbers = []
        if not numbers or min(numbers) <= 0 or not math.isclose(math.fsum(numbers), 1):
            raise ValueError(
                "must be numbers above 0 that add up to 1, separated by commas (got "
                f"{interleave_probs!r})"
            )
        return interleave_probs

    @property
    def interleave_probabilities(self) -> list[float] | None:
        if self.interleave_probs is None:
            return None
        return [float(part) for part in self.interleave_probs.split(",")]
