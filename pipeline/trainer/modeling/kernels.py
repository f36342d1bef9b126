"""Kernels of optional packages: which of those that the keys ask for can run here.

As in LLaMA-Factory, what is missing is named in a warning and PyTorch's own kernels take its place:
they compute the same. Imports no torch.
"""

import importlib.util
import logging
from typing import TypeVar

from pipeline.trainer.keys.compute import ComputeKeys

logger = logging.getLogger(__name__)

_FLASH_ATTENTION = {
    "fa2": ("flash_attn", "pip install flash-attn --no-build-isolation"),
    "fa3": ("flash_attn_interface", "build it from hopper/ of the flash-attention repository"),
}
_WITHOUT_TRITON = ("cpu", "mps")
_WITHOUT_FLASH_ATTENTION = (*_WITHOUT_TRITON, "xpu")
_Keys = TypeVar("_Keys", bound=ComputeKeys)


def missing_kernels(keys: ComputeKeys, device: str) -> dict[str, str]:
    """Key -> why it has no effect on this kind of device, and what would help."""
    found = {}
    if keys.flash_attn in _FLASH_ATTENTION:
        package, way_out = _FLASH_ATTENTION[keys.flash_attn]
        if device in _WITHOUT_FLASH_ATTENTION:
            found["flash_attn"] = f"FlashAttention does not run on {device}; set it to auto"
        elif not keys.bf16:
            found["flash_attn"] = "FlashAttention does not compute in fp32; set it to auto"
        elif device == "cuda" and importlib.util.find_spec(package) is None:
            found["flash_attn"] = f"{package} is not installed; {way_out}, or set it to auto"
    if keys.enable_liger_kernel:
        if device in _WITHOUT_TRITON:
            found["enable_liger_kernel"] = f"Liger's kernels do not run on {device}; remove it"
        elif importlib.util.find_spec("liger_kernel") is None:
            found["enable_liger_kernel"] = (
                "liger_kernel is not installed; pip install liger-kernel, or remove it"
            )
    return found


def with_installed_kernels(keys: _Keys, device: str) -> _Keys:
    """The same keys without those that have no effect here; each is warned of."""
    instead = {"flash_attn": "auto", "enable_liger_kernel": False}
    missing = missing_kernels(keys, device)
    for key, why in missing.items():
        logger.warning("training.%s has no effect: %s", key, why)
    return keys.model_copy(update={key: instead[key] for key in missing})
