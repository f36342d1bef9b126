"""Property: what shares a sequence does not matter: packed, padded and alone train the same.

Run: pytest tests/test_trainer_packing.py
"""

from pathlib import Path

import pytest
import torch
from reference_loop import reference_run
from safetensors.torch import load_file
from tiny_models import CONFIGS, SHAPE, assert_close, gradients, loaded, odd_examples, saved
from trainer_runs import (
    ROOT,
    RankServer,
    conversations,
    examples_of,
    losses,
    plan_of,
    train_args,
    write_dataset,
)
from transformers import (
    Gemma2Config,
    Llama4TextConfig,
    Qwen3NextConfig,
)

from pipeline.errors import TrainError
from pipeline.trainer.data.collate import collate, collate_trees
from pipeline.trainer.data.example import Example, Span
from pipeline.trainer.data.prefix_tree import PrefixTree, Segment
from pipeline.trainer.modeling.attention import PER_DOCUMENT, packed_implementation
from pipeline.trainer.objective import SupervisedObjective


def _alone(examples: list[Example]) -> list[PrefixTree]:
    return [PrefixTree.of([example]) for example in examples]


@pytest.mark.parametrize("flash_attn", ["auto", "sdpa", "disabled"])
@pytest.mark.parametrize("family", list(CONFIGS))
def test_packed_padded_and_alone_have_the_same_loss_and_gradients(
    tmp_path: Path, family: str, flash_attn: str
) -> None:
    directory = saved(CONFIGS[family], tmp_path)
    plain = loaded(directory)
    packing = loaded(directory, packing=True, flash_attn=flash_attn)
    examples = odd_examples(seed=3)
    loss, alone = gradients(plain, [collate([example], 0) for example in examples])
    padded_loss, padded = gradients(plain, [collate(examples, 0)])
    packed_loss, packed = gradients(packing, [collate_trees(_alone(examples), 0)])
    assert padded_loss == pytest.approx(loss, rel=1e-5)
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    assert_close(alone, padded)
    assert_close(alone, packed)


def test_without_boundaries_the_packed_loss_would_be_another(tmp_path: Path) -> None:
    """So the test above sees a leak."""
    model = loaded(saved(CONFIGS["qwen3"], tmp_path))
    examples = odd_examples(seed=3)
    loss, _ = gradients(model, [collate(examples, 0)])
    packed = collate_trees(_alone(examples), 0)
    packed.segments = None
    assert gradients(model, [packed])[0] != pytest.approx(loss, rel=1e-3)


def test_a_packed_batch_holds_the_examples_one_after_the_other() -> None:
    examples = [Example([1, 2, 3, 4, 5], [Span(3, 5, 1.0)]), Example([6, 7], [Span(0, 2, 0.5)])]
    batch = collate_trees(_alone(examples), pad_token_id=0)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7]]
    assert batch.attention_mask is None
    assert batch.position_ids is not None
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1]]
    assert batch.boundaries is not None
    assert batch.boundaries.tolist() == [0, 5, 7]
    assert batch.segments == (Segment(0, 5), Segment(5, 7))
    assert batch.positions.tolist() == [2, 3, 5]  # nothing predicts the first token of the second
    assert batch.labels.tolist() == [[4, 5, 7]]
    assert batch.weights.tolist() == [[1, 1, 0.5]]
    assert batch.num_tokens == 7


def test_a_rank_without_examples_runs_one_packed_token_without_loss(tmp_path: Path) -> None:
    model = loaded(saved(CONFIGS["qwen3"], tmp_path), packing=True)
    batch = collate_trees([], pad_token_id=3)
    assert (batch.input_ids.tolist(), batch.num_tokens) == ([[3]], 0)
    loss, found = gradients(model, [batch])
    assert loss == 0
    assert all(gradient.abs().sum() == 0 for gradient in found.values())


def test_layers_that_carry_state_are_refused(tmp_path: Path) -> None:
    config = Qwen3NextConfig(
        **SHAPE,
        num_experts=2,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention"],
    )
    directory = saved(config, tmp_path)
    with pytest.raises(TrainError) as caught:
        loaded(directory, packing=True)
    assert str(caught.value) == (
        f"{directory}: packing: layers of kind linear_attention carry one document's state into "
        "the next one; set training.packing and training.neat_packing to false"
    )


def test_attention_that_needs_more_than_a_mask_is_refused_with_a_way_out(tmp_path: Path) -> None:
    directory = saved(Gemma2Config(**SHAPE, sliding_window=5), tmp_path)
    examples = odd_examples(seed=3)
    objective = SupervisedObjective(loaded(directory, packing=True))
    with pytest.raises(TrainError, match=r"attention has softcap, .*flash_attn: disabled"):
        objective(**vars(collate_trees(_alone(examples), 0)))
    model = loaded(directory, packing=True, flash_attn="disabled")
    loss, alone = gradients(model, [collate([example], 0) for example in examples])
    packed_loss, packed = gradients(model, [collate_trees(_alone(examples), 0)])
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    assert_close(alone, packed)


def test_chunked_attention_is_left_to_the_mask_of_transformers() -> None:
    assert packed_implementation(CONFIGS["qwen3"]) == PER_DOCUMENT
    assert packed_implementation(Llama4TextConfig()) == "sdpa"


@pytest.mark.parametrize(
    ("ranks", "zero"),
    [
        (1, None),
        pytest.param(2, None, marks=pytest.mark.slow),
        pytest.param(2, 2, marks=pytest.mark.slow),
        (2, 3),
    ],
    ids=["one process", "ddp", "zero-2", "zero-3"],
)
def test_a_packed_run_equals_the_plain_reference_loop(
    tiny_model: Path, tmp_path: Path, ranks: int, zero: int | None, rank_server: RankServer
) -> None:
    dataset_dir = write_dataset(tmp_path / "data", conversations(23))
    deepspeed = zero and str(ROOT / f"training_config/deepspeed/ds_z{zero}_config.json")
    args = train_args(
        tiny_model,
        dataset_dir,
        tmp_path / "run",
        neat_packing=True,
        cutoff_len=256,
        deepspeed=deepspeed,
        per_device_train_batch_size=2 // ranks,
        gradient_accumulation_steps=2,
        max_steps=4,
    )
    output = rank_server.run(args, ranks=ranks)
    plan, data = plan_of(args, ranks)
    assert f"in {len(plan.epochs[0])} sequences of at most 256 tokens" in output
    batches = [plan.global_batch(step) for step in range(1, 5)]
    assert max(map(len, batches)) > 4, "several examples have to share a sequence"
    expected, weights = reference_run(args, [examples_of(data, batch) for batch in batches])
    assert losses(tmp_path / "run") == pytest.approx(expected, abs=1e-5)
    for name, weight in load_file(tmp_path / "run" / "model.safetensors").items():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=1e-5)
