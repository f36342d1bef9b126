"""Property: compiled layers learn the same, from one program whatever the lengths.

Run: pytest tests/test_trainer_compile.py
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from pydantic import ValidationError
from tiny_architectures import tiny_moe
from tiny_models import CONFIGS, loaded, saved
from torch._inductor import config as inductor
from trainer_runs import conversations, losses, run, train_args, write_dataset
from transformers import DynamicCache

from pipeline.errors import ConfigError
from pipeline.trainer.modeling.compilation import Compilation
from pipeline.trainer.parallel.deepspeed_config import fill_deepspeed_config
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

pytestmark = pytest.mark.usefixtures("rank_of_its_own", "nothing_compiled")

_PIECES = 4
"""Of a layer: before attention's module, in it before and after attention, behind it."""


@pytest.fixture
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def _trained(model: Path, dataset_dir: Path, output_dir: Path, **changes: Any) -> list[float]:
    train(train_args(model, dataset_dir, output_dir, **changes), StopRequest())
    return losses(output_dir)


def _num_programs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_packs_of_all_lengths_share_one_program(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each pack has another length and number of documents; two layers, attention kept."""
    data = write_dataset(tmp_path / "data", conversations(16))
    changes = {"packing": True, "cutoff_len": 192, "max_steps": 3}
    expected = _trained(tiny_model, data, tmp_path / "plain", **changes)
    assert _num_programs() == 0
    with caplog.at_level("INFO"):
        compiled = _trained(
            tiny_model, data, tmp_path / "compiled", **changes, torch_compile_backend="eager"
        )
    assert compiled == expected
    assert _num_programs() == _PIECES
    assert "torch_compile: every layer, all but its attention, with eager" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "full"])
def test_padded_batches_and_evaluations_need_few_programs(
    tiny_model: Path, tmp_path: Path, kind: str
) -> None:
    data = write_dataset(tmp_path / "data", conversations(24))
    changes = {"eval_strategy": "steps", "eval_steps": 3, "val_size": 5}
    changes["checkpoint_activations"] = kind
    expected = _trained(tiny_model, data, tmp_path / "plain", **changes)
    found = _trained(
        tiny_model, data, tmp_path / "compiled", **changes, torch_compile_backend="aot_eager"
    )
    assert found == pytest.approx(expected, rel=1e-5)
    # With and without gradients; padded, all of one length, alone in its micro-batch.
    assert _num_programs() <= 6 * _PIECES


@pytest.mark.slow
def test_what_inductor_makes_learns_the_same(tiny_model: Path, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", conversations(16))
    changes = {"packing": True, "cutoff_len": 192, "max_steps": 4}
    expected = _trained(tiny_model, data, tmp_path / "plain", **changes)
    found = _trained(tiny_model, data, tmp_path / "compiled", **changes, torch_compile=True)
    assert found == pytest.approx(expected, rel=1e-5)
    assert _num_programs() == _PIECES


@pytest.mark.slow
def test_a_mixture_of_experts_learns_the_same(tiny_model: Path, tmp_path: Path) -> None:
    model = tiny_moe(tiny_model, tmp_path / "moe")
    data = write_dataset(tmp_path / "data", conversations(16))
    changes = {"moe_aux_loss_coef": 0.1, "packing": True, "cutoff_len": 192, "max_steps": 3}
    expected = _trained(model, data, tmp_path / "plain", **changes)
    found = _trained(
        model, data, tmp_path / "compiled", **changes, torch_compile_backend="aot_eager"
    )
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [
        {},
        {"fsdp": "full_shard"},
        {"deepspeed": "training_config/deepspeed/ds_z2_config.json"},
        {"sequence_parallel_size": 2, "packing": True},
    ],
    ids=["DDP", "FSDP2", "ZeRO-2", "Ulysses"],
)
def test_every_strategy_runs_compiled_layers(
    tiny_model: Path, tmp_path: Path, strategy: dict[str, Any]
) -> None:
    data = write_dataset(tmp_path / "data", conversations(16))
    shared = strategy.get("packing", False)
    changes = {"max_steps": 3, "per_device_train_batch_size": 2, "packing": shared}
    expected = _trained(tiny_model, data, tmp_path / "plain", **changes)
    changes["gradient_accumulation_steps"] = 2 if shared else 1
    args = train_args(
        tiny_model,
        data,
        tmp_path / "compiled",
        **{**changes, **strategy, "torch_compile_backend": "aot_eager"},
    )
    run(args, ranks=2)
    assert losses(tmp_path / "compiled") == pytest.approx(expected, rel=1e-5)


def test_generation_compiles_nothing(tmp_path: Path) -> None:
    directory = saved(CONFIGS["qwen3"], tmp_path)
    model: Any = loaded(directory, torch_compile_backend="eager").eval()
    with torch.no_grad():
        model(input_ids=torch.tensor([[5, 6, 7]]), past_key_values=DynamicCache(), use_cache=True)
    assert _num_programs() == 0


def test_zero_3_is_refused() -> None:
    args = train_args(Path("m"), Path("d"), Path("o"), torch_compile=True)
    config = {"zero_optimization": {"stage": 3}}
    with pytest.raises(ConfigError, match="ZeRO-3 gathers .* set training.deepspeed to null and"):
        fill_deepspeed_config(config, Path("z3.json"), args, 2, 64)
    config = {"zero_optimization": {"stage": 2}}
    fill_deepspeed_config(config, Path("z2.json"), args, 2, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"torch_compile_mode": "reduce-overhead"}, "records a CUDA graph for every length"),
        (
            {"torch_compile_mode": "default", "torch_compile_backend": "eager"},
            "only inductor has modes",
        ),
        (
            {"torch_compile_mode": "default", "enable_liger_kernel": True},
            "contradicts enable_liger_kernel",
        ),
    ],
    ids=["CUDA graphs", "mode of another backend", "Liger"],
)
def test_keys_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        train_args(Path("m"), Path("d"), Path("o"), **changes)


def test_an_unknown_backend_is_refused_before_anything_is_made(
    tiny_model: Path, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data", conversations(4))
    args = train_args(tiny_model, data, tmp_path / "run", torch_compile_backend="indutor")
    with pytest.raises(ConfigError, match="PyTorch knows no indutor .*inductor"):
        train(args, StopRequest())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("device", "missing"), [("cuda", "Triton"), ("cpu", r"a C\+\+ compiler")])
def test_inductor_without_a_compiler_is_refused(
    monkeypatch: pytest.MonkeyPatch, device: str, missing: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = f"inductor needs {missing}.*; install it, or set torch_compile to false"
    without = inductor.patch("cpp.cxx", ("no-such-compiler",))
    with without, pytest.raises(ConfigError, match=message):
        Compilation(is_on=True).check(device)
    Compilation(is_on=True, backend="aot_eager").check(device)
