"""What a user can get wrong is answered by the step itself: one line with file, line or key and the
way out, the right exit code, and nothing half-written. (What the dry run says: test_preflight.)

Run: pytest tests/test_bad_input.py
"""

import json
import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
from sft_command import ARGV, ROOT, environment, error_of, index_of, load, sft, write_config

from pipeline.builtin import ensure_builtin

EXAMPLES = ROOT / "examples" / "job"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path / "config.yaml")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_builtin("builtin:tiny-qwen3", tmp_path_factory.mktemp("cache"), EXAMPLES)


def data_files(config: Path) -> list[str]:
    """All but converted trials, which a later run goes on from."""
    files = (path for path in (config.parent / "artifacts" / "data").rglob("*") if path.is_file())
    return sorted(path.name for path in files if path.parent.suffix != ".parts")


def output_of(config: Path) -> dict:
    return load(config)["runtime_info"]["output"]


# --- names that would lead elsewhere


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "experiment.run_name=../../evil",
            "names files, so it must not hold '/' or begin with '.'",
        ),
        ("experiment.run_name=.hidden", "names files, so it must not hold '/' or begin with '.'"),
        ("training.output_dir=/", "must be a directory of this run alone (got '/')"),
        ("training.output_dir=./", "must be a directory of this run alone (got './')"),
        ("training.output_dir=artifacts/model/", "must be a directory of this run alone"),
        ("dataset.name='a,b'", "both engines take commas for separators (got 'a,b')"),
        ("conversion.data_name=../x", "must be a file stem"),
    ],
)
def test_a_name_that_is_none_is_refused(config: Path, override: str, message: str):
    done = sft("run", "--config", config, override)
    assert done.returncode == 2
    assert message in error_of(done)
    assert list(config.parent.iterdir()) == [config]


# --- STEP 0 and 1


@pytest.mark.parametrize(("command", "exists"), [("prep", False), ("train", False), ("prep", True)])
def test_a_missing_or_empty_job(config: Path, command: str, exists: bool):
    job = config.parent / "job"
    if exists:
        job.mkdir()
    done = sft(command, "--config", config, f"source.job_dir={job}")
    assert done.returncode == 4
    what = "holds no trial (a subdirectory with config.json" if exists else "no such"
    assert error_of(done).startswith(f"{job}: {what}")
    assert "set runtime_info.input.source.job_dir to a Harbor job" in error_of(done)
    assert data_files(config) == []


def test_a_job_of_which_every_trial_is_rejected(config: Path):
    agent = config.parent / "job" / "lost__aaaaaaa" / "agent"
    agent.mkdir(parents=True)
    (agent / "litellm-trajectory.jsonl").write_text('{"half": ')
    done = sft("prep", "--config", config, f"source.job_dir={config.parent}/job")
    assert done.returncode == 4
    rejected = config.parent / "artifacts" / "data" / "lf_data" / "demo.rejected.jsonl"
    assert error_of(done).startswith(f"{rejected}: none of 1 trials ")
    assert "max_reject_fraction" in error_of(done)
    assert data_files(config) == ["demo.rejected.jsonl"]
    assert json.loads(rejected.read_text())["trial"] == "lost__aaaaaaa"


def test_half_written_lines_and_missing_results_cost_their_trials_only(config: Path):
    job = config.parent / "job"
    shutil.copytree(EXAMPLES, job)
    for result in [job / "result.json", *job.glob("*/result.json")]:
        result.unlink()
    logs = sorted(job.glob("*/agent/litellm-trajectory.jsonl"))[:3]
    for log in logs:
        log.write_bytes(log.read_bytes()[:-100])
    done = sft("prep", "--config", config, f"source.job_dir={job}")
    assert done.returncode == 0, done.stderr
    assert "no trial has a reward: instance_status resolved is ignored" in done.stderr
    lf_data = config.parent / "artifacts" / "data" / "lf_data"
    rejects = map(json.loads, (lf_data / "demo.rejected.jsonl").read_text().splitlines())
    broken = {r["source_file"]: r for r in rejects if r["reason"] == "bad_json"}
    for log in logs:
        reject = broken[str(log.relative_to(job))]
        assert reject["line"] == len(log.read_bytes().splitlines())
        assert reject["message"].startswith("not JSON, probably half-written: ")
    assert len(json.loads((lf_data / "demo.json").read_bytes())) > 20


@pytest.mark.parametrize("command", [["prep", "--register"], ["train"]], ids=["prep", "train"])
def test_a_corrupt_dataset_info_is_left_as_it_is(config: Path, command: list[str]):
    info = config.parent / "artifacts" / "data" / "lf_data" / "dataset_info.json"
    info.parent.mkdir(parents=True)
    info.write_text('{\n  "mine": ,\n}')
    done = sft(*command, "--config", config)
    assert done.returncode == 4
    assert error_of(done) == (
        f"{info}:2:11: not JSON (Expecting value); repair it, or move it away and register the "
        "datasets again"
    )
    assert info.read_text() == '{\n  "mine": ,\n}'


def test_a_dataset_on_the_hub_that_cannot_be_reached(config: Path):
    for extra in ([], ["source.hf_file_name=data.json"]):
        done = sft(
            *("prep", "--config", config, "source.type=hf_lf"),
            *("source.hf_hub_url=no-such-owner/no-such-data", *extra),
        )
        assert done.returncode == 4
        assert error_of(done).startswith(
            "source.hf_hub_url: no-such-owner/no-such-data: cannot be downloaded: "
        )
        assert error_of(done).endswith("or download it and use source.type: local_lf")


# --- what stops `sft train` before it converts


@pytest.mark.parametrize(
    ("override", "status", "message"),
    [
        (
            "model.model_name_or_path=/nowhere/model",
            2,
            "runtime_info.input.model.model_name_or_path: no such directory (got /nowhere/model); "
            "give the directory of a model, or a Hub id such as Qwen/Qwen3-8B",
        ),
        (
            "model.model_name_or_path=builtin:tiny",
            2,
            "runtime_info.input.model.model_name_or_path: no such builtin model",
        ),
        (
            "training.resume_from_checkpoint=/nowhere/checkpoint-4",
            1,
            "/nowhere/checkpoint-4: no such checkpoint directory",
        ),
        ("credentials.hf_token=env:NOT_SET_ANYWHERE", 2, "NOT_SET_ANYWHERE"),
    ],
)
def test_what_can_be_known_is_said_before_the_conversion(
    config: Path, override: str, status: int, message: str
):
    done = sft("train", "--config", config, override)
    assert done.returncode == status
    assert message in error_of(done)
    assert data_files(config) == []


def test_the_output_dir_of_another_run(config: Path):
    output_dir = config.parent / "artifacts" / "model" / "demo"
    output_dir.mkdir(parents=True)
    (output_dir / "trainer_status.json").write_text('{"status": "completed"}')
    (output_dir / "model.safetensors").write_text("precious")
    done = sft("train", "--config", config, "training.overwrite_output_dir=false")
    assert done.returncode == 1
    assert error_of(done).startswith(f"{output_dir}: holds an earlier run; continue it with ")
    assert (output_dir / "model.safetensors").read_text() == "precious"
    assert data_files(config) == []
    assert output_of(config)["run"]["status"] == "failed"
    assert output_of(config)["checkpoint_path"]["value"] is None


# --- what only STEP 2 can know


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("cutoff", "cutoff_len: no example fits into 8 tokens"),
        pytest.param("template", "the tokenizer has no chat template", marks=pytest.mark.slow),
    ],
)
def test_data_that_cannot_be_tokenised_fails_before_any_rank_starts(
    config: Path, model: Path, case: str, message: str
):
    override = "training.cutoff_len=8"
    if case == "template":
        changed = config.parent / "model"
        shutil.copytree(model, changed)
        (changed / "chat_template.jinja").unlink()
        override = f"model.model_name_or_path={changed}"
    done = sft("train", "--config", config, override)
    assert message in error_of(done)
    assert done.returncode == 4
    assert "torch.distributed.run" not in done.stderr
    assert output_of(config)["run"]["notes"] == error_of(done)


@pytest.mark.parametrize(
    ("case", "status", "message"),
    [
        pytest.param(
            *("deepspeed", 2, "train_batch_size is 64, but the run needs 4"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("not a number", 1, "step 1: the loss is nan; the update was not saved"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_failure_of_the_trainer_is_named_with_its_cause(
    config: Path, model: Path, case: str, status: int, message: str
):
    if case == "deepspeed":
        file = config.parent / "ds.json"
        file.write_text('{"zero_optimization": {"stage": 2}, "train_batch_size": 64}')
        override = f"training.deepspeed={file}"
    else:
        changed = config.parent / "model"
        shutil.copytree(model, changed)
        fill_with_nan(changed / "model.safetensors")
        override = f"model.model_name_or_path={changed}"
    done = sft("train", "--config", config, override)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: training failed: ")
    assert message in last
    assert done.returncode == status
    assert "; whole log: " in last
    assert output_of(config)["run"]["notes"] == last.removeprefix("error: ")
    assert output_of(config)["checkpoint_path"]["value"] is None


def fill_with_nan(file: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(file)
    save_file(
        {name: tensor.fill_(float("nan")) for name, tensor in weights.items()},
        file,
        metadata={"format": "pt"},
    )


# --- the machine


def test_artifacts_below_a_file(config: Path):
    (config.parent / "file").touch()
    override = f"infrastructure.artifacts_dir={config.parent}/file/a"
    refused = sft("run", "--config", config, override)
    assert refused.returncode == 3
    assert error_of(refused).startswith("infrastructure.artifacts_dir: no run can be recorded: ")
    failed = sft("prep", "--config", config, override)
    assert failed.returncode == 1
    assert f"{config.parent}/file/a" in error_of(failed)
    assert "a file stands where a directory should be; choose another path" in error_of(failed)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_artifacts_that_may_not_be_written(config: Path):
    closed = config.parent / "closed"
    closed.mkdir(mode=0o500)
    override = f"infrastructure.artifacts_dir={closed}/a"
    assert sft("run", "--config", config, override).returncode == 3
    failed = sft("prep", "--config", config, override)
    assert failed.returncode == 1
    assert "Permission denied; check its permissions" in error_of(failed)


def limited(config: Path, *arguments: str, bytes_per_file: int) -> subprocess.CompletedProcess[str]:
    """The command on a disk that takes no more than this into one file."""
    return subprocess.run(
        [*ARGV, *arguments, "--config", str(config)],
        capture_output=True,
        text=True,
        env=environment(),
        preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (bytes_per_file, bytes_per_file)
        ),
    )


def test_a_full_disk_during_the_conversion(config: Path):
    done = limited(config, "prep", bytes_per_file=50_000)
    assert done.returncode == 1
    im_file = config.parent / "artifacts" / "data" / "im_data" / "demo.jsonl"
    assert error_of(done).startswith(f"{im_file}: File too large; raise the limit")
    assert data_files(config) == []


def test_a_full_disk_while_the_run_is_recorded(config: Path):
    done = limited(config, "run", bytes_per_file=2000)
    assert done.returncode == 1
    archive = config.parent / "artifacts" / "archives" / "run_001"
    assert error_of(done).startswith(f"{archive}/")
    (entry,) = index_of(config)
    assert entry["status"] == "failed"
    assert "File too large" in entry["notes"]
    assert not [path for path in archive.iterdir() if path.suffix == ".tmp"]


@pytest.mark.slow
def test_a_full_disk_during_a_checkpoint(config: Path):
    """Half a checkpoint is none: the next run starts over and takes its place away."""
    too_small = limited(config, "train", bytes_per_file=600_000)
    assert too_small.returncode == 1
    assert "the builtin model cannot be written: " in error_of(too_small)
    done = limited(config, "train", bytes_per_file=1_200_000)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: training failed: ")
    output_dir = config.parent / "artifacts" / "model" / "demo"
    assert list(output_dir.glob("checkpoint-*")) == []
    assert output_of(config)["last_checkpoint"]["value"] is None
    again = sft("train", "--config", config)
    assert again.returncode == 0, again.stderr
    assert list(output_dir.glob(".checkpoint-*")) == []
