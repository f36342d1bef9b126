"""Secrets leave no sink, and nothing else changes.

Run: pytest tests/test_runs_redact.py
"""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runs.redact import redact_data, redact_diff, redact_text, redact_yaml

HF = "hf_" + "aB3" * 11
GITHUB = "ghp_" + "x9" * 18
JWT = "eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSMeKKF2QT4"
HEX40 = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("password: hunter2", "password: <redacted>"),
        ("password: my pass phrase  # note", "password: <redacted>  # note"),
        ("pwd: 1234", "pwd: <redacted>"),
        ("  hf_token: 'abc'   ", "  hf_token: '<redacted>'   "),
        ('{"api_key": "abc", "user": "bob"}', '{"api_key": "<redacted>", "user": "bob"}'),
        (r"{\"apiKey\": \"abc\"}", r"{\"apiKey\": \"<redacted>\"}"),
        ("api_keys: [abc]", "api_keys: [<redacted>]"),
        ("{password: abc, user: bob}", "{password: <redacted>, user: bob}"),
        (f"WANDB_API_KEY={HEX40} next", "WANDB_API_KEY=<redacted> next"),
        ("INFO login: password=abc user=bob", "INFO login: password=<redacted> user=bob"),
        ("sft run --api-key abc --model x", "sft run --api-key <redacted> --model x"),
        ("credentials.hf_token=abc", "credentials.hf_token=<redacted>"),
        (f"wandb login {HEX40}", "wandb login <redacted>"),
        ("Authorization: Bearer abcdefghijklmnop", "Authorization: <redacted>"),
        ("curl -H 'x: Bearer abcdefghijklmnop'", "curl -H 'x: Bearer <redacted>'"),
        (f"note: found {HF}.", "note: found <redacted>."),
        (f"{GITHUB},{JWT}", "<redacted>,<redacted>"),
        ("AKIAIOSFODNN7EXAMPLE", "<redacted>"),
        ("see sk-ant-api03-abcdefghijklmnop now", "see <redacted> now"),
        ("git clone https://me:pw@host/r.git", "git clone https://<redacted>@host/r.git"),
        ("password: a\r\nuser: b\r\n", "password: <redacted>\r\nuser: b\r\n"),
    ],
)
def test_secrets_are_replaced_where_they_stand(before: str, after: str) -> None:
    assert redact_text(before) == after


@pytest.mark.parametrize(
    "text",
    [
        "api_key: env:WANDB_API_KEY",
        "hf_token: file:~/.token",
        "token: $HF_TOKEN",
        "token: null",
        "password: ''",
        "use_auth_token: true",
        "cutoff_len_tokens: 4096",
        "train_tokens_per_second: 12.5, loss_per_token: 0.3",
        "eos_token: '<|im_end|>'",
        "pad_token: x",
        "num_input_token: 17",
        "token_file: ~/.token",
        "image_token: <image>",
        "dataset_key: demo",
        "monkey: see",
        f"commit {HEX40}",
        "branch sk-learn-contrib-some-other-thing",
        "git@github.com:me/repo.git",
        "mail me@host.org, path a/b@c",
        "hf_hub_url: https://hub/x/y",
        "tokenizer: hf_internal",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact_text(text) == text


def test_private_key_keeps_its_lines() -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\ndef\n-----END OPENSSH PRIVATE KEY-----\nafter"
    assert redact_text(key).splitlines() == [
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "<redacted>",
        "<redacted>",
        "-----END OPENSSH PRIVATE KEY-----",
        "after",
    ]


def test_truncated_private_key_is_redacted_to_the_end() -> None:
    assert "abc" not in redact_text("-----BEGIN RSA PRIVATE KEY-----\nabc")


def test_yaml_values_on_lines_of_their_own_are_found_and_layout_stays() -> None:
    before = (
        b"\xef\xbb\xbf# my config\r\n"
        b"resources:\r\n"
        b"  pwd: |\r\n    hunter2\r\n    hunter3\r\n"
        b"  api_keys: [abc,   def]  # two\r\n"
        b'  secret:\r\n    "one\r\n     two"\r\n'
        b"  name:   kept\r\n"
    )
    after = redact_yaml(before)
    for secret in (b"hunter", b"abc", b"def]", b"one", b'two"'):
        assert secret not in after
    assert after.startswith(b"\xef\xbb\xbf# my config\r\nresources:\r\n  pwd: <redacted>")
    assert after.endswith(b"  name:   kept\r\n")
    assert after.count(b"\n") == before.count(b"\n")
    assert yaml.safe_load(after)["resources"]["name"] == "kept"
    assert yaml.safe_load(after)["resources"]["api_keys"] == ["<redacted>", "<redacted>"]


def test_bytes_that_are_not_yaml_or_not_utf8_are_redacted_as_text() -> None:
    assert redact_yaml(b"a: [\npassword: \xffabc\n") == b"a: [\npassword: <redacted>\n"
    assert redact_yaml(b"caf\xe9: 1\n") == b"caf\xe9: 1\n"


def test_data_is_redacted_at_every_depth_and_keeps_its_types() -> None:
    given_data = {
        "credentials": {"hf_token": "abc", "wandb_api_key": "env:WANDB_API_KEY"},
        "list": [{"password": 1234}, f"uses {HF}"],
        "steps": 3,
        "use_token": True,
        "none": None,
    }
    assert redact_data(given_data) == {
        "credentials": {"hf_token": "<redacted>", "wandb_api_key": "env:WANDB_API_KEY"},
        "list": [{"password": "<redacted>"}, "uses <redacted>"],
        "steps": 3,
        "use_token": True,
        "none": None,
    }


def test_diff_of_source_code_keeps_expressions_but_not_literals() -> None:
    diff = (
        "diff --git a/x.py b/x.py\n"
        "+    token = next(stream)\n"
        "+    password = 'hunter2'\n"
        "+def f(token: str) -> None:\n"
        "diff --git a/c.yaml b/c.yaml\n"
        "+  token: hunter3\n"
    )
    assert redact_diff(diff) == diff.replace("hunter2", "<redacted>").replace(
        "hunter3", "<redacted>"
    )


@given(st.text(alphabet="ab:=-_\"'{}[],# \r\n\\@/0password", max_size=60))
def test_line_structure_is_kept_and_a_second_pass_changes_nothing(text: str) -> None:
    once = redact_text(text)
    assert once.count("\n") == text.count("\n")
    assert redact_text(once) == once


def test_a_long_line_is_redacted_in_time_linear_in_its_length() -> None:
    assert redact_text("a" * 200_000) == "a" * 200_000
    assert redact_text("password=" * 20_000).startswith("password=<redacted>")
    assert redact_text("x:// " * 40_000) == "x:// " * 40_000


def test_an_empty_diff_stays_empty():
    assert redact_diff("") == ""
