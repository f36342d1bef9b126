"""The training YAML is read as strictly as config.yaml.

Run: python -m pytest tests/test_args.py
"""

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.trainer.args import TrainArgs, TrainingKeys, load_train_args
from pipeline.trainer.llamafactory_keys import LLAMAFACTORY_KEYS

VALID = """\
model_name_or_path: m
dataset: a,b
dataset_dir: data
output_dir: out
"""


def write(directory: Path, text: str) -> Path:
    path = directory / "train.yaml"
    path.write_text(text)
    return path


def test_a_minimal_file_has_the_defaults(tmp_path: Path) -> None:
    args = load_train_args(write(tmp_path, VALID))
    assert args == TrainArgs(
        model_name_or_path="m", dataset="a,b", dataset_dir="data", output_dir="out"
    )
    assert (args.do_train, args.learning_rate, args.deepspeed) == (
        True,
        5e-5,
        "training_config/deepspeed/ds_z3_config.json",
    )


def test_what_is_dumped_reads_as_the_same(tmp_path: Path) -> None:
    args = load_train_args(write(tmp_path, VALID + "deepspeed: null\nreport_to: [wandb]\n"))
    dumped = args.model_dump_json()  # JSON is YAML
    assert load_train_args(write(tmp_path, dumped)) == args


@pytest.mark.parametrize(
    ("line", "resumes"), [("true", "latest"), ("latest", "latest"), ("false", None), ("a/b", "a/b")]
)
def test_true_resumes_from_the_latest_checkpoint(
    tmp_path: Path, line: str, resumes: str | None
) -> None:
    args = load_train_args(write(tmp_path, f"{VALID}resume_from_checkpoint: {line}\n"))
    assert args.resume_from_checkpoint == resumes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cutof_len: 5", "5:1: cutof_len: unknown key; did you mean cutoff_len?"),
        ("galore_rank: 5", "5:1: galore_rank: known to LLaMA-Factory, not to the native engine;"),
        ("do_train: false", "5:11: do_train: must be true (got false)"),
        ("stage: ppo", "5:8: stage: must be one of sft, pt, dpo, rm (got 'ppo')"),
        ("learning_rate: 0", "5:16: learning_rate: must be a number > 0 (got 0)"),
        ("qqqq: 0", "5:1: qqqq: unknown key; remove it (valid keys: stage,"),
    ],
)
def test_a_wrong_line_is_answered_at_its_place(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, VALID + line + "\n")
    with pytest.raises(ConfigError) as caught:
        load_train_args(path)
    assert str(caught.value).startswith(f"{path}:{message}")


def test_all_missing_keys_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_train_args(write(tmp_path, "seed: 1\n"))
    missing = [line.split(": ")[1] for line in str(caught.value).splitlines()]
    assert missing == ["dataset", "dataset_dir", "model_name_or_path", "output_dir"]


def test_a_key_belongs_to_one_engine_only() -> None:
    assert LLAMAFACTORY_KEYS.isdisjoint(TrainArgs.model_fields)
    assert TrainingKeys.model_fields.keys() < TrainArgs.model_fields.keys()
