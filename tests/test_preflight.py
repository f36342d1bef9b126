"""The dry run finds what would make a run fail, reports each cause once, and changes nothing.

Run: pytest tests/test_preflight.py
"""

import getpass
import hashlib
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sft_command import ROOT, error_of, sft, write_config
from trainer_runs import conversations, plan_of, train_args, write_dataset

from pipeline.builtin import ensure_builtin
from pipeline.config import load_config
from pipeline.errors import InterruptedRun
from pipeline.launch import machine
from pipeline.launch.machine import Accelerator, Memory
from pipeline.paths import RunPaths
from pipeline.preflight import machine as machine_checks
from pipeline.preflight import memory, model_files, output, run_checks
from pipeline.preflight.report import Check, Context, run_check
from pipeline.runs.index import open_run
from pipeline.runs.lock import RunLock
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.collate import MicroBatch
from pipeline.trainer.memory import memory_plan
from pipeline.trainer.memory.fake_step import StepMemory

EXAMPLES = ROOT / "examples" / "job"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path / "config.yaml")


@pytest.fixture(autouse=True, scope="module")
def _same_steps_are_simulated_once() -> Iterator[None]:
    """Most of these dry runs plan the memory of the same run: its result is kept."""
    real = memory_plan.simulate_step
    known: dict[str, StepMemory] = {}

    def simulate_once(args: TrainArgs, batch: MicroBatch, **options: Any) -> StepMemory:
        paths = {"dataset_dir", "output_dir", "deepspeed", "dataset", "learning_rate"}
        key = f"{args.model_dump_json(exclude=paths)} {batch.segments} {batch.positions} {options}"
        if key not in known:
            known[key] = real(args, batch, **options)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_plan, "simulate_step", simulate_once)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_builtin("builtin:tiny-qwen3", tmp_path_factory.mktemp("cache"), EXAMPLES)


def lines(config: Path, *overrides: str) -> list[str]:
    return [check.line() for check in run_checks(load_config(config, overrides)).checks]


def of(name: str, found: list[str]) -> list[str]:
    return [line for line in found if line.split(maxsplit=1)[1].startswith(f"{name}: ")]


def bad(config: Path, *overrides: str) -> list[str]:
    return [line for line in lines(config, *overrides) if not line.startswith("OK")]


def files_below(directory: Path) -> dict[str, tuple[int, str]]:
    return {
        str(path.relative_to(directory)): (
            path.lstat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in directory.rglob("*")
    }


def test_every_check_of_the_shipped_config_is_ok(config: Path):
    found = lines(config)
    assert [line for line in found if not line.startswith("OK    ")] == []
    artifacts = config.parent / "artifacts"
    for expected in (
        f"OK    config: {config} is valid",
        "OK    engine: native, DeepSpeed ZeRO stage 3 (ds_z3_config.json)",
        "OK    deepspeed: ds_z3_config.json agrees with the batch settings on 2 ranks",
        f"OK    artifacts: {artifacts} can be written",
        f"OK    source: {EXAMPLES}: 32 trials, 28 selected",
        "OK    data: STEP 0 will run: there is no finished conversion",
        f"OK    dataset: demo will be registered in {artifacts}/data/lf_data/dataset_info.json",
        f"OK    output_dir: {artifacts}/model/demo: new",
        "OK    credentials: no tracker asked for",
        "OK    model: builtin:tiny-qwen3: 229,760 parameters",
        "OK    template: the model's own chat template",
    ):
        assert expected in found
    (tokens,) = of("tokens", found)
    assert "global batch 4, " in tokens
    assert tokens.endswith("2 steps in all")


def test_steps_are_those_of_the_run(config: Path, model: Path):
    rows = conversations(11)
    (config.parent / "rows.json").write_text(json.dumps(rows))
    keys = ("training.max_steps=-1", "training.num_train_epochs=3")
    found = lines(
        config, "source.type=local_lf", f"source.lf_path={config.parent}/rows.json", *keys
    )
    args = train_args(
        model,
        write_dataset(config.parent / "data", rows),
        config.parent / "run",
        per_device_train_batch_size=1,
        max_steps=-1,
        num_train_epochs=3,
    )
    plan, data = plan_of(args, world_size=2)
    trees = f" in {len(data)} trees of {data.lengths.sum():,} tokens "
    assert trees in of("tokens", found)[0]
    assert of("tokens", found)[0].endswith(f"{plan.total_steps} steps in all")


def test_packing_is_counted_in_sequences_and_memory(config: Path):
    plain, packed = (
        lines(config, "training.cutoff_len=2048", f"training.packing={packing}")
        for packing in ("false", "true")
    )
    (tokens,) = of("tokens", packed)
    found = re.search(r" in (\d+) packed sequences .* (\d+) steps per epoch", tokens)
    assert found, tokens
    sequences, steps = map(int, found.groups())
    (tokens,) = of("tokens", plain)
    found = re.search(r" in (\d+) trees .* (\d+) steps per epoch", tokens)
    assert found, tokens
    assert 1 <= sequences < int(found[1])
    assert steps == -(-sequences // 4) < int(found[2])
    before, after = (
        int(re.findall(r"largest micro-batch has ([\d,]+) tokens", line)[0].replace(",", ""))
        for line in (*of("memory", plain), *of("memory", packed))
    )
    assert before < after <= 2048


def test_held_out_rows_are_counted_and_must_leave_some(config: Path):
    (tokens,) = of("tokens", lines(config, "training.val_size=0.2"))
    assert re.search(r", [56] rows held out ", tokens)
    (found,) = bad(config, "training.val_size=1000")
    assert re.fullmatch(
        r"FAIL  tokens: training.val_size 1000 would hold out 1,000 of \d+ rows; lower it", found
    )
    (found,) = bad(config, "training.eval_strategy=epoch")
    assert found == (
        "FAIL  tokens: training.eval_strategy epoch: there is nothing to evaluate on; set "
        "training.val_size or training.eval_dataset"
    )


def test_the_command_changes_no_file(tmp_path: Path):
    config = write_config(tmp_path / "given" / "config.yaml")
    for name in ("home", "scratch"):
        (tmp_path / name).mkdir()
    before = files_below(tmp_path)
    done = sft(
        "dryrun",
        "--config",
        config,
        HOME=str(tmp_path / "home"),
        TMPDIR=str(tmp_path / "scratch"),
        PYTHONDONTWRITEBYTECODE="1",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    after = files_below(tmp_path)
    # Used and emptied again; torch makes an empty directory for a cache there.
    made = {name for name in after if name.startswith("scratch")}
    assert made <= {"scratch", f"scratch/torchinductor_{getpass.getuser()}"}
    assert {name: after[name] for name in after.keys() - made} == {
        name: before[name] for name in before.keys() - {"scratch"}
    }


def test_json_holds_every_check(config: Path):
    done = sft("dryrun", "--json", "--config", config, "source.job_dir=/nowhere")
    assert done.returncode == 3
    report = json.loads(done.stdout)
    assert report["passed"] is False
    shown = lines(config, "source.job_dir=/nowhere")
    assert len(report["checks"]) == len(shown)
    assert {check["status"] for check in report["checks"]} == {"OK", "WARN", "FAIL"}
    assert all(set(check) == {"status", "name", "message", "fix"} for check in report["checks"])


def test_all_checks_run_although_the_first_ones_fail(config: Path):
    found = bad(
        config,
        "source.job_dir=/nowhere",
        "model.model_name_or_path=/nowhere/model",
        "training.deepspeed=/nowhere/ds.json",
        "training.resume_from_checkpoint=latest",
        "credentials.hf_token=env:NOT_SET_ANYWHERE",
    )
    assert [line.split()[1] for line in found] == [
        "engine:",
        "source:",
        "resume:",
        "credentials:",
        "model:",
        "tokens:",
        "disk:",
    ]


def test_a_signal_is_no_finding(config: Path):
    def interrupted(context: Context) -> Iterator[Check]:
        yield Check("OK", "first", "done")
        raise InterruptedRun("stopped by SIGTERM", saved=False)

    loaded = load_config(config)
    with pytest.raises(InterruptedRun, match="stopped by SIGTERM"):
        list(run_check("x", interrupted, Context(loaded, RunPaths.of(loaded.config))))


# --- config and environment


def test_keys_without_effect_are_named(config: Path):
    (found,) = of("config", bad(config, "training.dataloader_num_workers=4"))
    assert "WARN  config: training.dataloader_num_workers has no effect: batches are" in found


def test_kernels_that_cannot_run_here_are_named(config: Path):
    given = bad(config, "training.enable_liger_kernel=true", "training.use_cpu=true")
    (found,) = of("config", given)
    assert found.startswith(
        "WARN  config: training.enable_liger_kernel has no effect: Liger's kernels do not run"
    )


def test_a_missing_exclusion_list_is_found(config: Path):
    (found, *_) = of("config", bad(config, "conversion.exclude_repos_file=/nowhere.txt"))
    assert found == (
        "FAIL  config: conversion.exclude_repos_file: /nowhere.txt: no such file; use "
        "training_config/excluded_repos.txt, or null to keep all repositories"
    )


def test_no_free_port_is_found(config: Path, monkeypatch: pytest.MonkeyPatch):
    def no_port() -> int:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(machine, "free_tcp_port", no_port)
    assert of("environment", bad(config)) == [
        "FAIL  environment: no free TCP port on 127.0.0.1 for torchrun's rendezvous (Address "
        "already in use); end programs that hold ports, or allow this user to open one"
    ]


def test_quantisation_needs_bitsandbytes_and_weights_that_nobody_converts(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("training.finetuning_type=lora", "training.quantization_bit=4")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    [line] = [line for line in bad(config, *asked) if "quantization_bit" in line]
    assert line == (
        "FAIL  environment: training.quantization_bit: 4: needs bitsandbytes, which is not "
        "installed; pip install bitsandbytes, or remove the key"
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    [line] = [line for line in bad(config, *asked) if "quantization_bit" in line]
    assert line.endswith("has little to partition; set training.deepspeed: null (DDP)")
    assert not [
        line
        for line in bad(config, *asked, "training.deepspeed=null")
        if "quantization_bit" in line
    ]


def test_another_torch_and_a_missing_package_are_found(
    config: Path, monkeypatch: pytest.MonkeyPatch
):
    def version(package: str) -> str:
        if package == "deepspeed":
            raise machine_checks.PackageNotFoundError(package)
        return "2.11.0+cu128"

    monkeypatch.setattr(machine_checks, "version", version)
    assert of("environment", bad(config)) == [
        "FAIL  environment: not installed: deepspeed; run bash scripts/install.sh",
        "WARN  environment: torch 2.11.0+cu128 is not the tested version; pip install "
        "torch==2.13.0",
    ]


# --- engine and DeepSpeed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON: Expecting property name"),
        ("[1]", "zero_optimization.stage must be 0, 1, 2 or 3 (got None)"),
        ('{"zero_optimization": 3}', "zero_optimization.stage must be 0, 1, 2 or 3 (got None)"),
        (
            '{"zero_optimization": {"stage": 2}, "train_batch_size": 64}',
            "train_batch_size is 64, but the run needs 4 (per_device_train_batch_size x "
            'gradient_accumulation_steps x ranks); write "auto" there',
        ),
        (
            '{"zero_optimization": {"stage": 2}, "bf16": {"enabled": false}}',
            "bf16.enabled is False, but the run needs True (bf16)",
        ),
        (
            '{"zero_optimization": {"stage": 2}, "optimizer": {}}',
            "optimizer: set learning_rate, optim and lr_scheduler_type in config.yaml",
        ),
    ],
)
def test_an_unfit_deepspeed_file_is_reported_once(config: Path, content: str, message: str):
    file = config.parent / "ds.json"
    file.write_text(content)
    (found,) = bad(config, f"training.deepspeed={file}")
    assert found.startswith(f"FAIL  engine: {file}: ")
    assert message in found


def test_a_deepspeed_path_that_is_a_directory_is_found(config: Path):
    assert bad(config, f"training.deepspeed={config.parent}") == [
        f"FAIL  engine: training.deepspeed: {config.parent}: cannot be read (Is a directory); name "
        "a DeepSpeed JSON file"
    ]


def test_ddp_needs_no_file(config: Path):
    assert "OK    engine: native, DistributedDataParallel" in lines(
        config, "training.deepspeed=null"
    )


def test_fsdp_is_named_with_its_replicas(config: Path, monkeypatch: pytest.MonkeyPatch):
    fsdp = ("training.deepspeed=null", "training.fsdp=full_shard offload")
    assert "OK    engine: native, FSDP2, CPU offload on 2 ranks" in lines(config, *fsdp)
    (found,) = bad(config, *fsdp, "training.fsdp_config={mp_shard_size: 3}")
    assert found == (
        "FAIL  engine: training.fsdp: hybrid_shard: 2 ranks cannot be split into groups of 3; "
        "change fsdp_config.mp_shard_size"
    )
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    (found,) = of("engine", bad(config))
    assert "ACCELERATE_USE_FSDP is set with FSDP_VERSION 1; the native engine has FSDP 2" in found


def test_offload_without_compiler_is_found(config: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "compiler", lambda: None)
    offload = "training.deepspeed=training_config/deepspeed/ds_z2_offload_config.json"
    (found,) = of("engine", bad(config, offload))
    assert found.endswith("no C++ compiler; install g++ or use a DeepSpeed file without offload")


def test_the_python_of_llamafactory_is_tried(config: Path):
    engine = ("infrastructure.engine=llamafactory", "training.deepspeed=null")
    found = bad(config, *engine, "infrastructure.llamafactory_python=/nowhere/python")
    assert of("engine", found) == [
        "FAIL  engine: infrastructure.llamafactory_python: /nowhere/python does not exist; give "
        "the python of an environment that has LLaMA-Factory"
    ]
    python = config.parent / "python"
    for answer, expected in (
        ("echo 0.9.5", f"OK    engine: LLaMA-Factory 0.9.5 ({python})"),
        (
            "exit 1",
            f"FAIL  engine: {python} has no LLaMA-Factory; pip install llamafactory there",
        ),
    ):
        python.write_text(f"#!/bin/sh\n{answer}\n")
        python.chmod(0o755)
        found = lines(config, *engine, f"infrastructure.llamafactory_python={python}")
        assert of("engine", found) == [expected]


# --- source and data


def test_a_missing_job_is_reported_once(config: Path):
    assert bad(config, "source.job_dir=/nowhere/job") == [
        "FAIL  source: /nowhere/job: no such directory; set runtime_info.input.source.job_dir to a "
        "Harbor job",
        "WARN  tokens: no data that can be read yet; tokens and steps are unknown",
    ]


def test_an_empty_job_is_found(config: Path):
    (config.parent / "job").mkdir()
    (found,) = of("source", bad(config, f"source.job_dir={config.parent}/job"))
    assert "holds no trial (a subdirectory with config.json" in found


def test_a_job_of_which_nothing_is_selected_is_found(config: Path):
    job = config.parent / "job"
    shutil.copytree(next(EXAMPLES.glob("django*")), job / "django__django-16527__26c86f1")
    found = of("source", bad(config, f"source.job_dir={job}"))
    assert found == [
        f"FAIL  source: {job}: 1 trials, 0 selected; check conversion.instance_status and "
        "exclude_repos_file"
    ]


def test_a_job_of_which_every_trial_is_rejected_is_found(config: Path):
    trial = config.parent / "job" / "lost__aaaaaaa"
    (trial / "agent").mkdir(parents=True)
    (trial / "agent" / "litellm-trajectory.jsonl").write_text('{"half": ')
    found = of("source", bad(config, f"source.job_dir={trial.parent}"))
    assert any("no trial has a reward: instance_status resolved is ignored" in f for f in found)
    assert "none gives a conversation (" in found[-1]
    assert found[-1].endswith("; check source.scaffold")


def test_a_file_of_examples_is_validated(config: Path):
    file = config.parent / "rows.json"
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
    rows = [{"conversations": turns}, {"conversations": turns[1:]}]
    file.write_text(json.dumps(rows))
    local = ("source.type=local_lf", f"source.lf_path={file}")
    (found,) = of("source", bad(config, *local))
    assert found.startswith(
        f"WARN  source: {file}: 2 rows (structured), 1 unusable; the first: {file}: row 2: "
    )
    file.write_text(json.dumps(rows[:1]))
    assert of("source", lines(config, *local)) == [f"OK    source: {file}: 1 rows (structured)"]
    file.write_text('[{"conversations": ')
    (found,) = of("source", bad(config, *local))
    assert found.startswith(f"FAIL  source: {file}: not a JSON array: ")


def test_texts_are_for_stage_pt_and_conversations_are_not(config: Path):
    file = config.parent / "books.txt"
    file.write_text("the first text\n\nand the second one\n")
    local = ("source.type=local_lf", f"source.lf_path={file}")
    found = lines(config, *local, "training.stage=pt")
    assert of("source", found) == [f"OK    source: {file}: 2 rows (text)"]
    assert "2 examples" in of("tokens", found)[0]
    assert "in 1 packed sequences" in of("tokens", found)[0]
    (refused,) = of("tokens", bad(config, *local))
    assert "training.stage sft trains on conversations, not on texts; choose another" in refused
    (refused,) = of("tokens", bad(config, "training.stage=pt"))
    assert "training.stage pt trains on texts, not on conversations" in refused


def test_pairs_are_counted_as_such(config: Path):
    file = config.parent / "pairs.json"
    turn, better, worse = (
        {"from": name, "value": text}
        for name, text in (("human", "go"), ("gpt", "fixed"), ("gpt", "gave up"))
    )
    row = {"conversations": [turn], "chosen": better, "rejected": [worse, turn, worse]}
    file.write_text(json.dumps([row] * 3 + [{**row, "rejected": []}]))
    local = ("source.type=local_lf", f"source.lf_path={file}")
    found = lines(config, *local, "training.stage=dpo")
    (source,) = of("source", found)
    assert f"4 rows (pairs), 1 unusable; the first: {file}: row 4: rejected: missing" in source
    assert "9 examples" in of("tokens", found)[1]
    assert "in 3 pairs" in of("tokens", found)[1]


def test_a_changed_dataset_entry_is_announced(config: Path):
    info = config.parent / "artifacts" / "data" / "lf_data" / "dataset_info.json"
    info.parent.mkdir(parents=True)
    info.write_text('{"demo": {"file_name": "older.json"}}')
    assert bad(config) == [
        "WARN  dataset: demo stands for older.json and will be changed; set dataset.name if "
        "another run still needs the old one"
    ]
    info.write_text('{"demo": ')
    assert bad(config) == [
        f"FAIL  dataset: {info}:1:10: not JSON (Expecting value); repair it, or move it away and "
        "register the datasets again"
    ]


def test_other_datasets_must_be_registered(config: Path):
    info = config.parent / "artifacts" / "data" / "lf_data" / "dataset_info.json"
    info.parent.mkdir(parents=True)
    row = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    (info.parent / "more.json").write_text(json.dumps([row]))
    entry = {"file_name": "more.json", "formatting": "sharegpt"}
    info.write_text(json.dumps({"more": entry, "held": entry}))
    others = ("dataset.mixed_with=[more]", "training.eval_dataset=held")
    found = lines(config, *others, "training.eval_strategy=epoch")
    assert of("dataset", found)[1:] == [
        "OK    dataset: beside it: more, held; what follows about tokens is without them"
    ]
    assert not [line for line in found if not line.startswith("OK")]
    assert bad(config, others[0], "training.eval_dataset=none") == [
        f"FAIL  dataset: {info}: no dataset 'none' is registered (known: held, more)"
    ]


# --- output


def test_artifacts_that_cannot_be_written_are_found(config: Path, monkeypatch: pytest.MonkeyPatch):
    file = config.parent / "file"
    file.touch()
    (found,) = of("artifacts", bad(config, f"infrastructure.artifacts_dir={file}/below"))
    assert found == (
        f"FAIL  artifacts: {file}/below: {file} is a file, not a directory; choose another "
        "infrastructure.artifacts_dir"
    )
    monkeypatch.setattr(output.os, "access", lambda path, mode: False)
    (found,) = of("artifacts", bad(config))
    assert found.endswith(
        f"{config.parent} cannot be written by this user; check its permissions, or choose another "
        "infrastructure.artifacts_dir"
    )


def output_dir_of(config: Path) -> Path:
    directory = config.parent / "artifacts" / "model" / "demo"
    directory.mkdir(parents=True)
    return directory


def test_the_output_dir_of_an_earlier_run_is_replaced_only_if_asked(config: Path):
    directory = output_dir_of(config)
    (directory / "trainer_status.json").write_text("{}")
    assert (
        f"OK    output_dir: {directory}: the earlier run in it is replaced (overwrite_output_dir)"
        in lines(config)
    )
    assert bad(config, "training.overwrite_output_dir=false") == [
        f"FAIL  output_dir: {directory}: holds an earlier run; continue it with "
        "training.resume_from_checkpoint=latest, choose another training.output_dir, or set "
        "training.overwrite_output_dir=true"
    ]


def test_a_directory_of_something_else_is_never_overwritten(config: Path):
    directory = output_dir_of(config)
    (directory / "thesis.tex").touch()
    (found,) = bad(config)
    assert found.startswith(f"FAIL  output_dir: {directory}: not overwritten, because it does not")


def test_what_a_run_leaves_before_training_does_not_stop_the_next(config: Path):
    directory = output_dir_of(config)
    (directory / "record").mkdir()
    (directory / "output.yaml").touch()
    assert bad(config, "training.overwrite_output_dir=false") == []


def test_a_live_owner_is_named(config: Path):
    directory = config.parent / "artifacts" / "model" / "demo"
    with RunLock(directory, "run_007"):
        (found,) = bad(config)
    assert found.startswith(
        f"FAIL  output_dir: {directory} belongs to a run that is alive: run_007, process "
        f"{os.getpid()} on "
    )
    assert found.endswith("; wait for it, stop it, or choose another training.output_dir")


def test_a_run_name_in_use_is_found(config: Path):
    artifacts = config.parent / "artifacts"
    open_run(artifacts, config=config, run_name="mine", output_dir=artifacts / "model" / "other")
    assert bad(config, "experiment.run_name=mine") == [
        "FAIL  output_dir: the run name mine is in use by run_001, and its training YAML would be "
        "overwritten; choose another experiment.run_name, or wait for it"
    ]
    assert bad(config) == []


def test_only_a_complete_checkpoint_can_be_continued(config: Path):
    directory = output_dir_of(config)
    asked = "training.resume_from_checkpoint"
    assert of("resume", bad(config, f"{asked}=latest")) == [
        f"FAIL  resume: resume_from_checkpoint: {directory} holds no complete checkpoint; remove "
        "training.resume_from_checkpoint to start from the beginning"
    ]
    checkpoint = directory / "checkpoint-4"
    checkpoint.mkdir()
    (found,) = of("resume", bad(config, f"{asked}={checkpoint}"))
    assert "no complete checkpoint with optimizer state (checkpoint.json is missing)" in found
    manifest = checkpoint / "checkpoint.json"
    manifest.write_text('{"step": 4, "files": {"weights": 3}}')
    (found,) = of("resume", bad(config, f"{asked}={checkpoint}"))
    assert f"{manifest}: not a manifest of ours, or of an earlier version" in found
    manifest.write_text('{"step": 4, "files": {"weights": {"size": 3, "sha256": ""}}}')
    (found,) = of("resume", bad(config, f"{asked}={checkpoint}"))
    assert f"{checkpoint}/weights: missing or not 3 bytes long" in found
    (checkpoint / "weights").write_text("abc")
    found = lines(config, f"{asked}=latest")
    assert of("resume", found) == [f"OK    resume: {checkpoint} is complete, step 4"]
    assert of("output_dir", found) == [f"OK    output_dir: {directory}: continued"]


def test_checkpoints_without_optimizer_are_pointed_out(config: Path):
    (found,) = bad(config, "training.save_only_model=true")
    assert found.startswith("WARN  resume: save_only_model leaves the optimizer out")


def test_too_little_disk_is_found(config: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(output, "disk_free_bytes", lambda path: 10**6)
    (found,) = bad(config)
    assert found.startswith("FAIL  disk: 0.0 GiB free, about 0.2 GiB needed; free space, lower ")


# --- machine


def gpus(count: int, memory_bytes: int = 80 * 2**30) -> list[Accelerator]:
    return [
        Accelerator(f"GPU-{i}", "NVIDIA H200", memory_bytes, memory_bytes) for i in range(count)
    ]


def test_more_ranks_than_accelerators_are_found(config: Path, monkeypatch: pytest.MonkeyPatch):
    import pipeline.step2_train as step2

    monkeypatch.setattr(step2, "accelerators", lambda: gpus(2))
    assert "OK    accelerators: 2 of 2 used (NVIDIA H200)" in lines(config)
    assert bad(config, "infrastructure.n_gpus_per_node=8") == [
        "FAIL  accelerators: infrastructure.n_gpus_per_node is 8, but 2 are visible (NVIDIA H200); "
        "lower it, write auto, or check CUDA_VISIBLE_DEVICES"
    ]


def test_more_ranks_than_cores_are_pointed_out(config: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "cpu_count", lambda: 2)
    assert of("accelerators", bad(config, "infrastructure.n_gpus_per_node=5")) == [
        "WARN  accelerators: 5 ranks share 2 CPU cores; lower infrastructure.n_gpus_per_node"
    ]


def test_credentials_and_trackers_are_checked(config: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    (found,) = of("credentials", bad(config, "credentials.wandb_api_key=env:NO_SUCH_KEY"))
    assert "FAIL  credentials: " in found
    assert "NO_SUCH_KEY" in found
    monkeypatch.setattr(machine_checks, "is_installed", lambda package: False)
    (found,) = of("credentials", bad(config, "experiment.wandb_mode=offline"))
    assert found.startswith("FAIL  credentials: wandb is asked for, but not installed; pip install")
    monkeypatch.setattr(machine_checks, "is_installed", lambda package: True)
    (found,) = of("credentials", bad(config, "experiment.wandb_mode=online"))
    assert found.startswith("WARN  credentials: wandb online without credentials.wandb_api_key")
    found = lines(config, "experiment.wandb_mode=offline")
    assert of("credentials", found) == ["OK    credentials: wandb offline"]
    found = lines(config, "experiment.wandb_mode=offline", "training.report_to=[tensorboard]")
    expected = ["OK    credentials: tensorboard", "OK    credentials: wandb offline"]
    assert of("credentials", found) == expected


# --- model, template, tokens, memory


def test_a_model_path_that_is_not_there_is_no_hub_id(config: Path):
    found = bad(config, "model.model_name_or_path=../models/mine")
    assert of("model", found) == [
        "FAIL  model: runtime_info.input.model.model_name_or_path: no such directory (got "
        f"{ROOT}/../models/mine); give the directory of a model, or a Hub id such as Qwen/Qwen3-8B"
    ]
    assert [line.split()[1] for line in found] == ["model:", "tokens:", "disk:"]


def test_an_unknown_builtin_model_is_reported_once(config: Path):
    found = bad(config, "model.model_name_or_path=builtin:tiny")
    assert [line.split()[:2] for line in found] == [
        ["FAIL", "model:"],
        ["WARN", "tokens:"],
        ["WARN", "disk:"],
    ]
    assert "no such builtin model (got builtin:tiny); use builtin:tiny-qwen3" in found[0]


def test_a_model_directory_must_be_whole(config: Path, model: Path):
    broken = config.parent / "model"
    shutil.copytree(model, broken)
    (broken / "model.safetensors").unlink()
    asked = f"model.model_name_or_path={broken}"
    assert bad(config, asked) == [
        f"FAIL  model: {broken}: holds no weights (model.safetensors or pytorch_model.bin); "
        "download the model again, or check model.model_name_or_path"
    ]
    shards = {"a": "model-00001.safetensors", "b": "model-00002.safetensors"}
    (broken / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (broken / shards["a"]).touch()
    assert model_files.missing_weights(broken) == (
        "1 of 2 weight files are missing, such as model-00002.safetensors"
    )
    empty = config.parent / "empty"
    empty.mkdir()
    (found,) = of("model", bad(config, f"model.model_name_or_path={empty}"))
    assert f"{empty}: neither a model directory nor a Hub model that can be reached (" in found


def test_a_tokenizer_without_chat_template_is_found(config: Path, model: Path):
    plain = config.parent / "model"
    shutil.copytree(model, plain)
    (plain / "chat_template.jinja").unlink()
    assert bad(config, f"model.model_name_or_path={plain}") == [
        "FAIL  template: the tokenizer has no chat template, so there is no knowing how the model "
        "is served; use an instruction-tuned model or add chat_template.jinja beside it"
    ]


def test_a_cutoff_below_the_shortest_example_is_found(config: Path):
    (found,) = bad(config, "training.cutoff_len=8")
    assert found.startswith("FAIL  tokens: cutoff_len: no example fits into 8 tokens; the shortest")
    (found,) = bad(config, "training.cutoff_len=400")
    assert found.startswith("WARN  tokens: ")
    assert "turns lie beyond training.cutoff_len 400 and would not be trained" in found
    assert "(cutoff_policy truncate_turns; longest example: " in found


def test_the_cutoff_policy_decides_what_is_lost(config: Path):
    def examples(policy: str) -> tuple[str, int]:
        found = lines(config, "training.cutoff_len=1000", f"training.cutoff_policy={policy}")
        tokens = of("tokens", found)
        return tokens[0], int(re.findall(r"(\d+) examples and", tokens[-1])[0])

    (drops, dropped), (cuts, cut), (_, windows) = map(
        examples, ("drop", "truncate_turns", "window")
    )
    assert dropped < cut < windows
    lost = [int(found.split()[2]) for found in (drops, cuts)]
    assert lost[0] > lost[1] > 0
    assert bad(config, "training.cutoff_len=1000", "training.cutoff_policy=window") == []
    (found,) = bad(config, "training.cutoff_len=1000", "training.cutoff_policy=error")
    assert re.fullmatch(
        r"FAIL  tokens: cutoff_len: \d+ examples are longer than 1,000 tokens; the first: dataset "
        r"demo: row \d+ has [\d,]+ tokens; raise training.cutoff_len, or choose what to do with "
        r"them \(training.cutoff_policy\)",
        found,
    )


def test_a_cutoff_beyond_the_positions_of_the_model_is_refused(config: Path):
    (found,) = bad(config, "training.cutoff_len=10000000")
    assert found.startswith("FAIL  model: training.cutoff_len 10,000,000 exceeds the model's ")
    assert found.endswith("lower it, or stretch them with training.rope_scaling (yarn)")
    assert not bad(config, "training.cutoff_len=50000", "training.rope_scaling=yarn")
    (found,) = bad(config, "training.rope_scaling=yarn")
    assert found.startswith("WARN  model: training.rope_scaling stretches nothing")


def test_shared_sequences_are_checked_and_counted(config: Path):
    shared = ("training.deepspeed=null", "training.sequence_parallel_size=2")
    found = lines(config, *shared)
    assert of("sequences", found) == ["OK    sequences: each is shared by 2 of 2 ranks (ulysses)"]
    alone = lines(config, "infrastructure.n_gpus_per_node=1", "training.deepspeed=null")
    assert of("tokens", found) == of("tokens", alone)
    for overrides, message in (
        (("infrastructure.n_gpus_per_node=3",), "3 ranks cannot be split into groups of 2"),
        (("training.flash_attn=disabled",), "flash_attn: disabled: sequence_parallel_size 2 has"),
    ):
        [line] = [line for line in bad(config, *shared, *overrides) if line.startswith("FAIL")]
        assert message in line


def test_memory_that_does_not_suffice_is_found_with_what_would(
    config: Path, monkeypatch: pytest.MonkeyPatch
):
    row = {"conversations": conversations(1)[0]["conversations"][:2]}
    (config.parent / "rows.json").write_text(json.dumps([row] * 4))
    local = ("source.type=local_lf", f"source.lf_path={config.parent}/rows.json")
    keys = (*local, "training.per_device_train_batch_size=2", "infrastructure.n_gpus_per_node=1")
    found = of("memory", lines(config, *keys))[0]
    planned = float(re.findall(r"memory: ([\d.]+) MiB per rank at its peak", found)[0]) * 2**20
    monkeypatch.setattr(memory, "memory", lambda: Memory(2**31, int(planned)))
    (found,) = bad(config, *keys)
    assert found.startswith("WARN  memory: ")
    assert re.search(r"; set in training: \w+: \S+ \(saves [\d.]+ [GM]iB\)", found)
    monkeypatch.setattr(memory, "memory", lambda: Memory(2**31, 2**20))
    (found,) = bad(config, *keys)
    assert found.startswith("FAIL  memory: ")
    assert ", not enough alone)" in found


def test_a_refused_run_starts_nothing_and_is_archived(config: Path):
    done = sft("run", "--config", config, "training.cutoff_len=8")
    assert done.returncode == 3
    assert error_of(done) == (
        "the dry run has 1 FAIL; nothing was started; mend what they name and start again"
    )
    artifacts = config.parent / "artifacts"
    assert sorted(path.name for path in artifacts.iterdir()) == ["archives", "index.yaml", "locks"]
    report = json.loads((artifacts / "archives" / "run_001" / "dryrun.json").read_bytes())
    assert report["passed"] is False


def test_a_file_that_the_source_type_does_not_read_is_named(config: Path):
    assert (
        "WARN  config: source.lf_path has no effect with source.type harbor_job; "
        "write source.type: local_lf to read it"
    ) in bad(config, "source.lf_path=examples.json")
