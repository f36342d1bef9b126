"""Liger's Triton kernels for norms and gated MLPs.

Not for the loss, of which the engine computes only the labelled tokens in chunks of its own, and
not for rotary positions: that one replaces a function of Transformers for the whole process.
"""

import inspect
import logging
import sys
from typing import Any

from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_WANTED = ("rms_norm", "layer_norm", "swiglu", "geglu")
_NOT_WANTED = ("rope", "cross_entropy", "fused_linear_cross_entropy")


def apply_liger(model: PreTrainedModel) -> None:
    """Give the modules of `model` Liger's forward passes, where Liger knows this kind of model."""
    from liger_kernel.transformers.monkey_patch import (  # pyright: ignore[reportMissingImports]  # optional
        MODEL_TYPE_TO_APPLY_LIGER_FN,
    )

    kind = model.config.model_type
    apply: Any = MODEL_TYPE_TO_APPLY_LIGER_FN.get(kind)
    if apply is None:
        logger.warning("training.enable_liger_kernel has no effect: Liger has none for %s", kind)
        return
    known = inspect.signature(apply).parameters
    wanted = [name for name in _WANTED if name in known]
    choices = {name: name in wanted for name in (*_WANTED, *_NOT_WANTED) if name in known}
    # Liger replaces classes for models to come as well, such as those of a memory plan.
    source = vars(sys.modules[type(model).__module__])
    before = dict(source)
    try:
        apply(model=model, **choices)
    finally:
        source.update(before)
    logger.info("Liger kernels: %s", ", ".join(wanted))
