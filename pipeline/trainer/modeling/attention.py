"""Attention for documents that share a sequence: each attends to itself alone, along its branches.

Transformers looks attention up by name; `PER_DOCUMENT` is added to its table. One causal
scaled-dot-product call per segment (prefix_tree.py), whose keys are the segment and its ancestors,
needs no mask of all tokens, so that the compute is that of the documents. Other implementations
isolate documents as well, with what a batch brings along: `sdpa` and `eager` take a mask
(tokens x tokens), which Transformers builds from the positions unless there are branches,
FlashAttention takes the boundaries and knows no branches.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.autograd.function import once_differentiable
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from pipeline.errors import TrainError
from pipeline.trainer.data.prefix_tree import Segment
from pipeline.trainer.keys.finetuning import PAIR_STAGES

PER_DOCUMENT = "per_document"
_Mask = TypeVar("_Mask")
_KINDS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
BEYOND_MASKS = ("softcap", "s_aux", "position_bias")
"""What models ask of attention that PyTorch's kernels cannot do."""


class Documents:
    """Where the documents of a sequence are, for attention.

    Compiled layers hand an object on as it is; to the length of a tuple they would be tied.
    """

    def __init__(self, segments: tuple[Segment, ...]) -> None:
        self.segments = segments


def state_carriers(model: Any) -> str | None:
    """Which layers carry a document's state into what stands behind it; None: no layers do."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    others = sorted(kinds - _KINDS)
    if others:
        return f"layers of kind {', '.join(others)}"
    return "its layers" if model._is_stateful or not model._supports_attention_backend else None


def check_isolates_documents(model: Any, name: str, stage: str) -> None:
    """Raises: TrainError: documents of one sequence would see each other in this model."""
    carriers = state_carriers(model)
    if carriers:
        what, way_out = "packing", "set training.packing and training.neat_packing to false"
        if stage in PAIR_STAGES:
            what, way_out = f"stage {stage}", "choose another model, or infrastructure.engine"
        raise TrainError(
            f"{name}: {what}: {carriers} carry one document's state into the next one; {way_out}"
        )


def packed_implementation(config: Any) -> str:
    """Per document where every layer allows it, else Transformers' own sdpa with a mask."""
    kinds = getattr(config.get_text_config(), "layer_types", None) or ()
    return "sdpa" if "chunked_attention" in kinds else PER_DOCUMENT


def attend_per_document(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    documents: Documents | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention along the branches of the documents of one sequence.

    query (1, heads, tokens, head size), key and value with as many or fewer heads; the
    segments of the documents cover the tokens in order. Returns (1, tokens, heads, head size).

    Raises: TrainError: the model asks for more than masking: soft capping, sinks, a bias.
    """
    if attention_mask is not None or documents is None:
        raise TrainError(
            f"attention {PER_DOCUMENT} takes packed batches only; set flash_attn: sdpa"
        )
    asked = [name for name in BEYOND_MASKS if kwargs.get(name) is not None]
    if asked:
        raise TrainError(
            f"packing: this model's attention has {', '.join(asked)}, which PyTorch's kernels "
            "cannot do; set training.flash_attn: disabled (eager, with a mask), or fa2"
        )
    segments = documents.segments
    queries = query.split([segment.end - segment.start for segment in segments], dim=2)
    keys, values = _along_paths(key, segments), _along_paths(value, segments)
    outputs = [
        sdpa_attention_forward(
            module, q, k, v, _mask(q, k, sliding_window), dropout, scaling, is_causal=True
        )[0]
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(outputs, dim=1), None


def branch_mask(
    preorder: torch.Tensor, position_ids: torch.Tensor, window: int | None = None
) -> torch.Tensor:
    """(1, 1, tokens, tokens), true where the first sees the second: itself and its ancestors, of
    them the last `window` - 1.

    preorder (2, tokens): ranks and ends of PrefixTree; position_ids (1, tokens).
    """
    ranks, ends = preorder
    mask = (ranks[None] <= ranks[:, None]) & (ranks[:, None] < ends[None])
    if window is not None:
        mask &= position_ids[0, :, None] - position_ids[0, None] < window
    return mask[None, None]


def branch_masks(
    config: Any, preorder: torch.Tensor, position_ids: torch.Tensor
) -> torch.Tensor | dict[str, torch.Tensor] | None:
    """`attention_mask` of a model with this config for a sequence with branches.

    Returns: a mask, boolean (sdpa) or to be added (eager); where layers are of several kinds, one
        for each; None where attention needs none.
    """
    implementation = config.get_text_config()._attn_implementation
    if implementation == PER_DOCUMENT:
        return None

    def make(window: int | None) -> torch.Tensor:
        mask = branch_mask(preorder, position_ids, window)
        if implementation != "eager":
            return mask
        return torch.where(mask, 0.0, torch.finfo(torch.float32).min)

    return mask_per_kind(config, make)


def mask_per_kind(config: Any, make: Callable[[int | None], _Mask]) -> _Mask | dict[str, _Mask]:
    """The mask for the window of each kind of layers; without a dict where there is one kind."""
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    kinds = set(getattr(text, "layer_types", None) or ())
    widths = {kind: window if kind == "sliding_attention" else None for kind in kinds}
    masks = {kind: make(width) for kind, width in (widths or {"": window}).items()}
    return masks if len(masks) > 1 else next(iter(masks.values()))


def in_autocast_dtype(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What autocast does at PyTorch's own attention, for one that it does not know."""
    kind = query.device.type
    if not torch.is_autocast_enabled(kind):
        return query, key, value
    dtype = torch.get_autocast_dtype(kind)
    return query.to(dtype), key.to(dtype), value.to(dtype)


def _along_paths(states: torch.Tensor, segments: tuple[Segment, ...]) -> tuple[torch.Tensor, ...]:
    """Of every segment, the states (1, heads, n, size) of its ancestors and of itself."""
    if not any(segment.ancestors for segment in segments):
        return states.split([segment.end - segment.start for segment in segments], dim=2)
    return _AlongPaths.apply(states, segments)  # pyright: ignore[reportReturnType]


class _AlongPaths(torch.autograd.Function):
    """Copies; gradients are summed in fp32, and each only where it belongs.

    PyTorch's own slices would fill a gradient of the whole sequence with zeros for each of them.
    """

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, segments: tuple[Segment, ...]
    ) -> tuple[torch.Tensor, ...]:
        ctx.segments, ctx.shape, ctx.dtype = segments, states.shape, states.dtype
        return tuple(
            torch.cat([states[:, :, start:end] for start, end in _path(segment)], dim=2)
            for segment in segments
        )

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator's doing
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        exact = torch.promote_types(ctx.dtype, torch.float32)
        total = gradients[0].new_zeros(ctx.shape, dtype=exact)
        for segment, gradient in zip(ctx.segments, gradients, strict=True):
            first = 0
            for start, end in _path(segment):
                total[:, :, start:end] += gradient[:, :, first : first + end - start]
                first += end - start
        return total.to(ctx.dtype), None


def _path(segment: Segment) -> list[tuple[int, int]]:
    return [*segment.ancestors, (segment.start, segment.end)]


def _mask(query: torch.Tensor, key: torch.Tensor, window: int | None) -> torch.Tensor | None:
    """Which keys the last tokens of a path see; None: PyTorch's causal mask of a square does it."""
    num_queries, num_keys = query.shape[2], key.shape[2]
    if window is not None and num_keys <= window:
        window = None
    if window is None and num_queries == num_keys:
        return None
    if window is None and query.is_cuda:
        return causal_lower_right(num_queries, num_keys)  # the kernels' own, never in memory
    places = torch.arange(num_keys, device=query.device)
    distance = places[num_keys - num_queries :, None] - places[None, :]
    seen = distance >= 0
    return (seen if window is None else seen & (distance < window))[None, None]


AttentionInterface.register(PER_DOCUMENT, attend_per_document)
