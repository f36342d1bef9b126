"""Property: FP8 products are those of quantised operands, and training with them learns the same.

Run: pytest tests/test_trainer_float8.py
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tiny_architectures import tiny_moe
from tiny_models import CONFIGS, SHAPE, loaded, saved
from torch import nn
from torch.nn import functional
from trainer_runs import RankServer, conversations, losses, train_args, write_dataset
from transformers import Qwen3Config

from pipeline.errors import ConfigError, TrainError
from pipeline.trainer.modeling.float8 import (
    Float8Linear,
    check_float8,
    count_float8,
    quantised,
    without_float8,
)
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

pytestmark = pytest.mark.usefixtures("rank_of_its_own")

_ROUNDING = 2**-4
"""Of e4m3, relative to a number: half of the distance between two of them, 2^-3."""


def _linear(*, bias: bool) -> tuple[nn.Linear, torch.Tensor]:
    """With an input whose rows differ in size by orders of magnitude, one of them zero."""
    torch.manual_seed(0)
    linear = nn.Linear(64, 48, bias=bias, dtype=torch.bfloat16)
    inputs = torch.randn(3, 7, 64) * torch.logspace(-6, 6, 21).view(3, 7, 1)
    inputs[0, 0] = 0
    return linear, inputs.bfloat16()


def _restored(matrix: torch.Tensor) -> torch.Tensor:
    numbers, scales = quantised(matrix)
    return numbers.float() * scales


def test_each_row_is_rounded_by_itself() -> None:
    matrix = _linear(bias=False)[1].flatten(0, 1)
    error = (_restored(matrix) - matrix.float()).abs()
    largest = matrix.float().abs().amax(dim=1, keepdim=True)
    # Below the smallest normal number, 2^-6, two numbers are 2^-9 apart.
    allowed = torch.maximum(matrix.float().abs() * _ROUNDING, largest * 2**-10 / 448)
    assert (error <= allowed * 1.001).all()
    assert error[0].eq(0).all()


@pytest.mark.parametrize("bias", [False, True])
def test_products_are_those_of_quantised_operands(bias: bool) -> None:
    linear, inputs = _linear(bias=bias)
    weight = linear.weight.detach()
    gradient = torch.randn(3, 7, 48).bfloat16()
    linear.__class__ = Float8Linear
    inputs.requires_grad_()
    outputs = linear(inputs)
    outputs.backward(gradient)

    rows, of_outputs = inputs.detach().flatten(0, 1), gradient.flatten(0, 1)
    product = (_restored(rows) @ _restored(weight).t()).bfloat16()
    expected = product if linear.bias is None else product + linear.bias
    torch.testing.assert_close(outputs.flatten(0, 1), expected, rtol=2**-7, atol=1e-6)
    of_inputs = _restored(of_outputs) @ _restored(weight.t().contiguous()).t()
    assert inputs.grad is not None
    torch.testing.assert_close(
        inputs.grad.flatten(0, 1), of_inputs.bfloat16(), rtol=2**-7, atol=1e-4
    )
    assert linear.weight.grad is not None
    torch.testing.assert_close(linear.weight.grad, of_outputs.t() @ rows)
    if bias:
        assert linear.bias.grad is not None
        torch.testing.assert_close(linear.bias.grad, of_outputs.sum(dim=0), rtol=2**-7, atol=1e-2)


def test_products_are_near_the_exact_ones() -> None:
    linear, inputs = _linear(bias=False)
    exact = functional.linear(inputs.float(), linear.weight.float()).detach()
    linear.__class__ = Float8Linear
    found = linear(inputs).detach().float()
    errors = (found - exact).norm(dim=-1) / exact.norm(dim=-1).clamp(min=1e-30)
    assert 1e-3 < errors[1:].mean() < _ROUNDING


def test_only_linears_of_the_layers_compute_with_fp8(tmp_path: Path) -> None:
    model: Any = loaded(saved(CONFIGS["qwen3"], tmp_path / "dense"), bf16=True, fp8=True)
    found = {name for name, m in model.named_modules() if isinstance(m, Float8Linear)}
    assert count_float8(model) == (len(found), len(found)) == (14, 14)
    assert all(name.startswith("model.layers.") for name in found)
    with without_float8(model):
        assert count_float8(model) == (0, 14)
    assert count_float8(model) == (14, 14)


def test_sizes_that_do_not_fit_are_left(tmp_path: Path) -> None:
    config = Qwen3Config(**{**SHAPE, "intermediate_size": 40})
    model: Any = loaded(saved(config, tmp_path / "some"), bf16=True, fp8=True)
    assert count_float8(model) == (8, 14)
    assert type(model.model.layers[0].mlp.up_proj) is nn.Linear
    config = Qwen3Config(**{**SHAPE, "hidden_size": 40})
    with pytest.raises(TrainError, match=r"none of the 14 linears .* divisible by 16; remove it"):
        loaded(saved(config, tmp_path / "none"), bf16=True, fp8=True)


def test_routers_and_experts_are_left(tiny_model: Path, tmp_path: Path) -> None:
    model: Any = loaded(tiny_moe(tiny_model, tmp_path / "moe"), bf16=True, fp8=True)
    found = {name for name, m in model.named_modules() if isinstance(m, Float8Linear)}
    assert len(found) == 8
    assert all(".self_attn." in name for name in found)


@pytest.mark.parametrize(
    "compiles", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "compiled"]
)
def test_a_run_learns_the_same(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, compiles: bool
) -> None:
    data = write_dataset(tmp_path / "data", conversations(16))
    changes: dict[str, Any] = {"bf16": True, "packing": True, "cutoff_len": 192, "max_steps": 4}
    if compiles:
        changes["torch_compile_backend"] = "aot_eager"
    found: list[list[float]] = []
    with caplog.at_level("INFO"):
        for fp8 in (False, True):
            args = train_args(tiny_model, data, tmp_path / f"fp8-{fp8}", fp8=fp8, **changes)
            train(args, StopRequest())
            found.append(losses(tmp_path / f"fp8-{fp8}"))
    assert found[1] != found[0]
    assert found[1] == pytest.approx(found[0], rel=0.02)
    plain, results = (
        json.loads((tmp_path / f"fp8-{fp8}/all_results.json").read_bytes()) for fp8 in (False, True)
    )
    assert "fp8_parity" not in plain
    planned, of_bf16 = (r["memory_plan"]["classes"] for r in (results, plain))
    assert planned["activations"] == pytest.approx(of_bf16["activations"], rel=0.3)
    del planned["activations"], of_bf16["activations"]
    assert planned == of_bf16
    parity = results["fp8_parity"]
    assert parity["num_linears"] == parity["num_linears_in_layers"] == 14
    assert parity["loss"] != parity["loss_without_fp8"]
    assert parity["loss"] == pytest.approx(parity["loss_without_fp8"], rel=0.005)
    assert (
        f"fp8: 14 of 14 linears of the layers; the first micro-batch's loss is "
        f"{parity['loss']:.4f} with FP8, {parity['loss_without_fp8']:.4f} without"
    ) in caplog.text


@pytest.mark.parametrize(
    ("changes", "way_out"),
    [
        ({"bf16": False}, "set bf16: true, or remove it"),
        ({"bf16": True, "finetuning_type": "lora"}, "set finetuning_type to full or freeze"),
    ],
)
def test_keys_that_do_not_go_together(changes: dict[str, Any], way_out: str) -> None:
    path = Path("none")
    with pytest.raises(ValidationError, match=f"fp8\n.*{way_out}"):
        train_args(path, path, path, fp8=True, **changes)


@pytest.mark.parametrize(
    ("capability", "is_refused"), [((8, 0), True), ((8, 9), False), ((9, 0), False)]
)
def test_older_accelerators_are_refused(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], is_refused: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    if not is_refused:
        check_float8("cuda")
        return
    with pytest.raises(ConfigError, match=r"8\.9 or newer .* has compute capability 8\.0"):
        check_float8("cuda")
    with pytest.raises(ConfigError, match="npu has none; remove it"):
        check_float8("npu")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_learn_the_same(
    tiny_model: Path, tmp_path: Path, rank_server: RankServer, strategy: str
) -> None:
    """As one process, before and after a resume; every one says what FP8 does to the loss."""
    data = write_dataset(tmp_path / "data", conversations(16))
    changes: dict[str, Any] = {"bf16": True, "fp8": True, "save_steps": 2, "max_steps": 4}
    rank_server.run(train_args(tiny_model, data, tmp_path / "one", **changes), ranks=1)
    if strategy == "fsdp":
        changes["fsdp"] = "full_shard"
    changes["gradient_accumulation_steps"] = 1
    args = train_args(tiny_model, data, tmp_path / "two", **changes)
    output = rank_server.run(args, ranks=2)
    assert output.count("fp8: 14 of 14 linears of the layers") == 1
    found = losses(tmp_path / "two")
    assert found == pytest.approx(losses(tmp_path / "one"), rel=0.01)
    resumed = args.model_copy(update={"resume_from_checkpoint": str(tmp_path / "two/checkpoint-2")})
    rank_server.run(resumed, ranks=2)
    assert losses(tmp_path / "two") == found
