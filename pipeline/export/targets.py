"""The targets of `sft export --to`, by name."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from pipeline.errors import ConfigError
from pipeline.export import axolotl, ms_swift, trl, verl
from pipeline.export.deviations import Deviation, Exported
from pipeline.export.files import JsonArray, JsonLines, Parquet, Writer
from pipeline.export.openai_messages import to_openai
from pipeline.export.rendered import to_rendered
from pipeline.sharegpt import to_sharegpt
from pipeline.trajectory import Trajectory


@dataclass(frozen=True)
class Target:
    """One format."""

    convert: Callable[..., Exported]
    """(trajectory), or (trajectory, tokenizer) if it renders."""
    suffix: str
    """What the loader of the target tells the kind of file by."""
    next_step: str
    """How to load the file, for the user; FILE stands for its path."""
    schema: Callable[[], Any] | None = None
    """Parquet: the Arrow schema."""
    is_rendered: bool = False
    """Whether it holds text of one model's chat template."""
    has_score: bool = False
    """Whether its rows say how they were scored."""

    def open_writer(self, file: IO[bytes]) -> Writer:
        if self.schema:
            return Parquet(file, self.schema())
        return JsonArray(file) if self.suffix == ".json" else JsonLines(file)


def _to_lf(trajectory: Trajectory) -> Exported:
    return _with_upstream_weights(Exported(to_sharegpt(trajectory)), trajectory)


def _to_lf_rendered(trajectory: Trajectory, tokenizer: Any) -> Exported:
    return _with_upstream_weights(to_rendered(trajectory, tokenizer), trajectory)


def _with_upstream_weights(exported: Exported, trajectory: Trajectory) -> Exported:
    weights = [message.weight for message in trajectory.messages if message.role == "assistant"]
    ignored = Counter({Deviation.WEIGHT_IGNORED_UPSTREAM: sum(weight != 1 for weight in weights)})
    return Exported(exported.row, exported.deviations + ignored)


_LF_NEXT = "set source.type to local_lf and source.lf_path to this file"

TARGETS = {
    "lf": Target(_to_lf, ".json", _LF_NEXT, has_score=True),
    "lf-rendered": Target(_to_lf_rendered, ".json", _LF_NEXT, is_rendered=True, has_score=True),
    "openai": Target(to_openai, ".jsonl", "a fine-tuning service, or any reader of messages"),
    "trl": Target(
        trl.to_trl,
        ".parquet",
        'load_dataset("parquet", data_files="FILE") and SFTConfig(assistant_only_loss=True)',
        trl.schema,
    ),
    "ms-swift": Target(
        ms_swift.to_ms_swift,
        ".parquet",
        "swift sft --dataset FILE --is_binary_loss_scale false",
        ms_swift.schema,
    ),
    "axolotl": Target(
        axolotl.to_axolotl,
        ".parquet",
        "datasets: [{path: FILE, ds_type: parquet, type: chat_template, "
        "message_field_training: train}]",
        axolotl.schema,
    ),
    "verl": Target(
        verl.to_verl,
        ".parquet",
        "data: {train_files: [FILE], apply_chat_template_kwargs: "
        f"{{chat_template: '{verl.CHAT_TEMPLATE}'}}}}",
        verl.schema,
        is_rendered=True,
    ),
}


MODEL = "model"
"""The one target that is no format of data: a directory with a trained model."""


def find_target(name: str) -> Target:
    """Raises: ConfigError: no such target."""
    if name not in TARGETS:
        names = ", ".join([*TARGETS, MODEL])
        raise ConfigError(f"--to: no such target (got {name!r}); one of {names}")
    return TARGETS[name]
