"""Property: only complete checkpoints are resumed from, and no foreign file is removed.

Run: pytest tests/test_trainer_output_dir.py
"""

import json
from pathlib import Path

import pytest

from pipeline.errors import TrainError
from pipeline.trainer.output_dir import (
    MANIFEST,
    check_output_dir,
    clear_output_dir,
    clear_partial_checkpoints,
    find_resume,
    latest_checkpoint,
    read_checkpoint,
)


def _checkpoint(output_dir: Path, step: int) -> Path:
    directory = output_dir / f"checkpoint-{step}"
    (directory / "state").mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(b"12345")
    (directory / "state" / "rank00000-00.safetensors").write_bytes(b"123")
    sizes = {"model.safetensors": 5, "state/rank00000-00.safetensors": 3}
    files = {name: {"size": size, "sha256": ""} for name, size in sizes.items()}
    (directory / MANIFEST).write_text(json.dumps({"step": step, "files": files}))
    return directory


def test_latest_is_the_highest_step_not_the_last_name(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        _checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-200").write_text("a file")
    latest = latest_checkpoint(tmp_path)
    assert latest is not None
    assert (latest.step, latest.directory.name) == (100, "checkpoint-100")


@pytest.mark.parametrize("damage", ["manifest gone", "manifest cut", "not ours", "short", "gone"])
def test_a_damaged_checkpoint_is_passed_over_by_latest_and_refused_by_name(
    tmp_path: Path, damage: str
) -> None:
    good, bad = _checkpoint(tmp_path, 1), _checkpoint(tmp_path, 2)
    manifest = bad / MANIFEST
    if damage == "manifest gone":
        manifest.unlink()
    elif damage == "manifest cut":
        manifest.write_bytes(manifest.read_bytes()[:-9])
    elif damage == "not ours":
        manifest.write_text('{"something": "else"}')
    elif damage == "short":
        (bad / "model.safetensors").write_bytes(b"1234")
    else:
        (bad / "state" / "rank00000-00.safetensors").unlink()
    messages = {
        "manifest gone": f"{bad}: no complete checkpoint with optimizer state",
        "manifest cut": f"{manifest}: not JSON",
        "not ours": f"{manifest}: not a manifest of ours",
        "short": f"{bad / 'model.safetensors'}: missing or not 5 bytes long",
        "gone": f"{bad / 'state' / 'rank00000-00.safetensors'}: missing or not 3 bytes long",
    }
    with pytest.raises(TrainError) as caught:
        find_resume(tmp_path, str(bad))
    assert str(caught.value).startswith(messages[damage])
    latest = find_resume(tmp_path, "latest")
    assert latest is not None
    assert latest.directory == good


def test_latest_without_a_complete_checkpoint_is_refused(tmp_path: Path) -> None:
    _checkpoint(tmp_path, 1).joinpath(MANIFEST).unlink()
    with pytest.raises(TrainError) as caught:
        find_resume(tmp_path, "latest")
    assert str(caught.value) == (
        f"resume_from_checkpoint: {tmp_path} holds no complete checkpoint; "
        "remove training.resume_from_checkpoint to start from the beginning"
    )
    with pytest.raises(TrainError, match="checkpoint-7: no such checkpoint directory"):
        read_checkpoint(tmp_path / "checkpoint-7")
    assert find_resume(tmp_path, None) is None


def test_a_fresh_run_is_refused_a_directory_that_is_in_use(tmp_path: Path) -> None:
    check_output_dir(tmp_path / "new", overwrite=False, resuming=False)
    check_output_dir(tmp_path, overwrite=False, resuming=False)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TrainError, match=r"holds an earlier run; continue it with training\.res"):
        check_output_dir(tmp_path, overwrite=False, resuming=False)
    with pytest.raises(TrainError, match="not overwritten, because it does not look like"):
        check_output_dir(tmp_path, overwrite=True, resuming=False)
    with pytest.raises(TrainError, match=r"notes\.txt: output_dir is a file; choose another"):
        check_output_dir(tmp_path / "notes.txt", overwrite=True, resuming=False)
    check_output_dir(tmp_path, overwrite=False, resuming=True)
    for sign in ("trainer_status.json", "reference.npy"):
        (tmp_path / sign).write_text("{}")
        check_output_dir(tmp_path, overwrite=True, resuming=False)
        (tmp_path / sign).unlink()


def test_clearing_leaves_foreign_files(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    run = tmp_path / "run"
    _checkpoint(run, 3)
    _checkpoint(elsewhere, 4)
    (run / "checkpoint-4").symlink_to(elsewhere / "checkpoint-4")
    for name in ("trainer_log.jsonl", "trainer_status.json", "train_results.json", "config.json"):
        (run / name).write_text("{}")
    for name in ("model-00001-of-00002.safetensors", "training_loss.png", "tokenizer.json"):
        (run / name).write_bytes(b"")
    (run / "notes.txt").write_text("mine")
    (run / "record").mkdir()
    (run / ".checkpoint-5.partial").mkdir()
    clear_partial_checkpoints(run)
    clear_output_dir(run)
    assert sorted(path.name for path in run.iterdir()) == ["notes.txt", "record"]
    assert (elsewhere / "checkpoint-4" / MANIFEST).is_file()
