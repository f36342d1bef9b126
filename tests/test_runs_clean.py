"""Clean removes what was generated and nothing else, least of all from under a live run.

Run: pytest tests/test_runs_clean.py
"""

from collections.abc import Iterable
from pathlib import Path

import filelock
import pytest
import yaml

from pipeline.runs.clean import CleanError, CleanPlan, apply, plan_clean
from pipeline.runs.index import close_run, open_run
from pipeline.runs.lock import RunLock
from pipeline.runs.record import RunStatus


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "my project"
    for name in (
        "pipeline/code.py",
        "pipeline/__pycache__/code.pyc",
        "tests/deep/__pycache__/t.pyc",
        ".venv/lib/__pycache__/x.pyc",
        "env/pyvenv.cfg",
        "env/lib/__pycache__/x.pyc",
        "artifacts/data/lf_data/d.json",
        "artifacts/cache/tiny/config.json",
        "artifacts/logs/old.log",
        "artifacts/model/old/model.safetensors",
        "artifacts/model/team/live/checkpoint-2/w",
        "artifacts/model/team/old/w",
        "artifacts/model/base/w",
        "artifacts/training_config/live.yaml",
        "artifacts/training_config/old.yaml",
        "artifacts/thesis.tex",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("12345")
    return root


def plan(
    root: Path, *, pycache: bool = False, artifacts: bool = False, repo_cache: bool = False
) -> CleanPlan:
    return plan_clean(
        root,
        root / "artifacts",
        pycache=pycache,
        artifacts_too=artifacts,
        repo_cache=repo_cache,
    )


def names(root: Path, paths: Iterable[Path]) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in paths)


def test_default_removes_only_the_projects_own_pycache(root: Path) -> None:
    planned = plan(root, pycache=True)
    assert names(root, planned.paths) == ["pipeline/__pycache__", "tests/deep/__pycache__"]
    assert planned.total_bytes == 10
    assert apply(planned) == 10
    assert (root / "pipeline/code.py").exists()
    assert (root / ".venv/lib/__pycache__/x.pyc").exists()
    assert (root / "env/lib/__pycache__/x.pyc").exists()
    assert plan(root, pycache=True).paths == ()


def test_planning_changes_nothing(root: Path) -> None:
    before = sorted(root.rglob("*"))
    plan(root, pycache=True, artifacts=True, repo_cache=True)
    assert sorted(root.rglob("*")) == before


def test_artifacts_go_but_strangers_stay_and_are_named(root: Path) -> None:
    planned = plan(root, artifacts=True)
    assert names(root, planned.kept_because) == ["artifacts/thesis.tex"]
    apply(planned)
    assert names(root, (root / "artifacts").iterdir()) == [
        "artifacts/locks",
        "artifacts/thesis.tex",
    ]


def test_repo_cache_alone(root: Path) -> None:
    planned = plan(root, repo_cache=True)
    assert names(root, planned.paths) == ["artifacts/cache"]
    apply(planned)
    assert (root / "artifacts/data/lf_data/d.json").exists()


def test_everything_of_a_live_run_stays(root: Path) -> None:
    artifacts = root / "artifacts"
    output_dir = artifacts / "model" / "team" / "live"
    handle = open_run(artifacts, config=root / "c", run_name="live", output_dir=output_dir)
    resolved = {"model": {"model_name_or_path": "artifacts/model/base"}, "n": [1, "\0"]}
    (handle.directory / "resolved.yaml").write_text(yaml.safe_dump(resolved))
    with RunLock(output_dir, handle.run_id):
        planned = plan(root, artifacts=True, repo_cache=True)
        assert names(root, planned.paths) == [
            "artifacts/model/old",
            "artifacts/model/team/old",
            "artifacts/training_config/old.yaml",
        ]
        assert planned.kept_because[artifacts / "data"] == "in use by run_001"
        kept = names(root, planned.kept_because)
        assert {"artifacts/index.yaml", "artifacts/archives", "artifacts/cache"} <= set(kept)
        assert {"artifacts/model/team/live", "artifacts/model/base"} <= set(kept)
        apply(planned)
        assert (output_dir / "checkpoint-2" / "w").exists()
        assert output_dir.with_name("live.lock").exists()
    close_run(handle, status=RunStatus.COMPLETED, exit_code=0)
    assert plan(root, artifacts=True).live_runs == frozenset()


def test_lock_without_an_index_entry_protects_too(root: Path) -> None:
    output_dir = root / "artifacts" / "model" / "team" / "live"
    with RunLock(output_dir, "train"):
        planned = plan(root, artifacts=True)
        assert names(root, plan(root, repo_cache=True).paths) == []
    assert planned.kept_because[output_dir] == "in use by train (live)"
    assert root / "artifacts" / "model" / "team" not in planned.paths


def test_data_that_is_being_prepared_stays(root: Path) -> None:
    locks = root / "artifacts" / "locks"
    locks.mkdir()
    with filelock.FileLock(locks / "data-demo.lock"):
        planned = plan(root, artifacts=True)
    assert planned.kept_because[root / "artifacts/data"] == "in use by the preparation of demo"
    assert root / "artifacts/data" in plan(root, artifacts=True).paths


def test_run_that_starts_after_planning_stops_the_removal(root: Path) -> None:
    planned = plan(root, artifacts=True)
    with (
        RunLock(root / "artifacts" / "model" / "old", "run_001"),
        pytest.raises(CleanError, match=r"a run has started meanwhile \(run_001 \(old\)\); run cl"),
    ):
        apply(planned)
    assert (root / "artifacts/model/old/model.safetensors").exists()


def test_links_are_removed_and_never_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (root / "artifacts/model/link").symlink_to(outside)
    (root / "artifacts/wandb").symlink_to(outside)
    (root / "pipeline/linked").symlink_to(outside)
    (outside / "__pycache__").mkdir()
    planned = plan(root, pycache=True, artifacts=True)
    apply(planned)
    assert names(outside, outside.iterdir()) == ["__pycache__", "precious"]
    assert not (root / "artifacts/wandb").is_symlink()


def test_artifacts_on_another_disk_are_cleaned_through_the_link(root: Path, tmp_path: Path) -> None:
    (root / "artifacts").rename(tmp_path / "big disk")
    (root / "artifacts").symlink_to(tmp_path / "big disk")
    apply(plan(root, artifacts=True))
    assert not (tmp_path / "big disk" / "model").exists()
    assert (root / "artifacts").is_symlink()


@pytest.mark.parametrize("place", ["/", "~", "project", "above"])
def test_directory_that_is_no_artifacts_directory_is_refused(
    root: Path, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    artifacts = {"/": Path("/"), "~": home, "project": root, "above": root.parent}[place]
    with pytest.raises(CleanError, match=r"holds the .*, so it is not cleaned; set infrastruct"):
        plan_clean(root, artifacts, pycache=True, artifacts_too=True, repo_cache=False)


def test_missing_artifacts_directory_is_nothing_to_clean(root: Path) -> None:
    planned = plan_clean(root, root / "none", pycache=False, artifacts_too=True, repo_cache=True)
    assert apply(planned) == 0
    assert not (root / "none").exists()
