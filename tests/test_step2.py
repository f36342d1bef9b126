"""config.yaml -> training YAML, command, environment, and what is made of how the trainer ended.

Run: pytest tests/test_step2.py
"""

import json
import os
import re
import sys
from pathlib import Path

import pytest
import yaml
from sft_command import ROOT, sft, write_config
from trainer_runs import conversations, write_dataset

from pipeline import step2_train
from pipeline.config import load_config
from pipeline.config.load import LoadedConfig
from pipeline.errors import (
    ConfigError,
    DataError,
    InterruptedRun,
    LaunchError,
    PipelineError,
    TrainError,
)
from pipeline.launch.diagnosis import diagnose
from pipeline.launch.signals import StopRequests
from pipeline.launch.supervise import Outcome
from pipeline.launch.torchrun import build_environment
from pipeline.paths import RunPaths
from pipeline.step2_train import (
    Launch,
    dataset_files,
    model_path,
    nproc_per_node,
    plan_launch,
    render_train_yaml,
    resume_directory,
    tokenize,
    train,
    training_values,
)
from pipeline.trainer.args import NATIVE_KEYS, TrainArgs, load_train_args
from pipeline.trainer.data.store import open_store
from pipeline.trainer.llamafactory_keys import LLAMAFACTORY_KEYS


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path / "config.yaml")


def loaded(config: Path, *overrides: str) -> tuple[LoadedConfig, RunPaths]:
    found = load_config(config, overrides)
    return found, RunPaths.of(found.config)


def rendered(config: Path, *overrides: str) -> str:
    given, paths = loaded(config, *overrides)
    return render_train_yaml(training_values(given.config, paths, model="/m"), given.path)


# --- the training YAML


def test_the_yaml_says_what_the_config_says(config: Path):
    text = rendered(config, "training.learning_rate=1e-5", "training.warmup_ratio=0.03")
    file = config.parent / "train.yaml"
    file.write_text(text)
    args = load_train_args(file)
    given, paths = loaded(config)
    want = given.config.runtime_info.input.training.model_dump()
    want |= {
        "learning_rate": 1e-5,
        "warmup_ratio": 0.03,
        "deepspeed": str(ROOT / "training_config/deepspeed/ds_z3_config.json"),
        "output_dir": str(paths.output_dir),
    }
    assert args.model_dump(include=set(want)) == want
    assert args.model_name_or_path == "/m"
    assert (args.dataset, args.dataset_dir) == ("demo", str(paths.dataset_dir))
    assert args.run_name == "demo"
    assert text.startswith(f"# Generated from {config} by sft-pipeline ")


def test_datasets_are_mixed(config: Path):
    values = yaml.safe_load(
        rendered(
            config,
            "dataset.mixed_with=[more, others]",
            "training.mix_strategy=interleave_over",
            "training.interleave_probs='0.5,0.3,0.2'",
            "training.eval_dataset=held",
        )
    )
    assert (values["dataset"], values["eval_dataset"]) == ("demo,more,others", "held")
    dataset_dir = Path(values["dataset_dir"])
    for name in ("demo", "more", "others", "held"):
        write_dataset(dataset_dir, [], name)
    files = [file.name for file in dataset_files(values)]
    assert files == ["demo.json", "more.json", "others.json", "held.json"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["dataset.mixed_with=[more]", "training.eval_dataset=more"],
            "training: 'more' is named twice and in eval_dataset; name it once",
        ),
        (
            ["training.mix_strategy=interleave_once", "training.interleave_probs='0.5,0.5'"],
            "training: 1 dataset to train on, but interleave_probs has 2 numbers",
        ),
    ],
)
def test_names_of_datasets_that_do_not_agree_are_refused(
    config: Path, overrides: list[str], message: str
):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(config, overrides)


def test_deepspeed_null_is_no_deepspeed(config: Path):
    file = config.parent / "train.yaml"
    file.write_text(rendered(config, "training.deepspeed=null"))
    assert load_train_args(file).deepspeed is None


def test_fsdp_and_its_details_reach_the_engine(config: Path):
    fsdp = ("training.deepspeed=null", "training.fsdp=full_shard auto_wrap")
    text = rendered(config, *fsdp, "training.fsdp_config={mp_shard_size: 4}")
    file = config.parent / "train.yaml"
    file.write_text(text)
    args = load_train_args(file)
    assert (args.fsdp, args.fsdp_config.mp_shard_size) == ("full_shard auto_wrap", 4)
    assert "fsdp_config" not in rendered(config, "training.fsdp_config={mp_shard_size: 4}")


def test_every_key_is_known_to_llamafactory_or_the_native_engine(config: Path):
    keys = set(yaml.safe_load(rendered(config)))
    assert keys <= set(TrainArgs.model_fields)
    assert not keys & LLAMAFACTORY_KEYS  # which are the ones only the other engine has
    assert "template" not in keys  # auto: the model's own in both engines


def test_llamafactory_gets_its_own_keys_and_template(config: Path):
    values = yaml.safe_load(
        rendered(
            config,
            "infrastructure.engine=llamafactory",
            "infrastructure.llamafactory_python=/x/python",
            "training.template=qwen3",
            "training.finetuning_type=lora",
            "training.lora_rank=16",
        )
    )
    assert (values["template"], values["finetuning_type"], values["lora_rank"]) == (
        *("qwen3", "lora"),
        16,
    )
    assert not values.keys() & NATIVE_KEYS
    ours = {"curriculum", "cutoff_policy", "reasoning_history", "loss_weights", "template_date"}
    assert ours <= NATIVE_KEYS


def test_a_key_of_the_native_engine_is_refused_for_llamafactory(config: Path):
    engine = ("infrastructure.engine=llamafactory", "infrastructure.llamafactory_python=/x/python")
    with pytest.raises(ConfigError, match="cutoff_policy: only the native engine has it; remove"):
        load_config(config, (*engine, "training.cutoff_policy=drop"))


def test_a_token_store_of_the_users_choice_is_relative_to_the_project(config: Path):
    values = yaml.safe_load(rendered(config, "training.tokenized_path=artifacts/t"))
    assert values["tokenized_path"] == str(ROOT / "artifacts" / "t")


def test_the_launcher_makes_the_token_store_and_says_what_policies_would_lose(
    config: Path, tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    given, paths = loaded(config, "training.cutoff_len=60", "training.cutoff_policy=window")
    write_dataset(paths.dataset_dir, conversations(10))
    values = training_values(given.config, paths, model=str(tiny_model))
    with caplog.at_level("INFO"):
        directory = tokenize(values)
    assert directory.parent == paths.dataset_dir / "tokens"
    args = TrainArgs.model_validate(values | {"tokenized_path": str(directory)})
    assert max(open_store(args).lengths) <= 60
    lines = [line for line in caplog.messages if line.startswith("step 2: cutoff_len 60, ")]
    assert len(lines) == 3
    assert lines[-1].endswith("window (chosen): 0 trained tokens, 0 turns and 0 rows lost")


def test_llamafactory_is_not_given_what_it_may_not_know(config: Path):
    engine = ("infrastructure.engine=llamafactory", "infrastructure.llamafactory_python=/x/python")
    values = yaml.safe_load(rendered(config, *engine, "training.packing=true"))
    assert values["packing"] is True
    assert not NATIVE_KEYS & values.keys()
    assert "group_by_length" not in values
    values = yaml.safe_load(rendered(config, *engine, "training.group_by_length=true"))
    assert values["group_by_length"] is True


@pytest.mark.parametrize(
    "text", ["plain", "with: colon", "# no comment", "'", '"', "caf\u00e9", "1e-5", "null", "a\nb"]
)
def test_any_text_survives_the_yaml(config: Path, text: str):
    given, paths = loaded(config)
    values = training_values(given.config, paths, model=text)
    assert yaml.safe_load(render_train_yaml(values, given.path))["model_name_or_path"] == text


def test_the_yaml_is_the_same_every_time(config: Path):
    assert rendered(config) == rendered(config)


def test_wandb_is_reported_to_when_its_mode_says_so(config: Path):
    assert yaml.safe_load(rendered(config))["report_to"] == "none"
    assert yaml.safe_load(rendered(config, "experiment.wandb_mode=offline"))["report_to"] == "wandb"


def make_checkpoint(directory: Path, step: int) -> Path:
    checkpoint = directory / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "checkpoint.json").write_text(json.dumps({"step": step, "files": {}}))
    return checkpoint


def test_resume_is_resolved_to_a_complete_checkpoint(config: Path):
    output_dir = loaded(config)[1].output_dir
    older, newer = make_checkpoint(output_dir, 9), make_checkpoint(output_dir, 10)
    (output_dir / "checkpoint-11").mkdir()  # its save was cut short
    assert resume_directory(output_dir, "latest", native=True) == newer
    for asked in ("latest", str(older)):  # the trainer may find that the newest is damaged
        values = yaml.safe_load(rendered(config, f"training.resume_from_checkpoint={asked}"))
        assert values["resume_from_checkpoint"] == asked
    with pytest.raises(TrainError, match=r"checkpoint-11: no complete checkpoint"):
        rendered(config, f"training.resume_from_checkpoint={output_dir}/checkpoint-11")


def test_checkpoints_of_llamafactory_need_no_manifest_of_ours(config: Path):
    engine = (
        "infrastructure.engine=llamafactory",
        "infrastructure.llamafactory_python=/x/python",
        "training.resume_from_checkpoint=latest",
    )
    output_dir = loaded(config)[1].output_dir
    with pytest.raises(TrainError, match=r"no checkpoint with a trainer_state.json \(got "):
        rendered(config, *engine)
    for step in (9, 10):
        checkpoint = output_dir / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "trainer_state.json").write_text("{}")
    values = yaml.safe_load(rendered(config, *engine))
    assert values["resume_from_checkpoint"] == str(output_dir / "checkpoint-10")


# --- model and ranks


def test_a_model_is_a_directory_a_hub_id_or_builtin(config: Path, tmp_path: Path):
    (tmp_path / "m").mkdir()
    for name, expected in (
        (str(tmp_path / "m"), str(tmp_path / "m")),
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("gpt2", "gpt2"),
        ("training_config", str(ROOT / "training_config")),
    ):
        given, paths = loaded(config, f"model.model_name_or_path={name}")
        assert model_path(given.config, paths, build=False) == expected
    given, paths = loaded(config)
    builtin = Path(model_path(given.config, paths, build=False))
    assert builtin.is_relative_to(paths.cache)
    assert not builtin.exists()


@pytest.mark.parametrize("name", ["/nowhere/m", "./m", "../m", "~/nowhere/m", "a/b/c"])
def test_a_path_that_is_not_there_is_not_taken_for_a_hub_id(config: Path, name: str):
    given, paths = loaded(config, f"model.model_name_or_path={name}")
    with pytest.raises(ConfigError, match=r"model_name_or_path: no such directory \(got /"):
        model_path(given.config, paths, build=False)


def test_auto_ranks_follow_the_accelerators(config: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(step2_train, "accelerators", lambda: ["a", "b", "c"])
    assert nproc_per_node(loaded(config)[0].config) == 3
    monkeypatch.setattr(step2_train, "cpu_count", lambda: 1)
    assert nproc_per_node(loaded(config, "training.use_cpu=true")[0].config) == 1
    assert nproc_per_node(loaded(config, "infrastructure.n_gpus_per_node=7")[0].config) == 7


# --- command and environment


def test_the_native_engine_is_started_by_torchrun(config: Path):
    given, paths = loaded(config, "infrastructure.n_gpus_per_node=2")
    launch = plan_launch(given.config, paths, "run_004")
    assert launch.argv[:4] == [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    assert "--nproc-per-node=2" in launch.argv
    assert launch.argv[-3:] == ["-m", "pipeline.trainer", str(paths.train_yaml)]
    assert launch.env["FORCE_TORCHRUN"] == "1"
    assert launch.env["NPROC_PER_NODE"] == "2"
    assert launch.env["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    assert launch.log_file == paths.logs / "demo-run_004.log"


def test_secrets_and_tracker_reach_the_environment_only(
    config: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MY_KEY", "k" * 40)
    given, paths = loaded(
        config,
        "credentials.wandb_api_key=env:MY_KEY",
        "experiment.wandb_mode=offline",
        "experiment.wandb_run_id=abc",
    )
    launch = plan_launch(given.config, paths, "run_001")
    assert launch.env["WANDB_API_KEY"] == "k" * 40
    assert launch.env["WANDB_MODE"] == "offline"
    assert launch.env["WANDB_DIR"] == str(paths.artifacts)
    assert (launch.env["WANDB_RUN_ID"], launch.env["WANDB_RESUME"]) == ("abc", "allow")
    assert "k" * 40 not in " ".join(launch.argv)
    assert "k" * 40 not in render_train_yaml(
        training_values(given.config, paths, model="m"), given.path
    )


def test_what_the_user_set_wins_over_defaults_and_foreign_ranks_go(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("RANK", "5")
    env = build_environment(2, num_cpus=8, uses_accelerator=False, extra={})
    assert env["OMP_NUM_THREADS"] == "3"
    assert "RANK" not in env
    monkeypatch.delenv("OMP_NUM_THREADS")
    for uses_accelerator, threads in ((False, "4"), (True, "1")):
        env = build_environment(2, num_cpus=8, uses_accelerator=uses_accelerator, extra={})
        assert env["OMP_NUM_THREADS"] == threads


def test_llamafactory_is_started_in_its_own_environment(config: Path):
    python = config.parent / "env with space" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = -c ]; then echo 0.9.5; exit; fi\n'
        'echo "$@"; echo "$FORCE_TORCHRUN $NPROC_PER_NODE"; echo "$PATH"\n'
    )
    python.chmod(0o755)
    done = sft(
        "train",
        "--config",
        config,
        "infrastructure.engine=llamafactory",
        f"infrastructure.llamafactory_python={python}",
        "infrastructure.n_gpus_per_node=2",
        "training.template=qwen3",
    )
    assert done.returncode == 0, done.stderr
    train_yaml = config.parent / "artifacts" / "training_config" / "demo.yaml"
    printed = done.stderr.splitlines()
    start = printed.index(f"-m llamafactory.cli train {train_yaml}")
    assert printed[start + 1] == "1 2"
    assert printed[start + 2].startswith(f"{python.parent}:")
    assert yaml.safe_load(train_yaml.read_bytes())["template"] == "qwen3"


# --- how it ended


def write_error(rank_logs: Path, rank: int, message: str, timestamp: int = 100) -> None:
    file = rank_logs / "attempt_0" / str(rank) / "error.json"
    file.parent.mkdir(parents=True)
    extra = {"timestamp": str(timestamp), "py_callstack": "..."}
    file.write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}))


def ended(returncode: int = 1, *tail: str) -> Outcome:
    return Outcome(returncode, None, False, list(tail))


ECHO = "RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1"


@pytest.mark.parametrize("blamed", [0, 1])
@pytest.mark.parametrize(
    ("message", "kind", "text"),
    [
        ("TrainError: step 3: the loss is nan", TrainError, "step 3: the loss is nan"),
        ("DataError: no example fits", DataError, "no example fits"),
        ("ConfigError: ds.json: wrong", ConfigError, "ds.json: wrong"),
        ("KeyError: 'x'\nmore", LaunchError, "KeyError: 'x'"),
        (
            "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
            LaunchError,
            "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
        ),
    ],
)
def test_the_rank_that_failed_is_named_not_the_one_that_lost_it(
    tmp_path: Path, blamed: int, message: str, kind: type[PipelineError], text: str
):
    write_error(tmp_path, blamed, message)
    write_error(tmp_path, 1 - blamed, ECHO)
    error = diagnose(ended(), tmp_path, Path("run.log"))
    assert type(error) is kind
    assert str(error) == f"training failed: {text}; whole log: run.log"


def test_the_first_of_two_failures_is_named(tmp_path: Path):
    write_error(tmp_path, 0, "ValueError: second", 101)
    write_error(tmp_path, 1, "ValueError: first", 100)
    assert "ValueError: first" in str(diagnose(ended(), tmp_path, Path("x")))


def test_a_killed_rank_is_named_before_its_echo(tmp_path: Path):
    write_error(tmp_path, 1, ECHO)
    error = diagnose(ended(1, "traceback : Signal 9 (SIGKILL) received by PID 7"), tmp_path, Path())
    assert "a rank was killed with SIGKILL" in str(error)


def test_without_any_word_the_exit_status_is_given(tmp_path: Path):
    (tmp_path / "error.json").write_text('{"message": ')
    error = diagnose(ended(3), tmp_path, Path("run.log"))
    assert str(error) == "training failed with exit status 3; whole log: run.log"


@pytest.fixture
def scripted(config: Path):
    """Run a shell script in the place of the trainer."""

    def run(script: str, *overrides: str) -> None:
        given, paths = loaded(config, *overrides)
        paths.output_dir.mkdir(parents=True, exist_ok=True)
        logs = config.parent / "logs"
        launch = Launch(
            train_yaml=paths.train_yaml,
            argv=["sh", "-c", script],
            env={"PATH": os.environ["PATH"], "OUT": str(paths.output_dir)},
            log_file=logs / "x.log",
            rank_logs=logs / "ranks",
            nproc_per_node=1,
        )
        with StopRequests() as stop:
            train(given, paths, launch, "run_001", stop)

    return run


INTERRUPTED = '{"status": "interrupted", "step": 4, "signal": "SIGTERM"}'


def test_a_trainer_that_was_stopped_from_outside_is_interrupted_too(scripted):
    """A scheduler may signal the ranks and not us."""
    with pytest.raises(InterruptedRun, match="SIGTERM: training stopped, checkpoint-4 is saved"):
        scripted(f"echo '{INTERRUPTED}' > $OUT/trainer_status.json")


def test_a_status_of_an_earlier_run_does_not_speak_for_this_one(scripted, config: Path):
    status = loaded(config)[1].output_dir / "trainer_status.json"
    status.parent.mkdir(parents=True)
    stop_us = f"kill -TERM {os.getpid()}; sleep 30"
    for earlier in ('{"status": "completed", "step": 9}', INTERRUPTED):
        status.write_text(earlier)
        with pytest.raises(InterruptedRun, match="nothing was saved") as caught:
            scripted(stop_us)
        assert caught.value.exit_code == 130
    scripted("true")  # and an end without a word is no interruption


def test_a_failure_keeps_its_log(scripted, config: Path):
    with pytest.raises(LaunchError, match="failed with exit status 7; whole log: .*x.log"):
        scripted("echo here >&2; exit 7")
    assert " here" in (config.parent / "logs" / "x.log").read_text()
