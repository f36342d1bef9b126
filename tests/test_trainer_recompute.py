"""Property: whatever is computed again, gradients are the same, and attention is not.

Run: pytest tests/test_trainer_recompute.py
"""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.utils._python_dispatch import TorchDispatchMode
from trainer_runs import conversations, losses, train_args, write_dataset

from pipeline.trainer.data.collate import MicroBatch, collate, collate_trees
from pipeline.trainer.data.example import Example, Span
from pipeline.trainer.data.prefix_tree import PrefixTree
from pipeline.trainer.modeling import recompute
from pipeline.trainer.modeling.load import load_model
from pipeline.trainer.objective import SupervisedObjective
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

pytestmark = pytest.mark.usefixtures("rank_of_its_own")

_KINDS = ["none", "selective", "full", "offload"]
_LAYERS = 2
_ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu"


class _Calls(TorchDispatchMode):
    """How often each operator runs."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.name().split(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def _batch(*, packed: bool) -> MicroBatch:
    examples = [Example(list(range(7, 7 + n)), [Span(3, n, 1.0)]) for n in (40, 25)]
    if not packed:
        return collate(examples[:1], 0)
    return collate_trees([PrefixTree.of([example]) for example in examples], 0)


def _run(model: Path, kind: str, *, packed: bool) -> tuple[dict[str, torch.Tensor], Counter[str]]:
    """Gradients, and what ran in the backward pass."""
    args = train_args(model, model, model, checkpoint_activations=kind, packing=packed)
    objective = SupervisedObjective(load_model(args, torch.float32))
    total = objective(**vars(_batch(packed=packed))).total
    with _Calls() as calls:
        total.backward()
    gradients = {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
    return gradients, calls.counts


@pytest.mark.parametrize("packed", [False, True], ids=["one document", "packed"])
def test_gradients_are_equal_and_only_full_repeats_attention(
    tiny_model: Path, packed: bool
) -> None:
    expected, _ = _run(tiny_model, "none", packed=packed)
    again = {}
    for kind in _KINDS:
        gradients, counts = _run(tiny_model, kind, packed=packed)
        assert gradients.keys() == expected.keys()
        assert all(torch.equal(gradients[name], expected[name]) for name in expected)
        again[kind] = (counts[_ATTENTION], counts["aten::mm"])
    documents = 2 if packed else 1
    attention = {kind: count for kind, (count, _) in again.items()}
    repeated = _LAYERS * documents
    assert attention == {"none": 0, "selective": 0, "full": repeated, "offload": repeated}
    products = {kind: count for kind, (_, count) in again.items()}
    assert products["none"] < products["selective"] == products["full"] == products["offload"]


def _kept(model: Path, kind: str) -> int:
    """Elements that forward leaves for backward, parameters not counted."""
    args = train_args(model, model, model, checkpoint_activations=kind)
    objective = SupervisedObjective(load_model(args, torch.float32))
    owned = {p.data_ptr() for p in objective.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in owned:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    ids = torch.arange(200)[None]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        decoder: Any = objective.model
        states = decoder.base_model(input_ids=ids, use_cache=False).last_hidden_state
    assert states.requires_grad
    return sum(kept.values())


def test_full_keeps_layer_inputs_alone(tiny_model: Path) -> None:
    assert _kept(tiny_model, "full") < 0.35 * _kept(tiny_model, "none")


def test_offloaded_inputs_pass_through_the_host(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the CPU in the place of the accelerator."""
    packed: list[tuple[int, ...]] = []

    class Recorded(torch.autograd.graph.saved_tensors_hooks):
        def __init__(self, *, pin_memory: bool, device_type: str) -> None:
            assert (pin_memory, device_type) == (True, "cpu")
            super().__init__(self._pack, lambda tensor: tensor)

        def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
            packed.append(tuple(tensor.shape))
            return tensor

    monkeypatch.setattr(recompute, "save_on_cpu", Recorded)
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: cpu)
    _run(tiny_model, "offload", packed=False)
    width = load_model(train_args(tiny_model, tiny_model, tiny_model), torch.float32).config
    assert [shape for shape in packed if shape] == [(1, 40, width.hidden_size)] * _LAYERS


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "selective"),
        ({"use_unsloth_gc": True}, "offload"),
        ({"disable_gradient_checkpointing": True}, "none"),
        ({"disable_gradient_checkpointing": True, "use_unsloth_gc": True}, "none"),
        ({"checkpoint_activations": "full"}, "full"),
    ],
    ids=str,
)
def test_the_keys_of_llamafactory_keep_their_meaning(
    changes: dict[str, Any], expected: str
) -> None:
    assert train_args(Path("m"), Path("d"), Path("o"), **changes).recompute == expected


def test_keys_that_contradict_each_other_are_refused() -> None:
    changes: dict[str, Any] = {"checkpoint_activations": "full", "use_unsloth_gc": True}
    with pytest.raises(ValidationError, match="contradicts use_unsloth_gc: choose one of them"):
        train_args(Path("m"), Path("d"), Path("o"), **changes)


def test_runs_are_the_same_whatever_is_computed_again(tiny_model: Path, tmp_path: Path) -> None:
    dataset_dir = write_dataset(tmp_path / "data", conversations(5))
    found = []
    for kind in _KINDS:
        args = train_args(
            tiny_model, dataset_dir, tmp_path / kind, checkpoint_activations=kind, max_steps=2
        )
        train(args, StopRequest())
        found.append(losses(tmp_path / kind))
    assert all(of_kind == found[0] for of_kind in found)
