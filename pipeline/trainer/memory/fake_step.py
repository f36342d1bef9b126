"""One training step without computing it: what memory it needs, tensor by tensor.

The engine's own model, objective and optimizer run on PyTorch's fake tensors, which have shapes and
dtypes but no contents. So activations under any checkpointing, attention's own buffers, the chunks
of the lm_head, adapters and the copies that autocast makes are counted, not estimated. What real
kernels allocate inside an operator is not seen.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import masking_utils

from pipeline.log import silenced
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.collate import MicroBatch
from pipeline.trainer.memory.fake_kernels import FakeKernels
from pipeline.trainer.memory.fake_offload import FakeOffload
from pipeline.trainer.memory.live_bytes import LiveBytes
from pipeline.trainer.modeling.load import empty_model
from pipeline.trainer.objective import make_objective
from pipeline.trainer.optimizer.in_backward import UpdateInBackward
from pipeline.trainer.optimizer.make import has_compact_moments, make_optimizer

WEIGHTS, GRADIENTS, OPTIMIZER = "weights", "gradients", "optimizer states"
ACTIVATIONS, LOSS, WORKING = "activations", "lm_head and loss", "working memory"


@dataclass(frozen=True)
class StepMemory:
    """Bytes by class, of one process with the whole model."""

    passes: dict[str, int]
    """At the peak of forward and backward passes."""
    update: dict[str, int]
    """At the peak of clipping and the optimizer's update."""
    moments: int
    """Of the optimizer's states beside fp32 weights, of which `dtype` may be a copy."""
    num_trained: int
    """Elements of the parameters that are trained."""
    num_frozen: int
    largest_layer: int
    """Elements of the layer with most parameters."""
    outside_layers: int
    """Elements of the parameters in no layer: embeddings, lm_head."""
    offloaded: int = 0
    """Bytes of layer inputs in host memory."""


def simulate_step(
    args: TrainArgs,
    batch: MicroBatch,
    *,
    dtype: torch.dtype,
    autocast: bool,
    accumulates: bool,
    on_accelerator: bool,
) -> StepMemory:
    """The second step of a run, when the optimizer has its state.

    `dtype` is that of the trained weights; with `accumulates` the gradients of an earlier
    micro-batch are there.
    """
    fake, live = FakeTensorMode(allow_non_fake_inputs=True), LiveBytes()
    # Making a model says what the real one will say again.
    with torch.device("meta"), silenced(logging.WARNING):
        model = empty_model(args, dtype)
    objective = make_objective(model, args)
    with fake, live, live.making(WEIGHTS):
        _give_fake_tensors(objective)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.register_post_accumulate_grad_hook(
            lambda parameter: live.classify([parameter.grad], GRADIENTS)
        )
    offload = FakeOffload(model) if on_accelerator and args.recompute == "offload" else None
    with fake, FakeKernels(), live:
        optimizer = make_optimizer(model, args)
        if on_accelerator and args.optim == "adamw_torch":
            for group in optimizer.param_groups:  # what the default is there
                group["foreach"] = True
        _make_gradients(trained, live)
        with live.making(OPTIMIZER):
            optimizer.step()
        moments = live.now[OPTIMIZER]
        if dtype != torch.float32 and not has_compact_moments(args):
            moments *= 2
        if not accumulates:
            optimizer.zero_grad(set_to_none=True)
        if args.optimizer_in_backward:
            UpdateInBackward(optimizer)
        live.forget_peak()
        # The loop still has the loss, and so its graph, when the optimizer runs.
        loss = _run_passes(objective, batch, live, autocast=autocast)
        passes = live.peak
        live.forget_peak()
        with live.making(WORKING):
            torch.nn.utils.clip_grad_norm_(trained, args.max_grad_norm or float("inf"))
            optimizer.step()
        update = live.peak
        del loss
    num_trained = sum(parameter.numel() for parameter in trained)
    sizes = _layer_sizes(model)
    total = sum(parameter.numel() for parameter in model.parameters())
    return StepMemory(
        passes=_bytes_of(passes),
        update=_bytes_of(update),
        moments=moments,
        num_trained=num_trained,
        num_frozen=total - num_trained,
        largest_layer=max(sizes, default=0),
        outside_layers=total - sum(sizes),
        offloaded=offload.num_bytes if offload is not None else 0,
    )


def _give_fake_tensors(module: torch.nn.Module) -> None:
    """In the place of those on the meta device; tied ones stay tied."""
    made: dict[int, torch.Tensor] = {}
    for child in module.modules():
        for name, parameter in child._parameters.items():
            if parameter is not None and id(parameter) not in made:
                empty = torch.empty_like(parameter, device="cpu")
                made[id(parameter)] = torch.nn.Parameter(empty, parameter.requires_grad)
            if parameter is not None:
                child._parameters[name] = cast(torch.nn.Parameter, made[id(parameter)])
        for name, buffer in child._buffers.items():
            if buffer is not None:
                child._buffers[name] = torch.empty_like(buffer, device="cpu")


def _make_gradients(trained: list[torch.nn.Parameter], live: LiveBytes) -> None:
    with live.making(GRADIENTS):
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)


def _run_passes(
    objective: torch.nn.Module, batch: MicroBatch, live: LiveBytes, *, autocast: bool
) -> torch.Tensor:
    head = cast(Any, objective.model).get_output_embeddings()
    stack: list[Any] = []

    def enter(*_: Any) -> None:
        stack.append(live.making(LOSS))
        stack[-1].__enter__()

    def leave(*_: Any) -> None:
        stack.pop().__exit__(None, None, None)

    hooks: list[Any] = []
    if head is not None:  # a reward model has none
        hooks = [head.register_forward_pre_hook(enter), head.register_forward_hook(leave)]
    with _documents_as_given(batch):
        with live.making(ACTIVATIONS), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = objective(**vars(batch)).total
        for hook in hooks:
            hook.remove()
        with live.making(WORKING):
            loss.backward()
    return loss


@contextmanager
def _documents_as_given(batch: MicroBatch) -> Iterator[None]:
    """Transformers looks for several documents in the positions of a row, which are fake here, and
    then assumes some, with a mask for them. Rows of an unpacked batch have one document each.
    """
    name = "find_packed_sequence_indices"
    own = getattr(masking_utils, name, None)
    if own is None or batch.position_ids is not None:
        yield
        return
    setattr(masking_utils, name, lambda position_ids: None)
    try:
        yield
    finally:
        setattr(masking_utils, name, own)


def _layer_sizes(model: Any) -> list[int]:
    """Elements of every transformer layer."""
    names = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    return [sum(parameter.numel() for parameter in layer.parameters()) for layer in layers]


def _bytes_of(peak: Counter[str]) -> dict[str, int]:
    return {name: peak[name] for name in sorted(peak) if peak[name]}
