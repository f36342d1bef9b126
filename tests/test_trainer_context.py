"""Property: ranks that share a sequence compute what one rank computes that has all of it.

Run: pytest tests/test_trainer_context.py
(without `-m "not slow"`: more strategies and four processes)
"""

import json
import os
import random
import shutil
import subprocess
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from context_ranks import CASES, shared_batch
from reference_loop import reference_run
from safetensors.torch import load_file
from tiny_models import CONFIGS, SHAPE, odd_examples
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
    AutoModelForCausalLM,
    BloomConfig,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen3NextConfig,
    RwkvConfig,
)
from typer.testing import CliRunner

from pipeline import cli
from pipeline.errors import ConfigError, TrainError
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.collate import IGNORE_INDEX, collate_trees
from pipeline.trainer.data.prefix_tree import PrefixTree, Segment
from pipeline.trainer.parallel.context.block_attention import (
    attend_block,
    attend_block_backward,
    attend_by_products,
    attend_by_products_backward,
)
from pipeline.trainer.parallel.context.choice import check_attention_is_shared, choose_mode
from pipeline.trainer.parallel.context.layout import Layout
from pipeline.trainer.parallel.context.ring_blocks import blocks_between, needed_hops
from pipeline.trainer.parallel.context.ulysses import copies_of_kv_heads
from pipeline.trainer.parallel.groups import num_data_ranks

_LAYOUTS = [Layout(num_ranks, zigzag) for num_ranks in (1, 2, 3, 4) for zigzag in (False, True)]


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Of every case of context_ranks.py, from four processes."""
    directory = tmp_path_factory.mktemp("ranks")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4"]
    done = subprocess.run(
        [sys.executable, *torchrun, str(ROOT / "tests/context_ranks.py"), str(directory)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((directory / "differences.json").read_bytes())


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case)))
def test_losses_and_gradients_equal_those_of_one_rank(
    differences: dict[str, float], case: tuple[str, str, int]
) -> None:
    assert differences[" ".join(map(str, case))] < 1e-5


@pytest.mark.parametrize("layout", _LAYOUTS, ids=str)
def test_every_token_and_every_label_is_on_one_rank(layout: Layout) -> None:
    batch = shared_batch()
    assert batch.position_ids is not None
    length = batch.input_ids.shape[1]
    padded = length + -length % layout.num_chunks
    tokens, labels = {}, []
    for rank in range(layout.num_ranks):
        part = layout.part(batch, rank)
        places = layout.places(rank, padded).tolist()
        assert part.position_ids is not None
        assert part.segments is not None
        assert part.segments[-1].end == padded
        shown = zip(part.input_ids[0].tolist(), part.position_ids[0].tolist(), strict=True)
        tokens.update(zip(places, shown, strict=True))
        for position, label, weight in zip(
            part.positions.tolist(), part.labels[0].tolist(), part.weights[0].tolist(), strict=True
        ):
            if label != IGNORE_INDEX:
                labels.append((places[position], label, weight))
    assert sorted(tokens) == list(range(padded))
    expected = zip(batch.input_ids[0].tolist(), batch.position_ids[0].tolist(), strict=True)
    assert [tokens[place] for place in range(length)] == list(expected)
    targets = (batch.positions, batch.labels[0], batch.weights[0])
    assert sorted(labels) == sorted(zip(*(target.tolist() for target in targets), strict=True))


def test_a_part_without_labels_still_takes_part() -> None:
    batch = collate_trees([PrefixTree.of(odd_examples(seed=5)[:1])], pad_token_id=0)
    part = Layout(4, zigzag=False).part(batch, rank=3)
    assert (part.labels.tolist(), part.weights.tolist()) == ([[IGNORE_INDEX]], [[0.0]])


def _documents(*lengths: int) -> tuple[Segment, ...]:
    return tuple(Segment(end - n, end) for n, end in zip(lengths, accumulate(lengths), strict=True))


def _pairs_by_blocks(segments: tuple[Segment, ...], layout: Layout) -> list[tuple[int, int]]:
    """(query, key) of the sequence, of all blocks of all ranks."""
    total, pairs = segments[-1].end, []
    for rank in range(layout.num_ranks):
        for owner in range(layout.num_ranks):
            queries, keys = layout.places(rank, total), layout.places(owner, total)
            for block in blocks_between(segments, layout, rank, owner):
                rows, columns = queries[block.queries].tolist(), keys[block.keys].tolist()
                pairs += [(q, k) for q in rows for k in columns if k <= q or not block.is_causal]
    return pairs


@pytest.mark.parametrize("layout", _LAYOUTS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_blocks_cover_what_tokens_see_once(layout: Layout, seed: int) -> None:
    draw = random.Random(seed)
    lengths = [draw.randint(1, 30) for _ in range(draw.randint(1, 6))]
    batch = shared_batch().segments if seed == 0 else _documents(*lengths)
    assert batch is not None
    end = batch[-1].end
    segments = (*batch, Segment(end, end + 24 - end % 24))
    seen = [
        (query, key)
        for segment in segments
        for query in range(segment.start, segment.end)
        for first, last in (*segment.ancestors, (segment.start, query + 1))
        for key in range(first, last)
    ]
    assert sorted(_pairs_by_blocks(segments, layout)) == sorted(seen)


def test_zigzag_gives_every_rank_the_same_work() -> None:
    def work(layout: Layout, rank: int) -> int:
        blocks = [
            b for owner in range(4) for b in blocks_between(_documents(4096), layout, rank, owner)
        ]
        areas = [(b.queries.stop - b.queries.start) * (b.keys.stop - b.keys.start) for b in blocks]
        return sum(a // 2 if b.is_causal else a for a, b in zip(areas, blocks, strict=True))

    assert len({work(Layout(4, zigzag=True), rank) for rank in range(4)}) == 1
    plain = [work(Layout(4, zigzag=False), rank) for rank in range(4)]
    assert max(plain) == 7 * min(plain)


def test_keys_go_only_as_far_as_documents_do() -> None:
    zigzag = Layout(4, zigzag=True)
    assert needed_hops(_documents(4096), zigzag) == (1, 2, 3)
    assert needed_hops(_documents(*[100] * 40, 96), zigzag) == (
        1,
        3,
    )  # to the neighbours on both sides
    assert needed_hops(_documents(*[512] * 8), zigzag) == ()


@pytest.mark.parametrize("is_causal", [True, False])
def test_attention_by_products_is_that_of_the_kernel(is_causal: bool) -> None:
    torch.manual_seed(0)
    rows, columns = 700, 700 if is_causal else 300
    query = torch.randn(1, 4, rows, 8)
    key, value = torch.randn(2, 1, 2, columns, 8)
    found = [
        a(query, key, value, 0.4, is_causal=is_causal) for a in (attend_block, attend_by_products)
    ]
    for kernel, products in zip(*found, strict=True):
        torch.testing.assert_close(products, kernel, rtol=0, atol=1e-5)
    given = (torch.randn_like(query), query, key, value, *found[0], 0.4)
    both = [
        a(*given, is_causal=is_causal) for a in (attend_block_backward, attend_by_products_backward)
    ]
    for kernel, products in zip(*both, strict=True):
        torch.testing.assert_close(products, kernel, rtol=0, atol=2e-5)


def test_heads_of_keys_are_copied_only_as_often_as_ranks_need() -> None:
    assert copies_of_kv_heads(32, 8, 4) == 1
    assert copies_of_kv_heads(32, 8, 16) == 2
    assert copies_of_kv_heads(24, 6, 4) == 2
    assert copies_of_kv_heads(12, 4, 6) == 3


def _keys(num_ranks: int, mode: str = "auto", **changes: Any) -> TrainArgs:
    here = Path()
    shared = {"sequence_parallel_size": num_ranks, "sequence_parallel_mode": mode}
    return train_args(here, here, here, **shared, **changes)


def test_auto_is_ulysses_where_heads_can_be_shared_out() -> None:
    qwen3 = CONFIGS["qwen3"]
    modes = [choose_mode(_keys(num_ranks), qwen3) for num_ranks in (2, 3, 4, 8)]
    assert modes == ["ulysses", "zigzag-ring", "ulysses", "zigzag-ring"]
    assert choose_mode(_keys(2, "zigzag-ring"), qwen3) == "zigzag-ring"
    assert choose_mode(_keys(2), CONFIGS["mistral, window of 5 tokens"]) == "ulysses"


def test_other_attention_kernels_are_refused() -> None:
    with pytest.raises(ConfigError, match="flash_attn: fa2: .* has attention of its own"):
        choose_mode(_keys(2, flash_attn="fa2"), CONFIGS["qwen3"])


_NEXT = Qwen3NextConfig(**SHAPE, layer_types=["linear_attention", "full_attention"])
_DYNAMIC = LlamaConfig(**SHAPE, rope_parameters={"rope_type": "dynamic", "factor": 2.0})


@pytest.mark.parametrize(
    ("mode", "num_ranks", "config", "message"),
    [
        ("ulysses", 3, CONFIGS["qwen3"], "3 ranks cannot share the 4 attention heads.*zigzag-ring"),
        ("auto", 3, MistralConfig(**SHAPE, sliding_window=5), "sliding window of 5.*ulysses"),
        ("auto", 2, _NEXT, "layers of kind linear_attention, which need the whole sequence"),
        ("auto", 2, Llama4TextConfig(), "layers of kind chunked_attention"),
        ("auto", 2, RwkvConfig(), "rwkv has no attention heads"),
        ("auto", 2, _DYNAMIC, "rotary embeddings of type dynamic.*rope_scaling to yarn"),
    ],
)
def test_what_cannot_be_split_is_refused_with_a_way_out(
    mode: Any, num_ranks: int, config: Any, message: str
) -> None:
    with pytest.raises(TrainError, match=message):
        choose_mode(_keys(num_ranks, mode), config)


def test_a_model_with_attention_of_its_own_is_refused() -> None:
    config = BloomConfig(vocab_size=61, hidden_size=8, n_layer=1, n_head=2)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(TrainError, match="mine: .* attention cannot be replaced, or its layers"):
        check_attention_is_shared(model, "mine")


def test_groups_have_to_divide_the_ranks() -> None:
    assert num_data_ranks(8, 4) == 2
    with pytest.raises(ConfigError, match="6 ranks cannot be split into groups of 4 that share"):
        num_data_ranks(6, 4)


def _args(model: Path, tmp_path: Path, **changes: Any) -> TrainArgs:
    """Four steps of four sequences each, on any number of groups."""
    dataset_dir = write_dataset(tmp_path / "data", conversations(23))
    values = {"neat_packing": True, "cutoff_len": 256, "max_steps": 4, "val_size": 4, **changes}
    return train_args(model, dataset_dir, tmp_path / "run", **values)


def _zero(stage: int) -> str:
    return str(ROOT / f"training_config/deepspeed/ds_z{stage}_config.json")


_RUNS: dict[str, tuple[int, dict[str, Any]]] = {
    "ddp ulysses 2": (2, {"sequence_parallel_size": 2}),
    "zero-3 ring 2, not packed": (
        2,
        {
            "sequence_parallel_size": 2,
            "sequence_parallel_mode": "zigzag-ring",
            "deepspeed": _zero(3),
            "neat_packing": False,
        },
    ),
    "zero-3 ulysses 2, two groups": (4, {"sequence_parallel_size": 2, "deepspeed": _zero(3)}),
    "zero-2 ring 3": (3, {"sequence_parallel_size": 3, "deepspeed": _zero(2)}),
    "ddp ulysses 4": (4, {"sequence_parallel_size": 4}),
}
_DEFAULT = ("ddp ulysses 2", "zero-3 ring 2, not packed")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in _DEFAULT else pytest.mark.slow) for n in _RUNS]
)
def test_equivalence_of_shared_sequences_to_the_reference_loop(
    tiny_model: Path, tmp_path: Path, name: str, rank_server: RankServer
) -> None:
    ranks, changes = _RUNS[name]
    groups = ranks // changes["sequence_parallel_size"]
    args = _args(tiny_model, tmp_path, per_device_train_batch_size=2 // groups, **changes)
    output = rank_server.run(args, ranks=ranks)
    mode = "zigzag-ring" if "ring" in name else "ulysses"
    assert f"groups of {ranks // groups} ranks share their sequences ({mode})" in output
    assert f"= {2 // groups} per group x 2 accumulation x {groups} groups; 4 steps" in output
    plan, data = plan_of(args, groups)
    batches = [examples_of(data, plan.global_batch(step)) for step in range(1, 5)]
    expected, weights = reference_run(args, batches)
    assert losses(tmp_path / "run") == pytest.approx(expected, abs=1e-5)
    for tensor, weight in load_file(tmp_path / "run" / "model.safetensors").items():
        torch.testing.assert_close(weight, weights[tensor], rtol=0, atol=1e-5)
    held_out = examples_of(data, plan.held_out.tolist())
    trained = args.model_copy(update={"model_name_or_path": str(tmp_path / "run")})
    evaluated = json.loads((tmp_path / "run" / "eval_results.json").read_bytes())["eval_loss"]
    assert evaluated == pytest.approx(reference_run(trained, [held_out])[0][0], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp ulysses 2", "zero-3 ring 2, not packed"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    tiny_model: Path, tmp_path: Path, name: str, rank_server: RankServer
) -> None:
    ranks, changes = _RUNS[name]
    args = _args(tiny_model, tmp_path, save_steps=2, bf16=True, **changes)
    rank_server.run(args, ranks=ranks)
    output_dir = Path(args.output_dir)
    whole = losses(output_dir), (output_dir / "model.safetensors").read_bytes()
    shutil.rmtree(output_dir / "checkpoint-4")
    rank_server.run(args.model_copy(update={"resume_from_checkpoint": "latest"}), ranks=ranks)
    assert (losses(output_dir), (output_dir / "model.safetensors").read_bytes()) == whole


def test_the_plan_counts_groups_of_ranks(tiny_model: Path, tmp_path: Path) -> None:
    """Few groups with much to do each are easier to balance than many ranks."""

    def planned(world_size: int, **changes: Any) -> dict[str, Any]:
        args = _args(tiny_model, tmp_path, **changes)
        file = tmp_path / "train.yaml"
        file.write_text(yaml.safe_dump(args.model_dump(mode="json")), "utf-8")
        command = ["plan", str(file), "--world-size", str(world_size), "--json"]
        done = CliRunner().invoke(cli.app, command)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    shared = planned(4, sequence_parallel_size=2, per_device_train_batch_size=2)
    assert (shared["world_size"], shared["sequence_parallel_size"]) == (4, 2)
    groups = planned(2, per_device_train_batch_size=2)
    assert {key for key in shared if shared[key] != groups[key]} == {
        "world_size",
        "sequence_parallel_size",
        "memory",
    }
    each_alone = planned(4, per_device_train_batch_size=1)
    assert each_alone["plan"] == shared["plan"]
    assert each_alone["balance"] < shared["balance"]
