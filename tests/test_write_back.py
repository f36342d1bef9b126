"""Results reach config.yaml without another byte changing, and never those of another run.

Run: pytest tests/test_write_back.py
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from sft_command import write_config

from pipeline.config import load_config
from pipeline.paths import RunPaths
from pipeline.runs import write_back as module
from pipeline.runs.write_back import collect_output, write_back
from pipeline.trainer.output_dir import TrainerStatus

RUN = {"id": "run_001", "status": "completed", "exit_code": 0}
OUTPUT: dict[str, Any] = {"run": RUN, "text": "a: #b", "nothing": None}
HEAD = "# head\nmeta_info: {name: x}   # kept\nruntime_info:\n  input: {a: 'b'}\n"


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths.of(load_config(write_config(tmp_path / "shipped" / "config.yaml")).config)


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        (HEAD + "  output: null\n", HEAD),
        (HEAD + "  output: null   # results\n", HEAD),
        (HEAD + "  output:\n    run: {id: old}\n", HEAD),
        (HEAD, HEAD),
        (HEAD.replace("\n", "\r\n") + "  output: null\r\n", HEAD.replace("\n", "\r\n")),
        ("\ufeff" + HEAD + "  output: null\n", "\ufeff" + HEAD),
        (HEAD + "  output: null\n# the end\n", HEAD),
        ("runtime_info:\n    output: {old: 1}\n    input: {a: 1}  # x\n", "runtime_info:\n    "),
    ],
    ids=["null", "comment", "block", "no key", "crlf", "bom", "trailing", "first"],
)
def test_only_the_output_changes(tmp_path: Path, paths: RunPaths, source: str, kept: str):
    config = tmp_path / "config.yaml"
    config.write_bytes(source.encode())
    assert write_back(config, paths, OUTPUT) == config
    written = config.read_bytes()
    assert written.startswith(kept.encode())
    assert (b"\r\n" in written) == ("\r\n" in source)
    before, after = yaml.safe_load(source), yaml.safe_load(written)
    assert after["runtime_info"].pop("output") == OUTPUT
    before["runtime_info"].pop("output", None)
    assert after == before
    for comment in ("# head", "# kept", "# the end", "# x"):
        assert (comment in source) == (comment in written.decode())


def test_what_the_user_changed_during_the_run_stays(tmp_path: Path, paths: RunPaths):
    config = tmp_path / "config.yaml"
    config.write_text(HEAD + "  output: null\n")
    config.write_text(HEAD.replace("'b'", "'changed'") + "  output: null\n")
    write_back(config, paths, OUTPUT)
    assert "a: 'changed'" in config.read_text()


def test_mode_and_link_of_the_config_are_kept(tmp_path: Path, paths: RunPaths):
    real = tmp_path / "elsewhere" / "real.yaml"
    real.parent.mkdir()
    real.write_text(HEAD + "  output: null\n")
    real.chmod(0o640)
    link = tmp_path / "config.yaml"
    link.symlink_to(real)
    write_back(link, paths, OUTPUT)
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert yaml.safe_load(real.read_bytes())["runtime_info"]["output"] == OUTPUT


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (HEAD + "  output: &results {a: 1}\nother: *results\n", "results"),
        ("- a list\n", "mapping"),
        ("a: [\n", "config.yaml"),
    ],
    ids=["anchor", "list", "broken"],
)
def test_a_config_that_cannot_be_edited_exactly_is_left_alone(
    tmp_path: Path,
    paths: RunPaths,
    caplog: pytest.LogCaptureFixture,
    source: str,
    reason: str,
):
    config = tmp_path / "config.yaml"
    config.write_text(source)
    fallback = paths.output_dir / "output.yaml"
    with caplog.at_level(logging.WARNING):
        assert write_back(config, paths, OUTPUT) == fallback
    assert config.read_text() == source
    assert yaml.safe_load(fallback.read_bytes())["output"] == OUTPUT
    (message,) = caplog.messages
    assert message.startswith(f"{config}: left as it is, runtime_info.output cannot be written ")
    assert message.endswith(f"the results are in {fallback}")


def test_a_config_that_cannot_be_written_or_found_leaves_the_results_beside_the_model(
    tmp_path: Path, paths: RunPaths, monkeypatch: pytest.MonkeyPatch
):
    config = tmp_path / "config.yaml"
    fallback = paths.output_dir / "output.yaml"
    assert write_back(config, paths, OUTPUT) == fallback  # it was removed during the run
    assert not config.exists()
    config.write_text(HEAD + "  output: null\n")

    def read_only(path: Path, data: bytes) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    fallback.unlink()
    monkeypatch.setattr(module, "write_bytes", read_only)
    assert write_back(config, paths, OUTPUT) == fallback
    assert config.read_text() == HEAD + "  output: null\n"
    assert yaml.safe_load(fallback.read_bytes())["output"] == OUTPUT


def make_finished_run(output_dir: Path) -> None:
    checkpoint = output_dir / "checkpoint-4"
    checkpoint.mkdir(parents=True)
    (checkpoint / "checkpoint.json").write_text('{"step": 4, "files": {}}')
    state = {"global_step": 4, "log_history": [{"loss": 2.0}, {"loss": 1.5}, {"epoch": 1}]}
    (output_dir / "trainer_state.json").write_text(json.dumps(state))
    (output_dir / "train_results.json").write_text('{"train_loss": 1.75, "train_runtime": 3.0}')
    (output_dir / "training_loss.png").touch()
    (output_dir / "trainer_status.json").write_text(
        '{"status": "completed", "step": 4, "wandb_run_id": "w1"}'
    )


def test_the_results_of_a_completed_run_are_collected(paths: RunPaths):
    make_finished_run(paths.output_dir)
    log = paths.logs / "x.log"
    log.parent.mkdir(parents=True)
    log.touch()
    status = TrainerStatus.read(paths.output_dir).content
    output = collect_output(paths, run=RUN, training_log=log, status=status)
    assert output["run"] == RUN
    assert output["checkpoint_path"]["value"] == str(paths.output_dir)
    assert output["last_checkpoint"]["value"] == str(paths.output_dir / "checkpoint-4")
    assert output["training_curves"]["value"] == "w1"
    assert output["training_metrics"]["value"] == {
        "final_loss": 1.5,
        "train_loss": 1.75,
        "train_runtime": 3.0,
        "total_steps": 4,
    }
    assert output["artifacts"]["training_log"] == str(log)
    assert output["artifacts"]["train_loss_plot"] == str(paths.output_dir / "training_loss.png")


def test_nothing_of_an_earlier_run_is_taken_for_a_result(paths: RunPaths):
    make_finished_run(paths.output_dir)
    paths.train_yaml.parent.mkdir(parents=True)
    paths.train_yaml.touch()
    earlier = TrainerStatus.read(paths.output_dir)
    status = TrainerStatus.read(paths.output_dir).since(earlier)
    assert status == {}
    failed = RUN | {"status": "failed"}
    output = collect_output(paths, run=failed, training_log=paths.logs / "x.log", status=status)
    assert output["checkpoint_path"]["value"] is None
    assert output["last_checkpoint"]["value"] is None
    assert output["training_curves"]["value"] is None
    assert set(output["training_metrics"]["value"].values()) == {None}
    assert set(output["artifacts"].values()) == {None}


def test_a_status_written_again_is_of_this_run(paths: RunPaths):
    make_finished_run(paths.output_dir)
    earlier = TrainerStatus.read(paths.output_dir)
    file = paths.output_dir / "trainer_status.json"
    replacement = file.with_suffix(".new")
    replacement.write_text('{"status": "interrupted", "step": 2}')
    os.utime(replacement, ns=(earlier.version[1], earlier.version[1]))  # a coarse clock
    replacement.replace(file)
    assert TrainerStatus.read(paths.output_dir).since(earlier)["status"] == "interrupted"
