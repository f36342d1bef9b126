"""The keys of the native engine, under LLaMA-Factory's and Transformers' own names.

`TrainingKeys` is what a user may write in the `training` section of config.yaml; `TrainArgs` adds
what other sections supply and is the whole of the rendered training YAML, the engine's only input.
The keys themselves are in `keys/`, one module per subject. Imports neither torch nor transformers:
config.yaml is checked with these models.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.config.validate import load_model
from pipeline.trainer.data.cutoff import CutoffPolicy, DocumentPolicy
from pipeline.trainer.keys.batches import BatchKeys
from pipeline.trainer.keys.compute import ComputeKeys
from pipeline.trainer.keys.data import DataKeys
from pipeline.trainer.keys.evaluation import EvaluationKeys, check_multiple
from pipeline.trainer.keys.finetuning import PAIR_STAGES, FinetuningKeys
from pipeline.trainer.keys.lora import LoraKeys
from pipeline.trainer.keys.optimization import OptimizationKeys
from pipeline.trainer.keys.output import OutputKeys
from pipeline.trainer.keys.preference import PreferenceKeys
from pipeline.trainer.keys.rendering import RenderingKeys
from pipeline.trainer.keys.reporting import ReportingKeys
from pipeline.trainer.keys.strategy import StrategyKeys
from pipeline.trainer.llamafactory_keys import LLAMAFACTORY_KEYS

_OTHER_ENGINE = (
    "known to LLaMA-Factory, not to the native engine; "
    "remove it or set infrastructure.engine: llamafactory"
)


# Pydantic lists the fields of the last base first.
class TrainingKeys(
    ReportingKeys,
    ComputeKeys,
    OptimizationKeys,
    EvaluationKeys,
    BatchKeys,
    DataKeys,
    OutputKeys,
    StrategyKeys,
    RenderingKeys,
    LoraKeys,
    PreferenceKeys,
    FinetuningKeys,
):
    """How the model is trained."""

    foreign_keys: ClassVar[Mapping[str, str]] = dict.fromkeys(LLAMAFACTORY_KEYS, _OTHER_ENGINE)

    @field_validator("cutoff_policy")
    @classmethod
    def _text_has_no_turns(cls, policy: CutoffPolicy, info: ValidationInfo) -> CutoffPolicy:
        if info.data.get("stage") == "pt" and policy != cls.model_fields["cutoff_policy"].default:
            raise ValueError(
                "is about turns; stage pt cuts texts into blocks of cutoff_len tokens; remove it"
            )
        return policy

    @field_validator("cutoff_policy")
    @classmethod
    def _pairs_stay_pairs(cls, policy: CutoffPolicy, info: ValidationInfo) -> CutoffPolicy:
        stage = info.data.get("stage")
        if stage in PAIR_STAGES and policy in ("window", "split_at_compaction"):
            raise ValueError(
                f"would tear pairs apart; stage {stage} takes truncate_turns, drop or error"
            )
        return policy

    @field_validator("packing", "neat_packing")
    @classmethod
    def _pairs_are_not_packed(cls, packs: bool | None, info: ValidationInfo) -> bool | None:
        stage = info.data.get("stage")
        if stage in PAIR_STAGES and packs:
            raise ValueError(f"stage {stage} computes every pair by itself; remove it")
        return packs

    @field_validator("share_prefixes")
    @classmethod
    def _pairs_share_within_a_row(
        cls, share_prefixes: bool | str | None, info: ValidationInfo
    ) -> bool | str | None:
        stage = info.data.get("stage")
        if stage in PAIR_STAGES and share_prefixes == "dataset":
            raise ValueError(f"stage {stage} keeps every pair by itself; take true, false or null")
        return share_prefixes

    @field_validator("moe_aux_loss_coef")
    @classmethod
    def _pairs_balance_no_experts(cls, coef: float | None, info: ValidationInfo) -> float | None:
        stage = info.data.get("stage")
        if stage in PAIR_STAGES and coef:
            raise ValueError(f"stage {stage} does not balance experts; remove it")
        return coef

    @field_validator("sequence_parallel_size")
    @classmethod
    def _pairs_stay_on_a_rank(cls, size: int, info: ValidationInfo) -> int:
        stage = info.data.get("stage")
        if stage in PAIR_STAGES and size > 1:
            raise ValueError(f"stage {stage} keeps every pair on one rank; set it to 1")
        return size

    @field_validator("compute_accuracy")
    @classmethod
    def _pairs_have_rewards(cls, compute_accuracy: bool, info: ValidationInfo) -> bool:
        stage = info.data.get("stage")
        if stage in PAIR_STAGES and compute_accuracy:
            raise ValueError(f"stage {stage} measures rewards/accuracies of pairs; remove it")
        return compute_accuracy

    @field_validator("flash_attn")
    @classmethod
    def _samples_need_a_cache(cls, flash_attn: str, info: ValidationInfo) -> str:
        if flash_attn == "flex" and info.data.get("eval_generation_samples"):
            raise ValueError("flex cannot generate; set eval_generation_samples to 0, or auto")
        return flash_attn

    @field_validator("logging_steps")
    @classmethod
    def _checkpoints_are_evaluated_when_logged(cls, steps: int, info: ValidationInfo) -> int:
        keys = info.data
        by_steps = keys.get("eval_strategy") == "steps" and keys.get("eval_steps") is None
        if keys.get("load_best_model_at_end") and by_steps:
            check_multiple(keys.get("save_steps"), steps, "logging_steps, which eval_steps takes")
        return steps

    @field_validator("quantization_bit")
    @classmethod
    def _scores_are_whole(cls, bits: int | None, info: ValidationInfo) -> int | None:
        if info.data.get("stage") == "rm" and bits is not None:
            raise ValueError("stage rm trains a new output layer of the model; remove it")
        return bits

    @property
    def document_policy(self) -> DocumentPolicy:
        """What becomes of examples that are longer than `cutoff_len`."""
        return "blocks" if self.stage == "pt" else self.cutoff_policy

    @property
    def packs(self) -> bool:
        packing = self.stage == "pt" if self.packing is None else self.packing
        return packing or self.neat_packing

    @property
    def concatenates(self) -> bool:
        """A micro batch is one sequence without padding, not one per example."""
        return (
            self.packs
            or bool(self.share_prefixes)
            or self.sequence_parallel_size > 1
            or self.trains_pairs
        )


NATIVE_KEYS: frozenset[str] = frozenset().union(
    *(vars(group).get("native_keys", ()) for group in TrainingKeys.__bases__)
)
"""Keys of the native engine that LLaMA-Factory does not have."""


class TrainArgs(TrainingKeys):
    """The training YAML of one run: the user's keys and what other sections supply."""

    model_name_or_path: str = Field(min_length=1)
    """Directory, Hub id, or `builtin:` name of the model to start from."""
    model_revision: str = "main"
    """Branch, tag or commit of a Hub model."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    dataset: str = Field(min_length=1)
    """Names in dataset_info.json, separated by commas."""
    dataset_dir: str = Field(min_length=1)
    """Directory that holds dataset_info.json."""
    run_name: str = ""
    """Name shown by trackers."""
    do_train: Literal[True] = True
    """LLaMA-Factory trains only when told to; here it is always so."""

    @field_validator("dataset")
    @classmethod
    def _names_agree(cls, dataset: str, info: ValidationInfo) -> str:
        evaluated, probabilities = info.data.get("eval_dataset"), info.data.get("interleave_probs")
        check_dataset_names(dataset_names(dataset), dataset_names(evaluated), probabilities)
        return dataset


def check_dataset_names(
    trained: list[str], evaluated: list[str], interleave_probs: str | None
) -> None:
    """Raises: ValueError: a name stands twice, or there is not one probability for each dataset."""
    for name in trained + evaluated:
        if (trained + evaluated).count(name) > 1:
            where = " and in eval_dataset" if name in trained and name in evaluated else ""
            raise ValueError(f"{name!r} is named twice{where}; name it once")
    count = len(interleave_probs.split(",")) if interleave_probs else len(trained)
    if count != len(trained):
        what = "1 dataset" if len(trained) == 1 else f"{len(trained)} datasets"
        raise ValueError(f"{what} to train on, but interleave_probs has {count} numbers")


def dataset_names(names: str | None) -> list[str]:
    """The names in a list that is separated by commas."""
    return [name.strip() for name in names.split(",")] if names else []


def load_train_args(path: Path) -> TrainArgs:
    """Read and check a training YAML.

    Raises: ConfigError: all that is wrong with it, one line each, with positions.
    """
    return load_model(path, TrainArgs)
