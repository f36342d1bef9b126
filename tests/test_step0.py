"""STEP 0 loses nothing, leaves nothing half-written and repeats nothing that is current.

Run: pytest tests/test_step0.py
"""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import progress
from pipeline.conversion import trial, workers
from pipeline.conversion.eval_leaks import EvalLeaks
from pipeline.conversion.source import HarborJob
from pipeline.conversion.trial import TrialOptions
from pipeline.errors import DataError
from pipeline.quality.leaks.repo_filter import parse_repos
from pipeline.scaffolds import SCAFFOLDS
from pipeline.step0_convert import ConvertOptions, convert, peek, stale_reason

ROOT = Path(__file__).parent.parent
EXAMPLE_JOB = ROOT / "examples" / "job"
EXCLUDED = (ROOT / "training_config" / "excluded_repos.txt").read_text()
LEAKS = EvalLeaks(tuple(parse_repos(EXCLUDED, "excluded_repos.txt")))
OPTIONS = ConvertOptions(trial=TrialOptions(leaks=LEAKS), num_workers=1)
FILES = ("im.jsonl", "lf.json", "lf.rejected.jsonl", "lf.stats.json", "lf.manifest.json")


def run(job, out, display=None, **options):
    files = (out / "im.jsonl", out / "lf.json")
    return convert(HarborJob(job), *files, replace(OPTIONS, **options), display)


def files_in(out):
    """Names of all files but converted trials, which a later run goes on from."""
    return {path.name for path in out.iterdir() if path.name != "im.jsonl.parts"}


def read_rejects(out):
    return [json.loads(line) for line in (out / "lf.rejected.jsonl").read_text().splitlines()]


def message_record(*messages, answer="done"):
    return {
        "request_body": {"messages": list(messages), "tools": [{"name": "t", "input_schema": {}}]},
        "response_body": {"content": [{"type": "text", "text": answer}]},
    }


def make_job(job, **logs):
    """A job of claude-code trials: name -> records of its log, or its text."""
    for name, log in logs.items():
        (job / name / "agent").mkdir(parents=True)
        (job / name / "config.json").write_text(json.dumps({"agent": {"name": "claude-code"}}))
        text = log if isinstance(log, str) else "".join(json.dumps(r) + "\n" for r in log)
        (job / name / "agent" / "litellm-trajectory.jsonl").write_text(text)
    return job


GOOD = [message_record({"role": "user", "content": "hi"})]
BAD = [message_record({"role": "user", "content": "<|im_end|>"})]


def test_example_job_is_converted_and_every_trial_accounted_for(tmp_path):
    report = run(EXAMPLE_JOB, tmp_path)
    assert report.line() == (
        "step 0: 32 trials read, 26 kept as 27 conversations, 6 rejected (3 other_status, "
        "1 excluded_repo, 1 missing_trajectory, 1 unanswered_tool_call) -> "
        f"{tmp_path / 'im.jsonl'}"
    )
    kept = {
        json.loads(line)["meta_info"]["unique_info"]["_trial_id"] for line in im_lines(tmp_path)
    }
    rejected = {r["trial"] for r in read_rejects(tmp_path)} - kept
    trials = {path.name for path in EXAMPLE_JOB.iterdir() if path.is_dir()}
    assert kept | rejected == trials
    assert (len(kept), len(rejected)) == (26, 6)
    reasons = json.loads((tmp_path / "lf.stats.json").read_text())["rejected"]
    assert {"warmup", "title_call", "bad_json"} <= reasons.keys()


def im_lines(out):
    return (out / "im.jsonl").read_text().splitlines()


def test_lf_file_is_an_array_with_one_example_per_line(tmp_path):
    run(EXAMPLE_JOB, tmp_path)
    text = (tmp_path / "lf.json").read_text()
    rows = json.loads(text)
    assert len(text.splitlines()) == len(rows) + 2
    ids = [json.loads(line)["meta_info"]["unique_info"]["_trial_id"] for line in im_lines(tmp_path)]
    assert [row["_trial_id"] for row in rows] == ids == sorted(ids)


def test_workers_write_the_same_bytes(tmp_path):
    run(EXAMPLE_JOB, tmp_path / "a", num_workers=1)
    run(EXAMPLE_JOB, tmp_path / "b", num_workers=2)
    for name in FILES[:-1]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_unchanged_run_is_skipped_and_any_change_runs_again(tmp_path):
    job = make_job(tmp_path / "job", a=GOOD, b=GOOD)
    out = tmp_path / "out"

    def why(**options):
        files = (out / "im.jsonl", out / "lf.json")
        return stale_reason(HarborJob(job), *files, replace(OPTIONS, **options))

    assert why() == "there is no finished conversion"
    run(job, out)
    assert why() is None
    before = {name: (out / name).stat().st_ino for name in FILES}
    report = run(job, out, num_workers=2)
    assert report.skipped
    assert "2 trials read, 2 kept" in report.line()
    assert "(skipped: input, options and code are unchanged)" in report.line()
    assert {name: (out / name).stat().st_ino for name in FILES} == before
    one = replace(OPTIONS.selection, max_instances=1)
    assert why(selection=one) == "max_instances changed (0 -> 1)"
    named = replace(OPTIONS.trial, scaffold="claude-code")
    assert why(trial=named) == "scaffold changed (auto -> claude-code)"
    log = job / "a" / "agent" / "litellm-trajectory.jsonl"
    os.utime(log, ns=(1, 1))
    assert why() is None  # touched, but the bytes are the same
    log.write_text(json.dumps(message_record({"role": "user", "content": "ho"})) + "\n")
    assert why() == "input a/agent/litellm-trajectory.jsonl changed"
    run(job, out)
    (job / "a" / "result.json").write_text("{}")
    assert why() == "new input a/result.json"
    run(job, out)
    shutil.rmtree(job / "b")
    assert why() == "input b/agent/litellm-trajectory.jsonl is gone"
    run(job, out)
    (out / "lf.json").write_text("[]")
    assert why() == "output lf changed"
    run(job, out)
    (out / "lf.manifest.json").write_text("{}")
    assert why() == "there is no finished conversion"


def test_too_many_defects_stop_the_step_but_the_rejects_are_written(tmp_path):
    job = make_job(tmp_path / "job", a=GOOD, b=BAD, c=BAD)
    with pytest.raises(DataError) as error:
        run(job, tmp_path / "out")
    assert str(error.value) == (
        f"{tmp_path / 'out' / 'lf.rejected.jsonl'}: 2 of 3 selected trials cannot be used "
        "(2 structural_token); this file says why for each; a wider instance_status or a higher "
        "runtime_info.input.conversion.max_reject_fraction (now 0.5) lets more pass"
    )
    assert files_in(tmp_path / "out") == {"lf.rejected.jsonl"}
    assert len(read_rejects(tmp_path / "out")) == 2
    assert run(job, tmp_path / "out", max_reject_fraction=0.7).counts["kept"] == 1


def test_job_of_which_nothing_is_kept_is_refused(tmp_path):
    job = make_job(tmp_path / "job", a=GOOD)
    (job / "a" / "result.json").write_text('{"verifier_result": {"rewards": {"reward": 0}}}')
    with pytest.raises(DataError, match=r"none of 1 trials was kept \(1 other_status\);"):
        run(job, tmp_path / "out", max_reject_fraction=1.0)


def test_missing_job_is_refused_with_the_key_to_change(tmp_path):
    with pytest.raises(DataError, match="no such directory; set runtime_info.input.source.job_dir"):
        run(tmp_path / "none", tmp_path / "out")


def test_files_that_no_scaffold_knows_are_refused(tmp_path):
    job = make_job(tmp_path / "job", a=GOOD, b=GOOD, c=GOOD)
    (job / "b" / "agent" / "litellm-trajectory.jsonl").unlink()
    shutil.copy(job / "a" / "agent" / "litellm-trajectory.jsonl", job / "b" / "agent" / "x.jsonl")
    (job / "c" / "config.json").write_text("{}")
    (job / "c" / "agent" / "litellm-trajectory.jsonl").write_text('{"calls": []}')
    run(job, tmp_path / "out", max_reject_fraction=1.0)
    assert [(r["trial"], r["reason"]) for r in read_rejects(tmp_path / "out")] == [
        ("b", "missing_trajectory"),
        ("c", "unknown_scaffold"),
    ]
    named = replace(OPTIONS.trial, scaffold="claude-code")
    run(job, tmp_path / "out", trial=named, max_reject_fraction=1.0)
    assert [(r["reason"], r["message"]) for r in read_rejects(tmp_path / "out")][0] == (
        "missing_trajectory",
        "no agent/litellm-trajectory.jsonl, which claude-code needs",
    )


def test_interruption_leaves_the_earlier_outputs_and_no_temporary_file(tmp_path):
    job = make_job(tmp_path / "job", a=GOOD, b=GOOD, c=GOOD)
    out = tmp_path / "out"
    run(job, out)
    before = {name: (out / name).read_bytes() for name in FILES[:-1]}

    class Stop:
        def update(self, done, total):
            raise KeyboardInterrupt

    two = replace(OPTIONS.selection, max_instances=2)
    with pytest.raises(KeyboardInterrupt):
        run(job, out, Stop(), selection=two, num_workers=2)
    assert files_in(out) == set(FILES[:-1])
    assert {name: (out / name).read_bytes() for name in FILES[:-1]} == before
    files = (out / "im.jsonl", out / "lf.json")
    assert stale_reason(HarborJob(job), *files, OPTIONS) == "there is no finished conversion"


def test_progress_counts_selected_trials(tmp_path):
    job = make_job(tmp_path / "job", a=GOOD, b=BAD, c=GOOD)
    seen = []

    class Recorder:
        def update(self, done, total):
            seen.append((done, total))

    run(job, tmp_path / "out", Recorder())
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_peek_converts_a_few_trials_and_writes_nothing(tmp_path):
    job = make_job(tmp_path / "job", a=GOOD, b=BAD, c=GOOD)
    before = sorted(tmp_path.rglob("*"))
    seen = peek(HarborJob(job), OPTIONS, 2)
    assert (seen.num_trials, seen.num_selected, seen.num_converted) == (3, 3, 2)
    assert seen.scaffolds == {"claude-code": 2}
    assert [row["_trial_id"] for row in seen.rows] == ["a"]
    assert [reject.reason.value for reject in seen.rejects] == ["structural_token"]
    assert sorted(tmp_path.rglob("*")) == before


def test_metadata_that_cannot_be_written_is_refused(tmp_path):
    record = GOOD[0] | {"usage": {"note": "cut \ud83d"}}
    run(make_job(tmp_path / "job", a=[record], b=GOOD), tmp_path / "out")
    (reject,) = read_rejects(tmp_path / "out")
    assert (reject["trial"], reject["reason"]) == ("a", "lone_surrogate")


def test_file_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    def fail(files):
        raise OSError(5, "Input/output error", "litellm-trajectory.jsonl")

    scaffold = replace(SCAFFOLDS["claude-code"], parse=fail)
    monkeypatch.setitem(trial.SCAFFOLDS, "claude-code", scaffold)
    with pytest.raises(DataError, match=r"none of 1 trials was kept \(1 unreadable_file\)"):
        run(make_job(tmp_path / "job", a=GOOD), tmp_path / "out")
    (reject,) = read_rejects(tmp_path / "out")
    assert reject["message"] == "litellm-trajectory.jsonl: Input/output error"


def test_full_disk_leaves_nothing_behind(tmp_path):
    job = make_job(tmp_path / "job", **{f"t{i}": GOOD for i in range(40)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            run(job, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files_in(tmp_path / "out") == set()


def test_shipped_example_jobs_are_what_their_script_writes(tmp_path):
    script = ROOT / "examples" / "make_job.py"
    subprocess.run([sys.executable, "-B", str(script), str(tmp_path)], check=True)

    def content(job):
        return {p.relative_to(job): p.read_bytes() for p in job.rglob("*") if p.is_file()}

    for job in ("job", "attempts"):
        assert content(tmp_path / job) == content(ROOT / "examples" / job)


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0)
    with progress.show_progress("step 0", "trials") as display:
        display.update(1, 4)
    line = capsys.readouterr().err
    assert re.fullmatch(r"step 0: 1 of 4 trials, [\d.]+ trials/s, \d+ s left\n", line)


def test_bug_in_a_parser_names_the_trial(tmp_path, monkeypatch):
    def fail(files):
        raise ZeroDivisionError

    scaffold = replace(SCAFFOLDS["claude-code"], parse=fail)
    monkeypatch.setitem(trial.SCAFFOLDS, "claude-code", scaffold)
    job = make_job(tmp_path / "job", a=GOOD)
    with pytest.raises(ZeroDivisionError) as error:
        run(job, tmp_path / "out")
    assert error.value.__notes__ == [f"while converting {job / 'a' / 'agent'}"]


def _die_on_three(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_worker_that_dies_is_an_error_that_names_its_item():
    with (
        pytest.raises(DataError, match=r"^item 3: the worker that converts it died"),
        workers.map_in_order(_die_on_three, [1, 2, 3, 4], 2, lambda n: f"item {n}") as results,
    ):
        list(results)


def _sleep_long(seconds):
    time.sleep(seconds)


def _children_of(pid):
    listing = subprocess.run(
        ["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    pairs = [tuple(map(int, line.split())) for line in listing.stdout.splitlines()]
    children = [child for child, parent in pairs if parent == pid]
    return children + [grandchild for child in children for grandchild in _children_of(child)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the process table")
def test_no_worker_outlives_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys\n"
        f"sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
        "from pipeline.conversion import workers\n"
        "from test_step0 import _sleep_long\n"
        "if __name__ == '__main__':\n"
        "    with workers.map_in_order(_sleep_long, [60] * 4, 2, str) as results:\n"
        "        list(results)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)])
    deadline = time.monotonic() + 20
    while len(_children_of(parent.pid)) < 4 and time.monotonic() < deadline:
        time.sleep(0.2)  # the fork server, the resource tracker and two workers
    family = _children_of(parent.pid)
    assert len(family) >= 4
    time.sleep(1)
    parent.kill()
    parent.wait()
    while any(map(_is_running, family)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_is_running, family))


def _is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
