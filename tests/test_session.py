"""A whole run through the command: recorded from its start, stopped well, continued exactly.

Real training on two ranks, shared between the tests. Run: pytest tests/test_session.py
"""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import filelock
import psutil
import pytest
from sft_command import ROOT, Running, error_of, index_of, load, sft, write_config

STEPS = 6
TRAINING = {"max_steps": STEPS, "save_steps": 2, "save_total_limit": 5}
TOKEN = "hf_" + "abcdefghij0123456789" * 2
NO_PROCESS_SECONDS = 30


def losses(output_dir: Path) -> list[float]:
    lines = (output_dir / "trainer_log.jsonl").read_text("utf-8").splitlines()
    return [entry["loss"] for line in lines if "loss" in (entry := json.loads(line))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, Running]:
    """A run from a config in a directory with spaces, edited while it trained."""
    directory = tmp_path_factory.mktemp("a whole run")
    config = write_config(directory / "my config.yaml", training=TRAINING)
    text = config.read_text("utf-8").replace("output: null", "output: null   # results")
    text = f"# Mine. \u00fcber\n# {TOKEN}\n{text}"
    before = text.replace("\n", "\r\n").encode("utf-8-sig")
    config.write_bytes(before)
    config.chmod(0o640)
    running = Running("run", "training.seed=7", SFT_CONFIG=str(config))
    try:
        running.wait_for(r"step 1/6")
        edited = config.read_bytes().replace(b"# Mine.", b"# Edited while it ran.")
        config.write_bytes(edited)
        assert running.end() == 0, running.text
    finally:
        running.kill()
    return config, before, running


def test_a_run_ends_with_its_files_and_an_index_entry(finished):
    config, _, running = finished
    (entry,) = index_of(config)
    assert entry["status"] == "completed"
    assert entry["exit_code"] == 0
    assert entry["config"] == str(config)
    assert Path(entry["output_dir"], "model.safetensors").is_file()
    assert running.lines[-1].startswith("archived as ")
    assert len(losses(Path(entry["output_dir"]))) == STEPS


def test_write_back_changes_output_alone(finished):
    config, before, _ = finished
    after = config.read_bytes()
    head = before[: before.index(b"  output: null")]
    assert after.startswith(head.replace(b"# Mine.", b"# Edited while it ran."))
    assert b"\n" not in after.replace(b"\r\n", b"")
    assert config.stat().st_mode & 0o777 == 0o640
    output = load(config)["runtime_info"]["output"]
    assert output["run"]["id"] == "run_001"
    assert output["run"]["overrides"] == ["training.seed=7"]
    assert output["training_metrics"]["value"]["total_steps"] == STEPS
    assert Path(output["checkpoint_path"]["value"], "config.json").is_file()


def test_the_archive_holds_the_run_as_it_started(finished):
    config, before, _ = finished
    archive = config.parent / "artifacts" / "archives" / "run_001"
    kept = (archive / "config.yaml").read_bytes()
    assert kept == before.replace(TOKEN.encode(), b"<redacted>")
    assert load(archive / "metadata.yaml")["status"] == "completed"
    assert load(archive / "metadata.yaml")["overrides"] == ["training.seed=7"]
    assert load(archive / "train.yaml")["seed"] == 7
    assert "training.seed=7" in (archive / "command").read_text()
    environment = json.loads((archive / "environment.json").read_bytes())
    assert environment["packages"]["torch"]
    assert environment["machine"]["cpu_count"] >= 1
    assert len(json.loads((archive / "git.json").read_bytes())["commit"]) == 40
    assert (archive / "git.diff").is_file()
    hashes = json.loads((archive / "datasets.json").read_bytes())
    lf_file = config.parent / "artifacts" / "data" / "lf_data" / "demo.json"
    assert hashes[str(lf_file)]["size_bytes"] == lf_file.stat().st_size
    assert json.loads((archive / "dryrun.json").read_bytes())["passed"] is True
    assert json.loads((archive / "train_command.json").read_bytes())[-2] == "pipeline.trainer"


def test_another_config_leaves_the_shipped_one_alone(finished):
    shipped = (ROOT / "config.yaml").read_bytes()
    assert str(finished[0].parent).encode() not in shipped


@pytest.fixture(scope="module")
def interrupted(finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Running, float]:
    """The same training in another output_dir, stopped by SIGTERM after its third step."""
    config = write_config(
        tmp_path_factory.mktemp("interrupted") / "config.yaml", training=TRAINING | {"seed": 7}
    )
    running = Running("run", "--config", config)
    try:
        running.wait_for(r"^step 2: .*torch.distributed.run")
        refused = sft("train", "--config", config)
        assert refused.returncode == 3
        assert "the output_dir is in use by run_001 (pid " in error_of(refused)
        running.wait_for(r"step 3/")
        running.signal(signal.SIGTERM)
        asked_at = time.monotonic()
        assert running.end(NO_PROCESS_SECONDS) == 75, running.text
    finally:
        running.kill()
    return config, running, time.monotonic() - asked_at


def test_a_signal_saves_and_leaves_no_process(interrupted):
    config, running, seconds = interrupted
    assert running.left() == []
    assert seconds < NO_PROCESS_SECONDS
    (entry,) = index_of(config)
    assert (entry["status"], entry["exit_code"]) == ("interrupted", 75)
    assert entry["notes"].startswith("SIGTERM: training stopped, checkpoint-")
    output = load(config)["runtime_info"]["output"]
    checkpoint = Path(output["last_checkpoint"]["value"])
    assert (checkpoint / "checkpoint.json").is_file()
    assert output["checkpoint_path"]["value"] is None
    assert not (Path(entry["output_dir"]).with_suffix(".lock")).exists()


def test_resuming_gives_the_losses_of_the_uninterrupted_run(interrupted, finished):
    config, _, _ = interrupted
    done = sft("run", "--config", config, "training.resume_from_checkpoint=latest")
    assert done.returncode == 0, done.stderr
    whole = losses(finished[0].parent / "artifacts" / "model" / "demo")
    continued = losses(config.parent / "artifacts" / "model" / "demo")
    assert continued == pytest.approx(whole, abs=1e-6)
    assert [run["status"] for run in index_of(config)] == ["interrupted", "completed"]


def test_a_signal_while_the_model_loads_is_no_success_of_an_earlier_run(finished, tmp_path: Path):
    """The output_dir holds a completed run; its status file must not speak for this one."""
    config, _, _ = finished
    running = Running("train", "--config", config)
    try:
        running.wait_for(r"^step 2: ")
        deadline = time.monotonic() + 30
        while len(running.ranks()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        running.signal(signal.SIGINT)
        assert running.end() == 130, running.text
    finally:
        running.kill()
    assert running.left() == []
    assert running.lines[-1] == "error: SIGINT: training stopped, nothing was saved"
    output = load(config)["runtime_info"]["output"]
    assert output["run"]["status"] == "interrupted"
    assert output["last_checkpoint"]["value"] is None
    assert output["training_metrics"]["value"]["final_loss"] is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_dry_run_is_recorded_as_interrupted(number, tmp_path: Path):
    config = write_config(tmp_path / "config.yaml")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    running = Running("run", "--config", config, TMPDIR=str(scratch))
    try:
        deadline = time.monotonic() + 30
        while not list(scratch.glob("sft-dryrun-*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        running.signal(number)
        assert running.end(30) == 130, running.text
    finally:
        running.kill()
    (entry,) = index_of(config)
    assert (entry["status"], entry["exit_code"]) == ("interrupted", 130)
    assert entry["notes"] == f"stopped by {number.name}"
    assert list(scratch.glob("sft-dryrun-*")) == []


def test_a_signal_while_waiting_for_another_conversion_ends_the_run(tmp_path: Path):
    config = write_config(tmp_path / "config.yaml")
    locks = tmp_path / "artifacts" / "locks"
    locks.mkdir(parents=True)
    with filelock.FileLock(locks / "data-demo.lock"):
        running = Running("train", "--config", config)
        running.wait_for("waiting for another run that prepares demo")
        running.signal(signal.SIGTERM)
        assert running.end(10) == 130, running.text
    assert running.lines[-1] == "error: stopped by SIGTERM"


def test_a_signal_in_the_middle_of_a_conversion_leaves_no_data(tmp_path: Path):
    job = tmp_path / "job"
    job.mkdir()
    trial = next(ROOT.glob("examples/job/*/agent/litellm-trajectory.jsonl")).parents[1]
    for number in range(4000):
        (job / f"same__{number:07d}").symlink_to(trial)
    config = write_config(
        tmp_path / "config.yaml",
        source={"job_dir": str(job)},
        conversion={"instance_status": "all", "exclude_repos_file": ""},
    )
    running = Running("prep", "--config", config)
    running.wait_for("step 0: converting")
    time.sleep(1.0)
    running.signal(signal.SIGTERM)
    assert running.end(15) == 130, running.text
    assert running.left() == []
    data = tmp_path / "artifacts" / "data"
    # Converted trials may stay, and their lock: the next run goes on from there.
    files = [path for path in data.rglob("*") if path.is_file()]
    assert [path for path in files if path.parent.suffix != ".parts"] == []


@pytest.fixture
def training(tmp_path: Path) -> Iterator[tuple[Path, Running]]:
    """A run that is in the middle of a long training."""
    config = write_config(tmp_path / "config.yaml", training={"max_steps": 500})
    running = Running("run", "--config", config)
    try:
        running.wait_for(r"step 2/500")
        yield config, running
    finally:
        running.kill()


def wait_until_gone(processes: list[psutil.Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(process.is_running() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_a_second_signal_kills_at_once(training):
    _, running = training
    for rank in running.ranks():
        rank.suspend()  # so that it cannot save
    running.signal(signal.SIGINT)
    time.sleep(1)
    running.signal(signal.SIGINT)
    assert running.end(20) == 130, running.text
    assert running.left() == []
    assert "stopping the training by force: asked again" in running.text


@pytest.mark.slow
def test_a_killed_run_leaves_no_trainer_and_the_next_one_takes_over(training):
    config, running = training
    processes = list(running.descendants())
    running.process.kill()
    wait_until_gone(processes, NO_PROCESS_SECONDS)
    assert index_of(config)[0]["status"] == "running"
    taking_over = sft("train", "--config", config, "training.overwrite_output_dir=false")
    assert taking_over.returncode == 1
    assert "its owner run_001 (pid " in taking_over.stderr
    refused = sft("run", "--config", config, "source.job_dir=/nowhere")
    assert refused.returncode == 3
    assert "run_001: marked died: its process vanished without" in refused.stderr
    assert [run["status"] for run in index_of(config)] == ["died", "refused"]


@pytest.mark.slow
def test_a_rank_killed_by_the_kernel_is_named_as_the_cause(training):
    config, running = training
    ranks = running.ranks()
    assert len(ranks) == 2
    ranks[0].kill()
    assert running.end(60) == 1, running.text
    assert "a rank was killed with SIGKILL" in running.lines[-1]
    assert "use fewer ranks, a shorter cutoff_len or offload" in running.lines[-1]
    assert running.left() == []
    assert index_of(config)[0]["status"] == "failed"


@pytest.mark.slow
def test_clean_and_other_runs_leave_a_live_run_alone(training):
    config, running = training
    cleaned = sft("clean", "--config", config, "--artifacts", "--yes")
    assert cleaned.returncode == 0
    assert Path(index_of(config)[0]["output_dir"]).is_dir()
    refused = sft("run", "--config", config)
    assert refused.returncode == 3
    assert "belongs to a run that is alive: run_001" in refused.stderr
    other = sft("run", "--config", config, "training.output_dir=other", "training.max_steps=2")
    assert other.returncode == 0, other.stderr
    same_name = sft(
        "run", "--config", config, "training.output_dir=third", "experiment.run_name=demo"
    )
    assert same_name.returncode == 3
    assert "the run name demo is in use by run_001" in same_name.stderr
    assert running.process.poll() is None
    running.signal(signal.SIGHUP)
    assert running.end(NO_PROCESS_SECONDS) == 75, running.text
    statuses = [run["status"] for run in index_of(config)]
    assert statuses == ["interrupted", "refused", "completed", "refused"]


@pytest.mark.slow
def test_archive_takes_the_record_of_a_plain_training(tmp_path: Path):
    config = write_config(tmp_path / "config.yaml")
    assert sft("train", "--config", config).returncode == 0
    (metadata,) = (config.parent / "artifacts" / "model").glob("*/record/metadata.yaml")
    ended_at = load(metadata)["completed_at"]
    done = sft("archive", "--config", config, "--notes", "a trial")
    assert done.returncode == 0, done.stderr
    archive = Path(done.stdout.strip())
    assert load(archive / "metadata.yaml")["status"] == "completed"
    assert load(archive / "train.yaml")["max_steps"] == 2
    (entry,) = index_of(config)
    assert (entry["status"], entry["notes"]) == ("completed", "a trial")
    assert entry["completed_at"] == ended_at, "when it ran, not when it was archived"
    again = sft("archive", "--config", config)
    assert again.returncode == 1
    assert "no run to archive; `sft train` leaves one" in error_of(again)
