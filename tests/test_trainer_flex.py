"""Property: FlexAttention sees what the plain mask shows: every document alone, every branch too.

PyTorch computes no gradients of it on CPU, so losses are compared here.

Run: pytest tests/test_trainer_flex.py
"""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_models import CONFIGS, SHAPE, VOCAB, loaded, saved
from torch.nn.attention.flex_attention import create_mask
from torch.nn.functional import scaled_dot_product_attention
from trainer_runs import conversations, train_args, write_dataset
from transformers import (
    Gemma2Config,
    Llama4TextConfig,
    PretrainedConfig,
    Qwen3Config,
    Qwen3NextConfig,
)

from pipeline.errors import TrainError
from pipeline.trainer.data.collate import MicroBatch, collate, collate_trees
from pipeline.trainer.data.example import Example, Span
from pipeline.trainer.data.prefix_tree import PrefixTree
from pipeline.trainer.modeling import flex_attention
from pipeline.trainer.modeling.flex_attention import Visibility, attend_by_blocks, block_masks
from pipeline.trainer.objective import SupervisedObjective
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

_TWO_KINDS = Qwen3Config(
    **SHAPE,
    use_sliding_window=True,
    sliding_window=5,
    layer_types=["sliding_attention", "full_attention"],
)
_CONFIGS = {
    **CONFIGS,
    "two kinds of layers": _TWO_KINDS,
    "soft capping": Gemma2Config(**SHAPE, sliding_window=5, attn_logit_softcapping=2.0),
}


def _examples(draw: random.Random, count: int, longest: int = 14) -> list[Example]:
    """Most begin like the one before."""
    examples: list[Example] = []
    for _ in range(count):
        before = examples[-1].ids if examples else []
        begin = before[: draw.choice([0, 1, 5, len(before) // 2, len(before)])]
        ids = begin + [draw.randrange(3, VOCAB) for _ in range(draw.randint(1, longest))]
        examples.append(Example(ids, [Span(draw.randrange(len(ids)), len(ids), 1.0)]))
    return examples


def _seen(batch: MicroBatch, window: int | None) -> torch.Tensor:
    """(S, S), from the segments: who is on whose path, and how far away."""
    assert batch.segments is not None
    seen = torch.zeros(batch.num_tokens, batch.num_tokens, dtype=torch.bool)
    for start, end, ancestors in batch.segments:
        path = [place for piece in (*ancestors, (start, end)) for place in range(*piece)]
        for token in range(start, end):
            visible = path[: path.index(token) + 1]
            seen[token, visible[-window:] if window else visible] = True
    return seen


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 6),
    shares=st.booleans(),
    window=st.sampled_from([None, 1, 4]),
)
def test_the_mask_shows_every_token_just_its_path(
    seed: int, count: int, shares: bool, window: int | None
) -> None:
    examples = _examples(random.Random(seed), count)
    trees = [PrefixTree.of(examples)] if shares else []
    trees += [PrefixTree.of([example]) for example in examples]
    batch = collate_trees(trees, 0)
    mask_mod = Visibility.of(batch).mask_mod(window)
    mask = create_mask(mask_mod, 1, 1, batch.num_tokens, batch.num_tokens, device="cpu")
    assert torch.equal(mask[0, 0], _seen(batch, window))


@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("heads", [2, 6], ids=["one head per key", "three heads per key"])
def test_attention_over_many_blocks_is_that_of_the_masked_kernel(
    heads: int, window: int | None
) -> None:
    draw = random.Random(5)
    trees = [PrefixTree.of(_examples(draw, 5, longest=200)) for _ in range(3)]
    batch = collate_trees(trees, 0)
    size = batch.num_tokens
    assert size > 6 * 128
    assert size % 128
    torch.manual_seed(0)
    query = torch.randn(1, heads, size, 16)
    key, value = torch.randn(2, 1, 2, size, 16)
    config = Qwen3Config(
        **SHAPE,
        use_sliding_window=True,
        sliding_window=window,
        layer_types=["sliding_attention"] * 2,
    )
    masks = block_masks(config, batch)
    assert not isinstance(masks, dict)
    assert masks.sparsity() > 40, "blocks of other documents are left out"
    module = torch.nn.Module()
    found, _ = attend_by_blocks(module, query, key, value, masks, scaling=0.3)
    mask = _seen(batch, window)
    expected = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(found, expected.transpose(1, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", list(_CONFIGS))
def test_packed_padded_and_shared_have_the_loss_of_separate_examples(
    tmp_path: Path, family: str
) -> None:
    directory = saved(_CONFIGS[family], tmp_path)
    trees = [_examples(random.Random(seed), 4) for seed in range(3)]
    examples = [example for tree in trees for example in tree]
    alone = SupervisedObjective(loaded(directory, flash_attn="disabled"))
    flex = SupervisedObjective(loaded(directory, flash_attn="flex", packing=True))

    def loss(objective: SupervisedObjective, batches: list[MicroBatch]) -> float:
        with torch.no_grad():
            return sum(objective(**vars(batch)).total.item() for batch in batches)

    expected = loss(alone, [collate([example], 0) for example in examples])
    padded = collate(examples, 0)
    packed = collate_trees([PrefixTree.of([example]) for example in examples], 0)
    shared = collate_trees([PrefixTree.of(tree) for tree in trees], 0)
    assert packed.preorder is None
    assert shared.preorder is not None
    for batch in (padded, packed, shared):
        assert loss(flex, [batch]) == pytest.approx(expected, rel=1e-5)


def test_all_layers_of_a_kind_share_one_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls["mask"] += 1
        return create(*args, **kwargs)

    create = flex_attention.create_block_mask
    monkeypatch.setattr(flex_attention, "create_block_mask", counted)
    batch = collate([Example([5, 6, 7, 8], [Span(1, 4, 1.0)])], 0)
    for config, expected in ((CONFIGS["qwen3"], 1), (_TWO_KINDS, 2)):
        calls.clear()
        model = loaded(saved(config, tmp_path / str(expected)), flash_attn="flex")
        with torch.no_grad():
            SupervisedObjective(model)(**vars(batch))
        assert calls["mask"] == expected


@pytest.mark.slow
def test_a_mask_of_another_length_needs_no_other_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled as on an accelerator, but for the kernels."""
    programs: Counter[str] = Counter()

    def backend(graph: Any, inputs: Any) -> Any:
        programs["all"] += 1
        return graph.forward

    def compiled(function: Any, device: str) -> Any:
        return torch.compile(function, dynamic=True, backend=backend)

    monkeypatch.setattr(flex_attention, "_for_device", compiled)
    draw, counts = random.Random(1), []
    for longest in (150, 100, 200, 130):
        batch = collate_trees([PrefixTree.of(_examples(draw, 6, longest))], 0)
        masks: Any = block_masks(CONFIGS["qwen3"], batch)
        query = torch.randn(1, 4, batch.num_tokens, 16)
        key, value = torch.randn(2, 1, 2, batch.num_tokens, 16)
        attend_by_blocks(torch.nn.Module(), query, key, value, masks)
        counts.append(programs["all"])
    assert counts[0] == counts[-1], counts


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (Llama4TextConfig(**SHAPE, num_local_experts=2), "chunked_attention"),
        (
            Qwen3NextConfig(
                **SHAPE,
                num_experts=2,
                moe_intermediate_size=8,
                shared_expert_intermediate_size=8,
                layer_types=["linear_attention", "full_attention"],
            ),
            "linear_attention",
        ),
    ],
    ids=["chunks", "state"],
)
def test_layers_that_take_no_block_mask_are_refused(
    tmp_path: Path, config: PretrainedConfig, reason: str
) -> None:
    directory = saved(config, tmp_path)
    with pytest.raises(TrainError) as caught:
        loaded(directory, flash_attn="flex")
    assert str(caught.value) == (
        f"{directory}: flash_attn: flex: layers of kind {reason} take no block mask; "
        "set training.flash_attn to auto"
    )


@pytest.mark.parametrize(
    ("asked", "what"),
    [({"s_aux": torch.zeros(2)}, "s_aux"), ({"dropout": 0.1}, r"dropout \(0.1\)")],
    ids=["sinks", "dropout"],
)
def test_attention_beyond_the_kernel_is_refused(asked: dict[str, Any], what: str) -> None:
    batch = collate([Example([5, 6, 7], [])], 0)
    states = torch.zeros(1, 2, 3, 8)
    masks: Any = block_masks(CONFIGS["qwen3"], batch)
    with pytest.raises(TrainError, match=f"attention has {what}, .* set training.flash_attn: dis"):
        attend_by_blocks(torch.nn.Module(), states, states, states, masks, **asked)


def test_training_on_cpu_is_refused_before_anything_is_made(
    tiny_model: Path, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data", conversations(4))
    args = train_args(tiny_model, data, tmp_path / "run", flash_attn="flex")
    with pytest.raises(TrainError, match="no gradients of FlexAttention on cpu; set training.fla"):
        train(args, StopRequest())
    assert not (tmp_path / "run").exists()


def test_layers_are_computed_again_as_a_whole() -> None:
    def recompute(**changes: Any) -> str:
        return train_args(Path(), Path(), Path("run"), flash_attn="flex", **changes).recompute

    assert recompute() == "full"
    assert recompute(use_unsloth_gc=True) == "offload"
    assert recompute(disable_gradient_checkpointing=True) == "none"
    with pytest.raises(ValidationError, match="cannot keep what flash_attn: flex gives"):
        recompute(checkpoint_activations="selective")
