"""Everything that config.yaml may hold. The docstring below a field is its documentation.

`runtime_info.input` is the user's; `runtime_info.output` is written back by a run. Section and key
names are those of the reference system, whose files load unchanged.
"""

import functools
import os.path
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    field_validator,
)

from pipeline.config.conversion_schema import Conversion
from pipeline.config.secrets import SecretReference
from pipeline.config.strict import EmptyIsNull, StrictModel, Text
from pipeline.scaffolds import SCAFFOLDS
from pipeline.trainer.args import NATIVE_KEYS, TrainingKeys, check_dataset_names, dataset_names
from pipeline.trainer.keys.finetuning import PAIR_STAGES
from pipeline.trainer.keys.strategy import AUTO
from pipeline.trainer.llamafactory_keys import LLAMAFACTORY_KEYS

SourceType = Literal["harbor_job", "files", "several", "hf_lf", "local_lf"]
Engine = Literal["native", "llamafactory"]

LOCATION_OF_SOURCE: Mapping[SourceType, str] = {
    "harbor_job": "job_dir",
    "files": "path",
    "several": "sources",
    "hf_lf": "hf_hub_url",
    "local_lf": "lf_path",
}
"""The key of `source` that each type cannot do without."""
_RAW_SOURCES = ("harbor_job", "files", "several")

IGNORED_META_INFO: Mapping[str, str] = {
    "parent": "blocks do not form a tree here",
    "blocks": "blocks do not form a tree here",
    "dependencies": "values are not wired between blocks here; set source.job_dir",
    "resources": "machines are not reached from here; run the command where the GPUs are",
    "repositories": "no repositories are pinned; the native engine is part of this project",
    "environment": "scripts/install.sh keeps the environment in .venv",
}
"""Keys of the reference system's meta_info without a meaning here -> why."""


# Every module of pipeline/scaffolds is a choice.
_ScaffoldName = Literal["auto", *SCAFFOLDS]


def _empty_to_harbor_job(value: object) -> object:
    return "harbor_job" if value in ("", None) else value


class OneSource(StrictModel):
    """One of several sources of raw trajectories."""

    path: str = Field(min_length=1)
    """A Harbor job, a file of trajectories, or a directory of them."""
    name: Text = ""
    """What its trials and files are called by. "": the last part of `path`."""
    scaffold: _ScaffoldName = "auto"  # pyright: ignore[reportInvalidTypeForm] (made at run time)
    """As source.scaffold."""
    weight: float = Field(default=1.0, ge=0, le=100)
    """How often each of its conversations stands in the data: 2 twice, 0.5 a drawn half of its
    trials once."""

    @field_validator("name")
    @classmethod
    def _is_one_part(cls, value: str) -> str:
        if "/" in value:
            raise ValueError(f"must not hold '/' (got {value!r})")
        return value


class Source(StrictModel):
    """Where the training data comes from."""

    type: Annotated[
        SourceType,
        BeforeValidator(_empty_to_harbor_job),
        WithJsonSchema({"enum": ["harbor_job", "files", "hf_lf", "local_lf", "", None]}),
    ] = "harbor_job"
    """`harbor_job`: raw trajectories in `job_dir`, converted in STEP 0; `files`: the same from
    `path`; `several`: the same from each of `sources`; `hf_lf`: LLaMA-Factory JSON on the Hugging
    Face Hub; `local_lf`: LLaMA-Factory JSON on disk. "" and null: harbor_job."""
    scaffold: _ScaffoldName = "auto"  # pyright: ignore[reportInvalidTypeForm] (made at run time)
    """The agent that wrote the trajectories (harbor_job, files, several). `auto`: detected for
    each."""
    job_dir: Text = ""
    """Directory with one sub-directory per trial (required for harbor_job)."""
    path: Text = ""
    """A file of trajectories, or a directory of them at any depth, in any format that is a
    scaffold (required for files)."""
    sources: list[OneSource] = []
    """Jobs, directories and files that make one data set (required for several)."""
    hf_hub_url: Text = ""
    """Dataset id on the Hub, `org/name` (required for hf_lf)."""
    hf_file_name: Text = ""
    """One JSON file of the dataset. "": the split `hf_split` of the subset `hf_subset`."""
    hf_subset: Text = ""
    """Subset (dataset config) without `hf_file_name`. "": the default one."""
    hf_split: Text = "train"
    """Split without `hf_file_name`."""
    hf_revision: Text = "main"
    """Branch, tag or commit of the dataset; the commit it meant is recorded with the run."""
    lf_path: Text = ""
    """LLaMA-Factory JSON file (required for local_lf)."""

    @field_validator(*LOCATION_OF_SOURCE.values())
    @classmethod
    def _required_by_type(cls, value: Any, info: ValidationInfo) -> Any:
        source_type = info.data.get("type")
        if not value and source_type and LOCATION_OF_SOURCE[source_type] == info.field_name:
            raise ValueError(f"required by source.type {source_type}; set it")
        return value


class Dataset(StrictModel):
    """STEP 1: the entry in dataset_info.json."""

    name: Text = ""
    """Name of the entry. "": conversion.data_name."""
    mixed_with: list[Annotated[str, Field(min_length=1)]] = []
    """Other entries of dataset_info.json to train on, too, as `training.mix_strategy` says."""

    @field_validator("name", "mixed_with")
    @classmethod
    def _are_names(cls, value: str | list[str]) -> str | list[str]:
        for name in [value] if isinstance(value, str) else value:
            if "," in name:
                raise ValueError(
                    f"both engines take commas for separators (got {name!r}); use one name"
                )
        return value


class Model(StrictModel):
    """The model to start from."""

    model_name_or_path: str = Field(min_length=1)
    """Hub id, directory, or `builtin:tiny-qwen3` (made on the spot, needs no network)."""
    model_revision: str = Field(default="main", min_length=1)
    """Branch, tag or commit of a Hub model."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for authors you trust."""


class Training(TrainingKeys):
    """STEP 2: the keys of the training engine, under LLaMA-Factory's and Transformers' names."""

    foreign_keys: ClassVar[Mapping[str, str]] = {
        **TrainingKeys.foreign_keys,
        "dataset": "comes from runtime_info.input.dataset.name; remove it",
        "dataset_dir": "comes from runtime_info.input.infrastructure.artifacts_dir; remove it",
        "do_train": "always true here; remove it",
    }

    @field_validator("output_dir")
    @classmethod
    def _is_a_directory_of_its_own(cls, value: str) -> str:
        if os.path.normpath(value) in (".", "..", "/", "artifacts", "artifacts/model"):
            raise ValueError(
                f"must be a directory of this run alone (got {value!r}); give it a name, such as "
                "demo"
            )
        return value


class Infrastructure(StrictModel):
    """What the run may use, and where it writes."""

    n_gpus_per_node: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Training processes. `auto`: one per visible accelerator; without any, min(2, cores) processes
    on the CPU."""
    engine: Engine = "native"
    """`native`: the trainer of this project; `llamafactory`: LLaMA-Factory in an environment of its
    own (`llamafactory_python`)."""
    llamafactory_python: Text = ""
    """Python of the environment that has LLaMA-Factory (required for engine llamafactory)."""
    artifacts_dir: str = Field(default="artifacts", min_length=1)
    """Where everything generated goes, relative to the project root."""
    stop_grace_seconds: int = Field(default=300, ge=0)
    """How long a run that was told to stop may take to finish its step and save, before it is
    killed."""

    @field_validator("llamafactory_python")
    @classmethod
    def _required_by_engine(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.data.get("engine") == "llamafactory":
            raise ValueError("required by infrastructure.engine llamafactory; set it")
        return value


class Experiment(StrictModel):
    """How the run is named and tracked."""

    run_name: Text = ""
    """Name of the run. "": from training.output_dir."""
    wandb_mode: Literal["offline", "online", "disabled"] = "disabled"
    """Weights & Biases: upload, write locally, or not at all."""
    wandb_run_id: Text = ""
    """Continue this Weights & Biases run. "": a new one."""

    @field_validator("run_name")
    @classmethod
    def _names_files(cls, value: str) -> str:
        if "/" in value or value.startswith("."):
            raise ValueError(
                f"names files, so it must not hold '/' or begin with '.' (got {value!r}); use "
                "another name"
            )
        return value


class Credentials(StrictModel):
    """References to secrets, never the secrets: `env:NAME` or `file:PATH`; "" or null: none."""

    wandb_api_key: SecretReference = Field(default="", repr=False)
    """Weights & Biases API key."""
    hf_token: SecretReference = Field(default="", repr=False)
    """Hugging Face token, for gated or private models and datasets."""


class Input(StrictModel):
    """What the user decides."""

    source: Source
    conversion: Conversion
    dataset: Dataset = Dataset()
    model: Model
    training: Training
    infrastructure: Infrastructure = Infrastructure()
    experiment: Experiment = Experiment()
    credentials: Credentials = Credentials()

    @field_validator("training")
    @classmethod
    def _dataset_names_agree(cls, training: Training, info: ValidationInfo) -> Training:
        if {"dataset", "conversion"} <= info.data.keys():
            dataset, conversion = info.data["dataset"], info.data["conversion"]
            trained = [dataset.name or conversion.data_name, *dataset.mixed_with]
            evaluated = dataset_names(training.eval_dataset)
            check_dataset_names(trained, evaluated, training.interleave_probs)
        return training

    @field_validator("infrastructure")
    @classmethod
    def _trains_on_what_is_converted(
        cls, infrastructure: Infrastructure, info: ValidationInfo
    ) -> Infrastructure:
        given = info.data
        if {"source", "conversion", "training"} <= given.keys():
            is_converted = given["source"].type in _RAW_SOURCES
            pairs, stage = given["conversion"].pairs, given["training"].stage
            if is_converted and stage in PAIR_STAGES and pairs is None:
                raise ValueError(
                    f"training.stage {stage} trains on pairs, which STEP 0 makes if asked to; set "
                    "conversion.pairs: {} and conversion.instance_status: all"
                )
            if is_converted and pairs and stage not in PAIR_STAGES:
                raise ValueError(
                    f"conversion.pairs makes pairs, training.stage {stage} trains on "
                    "conversations; set training.stage: dpo, or remove conversion.pairs"
                )
            if pairs and infrastructure.engine != "native" and pairs.continuation != "turn":
                raise ValueError(
                    "LLaMA-Factory's pairs have one turn on each side; set "
                    "conversion.pairs.continuation: turn"
                )
        return infrastructure


class RuntimeInfo(StrictModel):
    """What goes into a run and what came out of the last one."""

    input: Input
    output: dict[str, Any] | None = None
    """Results of the last finished run; rewritten by the next one."""


class MetaInfo(StrictModel):
    """What this config is called. Shown to people, read by nothing."""

    name: Text = ""
    """Short name."""
    label: Text = ""
    """One line."""
    description: Text = ""
    """Free text."""


class Config(StrictModel):
    """config.yaml of the SFT pipeline."""

    foreign_keys: ClassVar[Mapping[str, str]] = {
        "status": "a retired section; remove it (the state of runs is in artifacts/index.yaml)",
        "evolving": "a retired section, which nothing reads; remove it",
    }

    meta_info: MetaInfo = MetaInfo()
    runtime_info: RuntimeInfo


def _known_to_llamafactory(key: str) -> str:
    if key not in LLAMAFACTORY_KEYS:
        raise ValueError(key)
    return key


_Steps = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)]

# Keys whose values the native engine narrows, with all that LLaMA-Factory takes.
_WIDE: Mapping[str, Any] = {
    "stage": str,
    "finetuning_type": str,
    "pref_loss": str,
    "quantization_bit": int | None,
    "quantization_method": str,
    "deepspeed": Annotated[str | dict[str, Any] | None, EmptyIsNull],
    "optim": str,
    "lr_scheduler_type": str,
    "warmup_steps": Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)],
    "fp16": bool,
    "streaming": bool,
    "rope_scaling": Annotated[str | None, EmptyIsNull],
    "flash_attn": str,
    "logging_steps": _Steps,
    "save_strategy": str,
    "save_steps": _Steps,
    "eval_strategy": str,
    "eval_steps": _Steps | None,
    "report_to": str | list[str] | None,
    "include_num_input_tokens_seen": bool | str,
}


class _WithLlamaFactoryKeys(Training):
    model_config = ConfigDict(extra="allow")
    # How pydantic is told what extra keys may be; its own declaration is wider.
    __pydantic_extra__: dict[  # pyright: ignore[reportIncompatibleVariableOverride]
        Annotated[str, AfterValidator(_known_to_llamafactory)], Any
    ]

    # Still found as suggestions, but nothing speaks against them.
    foreign_keys: ClassVar[Mapping[str, str]] = {
        **Training.foreign_keys,
        **dict.fromkeys(LLAMAFACTORY_KEYS, ""),
    }

    @field_validator(*sorted(NATIVE_KEYS))
    @classmethod
    def _is_left_to_the_native_engine(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        if value != cls.model_fields[info.field_name].default:
            raise ValueError("only the native engine has it; remove it")
        return value

    @field_validator("deepspeed")
    @classmethod
    def _is_decided(cls, deepspeed: Any) -> Any:
        if deepspeed == AUTO:
            raise ValueError("only the native engine has auto; name a DeepSpeed file, or null")
        return deepspeed

    @field_validator("flash_attn")
    @classmethod
    def _has_these_kernels(cls, flash_attn: str) -> str:
        if flash_attn == "flex":
            raise ValueError("only the native engine has flex; set it to auto")
        return flash_attn


@functools.cache
def config_model(engine: str) -> type[Config]:
    """The model of config.yaml for one engine.

    LLaMA-Factory takes more values of some training keys, and keys of its own, which are kept in
    `training.model_extra`.
    """
    if engine != "llamafactory":
        return Config
    fields = Training.model_fields
    wide: dict[str, Any] = {
        name: (kind, Field(default=fields[name].default, description=fields[name].description))
        for name, kind in _WIDE.items()
    }
    doc = "STEP 2: the keys of LLaMA-Factory's training YAML."
    training = create_model(
        "LlamaFactoryTraining", __base__=_WithLlamaFactoryKeys, __doc__=doc, **wide
    )
    given = create_model("Input", __base__=Input, training=(training, ...))
    runtime_info = create_model("RuntimeInfo", __base__=RuntimeInfo, input=(given, ...))
    return create_model("Config", __base__=Config, runtime_info=(runtime_info, ...))
