"""Which weights of a loaded model are trained: all, those of some layers, or adapters beside them.

The keys mean what they mean in LLaMA-Factory (src/llamafactory/model/adapter.py, 0.9.5), with one
difference: a name in `freeze_extra_modules` is that of a whole module, not of any part of a path.
"""

import logging
import re

import torch
from transformers import PreTrainedModel

from pipeline.errors import TrainError
from pipeline.trainer.adapters.lora import attach_lora
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.keys.finetuning import split_names
from pipeline.trainer.modeling.reward_model import SCORE

logger = logging.getLogger(__name__)

_LAYER = re.compile(r"\.(\d+)\.([^.]+)")
"""The first number in a parameter's name is its layer; behind it, the module within the layer."""


def select_trained(model: PreTrainedModel, args: TrainArgs, dtype: torch.dtype) -> None:
    """Freeze what `finetuning_type` does not train; the rest is trained in `dtype`.

    Raises: TrainError: a key names modules that the model does not have, or an adapter that cannot
        be loaded.
    """
    if args.finetuning_type == "full":
        return
    if args.finetuning_type == "lora":
        attach_lora(model, args)
        _convert_trained(model, dtype)
    else:
        freeze(model, args, dtype)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    logger.info(
        "finetuning_type %s: %s of %s parameters are trained",
        args.finetuning_type,
        f"{sum(map(num_elements, trained)):,}",
        f"{sum(map(num_elements, model.parameters())):,}",
    )


def num_elements(parameter: torch.nn.Parameter) -> int:
    """Elements of the whole parameter, also where ZeRO-3 left this rank a part of it."""
    return getattr(parameter, "ds_numel", parameter.numel())


def freeze(model: PreTrainedModel, args: TrainArgs, dtype: torch.dtype) -> None:
    """Train what `finetuning_type: freeze` leaves, in `dtype`; a second time changes nothing.

    Raises: TrainError: as `select_trained`.
    """
    num_layers = model.config.get_text_config().num_hidden_layers
    count = args.freeze_trainable_layers
    layers = range(max(0, num_layers - count), num_layers) if count > 0 else range(-count)
    in_layers, outside = _module_names(model)
    modules = split_names(args.freeze_trainable_modules)
    _check_known("freeze_trainable_modules", modules, in_layers | {"all"})
    extra = split_names(args.freeze_extra_modules)
    _check_known("freeze_extra_modules", extra, outside)
    new = [SCORE] if args.stage == "rm" else []
    for name, parameter in model.named_parameters():
        place = _LAYER.search(name)
        if place is None:
            parameter.requires_grad_(name.split(".")[-2] in [*extra, *new])
        else:
            is_module = "all" in modules or place[2] in modules
            parameter.requires_grad_(is_module and int(place[1]) in layers)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainError(
            "finetuning_type freeze: nothing would be trained; set freeze_trainable_layers or "
            "freeze_extra_modules"
        )
    _convert_trained(model, dtype)


def _convert_trained(model: PreTrainedModel, dtype: torch.dtype) -> None:
    for parameter in model.parameters():
        is_master = not hasattr(parameter, "ds_id")  # ZeRO-3 keeps the master weights itself
        if parameter.requires_grad and is_master and parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)


def _module_names(model: PreTrainedModel) -> tuple[set[str], set[str]]:
    """Modules of the layers, and those that hold parameters outside them."""
    in_layers, outside = set(), set()
    for name, _ in model.named_parameters():
        place = _LAYER.search(name)
        if place is None:
            outside.add(name.split(".")[-2])
        else:
            in_layers.add(place[2])
    return in_layers, outside


def _check_known(key: str, names: list[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            raise TrainError(
                f"training.{key}: the model has no module {name}; choose from "
                f"{', '.join(sorted(known))}"
            )
