"""FlexAttention: one kernel for all documents and branches of a batch, with a mask by blocks.

Attention per document (attention.py) copies the keys of its ancestors for every branch. Here
nothing is copied: `block_masks` says, once for all layers, which blocks of 128 x 128 tokens hold a
visible pair, and the kernel leaves out the others. PyTorch has no backward pass of it on CPU.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface

from pipeline.errors import TrainError
from pipeline.trainer.data.collate import MicroBatch
from pipeline.trainer.modeling.attention import BEYOND_MASKS, in_autocast_dtype, mask_per_kind

BLOCK_MASK = "block_mask"
_KINDS = frozenset({"full_attention", "sliding_attention"})
_UNSUPPORTED = tuple(name for name in BEYOND_MASKS if name != "softcap")
_NO_BACKWARD = ("cpu", "mps")
_KERNEL = {"FORCE_USE_FLEX_ATTENTION": True}  # not another one for short sequences


class Visibility(NamedTuple):
    """Of every token of a sequence, (S,) integers each; see PrefixTree."""

    ranks: torch.Tensor
    ends: torch.Tensor
    depths: torch.Tensor

    @classmethod
    def of(cls, batch: MicroBatch) -> "Visibility":
        """Without waiting for the device. Padding, on the right, is seen by padding alone."""
        size = batch.input_ids.shape[1]
        ranks = torch.arange(size, device=batch.input_ids.device)
        depths = ranks if batch.position_ids is None else batch.position_ids[0]
        if batch.preorder is not None:
            return cls(batch.preorder[0], batch.preorder[1], depths)
        starts = ranks - depths  # not `boundaries`: a tree may have several roots
        return cls(ranks, torch.searchsorted(starts, starts, right=True), depths)

    def mask_mod(self, window: int | None) -> Callable[..., torch.Tensor]:
        """Whether a query sees a key: itself and its ancestors, of them the last `window` - 1."""
        ranks, ends, depths = self

        def on_path(b: Any, h: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return (ranks[key] <= ranks[query]) & (ranks[query] < ends[key])

        if window is None:
            return on_path

        def near_on_path(b: Any, h: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return on_path(b, h, query, key) & (depths[query] - depths[key] < window)

        return near_on_path


def check_has_gradients(device: str) -> None:
    """Raises: TrainError: PyTorch has no backward pass on this kind of device."""
    if device in _NO_BACKWARD:
        raise TrainError(
            f"flash_attn: flex: PyTorch computes no gradients of FlexAttention on {device}; "
            "set training.flash_attn to auto"
        )


def check_takes_block_masks(model: Any, name: str) -> None:
    """Raises: TrainError: this model's layers attend by other masks, or do not attend."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    others = ", ".join(sorted(kinds - _KINDS))
    if others or not model._supports_flex_attn:
        reason = f"layers of kind {others} take no" if others else "its attention takes no"
        raise TrainError(
            f"{name}: flash_attn: flex: {reason} block mask; set training.flash_attn to auto"
        )


def block_masks(config: Any, batch: MicroBatch) -> BlockMask | dict[str, BlockMask]:
    """`attention_mask` of a model with this config: where layers are of several kinds, a dict."""
    visibility, size = Visibility.of(batch), batch.input_ids.shape[1]
    device = batch.input_ids.device
    create = _for_device(create_block_mask, device.type)
    return mask_per_kind(
        config,
        lambda window: create(visibility.mask_mod(window), None, None, size, size, device=device),
    )


def attend_by_blocks(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: BlockMask,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query (B, heads, S, head size), key and value with as many or fewer heads.

    Returns (B, S, heads, head size).

    Raises: TrainError: the model asks for dropout, sinks or a bias.
    """
    asked = [name for name in _UNSUPPORTED if kwargs.get(name) is not None]
    if asked or dropout:
        what = ", ".join(asked) or f"dropout ({dropout})"
        raise TrainError(
            f"flash_attn: flex: this model's attention has {what}, which FlexAttention does not "
            "do; set training.flash_attn: disabled (eager, with a mask)"
        )
    query, key, value = in_autocast_dtype(query, key, value)
    output = _for_device(flex_attention, query.device.type)(
        query,
        key,
        value,
        score_mod=None if softcap is None else _capped(softcap),
        block_mask=attention_mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
        kernel_options=_KERNEL,
    )
    return output.transpose(1, 2).contiguous(), None


def _capped(softcap: float) -> Callable[..., torch.Tensor]:
    def score_mod(score: torch.Tensor, b: Any, h: Any, query: Any, key: Any) -> torch.Tensor:
        return softcap * torch.tanh(score / softcap)

    return score_mod


@functools.cache
def _for_device(function: Callable[..., Any], device: str) -> Callable[..., Any]:
    """Compiled, once for all lengths: only so it is a kernel that never holds all pairs."""
    return function if device == "cpu" else torch.compile(function, dynamic=True)


AttentionInterface.register(BLOCK_MASK, attend_by_blocks)
