"""Where DeepSpeed keeps fp32 weights and optimizer state, as ranges of named tensors.

Stages 1 and 2 flatten the parameters of a group one after another and cut the whole into one
partition per rank; stage 3 flattens, pads and cuts every parameter. Either way a rank has fp32
weights and optimizer state of its own partition only, in flat tensors that hold many parameters.
Stage 0 keeps all of it on all ranks.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from pipeline.trainer.checkpoint.state_files import SavedState
from pipeline.trainer.parallel.parts import (
    WEIGHT,
    Part,
    initialize_optimizer_state,
    local_parts,
    part_of,
    saved_tensors,
    share_of,
)


def zero_state(model: PreTrainedModel, engine: Any, rank: int, world_size: int) -> list[Part]:
    """What this rank saves; see `Strategy.state`."""
    return _partitioned(model, engine) + share_of(_replicated(model, engine), rank, world_size)


def load_zero_state(model: PreTrainedModel, engine: Any, saved: SavedState) -> None:
    """Undo `zero_state`; see `Strategy.load_state`."""
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    inner = optimizer if stage == 0 else optimizer.optimizer
    if stage == 3:
        optimizer.checkpoint_event_prologue()
        optimizer._set_fp32_optimizer_param_groups()
    initialize_optimizer_state(inner)
    if stage == 3:
        optimizer._clear_fp32_optimizer_param_groups()
    counters = [state for state in inner.state.values() if isinstance(state["step"], int)]
    for state in counters:  # of DeepSpeedCPUAdam
        state["step"] = torch.tensor(0.0)
    saved.fill(_partitioned(model, engine) + _replicated(model, engine))
    for state in counters:
        state["step"] = int(state["step"])
    if stage in (1, 2):
        optimizer.update_lp_params()
    if stage == 3:
        _update_low_precision_partitions(optimizer)
        optimizer.checkpoint_event_epilogue()  # gathers the small parameters that stay whole


class _Fragment(NamedTuple):
    """Where the fp32 values of this rank's range of a parameter are."""

    name: str
    shape: tuple[int, ...]
    start: int
    """In the flattened parameter."""
    flat: torch.Tensor
    flat_start: int
    size: int


def _partitioned(model: PreTrainedModel, engine: Any) -> list[Part]:
    stage = engine.zero_optimization_stage()
    if stage == 0:
        return []
    find = _stage_3_fragments if stage == 3 else _stage_2_fragments
    parts = []
    for name, shape, start, flat, flat_start, size in find(model, engine.optimizer):
        state = engine.optimizer.optimizer.state[flat]
        whole = {slot: value for slot, value in state.items() if _is_elementwise(state, flat)}
        for slot, value in [(WEIGHT, flat), *whole.items()]:
            values = _as_tensor(value)
            if values.dim() == 0:
                parts.append(part_of(name, slot, values))
            else:
                data = values.detach()[flat_start : flat_start + size]
                parts.append(Part(name, slot, shape, start, data))
    if stage == 3:
        parts += _stage_3_frozen(model)
    return parts + _opaque(engine)


def _opaque(engine: Any) -> list[Part]:
    """State that goes over the borders of parameters: it fits the same partitions only."""
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    flats = (
        optimizer.fp32_partitioned_groups_flat
        if stage == 3
        else optimizer.single_partition_of_fp32_groups
    )
    parts = []
    for number, flat in enumerate(flats):
        state = optimizer.optimizer.state[flat]
        if _is_elementwise(state, flat):
            continue
        ranks = f"rank {dist.get_rank()} of {dist.get_world_size()}"
        name = f"partition {number} of ZeRO stage {stage} on {ranks}"
        parts += [part_of(name, slot, _as_tensor(value)) for slot, value in state.items()]
    return parts


def _is_elementwise(state: dict[str, Any], flat: torch.Tensor) -> bool:
    return all(_as_tensor(value).shape in ((), flat.shape) for value in state.values())


def _as_tensor(value: Any) -> torch.Tensor:
    return value if torch.is_tensor(value) else torch.tensor(float(value))


def _replicated(model: PreTrainedModel, engine: Any) -> list[Part]:
    stage = engine.zero_optimization_stage()
    if stage == 0:
        return local_parts(model, engine.optimizer)
    return [
        part_of(name, WEIGHT, tensor)
        for name, tensor in saved_tensors(model)
        if not (tensor.requires_grad or hasattr(tensor, "ds_id"))
    ]


def _stage_2_fragments(model: PreTrainedModel, optimizer: Any) -> Iterator[_Fragment]:
    # Parameters know their fragment, too (_hp_mapping), but not with round_robin_gradients, which
    # orders them otherwise: DeepSpeed 0.19 then maps them to each other's values.
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group, flat in enumerate(optimizer.single_partition_of_fp32_groups):
        size = len(flat)
        begin = size * dist.get_rank(group=optimizer.real_dp_process_group[group])
        for parameter, offset in zip(
            optimizer.round_robin_bit16_groups[group],
            optimizer.round_robin_bit16_offsets[group],
            strict=True,
        ):
            start = max(offset, begin)
            length = min(offset + parameter.numel(), begin + size) - start
            if length > 0:
                name, shape = names[id(parameter)], tuple(parameter.shape)
                yield _Fragment(name, shape, start - offset, flat, start - begin, length)


def _stage_3_fragments(model: PreTrainedModel, optimizer: Any) -> Iterator[_Fragment]:
    for name, parameter in _named_partitions(model, trained=True):
        group, flat_start, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start, size = _stage_3_range(parameter)
        flat = optimizer.fp32_partitioned_groups_flat[group]
        yield _Fragment(name, tuple(parameter.ds_shape), start, flat, flat_start, size)


def _stage_3_frozen(model: PreTrainedModel) -> Iterator[Part]:
    for name, parameter in _named_partitions(model, trained=False):
        start, size = _stage_3_range(parameter)
        data = parameter.ds_tensor.detach().view(-1)[:size]
        yield Part(name, WEIGHT, tuple(parameter.ds_shape), start, data)


def _named_partitions(model: PreTrainedModel, *, trained: bool) -> Iterator[tuple[str, Any]]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad == trained:
            yield name, parameter


def _stage_3_range(parameter: Any) -> tuple[int, int]:
    """First element of this rank's partition, and how many are no padding."""
    partition = parameter.partition_numel()
    start = min(parameter.ds_zero_partition_rank * partition, parameter.ds_numel)
    return start, min(partition, math.prod(parameter.ds_shape) - start)


def _update_low_precision_partitions(optimizer: Any) -> None:
    for fp32, low_precision, parameters in zip(
        optimizer.fp32_partitioned_groups_flat,
        optimizer.fp16_partitioned_groups_flat,
        optimizer.fp16_partitioned_groups,
        strict=True,
    ):
        low_precision.data.copy_(fp32.data)
        values = optimizer.unflatten(low_precision, parameters)
        for partition, value in zip(parameters, values, strict=True):
            partition.data = value.data
