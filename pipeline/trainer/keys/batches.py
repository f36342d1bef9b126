"""Which examples share a step, and in which order."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.config.strict import StrictModel


class BatchKeys(StrictModel):
    """Which examples share a step, and in which order."""

    native_keys: ClassVar[frozenset[str]] = frozenset({"curriculum", "share_prefixes"})

    per_device_train_batch_size: int = Field(default=1, ge=1)
    """Sequences per rank and micro batch: examples or, with `packing`, full sequences."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Micro batches per optimizer step."""
    packing: bool | None = None
    """Fill sequences of `cutoff_len` tokens with several examples, which never see each other:
    positions restart and attention ends with each. `per_device_train_batch_size` then counts such
    sequences. null: only in stage pt."""
    neat_packing: bool = False
    """The same as `packing`; in LLaMA-Factory, only this one keeps examples apart."""
    share_prefixes: bool | Literal["dataset"] | None = None
    """Examples of one row that begin alike (turns whose reasoning later history does not show) are
    one tree, which counts as one sequence: every token is computed once, with the losses and
    gradients of the separate examples. null: where there are any and the model's attention allows
    it. `dataset`: examples of different rows, too (forks, attempts at one task, one system prompt),
    never of different datasets or of held out and trained rows."""
    num_train_epochs: float = Field(default=3.0, gt=0)
    """Passes over the data; a fraction stops within an epoch."""
    max_steps: int = Field(default=-1, ge=-1)
    """Optimizer steps; overrides `num_train_epochs`. -1 or 0: as many as the epochs have."""
    seed: int = Field(default=42, ge=0)
    """Seed of everything random."""
    data_seed: Annotated[int, Field(ge=0)] | None = None
    """Seed of the data order. null: `seed`."""
    disable_shuffling: bool = False
    """Train on the examples in the order of the file."""
    group_by_length: bool = False
    """Put sequences of similar length into the same step: ranks wait less for each other, but a
    step is less random."""
    curriculum: Literal["random", "length", "turns", "score"] = "random"
    """Order of every epoch: shuffled, from few to many tokens or trained turns, or from the highest
    to the lowest `_score` of the row, those without one at last: clean solutions first, as STEP 0
    writes the rule score."""

    @field_validator("share_prefixes")
    @classmethod
    def _rows_taken_one_by_one(
        cls, share_prefixes: bool | str | None, info: ValidationInfo
    ) -> bool | str | None:
        mix_strategy = info.data.get("mix_strategy", "concat")
        if share_prefixes == "dataset" and mix_strategy != "concat":
            raise ValueError(
                f"dataset puts rows together that mix_strategy {mix_strategy} takes one by one: "
                "choose one of them"
            )
        return share_prefixes

    @field_validator("disable_shuffling")
    @classmethod
    def _rows_in_order(cls, disable_shuffling: bool, info: ValidationInfo) -> bool:
        if disable_shuffling and info.data.get("share_prefixes") == "dataset":
            raise ValueError(
                "contradicts share_prefixes dataset, which brings rows that begin alike together: "
                "choose one of them"
            )
        return disable_shuffling

    @field_validator("curriculum")
    @classmethod
    def _one_order(cls, curriculum: str, info: ValidationInfo) -> str:
        if curriculum == "score" and info.data.get("share_prefixes") == "dataset":
            raise ValueError(
                "score contradicts share_prefixes dataset, whose trees have rows of several "
                "scores: choose one of them"
            )
        for key in ("disable_shuffling", "group_by_length"):
            if curriculum != "random" and info.data.get(key):
                raise ValueError(f"contradicts {key}: choose one of them")
        return curriculum

    @field_validator("group_by_length")
    @classmethod
    def _shuffled_groups(cls, group_by_length: bool, info: ValidationInfo) -> bool:
        if group_by_length and info.data.get("disable_shuffling"):
            raise ValueError("contradicts disable_shuffling: choose one of them")
        return group_by_length

    @property
    def document_order(self) -> Literal["random", "file", "length", "turns", "score"]:
        return "file" if self.disable_shuffling else self.curriculum
