"""No secret gets into the data, nothing else changes, and what was done is counted.

Run: pytest tests/test_quality_secrets.py
"""

import hashlib
import json
import random
import re
from pathlib import Path

import pytest
from planted_secrets import OWN_FORM
from sft_command import error_of, sft, write_config

from pipeline.errors import DataError
from pipeline.quality.secrets.scrub import SecretOptions, SecretScrubber, parse_allow_list
from pipeline.trajectory import Message, ToolCall, Trajectory

DRAW = random.Random(5)
PAT = OWN_FORM["github_pat"](DRAW)
KEY = OWN_FORM["anthropic_key"](DRAW)
PASSWORD = "tR7#kL9-mQ2xW5v"


def trajectory(**arguments):
    call = ToolCall("c1", "Bash", json.dumps(arguments, indent=1))
    return Trajectory(
        [
            Message("user", f"Use {PAT} to push."),
            Message("assistant", f"With {PAT}:", f"The token is {PAT}.", [call]),
            Message("tool", f"DB_PASSWORD={PASSWORD}\n{KEY}", tool_call_id="c1"),
            Message("assistant", f"The database takes {PASSWORD} now."),
        ],
        [{"type": "function", "function": {"name": "Bash", "description": f"token {KEY}"}}],
    )


def scrub(given, **options):
    return SecretScrubber(SecretOptions(**options)).scrub(given)


def test_every_text_is_redacted_and_the_same_secret_has_the_same_placeholder():
    redacted, types = scrub(trajectory(command=f"curl -H 'X: {PAT}' \\\n  \"{KEY}\""))
    assert types == {"github_pat": 1, "anthropic_key": 1, "password": 1}
    user, answer, result, last = redacted.messages
    pat = user.content.removeprefix("Use ").removesuffix(" to push.")
    assert pat.startswith("<SECRET:github_pat:")
    assert answer.content == f"With {pat}:"
    assert answer.reasoning_content == f"The token is {pat}."
    password, key = result.content.removeprefix("DB_PASSWORD=").split("\n")
    assert last.content == f"The database takes {password} now."
    assert redacted.tools[0]["function"]["description"] == f"token {key}"
    arguments = answer.tool_calls[0].parsed_arguments()
    assert arguments == {"command": f"curl -H 'X: {pat}' \\\n  \"{key}\""}


@pytest.mark.parametrize(
    "value",
    [
        f"a\n{PAT}\n",
        f'"{PAT}"',
        f"\\{PAT}",
        PAT[:20] + "\n" + PAT[20:],
        f'{{"token": "{PAT}"}}',
        f"\tC:\\temp\\{PAT}",
        "é\u2028" + PAT,
    ],
)
def test_arguments_stay_json_and_only_the_secret_changes(value):
    redacted, _ = scrub(trajectory(command=value, cwd="C:\\new\\table"))
    arguments = redacted.messages[1].tool_calls[0].parsed_arguments()
    placeholder = redacted.messages[0].content.split()[1]
    broken = PAT[:20] + "\n" + PAT[20:]
    assert arguments == {
        "command": value.replace(broken, placeholder).replace(PAT, placeholder),
        "cwd": "C:\\new\\table",
    }


def test_a_trajectory_without_secrets_is_the_same_object():
    given = Trajectory([Message("user", "hi"), Message("assistant", "done")])
    assert scrub(given) == (given, {})


def test_redacting_again_changes_nothing():
    redacted, _ = scrub(trajectory(command=PAT))
    assert scrub(redacted) == (redacted, {})


def test_placeholders_depend_on_the_key_only():
    first = scrub(trajectory())[0].messages[0].content
    assert (
        scrub(Trajectory([Message("user", f"Use {PAT} to push.")]))[0].messages[0].content == first
    )
    assert scrub(trajectory(), key=b"mine")[0].messages[0].content != first


def test_allowed_secrets_stay():
    allow = parse_allow_list(f"# demo\n{hashlib.sha256(PAT.encode()).hexdigest()}  # ours\n", "a")
    redacted, types = scrub(trajectory(), allow=allow)
    assert PAT in redacted.messages[0].content
    assert "github_pat" not in types


def test_an_allow_list_with_a_secret_is_refused_without_repeating_it():
    with pytest.raises(DataError, match=r"^list.txt:2: not a SHA-256") as error:
        parse_allow_list(f"\n{PAT}\n", "list.txt")
    assert PAT not in str(error.value)


def write_job(directory: Path) -> Path:
    """Two trials; one holds secrets in what the user says, in a call and in its result."""
    call = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": f"echo {PAT}"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": f"{PAT}\nTOKEN={KEY}"}
    for name, messages in {
        "leaky": [
            {"role": "user", "content": f"token {PAT}"},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
        ],
        "plain": [{"role": "user", "content": "hi"}],
    }.items():
        trial = directory / name / "agent"
        trial.mkdir(parents=True)
        (trial.parent / "config.json").write_text('{"agent": {"name": "claude-code"}}')
        tools = [{"name": "Bash", "input_schema": {}}]
        record = {
            "request_body": {"messages": messages, "tools": tools},
            "response_body": {"content": [{"type": "text", "text": f"done, {name}"}]},
        }
        (trial / "litellm-trajectory.jsonl").write_text(json.dumps(record) + "\n")
    return directory


def convert(tmp_path, **secrets):
    config = write_config(
        tmp_path / "config.yaml",
        source={"job_dir": str(write_job(tmp_path / "job"))},
        conversion={"secrets": secrets},
    )
    done = sft("prep", "--config", config)
    data = tmp_path / "artifacts" / "data"
    files = {path.name: path.read_text() for path in data.rglob("demo*") if path.is_file()}
    return done, files


@pytest.mark.parametrize("policy", ["redact", "reject", "keep"])
def test_policy_of_the_config_decides(tmp_path, policy):
    done, files = convert(tmp_path, policy=policy)
    assert done.returncode == 0, done.stderr
    has_secret = {name for name, text in files.items() if PAT in text or KEY in text}
    assert has_secret == ({"demo.jsonl", "demo.json"} if policy == "keep" else set())
    assert PAT not in done.stderr + done.stdout
    counted = json.loads(files["demo.stats.json"])["secrets"]
    source = "leaky/agent/litellm-trajectory.jsonl"
    assert counted == {source: {"anthropic_key": 1, "github_pat": 1}}
    assert "2 secrets in 1 files" in done.stderr
    rejects = [json.loads(line) for line in files["demo.rejected.jsonl"].splitlines()]
    reasons = [(reject["trial"], reject["reason"], reject["kind"]) for reject in rejects]
    assert reasons == ([("leaky", "secret_found", "filtered")] if policy == "reject" else [])
    assert files["demo.jsonl"].count("<SECRET:github_pat:") == (3 if policy == "redact" else 0)


def test_placeholders_are_the_same_in_every_run_with_the_same_key(tmp_path):
    key = tmp_path / "key"
    key.write_text("mine\n")
    _, public = convert(tmp_path / "a")
    _, keyed = convert(tmp_path / "b", hash_key=f"file:{key}")
    assert public["demo.jsonl"] != keyed["demo.jsonl"]
    job = tmp_path / "a" / "job"
    done = sft(
        *("convert", job, "--im", tmp_path / "im", "--lf", tmp_path / "lf"),
        *("--rejected", tmp_path / "rejected"),
    )
    assert "2 secrets in 1 files replaced by placeholders" in done.stderr
    assert PAT not in (tmp_path / "im").read_text() + (tmp_path / "lf").read_text()
    names = set(re.findall(r"<SECRET:[^>]+>", (tmp_path / "im").read_text()))
    assert names == set(re.findall(r"<SECRET:[^>]+>", public["demo.jsonl"]))


def test_allow_file_that_is_missing_is_refused(tmp_path):
    done, _ = convert(tmp_path, allow_file=str(tmp_path / "none.txt"))
    assert done.returncode == 4
    assert "set conversion.secrets.allow_file to a list of hashes" in error_of(done)
