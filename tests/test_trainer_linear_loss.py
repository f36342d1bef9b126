"""Property: the chunked loss is the plain one, gradients too, and all logits never exist at once.

Run: pytest tests/test_trainer_linear_loss.py
"""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from pipeline.trainer.data.collate import IGNORE_INDEX, MicroBatch, collate
from pipeline.trainer.data.example import Example, Span
from pipeline.trainer.loss import token_losses
from pipeline.trainer.modeling.linear_loss import linear_cross_entropy
from pipeline.trainer.modeling.lm_head import LossHead
from pipeline.trainer.objective import SupervisedObjective

_TOKENS, _WIDTH, _VOCAB = 40, 12, 50
_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 97,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_PLAIN = ["qwen3", "llama", "gemma3_text", "mixtral", "qwen3_moe", "olmo3"]
_MORE_THAN_A_PROJECTION = ["gemma2", "granite", "cohere2"]


def _inputs(*, bias: bool) -> dict[str, torch.Tensor | None]:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(_VOCAB, (_TOKENS,), generator=draw)
    labels[::7] = IGNORE_INDEX
    return {
        "hidden": torch.randn(_TOKENS, _WIDTH, generator=draw).requires_grad_(),
        "weight": torch.randn(_VOCAB, _WIDTH, generator=draw).requires_grad_(),
        "bias": torch.randn(_VOCAB, generator=draw).requires_grad_() if bias else None,
        "labels": labels,
        "weights": torch.rand(_TOKENS, generator=draw),
    }


def _plain(inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.nn.functional.linear(inputs["hidden"], inputs["weight"], inputs["bias"])
    losses = token_losses(logits[None], inputs["labels"][None])[0]
    return (losses * inputs["weights"]).sum(), losses.detach()


def _assert_close(found: torch.Tensor | None, expected: torch.Tensor | None, rel: float) -> None:
    assert found is not None
    assert expected is not None
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=rel * expected.abs().max().item())


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 8, _TOKENS, 1000])
def test_loss_and_gradients_are_the_plain_ones(chunk_tokens: int, bias: bool) -> None:
    plain, chunked = _inputs(bias=bias), _inputs(bias=bias)
    total, losses = _plain(plain)
    (total / 3).backward()
    found, each, _ = linear_cross_entropy(**chunked, chunk_elements=chunk_tokens * _VOCAB)
    (found / 3).backward()
    assert not each.requires_grad
    _assert_close(found.detach(), total.detach(), 1e-6)
    _assert_close(each, losses, 1e-6)
    for name in ("hidden", "weight", *(["bias"] if bias else [])):
        _assert_close(chunked[name].grad, plain[name].grad, 1e-6)


def test_under_autocast_it_is_as_exact_as_the_plain_loss_in_bf16() -> None:
    exact, plain, chunked = _inputs(bias=False), _inputs(bias=False), _inputs(bias=False)
    _plain(exact)[0].backward()
    with torch.autocast("cpu", torch.bfloat16):
        _plain(plain)[0].backward()
        linear_cross_entropy(**chunked, chunk_elements=8 * _VOCAB)[0].backward()
    for name in ("hidden", "weight"):
        error, of_plain = (
            (inputs[name].grad - exact[name].grad).norm() / exact[name].grad.norm()
            for inputs in (chunked, plain)
        )
        assert error < 1.2 * of_plain + 1e-3


class _Largest(TorchDispatchMode):
    """The most elements that any tensor had."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_no_tensor_is_larger_than_a_chunk_or_a_gradient() -> None:
    inputs = _inputs(bias=False)
    saved: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.numel())
        return tensor

    gradient = _VOCAB * _WIDTH
    with _Largest() as largest, torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        total, _, _ = linear_cross_entropy(**inputs, chunk_elements=4 * _VOCAB)
        total.backward()
    assert sorted(saved) == [_TOKENS * _WIDTH, gradient]
    assert largest.elements == gradient < _TOKENS * _VOCAB
    with _Largest() as largest:
        _plain(_inputs(bias=False))[0].backward()
    assert largest.elements == _TOKENS * _VOCAB, "so the test sees logits"


@pytest.mark.parametrize(("frozen", "products"), [(False, 3), (True, 2)], ids=["", "frozen"])
def test_no_product_is_computed_twice_or_for_nothing(frozen: bool, products: int) -> None:
    inputs = _inputs(bias=False)
    inputs["weight"].requires_grad_(not frozen)
    with FlopCounterMode(display=False) as counter:
        linear_cross_entropy(**inputs, chunk_elements=3 * _VOCAB)[0].backward()
    assert counter.get_total_flops() == products * 2 * _TOKENS * _WIDTH * _VOCAB


def test_without_gradients_the_losses_are_the_same() -> None:
    inputs = _inputs(bias=True)
    with torch.no_grad():
        _, losses, _ = linear_cross_entropy(**inputs, chunk_elements=3 * _VOCAB)
    _assert_close(losses, _plain(_inputs(bias=True))[1], 1e-6)


def _model(family: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**{**_SIZES, **changes})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def _batch() -> MicroBatch:
    examples = [
        Example(list(range(1, 20)), [Span(3, 5, 0.5), Span(9, 19, 1.0)]),
        Example(list(range(30, 42)), [Span(1, 12, 1.0)]),
    ]
    return collate(examples, pad_token_id=0)


def _plain_total(model: Any, batch: MicroBatch) -> torch.Tensor:
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return (token_losses(logits[:, batch.positions], batch.labels) * batch.weights).sum()


def _assert_objective_is_plain(model: Any, total: torch.Tensor) -> None:
    total.backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    found = SupervisedObjective(model)(**vars(_batch()))
    found.total.backward()
    _assert_close(found.total.detach(), total.detach(), 1e-6)
    assert expected
    for name, parameter in model.named_parameters():
        if name in expected:
            _assert_close(parameter.grad, expected[name], 1e-5)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", _PLAIN)
def test_models_that_only_project_get_the_chunked_loss(family: str, tied: bool) -> None:
    model = _model(family, tie_word_embeddings=tied)
    names = list(model.state_dict())
    _assert_objective_is_plain(model, _plain_total(model, _batch()))
    assert isinstance(model.lm_head, LossHead)
    assert list(model.state_dict()) == names
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied


@pytest.mark.parametrize("family", _MORE_THAN_A_PROJECTION)
def test_models_that_scale_or_cap_their_logits_compute_them_themselves(family: str) -> None:
    changes = {"granite": {"logits_scaling": 3.0}, "gemma2": {"final_logit_softcapping": 2.0}}
    model = _model(family, **changes.get(family, {}))
    _assert_objective_is_plain(model, _plain_total(model, _batch()))
    assert not isinstance(model.lm_head, LossHead)


def test_a_model_with_adapters_gets_the_chunked_loss_too() -> None:
    adapted = get_peft_model(_model("qwen3"), LoraConfig(r=2, target_modules=["q_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    _assert_objective_is_plain(adapted, _plain_total(adapted, _batch()))
    assert isinstance(adapted.get_base_model().lm_head, LossHead)


def test_generation_still_gets_logits() -> None:
    model = _model("llama")
    before = model(input_ids=_batch().input_ids).logits
    SupervisedObjective(model)
    torch.testing.assert_close(model(input_ids=_batch().input_ids).logits, before)
