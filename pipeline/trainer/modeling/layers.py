"""What is done to each transformer layer as a whole: compiling and activation checkpointing.

    layer.forward = checkpointed(compiled(layer.forward))

Both take the place of `forward`, so that the hooks by which FSDP2, ZeRO and routers watch a layer
stay outside. Transformers' own checkpointing is left off: releases differ in whether it wraps
`forward` or `__call__`.
"""

from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.errors import TrainError
from pipeline.trainer.keys.compute import Recompute
from pipeline.trainer.modeling.compilation import Compilation
from pipeline.trainer.modeling.recompute import checkpointed


def set_layers(model: PreTrainedModel, recompute: Recompute, compilation: Compilation) -> None:
    """Called once for a model.

    Raises: TrainError: there is something to do, and the model does not say what its layers are.
    """
    if recompute == "none" and not compilation.is_on:
        return
    layers = transformer_layers(model)
    if not layers:
        raise TrainError(
            f"{type(model).__name__} does not say which modules are its layers, which are to be "
            "checkpointed or compiled; set training.disable_gradient_checkpointing: true and "
            "training.torch_compile: false"
        )
    compilation.prepare(model)
    for layer in layers:
        forward = checkpointed(compilation.compiled(layer.forward), recompute)
        layer.forward = cast(Any, forward)


def transformer_layers(model: PreTrainedModel) -> list[nn.Module]:
    """Those of Transformers' own models, or what a model with code of its own names."""
    modules = list(model.modules())
    found = [module for module in modules if isinstance(module, GradientCheckpointingLayer)]
    names = set(model._no_split_modules or ())
    return [*found] or [module for module in modules if type(module).__name__ in names]
