"""FP8 products of the linears in the transformer layers (`fp8`), on tensor cores.

    y  = x W^T      x and W in e4m3, a scale for every row of each
    gx = gy W       gy in e4m3, a scale for every row; W in e4m3, a scale for every column
    gW = gy^T x     bf16, because it is summed over all tokens

Scales are those that bring the largest value of a row to the largest of e4m3, computed anew for
every product, on the device. Weights, their gradients and the optimizer stay what they are without
FP8, so no strategy and no checkpoint knows of it. Source of the recipe: torchao's
`rowwise_with_gw_hp` (torchao/float8/config.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.errors import ConfigError, TrainError
from pipeline.trainer.modeling.experts import router_modules
from pipeline.trainer.modeling.layers import transformer_layers

_E4M3 = torch.float8_e4m3fn
_MULTIPLE = 16
"""Of the rows and columns of the second operand, which the kernels ask for."""
_FIRST_CAPABILITY = (8, 9)
"""Ada; Hopper is 9.0."""


class Float8Linear(nn.Linear):
    """A linear that computes with FP8. Its result is bf16."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in_features) -> (..., out_features)"""
        # As autocast would; weights that are gathered in bf16 are taken as they are.
        rows = input.reshape(-1, self.in_features).bfloat16()
        product: Any = _Product.apply(rows, self.weight.bfloat16())
        if self.bias is not None:
            product = product + self.bias.bfloat16()
        return product.view(*input.shape[:-1], self.out_features)


class _Product(torch.autograd.Function):
    """(T, in) bf16, (out, in) bf16 -> (T, out) bf16"""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(rows, weight)
        return _scaled_product(rows, weight, use_fast_accum=True)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        (gradient,) = gradients
        of_rows = of_weight = None
        if ctx.needs_input_grad[0]:
            of_rows = _scaled_product(gradient, weight.t(), use_fast_accum=False)
        if ctx.needs_input_grad[1]:
            of_weight = gradient.t() @ rows
        return of_rows, of_weight


def _scaled_product(
    first: torch.Tensor, second: torch.Tensor, *, use_fast_accum: bool
) -> torch.Tensor:
    """(M, K) x (N, K) -> (M, N) bf16: `first` times `second` transposed.

    `use_fast_accum`: partial sums stay in the tensor cores, which keep fewer bits of them.
    """
    rows, row_scales = quantised(first)
    columns, column_scales = quantised(second)
    # functional.scaled_mm would do, but nothing counts its FLOPs.
    return torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
        rows,
        columns.t(),
        scale_a=row_scales,
        scale_b=column_scales.t(),
        out_dtype=torch.bfloat16,
        use_fast_accum=use_fast_accum,
    )


def quantised(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(M, K) -> e4m3 of the same shape, contiguous, and the (M, 1) fp32 scales of its rows."""
    largest = matrix.abs().amax(dim=1, keepdim=True).float()
    # A row of zeros stays one. The compiler takes floats of a module for numbers that change.
    scales = (largest / torch.finfo(_E4M3).max).clamp(min=torch.finfo(torch.float32).tiny)
    return (matrix / scales).to(_E4M3, memory_format=torch.contiguous_format), scales


def check_float8(device: str) -> None:
    """Raises: ConfigError: this machine has no products of e4m3."""
    if device == "cpu":
        return
    why = f"{device} has none"
    if device == "cuda" and torch.version.hip is None:
        capability = torch.cuda.get_device_capability()
        if capability >= _FIRST_CAPABILITY:
            return
        why = "this GPU has compute capability {}.{}".format(*capability)
    raise ConfigError(
        "training.fp8: FP8 products need an NVIDIA GPU of compute capability 8.9 or newer (Ada, "
        f"Hopper, Blackwell), and {why}; remove it"
    )


def apply_float8(model: PreTrainedModel) -> None:
    """Let the linears of the layers compute with FP8, where their sizes allow it.

    Raises: TrainError: there is none.
    """
    linears = _linears(model)
    fitting = [linear for linear in linears if _fits(linear)]
    if not fitting:
        raise TrainError(
            f"training.fp8: none of the {len(linears)} linears in the layers of "
            f"{type(model).__name__} has in_features and out_features divisible by {_MULTIPLE}; "
            "remove it"
        )
    for linear in fitting:
        # Nothing but the class changes: hooks and parameters are those of the strategy.
        linear.__class__ = Float8Linear


@contextmanager
def without_float8(model: PreTrainedModel) -> Iterator[None]:
    """Within it, all linears compute as they would without `apply_float8`."""
    changed: list[nn.Linear] = [m for m in model.modules() if isinstance(m, Float8Linear)]
    for linear in changed:
        linear.__class__ = nn.Linear
    try:
        yield
    finally:
        for linear in changed:
            linear.__class__ = Float8Linear


def count_float8(model: PreTrainedModel) -> tuple[int, int]:
    """Linears of the layers that compute with FP8, and all of them."""
    linears = _linears(model)
    return sum(isinstance(linear, Float8Linear) for linear in linears), len(linears)


def _linears(model: PreTrainedModel) -> list[nn.Linear]:
    """Of the layers; routers, which choose by small differences, are not among them."""
    routing = {id(part) for router in router_modules(model) for part in router.modules()}
    return [
        module
        for layer in transformer_layers(model)
        for module in layer.modules()
        if isinstance(module, nn.Linear) and id(module) not in routing
    ]


def _fits(linear: nn.Linear) -> bool:
    is_plain = type(linear) is nn.Linear  # a class of its own computes in a way of its own
    return is_plain and not (linear.in_features % _MULTIPLE or linear.out_features % _MULTIPLE)
