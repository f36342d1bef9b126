"""Property: the memory plan counts what a step really allocates, and a run says when it is wrong.

Run: pytest tests/test_trainer_memory.py
"""

import json
import mmap
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_architectures import tiny_moe
from trainer_runs import ROOT, conversations, run, tokenise, train_args, write_dataset
from transformers import AutoConfig

from benchmarks import memory as benchmark
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.memory import smaller
from pipeline.trainer.memory.division import Zero
from pipeline.trainer.memory.fake_step import simulate_step
from pipeline.trainer.memory.largest_batch import batch_like, largest_batch, num_tokens
from pipeline.trainer.memory.live_bytes import LiveBytes
from pipeline.trainer.memory.measured import PeakMeter
from pipeline.trainer.memory.memory_plan import MemoryPlan, memory_plan
from pipeline.trainer.modeling.load import load_model
from pipeline.trainer.objective import SupervisedObjective
from pipeline.trainer.optimizer.make import make_optimizer
from pipeline.trainer.planned_run import PlannedRun


@pytest.fixture
def dataset_dir(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", conversations(11))


def _planned(args: TrainArgs, num_ranks: int = 1) -> PlannedRun:
    return PlannedRun.of(args, tokenise(args).store, num_ranks)


def _plan(args: TrainArgs, zero: Zero | None = None, num_ranks: int = 1) -> MemoryPlan:
    run = _planned(args)
    return memory_plan(
        run.args, largest_batch(run), zero, num_ranks=num_ranks, on_accelerator=False
    )


def test_memory_is_counted_by_storage_and_until_its_last_tensor_goes() -> None:
    with LiveBytes() as live:
        with live.making("a"):
            first = torch.zeros(1000)
            view = first[:10]
        with live.making("b"):
            second = first + 1
        assert live.now == {"a": 4000, "b": 4000}
        del first
        assert live.now["a"] == 4000
        del view, second
        assert live.now.total() == 0
        live.making("c")
        third = torch.ones(10)
        live.classify([third], "d")
    assert live.now["d"] == 40
    assert live.peak == {"a": 4000, "b": 4000}


@pytest.mark.parametrize(
    "keys",
    [
        {"checkpoint_activations": "none"},
        {"checkpoint_activations": "selective", "packing": True, "cutoff_len": 400},
        {"checkpoint_activations": "full", "bf16": True},
        {"finetuning_type": "lora"},
        {"finetuning_type": "freeze", "freeze_trainable_layers": 1},
        {"optim": "adamw_8bit", "use_muon": False},
        {"use_muon": True},
        {"model": tiny_moe},
    ],
    ids=lambda keys: next(iter(keys)),
)
@pytest.mark.usefixtures("rank_of_its_own")
def test_a_simulated_step_has_the_peak_of_a_real_one(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path, keys: dict[str, Any]
) -> None:
    make, keys = keys.get("model"), {k: v for k, v in keys.items() if k != "model"}
    model_path = make(tiny_model, tmp_path / "model") if make else tiny_model
    args = train_args(
        model_path, dataset_dir, tmp_path / "run", gradient_accumulation_steps=1, **keys
    )
    batch = largest_batch(_planned(args))
    step = simulate_step(
        args,
        batch,
        dtype=torch.float32,
        autocast=args.bf16,
        accumulates=False,
        on_accelerator=False,
    )
    model = load_model(args, torch.float32)
    objective = SupervisedObjective(model, None)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(model, args)
    live, passes, update = LiveBytes(), 0, 0
    live.classify([*model.parameters(), *model.buffers()], "weights")
    for _ in range(2):
        with live:
            live.forget_peak()
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                loss = objective(**vars(batch)).total
            loss.backward()
            passes = live.peak.total()
            live.forget_peak()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            update = live.peak.total()
            optimizer.zero_grad()
            del loss
    assert sum(step.passes.values()) == pytest.approx(passes, rel=0.01)
    assert sum(step.update.values()) == pytest.approx(update, rel=0.01)
    assert step.num_trained == sum(parameter.numel() for parameter in trained)


@pytest.mark.parametrize("packing", [False, True])
def test_the_largest_micro_batch_of_the_run_is_found(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path, packing: bool
) -> None:
    args = train_args(
        tiny_model, dataset_dir, tmp_path / "run", packing=packing, cutoff_len=200, max_steps=9
    )
    run = _planned(args, num_ranks=2)
    plan, concatenates = run.plan, run.args.concatenates
    all_of_them = [
        num_tokens(plan, documents, concatenates=concatenates)
        for step in range(1, plan.total_steps + 1)
        for rank in range(2)
        for documents in plan.micro_batches(step, rank)
    ]
    assert largest_batch(run).input_ids.numel() == max(all_of_them)


def test_ranks_share_what_their_strategy_partitions(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    args = train_args(tiny_model, dataset_dir, tmp_path / "run")
    count = sum(parameter.numel() for parameter in load_model(args, torch.float32).parameters())
    alone, ddp = _plan(args), _plan(args, num_ranks=4)
    zero_2 = _plan(args, Zero(2, low=False), num_ranks=4)
    zero_3 = _plan(args, Zero(3, low=False), num_ranks=4)
    offloaded = _plan(args, Zero(3, low=True, offloads_optimizer=True), num_ranks=4)
    assert alone.classes["weights"] == pytest.approx(4 * count, rel=0.01)
    assert ddp.total == pytest.approx(alone.total + 4 * count, rel=0.01)
    assert zero_2.classes["weights"] == 4 * count
    assert zero_2.classes["optimizer states"] == pytest.approx(12 * count / 4, rel=0.01)
    assert zero_3.classes["weights"] == count
    assert offloaded.host == pytest.approx(14 * count / 4, rel=0.01)
    assert "optimizer states" not in offloaded.classes
    sharded = _plan(args.model_copy(update={"fsdp": "full_shard"}), num_ranks=4)
    assert sharded.classes["weights"] == count
    assert sharded.classes["optimizer states"] == pytest.approx(8 * count / 4, rel=0.01)
    changes = {"fsdp": "full_shard offload", "finetuning_type": "lora"}
    adapters = _plan(args.model_copy(update=changes), num_ranks=4)
    trained = adapters.classes["weights"] // 4
    assert 0 < trained < count / 10
    assert adapters.classes["optimizer states"] == pytest.approx(8 * trained, rel=0.01)
    assert adapters.host == count


def test_offloaded_layer_inputs_are_on_the_host(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    args = train_args(tiny_model, dataset_dir, tmp_path / "run", checkpoint_activations="full")
    run = _planned(args)
    batch = largest_batch(run)
    config = AutoConfig.from_pretrained(tiny_model)
    layer_input = 4 * batch.input_ids.numel() * config.hidden_size

    def plan(kind: str, *, on_accelerator: bool) -> MemoryPlan:
        changed = run.args.model_copy(update={"checkpoint_activations": kind})
        return memory_plan(changed, batch, None, num_ranks=1, on_accelerator=on_accelerator)

    full, offload = (plan(kind, on_accelerator=True) for kind in ("full", "offload"))
    assert (full.host, offload.host) == (0, config.num_hidden_layers * layer_input)
    # That of the layer that is computed again is back on the device.
    saved = (config.num_hidden_layers - 1) * layer_input
    assert full.total - offload.total == pytest.approx(saved, rel=0.01)
    assert plan("offload", on_accelerator=False).host == 0
    (rung,) = smaller._recomputing(run.args, batch, None, on_accelerator=True)
    assert rung.keys == "checkpoint_activations: offload"


def test_what_is_proposed_saves_what_the_changed_training_needs_less(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    args = train_args(
        tiny_model,
        dataset_dir,
        tmp_path / "run",
        checkpoint_activations="none",
        per_device_train_batch_size=8,
        gradient_accumulation_steps=1,
    )
    run = _planned(args)
    args = run.args  # with everything decided
    batch, planned = largest_batch(run), _plan(args)
    changes = smaller.changes_that_fit(
        args, batch, planned, int(0.8 * planned.total), on_accelerator=False
    )
    assert len(changes) == smaller.NUM_NAMED
    assert changes[0].fits
    keys = yaml.safe_load(changes[0].keys)
    changed = _plan(args.model_copy(update=keys))
    assert changed.total <= 0.8 * planned.total
    assert changes[0].saved == planned.total - changed.total
    none_fit = smaller.changes_that_fit(args, batch, planned, 1000, on_accelerator=False)
    assert [change.fits for change in none_fit] == [False] * smaller.NUM_NAMED
    assert none_fit[0].saved >= none_fit[-1].saved
    assert none_fit[0].describe().endswith("not enough alone)")


@pytest.mark.parametrize("packing", [False, True])
def test_a_smaller_batch_is_of_the_same_kind(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path, packing: bool
) -> None:
    args = train_args(tiny_model, dataset_dir, tmp_path / "run", packing=packing, cutoff_len=300)
    batch = largest_batch(_planned(args))
    rows, tokens = batch.input_ids.shape
    made = batch_like(batch, rows, tokens)
    assert made.input_ids.shape == batch.input_ids.shape
    assert (made.position_ids is None) == (batch.position_ids is None)
    assert (made.attention_mask is None) == (batch.attention_mask is None)
    assert len(made.positions) == pytest.approx(len(batch.positions), abs=1)


def test_a_run_announces_its_plan_and_compares_it(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    args = train_args(tiny_model, dataset_dir, tmp_path / "run")
    output = run(args)
    assert output.count("memory plan: ") == 1
    compared = next(line for line in output.splitlines() if "memory after 5 steps: " in line)
    assert re.search(r" resident, .*; [\d.]+ MiB planned for tensors$", compared)
    assert output.count("time plan: ") == 1
    assert "; the other 1 steps take about 0:00:0" in output
    results = json.loads((tmp_path / "run" / "all_results.json").read_bytes())
    assert results["time_plan"]["useful_flops"] > 0
    assert results["time_plan"]["predicted_seconds"] is None, "a CPU has no known peak"
    assert results["time_plan"]["projected_seconds"] > 0
    record = results["memory_plan"]
    assert record["predicted_bytes"] == sum(record["classes"].values()) == _plan(args).total
    assert record["measured_bytes"] > 0
    assert record["measured_as"] == "resident memory"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak")
def test_the_code_of_libraries_is_not_counted(tmp_path: Path) -> None:
    size = 64 * 2**20
    for name, counted in (("data.bin", size), ("library.so.2", 0)):
        (tmp_path / name).write_bytes(b"\1" * size)
        meter = PeakMeter(torch.device("cpu"), 1)
        meter.restart()
        with (tmp_path / name).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            assert sum(mapped[:: mmap.PAGESIZE]) == size // mmap.PAGESIZE
        assert meter.peak_bytes() == pytest.approx(counted, abs=8 * 2**20)
        mapped.close()


_LIMITED = """
import resource, sys
import psutil, torch
import pipeline.trainer.train
from pipeline.trainer.__main__ import main
torch.set_num_threads(1)
room = int(sys.argv[2]) + psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (room, room))
sys.exit(main([sys.argv[1]]))
"""


def test_out_of_memory_says_what_takes_most_and_what_would_fit(
    tiny_model: Path, tmp_path: Path
) -> None:
    text = "the file was read and then one test of it failed again " * 60
    row = [{"from": "human", "value": text}, {"from": "gpt", "value": text}]
    dataset_dir = write_dataset(tmp_path / "data", [{"conversations": row}] * 40)
    args = train_args(
        tiny_model,
        dataset_dir,
        tmp_path / "run",
        per_device_train_batch_size=32,
        gradient_accumulation_steps=1,
        checkpoint_activations="none",
        max_steps=1,
    )
    tokenise(args)
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(args.model_dump(mode="json")), "utf-8")
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(config), str(300 * 2**20)],
        env={"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    message = done.stderr.splitlines()[-1]
    assert message.startswith("rank 0: out of memory in step 1, micro-batches of up to 32 examples")
    assert "activations take most" in message
    proposal = message.partition("set in training: ")[2]
    assert "per_device_train_batch_size: " in proposal
    assert "saves" in proposal
    assert "not enough alone" not in proposal.partition(")")[0]


def _check_benchmark(found: dict[str, dict[str, Any]], tolerance: float) -> None:
    off = {name: run["ratio"] for name, run in found.items() if abs(run["ratio"] - 1) > tolerance}
    assert off == {}


def test_the_plan_is_within_ten_percent_of_resident_memory(tmp_path: Path) -> None:
    _check_benchmark(benchmark.measure(tmp_path, ["adamw_8bit"], quiet=True), 0.10)


@pytest.mark.slow
def test_twenty_plans_are_within_ten_percent_of_resident_memory(tmp_path: Path) -> None:
    names = list(benchmark.CONFIGURATIONS)
    assert len(names) == 20
    _check_benchmark(benchmark.measure(tmp_path, names, quiet=True), 0.10)
