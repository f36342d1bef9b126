"""Property: kernels of optional packages are used where they are; what is missing is said.

Run: pytest tests/test_trainer_kernels.py
"""

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import CONFIGS, loaded, odd_examples, saved
from trainer_runs import conversations, train_args, write_dataset
from transformers.models.qwen3 import modeling_qwen3

from pipeline.trainer.data.collate import collate
from pipeline.trainer.modeling.kernels import missing_kernels
from pipeline.trainer.objective import SupervisedObjective
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train


def _missing(device: str, **changes: Any) -> dict[str, str]:
    return missing_kernels(train_args(Path("m"), Path("d"), Path("o"), **changes), device)


@pytest.mark.parametrize(
    ("device", "changes", "reason"),
    [
        ("cpu", {"flash_attn": "fa2", "bf16": True}, "does not run on cpu; set it to auto"),
        ("cuda", {"flash_attn": "fa2"}, "does not compute in fp32"),
        ("cuda", {"flash_attn": "fa3", "bf16": True}, "flash_attn_interface is not installed"),
        ("cuda", {"flash_attn": "fa2", "bf16": True}, "pip install flash-attn --no-build-isol"),
        ("cpu", {"enable_liger_kernel": True}, "do not run on cpu; remove it"),
        ("cuda", {"enable_liger_kernel": True}, "pip install liger-kernel, or remove it"),
    ],
)
def test_the_reason_and_a_way_out_are_named(
    monkeypatch: pytest.MonkeyPatch, device: str, changes: dict[str, Any], reason: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (why,) = _missing(device, **changes).values()
    assert reason in why


def test_what_is_installed_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    changes = {"flash_attn": "fa2", "bf16": True, "enable_liger_kernel": True}
    assert not _missing("cuda", **changes)


@pytest.mark.usefixtures("rank_of_its_own")
def test_a_run_goes_on_with_the_kernels_of_pytorch(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_dataset(tmp_path / "data", conversations(4))
    keys = {"flash_attn": "fa2", "enable_liger_kernel": True, "packing": True, "max_steps": 1}
    with caplog.at_level("INFO"):
        train(train_args(tiny_model, data, tmp_path / "run", **keys), StopRequest())
    assert "training.flash_attn has no effect: FlashAttention does not run on cpu" in caplog.text
    assert "training.enable_liger_kernel has no effect: Liger's kernels do not" in caplog.text
    assert "attention: per_document" in caplog.text
    results = json.loads((tmp_path / "run" / "all_results.json").read_bytes())
    assert results["attention"] == "per_document"


def _install_liger(monkeypatch: pytest.MonkeyPatch, asked: list[dict[str, Any]]) -> None:
    """A stand-in that patches as the package does: the model, and the classes for later ones."""

    def apply(
        rope: bool = True,
        cross_entropy: bool = False,
        fused_linear_cross_entropy: bool = True,
        rms_norm: bool = True,
        swiglu: bool = True,
        model: Any = None,
    ) -> None:
        asked.append({k: v for k, v in locals().items() if isinstance(v, bool)})
        setattr(modeling_qwen3, "Qwen3RMSNorm", torch.nn.Identity)  # noqa: B010
        norm = model.base_model.norm
        norm.forward = lambda states: 2 * type(norm).forward(norm, states)

    names = ("liger_kernel", "liger_kernel.transformers", "liger_kernel.transformers.monkey_patch")
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    setattr(sys.modules[names[-1]], "MODEL_TYPE_TO_APPLY_LIGER_FN", {"qwen3": apply})  # noqa: B010


def test_liger_gets_this_model_only_and_not_its_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[dict[str, Any]] = []
    _install_liger(monkeypatch, asked)
    before = modeling_qwen3.Qwen3RMSNorm
    directory = saved(CONFIGS["qwen3"], tmp_path)
    batch = collate(odd_examples(0), 0)
    losses = []
    for uses in (False, True, False):
        with caplog.at_level("INFO"):
            model = loaded(directory, enable_liger_kernel=uses)
        losses.append(SupervisedObjective(model)(**vars(batch)).total.item())
    assert modeling_qwen3.Qwen3RMSNorm is before
    assert losses[0] == losses[2]
    assert losses[1] != losses[0], "the patched norm is used"
    assert "Liger kernels: rms_norm, swiglu" in caplog.text
    (choices,) = asked
    assert {name for name, chosen in choices.items() if chosen} == {"rms_norm", "swiglu"}


def test_a_model_without_liger_kernels_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _install_liger(monkeypatch, [])
    loaded(saved(CONFIGS["llama"], tmp_path), enable_liger_kernel=True)
    assert "enable_liger_kernel has no effect: Liger has none for llama" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not importlib.util.find_spec("liger_kernel"), reason="needs liger-kernel")
def test_liger_has_the_losses_and_gradients_of_pytorch(tmp_path: Path) -> None:
    directory = saved(CONFIGS["qwen3"], tmp_path)
    batch = collate(odd_examples(0), 0).to(torch.device("cuda"))
    found = []
    for uses in (False, True):
        objective = SupervisedObjective(loaded(directory, enable_liger_kernel=uses)).cuda()
        total = objective(**vars(batch)).total
        total.backward()
        norms = [p.grad.norm().item() for p in objective.parameters() if p.grad is not None]
        found.append([total.item(), *norms])
    assert found[1] == pytest.approx(found[0], rel=1e-3)
