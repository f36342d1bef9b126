"""Property: a tree of examples trains as the examples alone do, and computes what they share once.

Run: pytest tests/test_trainer_trees.py
"""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_loop import reference_run
from safetensors.torch import load_file
from tiny_models import CONFIGS, SHAPE, VOCAB, assert_close, gradients, loaded, saved
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from trainer_runs import (
    ROOT,
    RankServer,
    examples_of,
    losses,
    plan_of,
    tokenise,
    train_args,
    write_dataset,
)
from trainer_templates import FAMILIES, tokenizer_for
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Llama4TextConfig,
    PretrainedConfig,
    Qwen3Config,
    Qwen3NextConfig,
)

from pipeline.errors import ConfigError
from pipeline.trainer.data.collate import collate, collate_trees
from pipeline.trainer.data.example import Example, Span
from pipeline.trainer.data.example_trees import ExampleTrees
from pipeline.trainer.data.neighbours import within_rows
from pipeline.trainer.data.prefix_tree import PrefixTree, Segment
from pipeline.trainer.data.render import Renderer
from pipeline.trainer.data.store import TokenStore
from pipeline.trainer.data.tokenize import TokenizerSource
from pipeline.trainer.modeling.attention import PER_DOCUMENT, Documents, branch_mask
from pipeline.trainer.sharing import with_sharing


def _examples(draw: random.Random, count: int) -> list[Example]:
    """Some begin like the one before; some are its beginning, or the same; spans lie anywhere."""
    examples = [_example(draw, [])]
    for _ in range(count - 1):
        before = examples[-1].ids
        examples.append(_example(draw, before[: draw.choice([0, 1, 1, 5, 12, len(before)])]))
    return examples


def _example(draw: random.Random, beginning: list[int]) -> Example:
    more = draw.randint(0 if beginning else 1, 14)
    ids = beginning + [draw.randrange(3, VOCAB) for _ in range(more)]
    edges = sorted(draw.sample(range(len(ids) + 1), k=min(4, len(ids) + 1)))
    pairs = zip(edges[::2], edges[1::2], strict=False)
    return Example(ids, [Span(*pair, draw.choice([0.5, 1.0, 2.0])) for pair in pairs])


_TREES = [[Example([7], [])], *(_examples(random.Random(seed), 5) for seed in range(4))]


@pytest.mark.parametrize("flash_attn", ["auto", "sdpa", "disabled"])
@pytest.mark.parametrize("family", list(CONFIGS))
def test_trees_and_separate_examples_have_the_same_loss_and_gradients(
    tmp_path: Path, family: str, flash_attn: str
) -> None:
    directory = saved(CONFIGS[family], tmp_path)
    examples = [example for tree in _TREES for example in tree]
    loss, alone = gradients(loaded(directory), [collate([e], 0) for e in examples])
    sharing = loaded(directory, share_prefixes=True, flash_attn=flash_attn)
    trees = [PrefixTree.of(tree) for tree in _TREES]
    assert sum(map(len, trees)) < 0.8 * sum(len(example.ids) for example in examples)
    for batches in ([collate_trees(trees, 0)], [collate_trees([tree], 0) for tree in trees]):
        tree_loss, found = gradients(sharing, batches)
        assert tree_loss == pytest.approx(loss, rel=1e-5)
        assert_close(alone, found)


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**SHAPE, sliding_window=5),
        Qwen3Config(
            **SHAPE,
            use_sliding_window=True,
            sliding_window=5,
            layer_types=["sliding_attention", "full_attention"],
        ),
    ],
    ids=["soft capping", "two kinds of layers"],
)
def test_masks_tell_layers_apart_and_go_with_soft_capping(
    tmp_path: Path, config: PretrainedConfig
) -> None:
    model = loaded(saved(config, tmp_path), share_prefixes=True, flash_attn="disabled")
    examples = [example for tree in _TREES for example in tree]
    loss, alone = gradients(model, [collate([example], 0) for example in examples])
    trees = collate_trees([PrefixTree.of(tree) for tree in _TREES], 0)
    tree_loss, found = gradients(model, [trees])
    assert tree_loss == pytest.approx(loss, rel=1e-5)
    assert_close(alone, found)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 8))
def test_every_token_sees_just_the_path_of_its_example(seed: int, count: int) -> None:
    examples = _examples(random.Random(seed), count)
    tree = PrefixTree.of(examples)
    batch = collate_trees([PrefixTree.of([Example([1, 2], [])]), tree], 0)
    assert batch.segments is not None
    assert batch.position_ids is not None
    by_segment = np.zeros((batch.num_tokens, batch.num_tokens), dtype=bool)
    for start, end, ancestors in batch.segments:
        for first, last in ancestors:
            by_segment[start:end, first:last] = True
        by_segment[start:end, start:end] = np.tri(end - start, dtype=bool)
    seen = by_segment.sum(axis=1) - 1
    assert seen.tolist() == batch.position_ids[0].tolist()
    if batch.preorder is not None:
        mask = branch_mask(batch.preorder, batch.position_ids)[0, 0]
        assert (mask.numpy() == by_segment).all()
    # What a token sees, itself last, are the beginnings of the examples and nothing else.
    contexts = {tuple(batch.input_ids[0, row].tolist()) for row in by_segment[2:]}
    beginnings = {tuple(e.ids[: end + 1]) for e in examples for end in range(len(e.ids))}
    assert contexts == beginnings
    wanted: dict[tuple[int, ...], float] = {}
    for example in examples:
        for span in example.spans:
            for place in range(max(span.start, 1), span.end):
                path = tuple(example.ids[: place + 1])
                wanted[path] = wanted.get(path, 0) + span.weight
    found: dict[tuple[int, ...], float] = {}
    for place, label, weight in zip(tree.predictors, tree.labels, tree.weights, strict=True):
        context = batch.input_ids[0, by_segment[place + 2]].tolist()
        path = (*context, int(label))
        found[path] = found.get(path, 0) + float(weight)
    assert found == pytest.approx(wanted)


def test_a_tree_by_hand() -> None:
    examples = [
        Example([1, 2, 3], [Span(1, 3, 1.0)]),
        Example([1, 2, 4, 9], [Span(3, 4, 0.5)]),
        Example([1, 2, 4, 5, 6], [Span(1, 2, 1.0), Span(3, 5, 2.0)]),
    ]
    tree = PrefixTree.of(examples)
    assert tree.ids.tolist() == [1, 2, 4, 5, 6, 9, 3]
    assert tree.depths.tolist() == [0, 1, 2, 3, 4, 3, 2]
    assert tree.segments == (
        Segment(0, 5),
        Segment(5, 6, ancestors=((0, 3),)),
        Segment(6, 7, ancestors=((0, 2),)),
    )
    assert tree.predictors.tolist() == [0, 1, 2, 2, 3]
    assert tree.labels.tolist() == [2, 3, 5, 9, 6]
    assert tree.weights.tolist() == [2, 1, 2, 0.5, 2]


def _turns(count: int, seed: int = 0) -> list[dict[str, str]]:
    """A conversation of which the template of Qwen3 strips all reasoning but the last."""
    draw = random.Random(seed)
    words = "the file was read and then one test of it failed again so we fix".split()

    def text(size: int) -> str:
        return " ".join(draw.choices(words, k=size))

    turns = []
    for _ in range(count):
        reply = f"<think>\n{text(8)}\n</think>\n\n{text(6)}"
        turns += [{"from": "human", "value": text(25)}, {"from": "gpt", "value": reply}]
    return turns


def test_forty_stripped_turns_take_a_twelfth_of_the_compute() -> None:
    """Counted without computing; PyTorch's plain attention counts masked pairs as well."""
    tokenizer = tokenizer_for(FAMILIES["qwen3"])
    examples = Renderer(tokenizer).row_examples({"conversations": _turns(40)})
    assert len(examples) == 40
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 256, "intermediate_size": 768}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            Qwen3Config(**{**SHAPE, **sizes}), attn_implementation=PER_DOCUMENT
        )

    def flops(trees: list[PrefixTree]) -> int:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            for tree in trees:
                batch = collate_trees([tree], 0).to(torch.device("meta"))
                assert batch.segments is not None
                outputs = model(
                    input_ids=batch.input_ids,
                    position_ids=batch.position_ids,
                    documents=Documents(batch.segments),
                    logits_to_keep=batch.positions,
                    use_cache=False,
                )
                outputs.logits.sum().backward()
        return counter.get_total_flops()

    separate = flops([PrefixTree.of([example]) for example in examples])
    shared = flops([PrefixTree.of(examples)])
    assert separate >= 12 * shared


def _store(model: Path, dataset_dir: Path, **changes: Any) -> TokenStore:
    return tokenise(train_args(model, dataset_dir, dataset_dir / "run", **changes)).store


def test_the_store_keeps_shared_tokens_once_and_gives_back_whole_examples(
    tiny_model: Path, tmp_path: Path
) -> None:
    rows = [{"conversations": _turns(count, seed=count)} for count in (1, 12, 5)]
    store = _store(tiny_model, write_dataset(tmp_path, rows))
    renderer = Renderer(TokenizerSource(str(tiny_model), "main", False).load())
    assert [store[i] for i in range(len(store))] == [
        example for row in rows for example in renderer.row_examples(row)
    ]
    assert store.stored_tokens < 0.4 * store.counts.tokens
    assert store.size_bytes < 5 * store.stored_tokens + 20_000  # 4 per token, and the tables
    # An edited row is rendered again; the others come from the store before, as they are.
    rows[0]["conversations"][0]["value"] = "other words"
    report = tokenise(train_args(tiny_model, write_dataset(tmp_path, rows), tmp_path / "run"))
    assert report.rows_tokenised == 1
    again = report.store
    assert [again[i] for i in range(1, len(again))] == [store[i] for i in range(1, len(store))]


@pytest.mark.parametrize("policy", ["truncate_turns", "window"])
def test_a_tree_holds_at_most_cutoff_len_tokens_and_no_example_is_lost(
    tiny_model: Path, tmp_path: Path, policy: str
) -> None:
    rows = [{"conversations": _turns(count, seed=count)} for count in (9, 4, 12)]
    write_dataset(tmp_path, rows)
    cutoff_len = int(_store(tiny_model, tmp_path).lengths.max() * 0.8)
    store = _store(tiny_model, tmp_path, cutoff_len=cutoff_len, cutoff_policy=policy)
    data = ExampleTrees(store, within_rows(store))
    assert len(rows) < len(data) < len(store), "some trees have to be divided"
    numbers = range(len(data))
    assert examples_of(data, list(numbers)) == [store[i] for i in range(len(store))]
    for number in numbers:
        tree, examples = data.tree(number), data.examples(number)
        expected = PrefixTree.of(examples)
        assert tree.segments == expected.segments
        for name in ("ids", "depths", "ranks", "ends", "predictors", "labels", "weights"):
            assert np.array_equal(getattr(tree, name), getattr(expected, name))
        assert len(tree) == data.num_tokens(number) <= cutoff_len
        # Twice the pairs: a token at depth d attends to d + 1 tokens.
        assert 2 * (tree.depths + 1).sum() == data.attention[number] + len(tree)
        assert tree.weights.sum() == pytest.approx(data.loss_weight(number))
        assert data.example_tokens[number] == sum(len(example.ids) for example in examples)
        assert len(data.rows_of(number)) == 1


def _decided(config: PretrainedConfig, store: TokenStore, **changes: Any) -> bool | None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    args = train_args(Path(), Path(), Path("run"), **changes)
    return with_sharing(args, store, model).share_prefixes


def test_prefixes_are_shared_where_there_are_any_and_the_model_allows_it(
    tiny_model: Path, tmp_path: Path
) -> None:
    shared = _store(tiny_model, write_dataset(tmp_path / "a", [{"conversations": _turns(2)}]))
    alone = _store(tiny_model, write_dataset(tmp_path / "b", [{"conversations": _turns(1)}]))
    qwen3, gemma2 = CONFIGS["qwen3"], Gemma2Config(**SHAPE)
    assert _decided(qwen3, shared) is True
    assert _decided(qwen3, shared, share_prefixes=False) is False
    assert _decided(qwen3, alone) is False
    assert _decided(gemma2, shared) is False
    assert _decided(gemma2, shared, flash_attn="disabled") is True


@pytest.mark.parametrize(
    ("config", "flash_attn", "reason"),
    [
        (Gemma2Config(**SHAPE), "auto", "this model's attention is more than masking, "),
        (Qwen3Config(**SHAPE), "fa2", "flash_attn fa2 knows no branches"),
        (Llama4TextConfig(**SHAPE, num_local_experts=2), "auto", "layers of kind chunked_att"),
        (
            Qwen3NextConfig(**SHAPE, num_experts=2, layer_types=["linear_attention"] * 2),
            "auto",
            "layers of kind linear_attention of this model carry one branch's state",
        ),
    ],
    ids=["soft capping", "fa2", "chunks", "state"],
)
def test_models_that_cannot_share_are_refused_with_the_reason(
    tiny_model: Path, tmp_path: Path, config: PretrainedConfig, flash_attn: str, reason: str
) -> None:
    store = _store(tiny_model, write_dataset(tmp_path, [{"conversations": _turns(2)}]))
    assert _decided(config, store, flash_attn=flash_attn) is False
    with pytest.raises(ConfigError) as caught:
        _decided(config, store, flash_attn=flash_attn, share_prefixes=True)
    assert str(caught.value).startswith(f"share_prefixes: {reason}")
    assert "set training.share_prefixes to false" in str(caught.value)


@pytest.mark.parametrize(
    ("ranks", "zero", "changes"),
    [
        (1, None, {"packing": True, "cutoff_len": 700}),
        pytest.param(2, None, {}, marks=pytest.mark.slow),
        (2, 3, {"packing": True, "cutoff_len": 700, "flash_attn": "sdpa"}),
    ],
    ids=["packed", "ddp", "zero-3, packed, with a mask"],
)
def test_a_run_of_trees_equals_the_plain_reference_loop(
    tiny_model: Path,
    tmp_path: Path,
    ranks: int,
    zero: int | None,
    changes: dict[str, Any],
    rank_server: RankServer,
) -> None:
    rows = [{"conversations": _turns(count, seed=count)} for count in (4, 2, 1, 3, 2, 4, 1, 2)]
    args = train_args(
        tiny_model,
        write_dataset(tmp_path / "data", rows),
        tmp_path / "run",
        deepspeed=zero and str(ROOT / f"training_config/deepspeed/ds_z{zero}_config.json"),
        per_device_train_batch_size=2 // ranks,
        max_steps=3,
        adam_epsilon=1e-5,  # far above what rounding leaves of a gradient that is zero
        **changes,
    )
    output = rank_server.run(args, ranks=ranks)
    plan, data = plan_of(args, ranks)
    assert f"shared prefixes: 19 examples are {len(data)} trees of " in output
    batches = [examples_of(data, plan.global_batch(step)) for step in range(1, 4)]
    expected, weights = reference_run(args, batches)
    assert losses(tmp_path / "run") == pytest.approx(expected, abs=1e-5)
    for name, weight in load_file(tmp_path / "run" / "model.safetensors").items():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=1e-5)
    results = json.loads((tmp_path / "run" / "train_results.json").read_bytes())
    assert results["num_examples"] == 19
    computed = [sum(map(data.num_tokens, plan.global_batch(step))) for step in range(1, 4)]
    assert results["num_input_tokens_seen"] == sum(computed)
