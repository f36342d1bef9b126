"""AdamW whose two moments take one or two bytes per parameter instead of four each.

BF16: both moments in bfloat16, rounded up or down at random in proportion. Rounding to the nearest
would freeze the second moment: with beta2 = 0.999 it changes by less than bfloat16 can tell.

BLOCKWISE_8BIT: both in a byte that numbers a code in [-1, 1], times the largest absolute value of
each block of 256 (dynamic quantization: Dettmers et al., 8-bit Optimizers via Block-wise
Quantization, arXiv 2110.02861). Small parameters keep fp32, as there, and so do norms and biases.
The second moment has no code for zero: what is small becomes the smallest code instead, so that no
step is divided by epsilon.

The arithmetic is fp32, on one tile at a time, so that the fp32 copies stay small.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.distributed.tensor import DTensor

BLOCK = 256
"""Neighbouring elements of the last dimension with a scale of their own."""
_SMALLEST = 4096
"""Elements below which a parameter keeps moments in fp32."""
_TILE = 2**24
"""Elements that are in fp32 at a time."""

Tile = tuple[slice, slice]


@dataclass(frozen=True)
class Moments:
    """How the moments of a parameter are stored."""

    kind: Literal["fp32", "bf16", "8bit"]

    @property
    def dtype(self) -> torch.dtype:
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "8bit": torch.uint8}[self.kind]


FP32, BF16, BLOCKWISE_8BIT = Moments("fp32"), Moments("bf16"), Moments("8bit")


class CompactAdamW(torch.optim.Optimizer):
    """AdamW as in `torch.optim`, but for the storage of its moments."""

    def __init__(
        self,
        params: list[dict[str, Any]],
        *,
        moments: Moments,
        lr: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "is_matrix": True}
        super().__init__(params, defaults)
        self._moments = moments
        self._codes: dict[tuple[torch.device, bool], torch.Tensor] = {}

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # no closures
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        # The base class turns every tensor into the dtype of its parameter.
        saved = state_dict["state"]
        numbered = (
            (number, parameter)
            for group, kept in zip(state_dict["param_groups"], self.param_groups, strict=True)
            for number, parameter in zip(group["params"], kept["params"], strict=True)
        )
        for number, parameter in numbered:
            for name, value in saved.get(number, {}).items():
                if name != "step":
                    self.state[parameter][name] = value.to(parameter.device)

    def _update(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(_empty_state(parameter, self._moments if group["is_matrix"] else FP32))
        state["step"] += 1
        step = int(state["step"])  # on the host
        beta1, beta2 = group["betas"]
        assert parameter.grad is not None
        weights, gradient = _rows(parameter), _rows(parameter.grad.contiguous())
        first = _Stored(self, state, "exp_avg", step, signed=True)
        second = _Stored(self, state, "exp_avg_sq", step, signed=False)
        for tile in _tiles(*weights.shape):
            low = weights[tile]
            exact, slope = low.float(), gradient[tile].float()
            exp_avg = first.read(tile).lerp_(slope, 1 - beta1)
            exp_avg_sq = second.read(tile).mul_(beta2).addcmul_(slope, slope, value=1 - beta2)
            first.write(tile, exp_avg)
            second.write(tile, exp_avg_sq)
            root = exp_avg_sq.sqrt_().div_((1 - beta2**step) ** 0.5).add_(group["eps"])
            exact.mul_(1 - group["lr"] * group["weight_decay"])
            exact.addcdiv_(exp_avg, root, value=-group["lr"] / (1 - beta1**step))
            low.copy_(exact)

    def codes(self, device: torch.device, *, signed: bool) -> torch.Tensor:
        """(256,) in rising order."""
        key = (device, signed)
        if key not in self._codes:
            self._codes[key] = dynamic_codes(signed=signed).to(device)
        return self._codes[key]


class _Stored:
    """One moment of one parameter: tiles of it in fp32, from and to its storage."""

    def __init__(
        self, optimizer: CompactAdamW, state: dict[str, Any], name: str, step: int, *, signed: bool
    ) -> None:
        self._values = _rows(state[name])
        self._scales = _rows(state[f"{name}_scale"]) if f"{name}_scale" in state else None
        device = self._values.device
        if self._scales is not None:
            self._codes = optimizer.codes(device, signed=signed)
        if self._values.dtype == torch.bfloat16:
            # The same on all ranks that hold the parameter, and after a restart.
            self._random = torch.Generator(device).manual_seed(2 * step + signed)

    def read(self, tile: Tile) -> torch.Tensor:
        values = self._values[tile]
        if self._scales is None:
            return values.to(torch.float32, copy=True)
        scaled = _blocks(self._codes[values.int()]) * self._scales[_scale_tile(tile)][..., None]
        return scaled.flatten(1)[:, : values.shape[1]]

    def write(self, tile: Tile, exact: torch.Tensor) -> None:
        values = self._values[tile]
        if self._scales is not None:
            blocks = _blocks(exact)
            largest = blocks.abs().amax(dim=-1)
            self._scales[_scale_tile(tile)] = largest
            share = blocks / largest.clamp(min=torch.finfo(torch.float32).tiny)[..., None]
            share = share.flatten(1)[:, : values.shape[1]].contiguous()
            between = (self._codes[1:] + self._codes[:-1]) / 2
            values.copy_(torch.bucketize(share, between, out_int32=True))
        elif values.dtype == torch.bfloat16:
            values.copy_(_round_at_random(exact, self._random))
        else:
            values.copy_(exact)


def dynamic_codes(*, signed: bool) -> torch.Tensor:
    """The 256 values of a code: finer steps from decade to decade, down to 1e-7.

    signed: from just above -1 to 1, with 0. Otherwise from 1e-7 to 1, without 0.
    """
    decades = []
    for exponent in range(7):
        count = 2**exponent * (1 if signed else 2)
        edges = torch.linspace(0.1, 1.0, count + 1, dtype=torch.float64)
        decades.append((edges[:-1] + edges[1:]) / 2 * 10.0 ** (exponent - 6))
    positive = torch.cat(decades)
    ends = torch.tensor([0.0 if signed else 1e-7, 1.0], dtype=torch.float64)
    codes = torch.cat([-positive, positive, ends] if signed else [positive, ends])
    return codes.sort().values.float()


def _empty_state(parameter: torch.Tensor, moments: Moments) -> dict[str, Any]:
    if parameter.numel() < _SMALLEST:
        moments = FP32
    state: dict[str, Any] = {"step": torch.tensor(0.0)}
    for name in ("exp_avg", "exp_avg_sq"):
        state[name] = torch.zeros_like(parameter, dtype=moments.dtype)
        if moments == BLOCKWISE_8BIT:
            state[f"{name}_scale"] = _empty_scales(parameter)
    return state


def _empty_scales(parameter: torch.Tensor) -> torch.Tensor:
    """One for each block: the shape of the parameter, the last dimension divided by BLOCK."""
    shape = torch.Size([*parameter.shape[:-1], -(-parameter.shape[-1] // BLOCK)])
    if not isinstance(parameter, DTensor):
        return torch.zeros(shape, device=parameter.device)
    local = parameter.to_local()
    scales = torch.zeros(*local.shape[:-1], shape[-1], device=local.device)
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        scales,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=shape,
        stride=stride,
    )


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds, as (rows, last dimension), in the same memory."""
    local = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
    return local.view(-1, local.shape[-1]) if local.ndim > 1 else local.view(1, local.numel())


def _tiles(rows: int, columns: int) -> Iterator[Tile]:
    """Cut (rows, columns) into pieces of about _TILE elements; columns at blocks' ends."""
    wide = min(columns, _TILE)
    high = max(1, _TILE // max(1, wide))
    for top in range(0, rows, high):
        for left in range(0, columns, wide):
            yield slice(top, top + high), slice(left, left + wide)


def _scale_tile(tile: Tile) -> Tile:
    rows, columns = tile
    return rows, slice(columns.start // BLOCK, -(-columns.stop // BLOCK))


def _blocks(tile: torch.Tensor) -> torch.Tensor:
    """(rows, columns) -> (rows, blocks, BLOCK), the last block filled up with zeros."""
    missing = -tile.shape[1] % BLOCK
    return torch.nn.functional.pad(tile, (0, missing)).unflatten(1, (-1, BLOCK))


def _round_at_random(exact: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """fp32 -> bf16: up with the probability of what nearest rounding would lose."""
    noise = torch.randint(
        0, 1 << 16, exact.shape, dtype=torch.int32, device=exact.device, generator=generator
    )
    return (exact.view(torch.int32) + noise).bitwise_and_(-(1 << 16)).view(torch.float32).bfloat16()
