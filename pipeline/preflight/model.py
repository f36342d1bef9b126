"""The model of a config, as far as it can be known without reading a weight."""

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.builtin import ensure_builtin, is_builtin
from pipeline.errors import ConfigError
from pipeline.preflight.report import Context
from pipeline.step2_train import EXAMPLES, model_path
from pipeline.trainer.modeling.rope import max_positions, trained_positions


@dataclass(frozen=True)
class ModelSize:
    """Read from the model's config."""

    num_parameters: int
    max_positions: int | None
    trained_positions: int | None
    """Before the scaling that the model came with."""


def model_size(context: Context) -> ModelSize:
    """Raises: ConfigError: there is no model, or none that this version of Transformers knows."""
    model = context.given.model
    found = _model_size(readable_model(context), model.model_revision, model.trust_remote_code)
    if isinstance(found, str):
        raise ConfigError(
            f"runtime_info.input.model.model_name_or_path: {model.model_name_or_path}: neither a "
            f"model directory nor a Hub model that can be reached ({found}); check it, or download "
            "the model first"
        )
    return found


def readable_model(context: Context) -> str:
    """What to load tokenizer and config from; a builtin model not built yet is built aside."""
    path = model_path(context.config, context.paths, build=False)
    name = context.given.model.model_name_or_path
    return _built_aside(name) if is_builtin(name) and not Path(path).is_dir() else path


@lru_cache(maxsize=2)
def _built_aside(name: str) -> str:
    """In a temporary directory that goes away with this process: a dry run changes no file."""
    scratch = Path(tempfile.mkdtemp(prefix="sft-dryrun-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    return str(ensure_builtin(name, scratch, EXAMPLES))


@lru_cache(maxsize=2)
def _model_size(model: str, revision: str, trust_remote_code: bool) -> ModelSize | str:
    """A reason instead of an exception, which would not be cached: the Hub is asked once."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config: Any = AutoConfig.from_pretrained(
            model, revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        return (str(error).strip() or repr(error)).splitlines()[0]
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    return ModelSize(
        num_parameters=sum(parameter.numel() for parameter in skeleton.parameters()),
        max_positions=max_positions(config),
        trained_positions=trained_positions(config),
    )
