"""Which rows are trained, and how they are tokenised."""

from typing import Annotated, ClassVar

from pydantic import Field

from pipeline.config.strict import OptionalText, StrictModel
from pipeline.trainer.data.cutoff import CutoffPolicy


class DataKeys(StrictModel):
    """Which rows are trained, and how they are tokenised."""

    native_keys: ClassVar[frozenset[str]] = frozenset({"cutoff_policy"})

    cutoff_len: int = Field(default=32768, ge=1)
    """Longest example, in tokens."""
    cutoff_policy: CutoffPolicy = "truncate_turns"
    """What becomes of longer examples. `truncate_turns`: the turns that fit, whole turns only;
    `window`: overlapping windows, nothing is lost, the repeated part carries no loss; `drop`: left
    out; `error`: the run ends."""
    max_samples: Annotated[int, Field(ge=1)] | None = None
    """At most this many rows per dataset. null: all."""
    tokenized_path: OptionalText = None
    """Directory of the token store, which is made there if it is not. null: below the dataset
    directory, one for each state of the data."""
    overwrite_cache: bool = False
    """Tokenize again although a matching token store exists."""
    preprocessing_num_workers: Annotated[int, Field(ge=1)] | None = None
    """Processes that tokenize. null: all cores."""
    dataloader_num_workers: int = Field(default=0, ge=0)
    """No effect in the native engine, which reads batches from a memory-mapped file."""
