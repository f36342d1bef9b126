"""config.yaml is refused with every mistake named at its place, or loads exactly as written.

Run: python -m pytest tests/test_config_load.py
"""

import json
import math
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import load_config
from pipeline.config.secrets import resolve_secret
from pipeline.errors import ConfigError

VALID = """\
runtime_info:
  input:
    source:
      job_dir: jobs/demo
    conversion:
      data_name: demo
    model:
      model_name_or_path: builtin:tiny-qwen3
    training:
      output_dir: run
"""


def write(directory: Path, text: str | bytes) -> Path:
    path = directory / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def errors(directory: Path, text: str | bytes, *overrides: str) -> list[str]:
    """The lines of the ConfigError, without the directory of the file."""
    path = write(directory, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


def training(*lines: str) -> str:
    """VALID with further lines in its training section, from line 11 on."""
    return VALID + "".join(f"      {line}\n" for line in lines)


def loaded_training(directory: Path, *lines: str):
    return load_config(write(directory, training(*lines))).config.runtime_info.input.training


TYPOS = """\
meta_inf: {}
meta_info:
  nam: demo
runtime_info:
  inptu: {}
  input:
    sorce: {}
    source:
      tpye: harbor_job
      job_dri: jobs
      scafold: auto
    conversion:
      dataname: demo
      max_instance: 5
      exclude_repo_file: ""
    dataset:
      nmae: x
    model:
      model_name_or_pth: m
      trust_remotecode: true
    training:
      output_dirr: run
      cutof_len: 5
      learning_rte: 1e-5
      gradient_acumulation_steps: 8
      per_device_train_batchsize: 1
      num_epochs: 3
      warmup_ration: 0.1
    infrastructure:
      n_gpu_per_node: 2
      engin: native
    experiment:
      wandb_mod: offline
    credentials:
      hf_tokn: env:HF_TOKEN
"""
SUGGESTIONS = {
    "1:1: meta_inf": "meta_info",
    "3:3: meta_info.nam": "name",
    "5:3: runtime_info.inptu": "input",
    "7:5: runtime_info.input.sorce": "source",
    "9:7: runtime_info.input.source.tpye": "type",
    "10:7: runtime_info.input.source.job_dri": "job_dir",
    "11:7: runtime_info.input.source.scafold": "scaffold",
    "13:7: runtime_info.input.conversion.dataname": "data_name",
    "14:7: runtime_info.input.conversion.max_instance": "max_instances",
    "15:7: runtime_info.input.conversion.exclude_repo_file": "exclude_repos_file",
    "17:7: runtime_info.input.dataset.nmae": "name",
    "19:7: runtime_info.input.model.model_name_or_pth": "model_name_or_path",
    "20:7: runtime_info.input.model.trust_remotecode": "trust_remote_code",
    "22:7: runtime_info.input.training.output_dirr": "output_dir",
    "23:7: runtime_info.input.training.cutof_len": "cutoff_len",
    "24:7: runtime_info.input.training.learning_rte": "learning_rate",
    "25:7: runtime_info.input.training.gradient_acumulation_steps": "gradient_accumulation_steps",
    "26:7: runtime_info.input.training.per_device_train_batchsize": "per_device_train_batch_size",
    "27:7: runtime_info.input.training.num_epochs": "num_train_epochs",
    "28:7: runtime_info.input.training.warmup_ration": "warmup_ratio",
    "30:7: runtime_info.input.infrastructure.n_gpu_per_node": "n_gpus_per_node",
    "31:7: runtime_info.input.infrastructure.engin": "engine",
    "33:7: runtime_info.input.experiment.wandb_mod": "wandb_mode",
    "35:7: runtime_info.input.credentials.hf_tokn": "hf_token",
}


def test_every_typo_is_answered_once_with_the_right_key_in_one_message(tmp_path: Path) -> None:
    assert errors(tmp_path, TYPOS) == [
        f"config.yaml:{place}: unknown key; did you mean {key}?"
        for place, key in SUGGESTIONS.items()
    ]


def test_typos_are_answered_in_half_a_second_from_a_cold_start(tmp_path: Path) -> None:
    path = write(tmp_path, TYPOS)
    code = (
        "import pathlib, sys; from pipeline.config import load_config\n"
        "load_config(pathlib.Path(sys.argv[1]))"
    )
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Of the processor, because other processes share the cores.
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert "did you mean cutoff_len?" in done.stderr
    assert min(seconds) < 0.5


def test_importing_the_config_room_imports_no_training_library() -> None:
    code = (
        "import sys, pipeline.config, pipeline.config.load, pipeline.trainer.args\n"
        "print({'torch', 'transformers', 'datasets', 'deepspeed'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_minimal_config_loads_with_all_defaults_in_resolved(tmp_path: Path) -> None:
    path = write(tmp_path, VALID)
    loaded = load_config(path)
    assert loaded.path == path.absolute()
    assert loaded.source == VALID.encode()
    assert loaded.ignored == ()
    resolved = json.loads(json.dumps(loaded.resolved(), allow_nan=False))
    assert resolved["runtime_info"]["input"]["training"]["learning_rate"] == 5e-5
    assert resolved["runtime_info"]["input"]["source"]["type"] == "harbor_job"
    assert list(resolved["runtime_info"]["input"]) == [
        *("source", "conversion", "dataset", "model"),
        *("training", "infrastructure", "experiment", "credentials"),
    ]


@pytest.mark.parametrize(
    ("line", "column", "message"),
    [
        ("cutoff_len: 0", 19, "must be a whole number >= 1 (got 0)"),
        ("cutoff_len: 8.0", 19, "must be a whole number >= 1 (got 8.0); write 8"),
        ("cutoff_len: true", 19, "must be a whole number >= 1 (got true)"),
        ("cutoff_len: '8'", 19, "must be a whole number >= 1 (got '8'); remove the quotes"),
        ("cutoff_len: 32_768", 19, "must be a whole number >= 1 (got '32_768'); write 32768"),
        ("cutoff_len:", 18, "must be a whole number >= 1 (got null)"),
        ("cutoff_len: [1]", 7, "must be a whole number >= 1 (got a list)"),
        ("learning_rate: -1", 22, "must be a number > 0 (got -1)"),
        ("learning_rate: .nan", 22, "must be a number > 0 (got nan)"),
        ("learning_rate: '5e-5'", 22, "must be a number > 0 (got '5e-5'); remove the quotes"),
        ("warmup_ratio: 2", 21, "must be a number >= 0 and <= 1 (got 2)"),
        ("bf16: yes", 13, "must be true or false (got 'yes'); write true without quotes"),
        ("bf16: 1", 13, "must be true or false (got 1)"),
        ("fp16: true", 13, "must be false (got true)"),
        ("streaming: true", 18, "the whole run is planned from the lengths of all examples, so "),
        ("template: 3", 17, "must be text, not empty (got 3); put it in quotes"),
        ("max_samples: 0", 20, "must be a whole number >= 1 or null (got 0)"),
        (
            "save_strategy: step",
            22,
            "must be one of steps, epoch, no (got 'step'); did you mean steps?",
        ),
        (
            "report_to: [wand]",
            7,
            "must be one of none, tensorboard, wandb, trackio, mlflow or a list of them "
            "(got a list)",
        ),
        (
            "galore_rank: 8",
            7,
            "known to LLaMA-Factory, not to the native engine; "
            "remove it or set infrastructure.engine: llamafactory",
        ),
        ("model_name_or_path: x", 7, "unknown key here; it belongs in runtime_info.input.model"),
        ("lr: 1", 7, "unknown key; did you mean learning_rate?"),
        ("Cutoff-Len: 1", 7, "unknown key; did you mean cutoff_len?"),
        ("dataset_dir: x", 7, "comes from runtime_info.input.infrastructure.artifacts_dir"),
        ("qqq: 1", 7, "unknown key; remove it (valid keys: stage, finetuning_type, freeze"),
        ("output_dir: again", 7, "duplicate key; the first is at 10:7"),
    ],
)
def test_a_wrong_training_line_is_answered_at_its_place(
    tmp_path: Path, line: str, column: int, message: str
) -> None:
    [error] = errors(tmp_path, training(line))
    key = line.partition(":")[0]
    assert error.startswith(
        f"config.yaml:11:{column}: runtime_info.input.training.{key}: {message}"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("job_dir: jobs/demo", "type: ''", "3:5: runtime_info.input.source.job_dir: required by"),
        ("job_dir: jobs/demo", "type: hf_lf", "source.hf_hub_url: required by source.type hf_lf"),
        ("job_dir: jobs/demo", "type: local_lf", "source.lf_path: required by source.type local"),
        ("data_name: demo", "data_name: a/b", "6:18: runtime_info.input.conversion.data_name: mus"),
        ("data_name: demo", "seed: 1", "5:5: runtime_info.input.conversion.data_name: required k"),
        ("jobs/demo", "human", "4:16: runtime_info.input.source.job_dir: still a placeholder"),
        ("jobs/demo", "../jobs/<job>", "still a placeholder (got '../jobs/<job>')"),
        ("builtin:tiny-qwen3", "<your model>", "model_name_or_path: still a placeholder"),
        (
            "builtin:tiny-qwen3",
            "",
            "8:26: runtime_info.input.model.model_name_or_path: must be tex",
        ),
        ("      output_dir: run\n", "", "9:5: runtime_info.input.training.output_dir: required"),
        (
            "    source:\n      job_dir: jobs/demo\n",
            "",
            "2:3: runtime_info.input.source: required s",
        ),
        ("runtime_info:\n", "status: {}\nruntime_info:\n", "1:1: status: a retired section"),
        ("runtime_info:\n", "evolving: {}\nruntime_info:\n", "1:1: evolving: a retired section"),
        ("  input:\n", "  input:\n    cutoff_len: 1\n", "belongs in runtime_info.input.training"),
        ("runtime_info:\n", "training: {}\nruntime_info:\n", "belongs in runtime_info.input"),
        ("      job_dir: jobs/demo\n", "      5\n", "source: must be a section of `key: value`"),
        ("job_dir: jobs/demo", "1: x", "a key must be text (got 1); put it in quotes"),
        ("demo\n    model", "!env demo\n    model", "6:18: runtime_info.input.conversion.data_nam"),
    ],
)
def test_a_wrong_section_is_answered(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert VALID.count(old) == 1
    assert any(message in error for error in errors(tmp_path, VALID.replace(old, new)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: \xff", "config.yaml:1:4: not UTF-8 (byte 0xff); save the file as UTF-8"),
        ("- a", "config.yaml:1:1: the top level must be a mapping of `key: value`"),
        ("a: 1\n\tb: 2", "config.yaml:2:1: a tab cannot indent or start a value in YAML; use sp"),
        ("a: [1", "config.yaml:1:6: not valid YAML: while parsing a flow sequence"),
        ("a: *x", "config.yaml:1:4: not valid YAML: found undefined alias"),
        ("a: 1\n---\nb: 2", "config.yaml:2:1: a second document starts here"),
        ("a: \x07", "config.yaml:1:4: a character that YAML does not allow (U+0007); remove it"),
        ("a: &x [*x]", "config.yaml:1:4: a[0]: an alias to a value that contains it; remove it"),
        ("a: &x\n  <<: *x", "config.yaml:1:1: a: unknown key"),
        ("a: " + "[" * 3000, "config.yaml: nested too deeply to be a config"),
        ("a: " + "9" * 5000, "config.yaml:1:4: a: a number of more than 100 digits"),
        ("", "config.yaml:1:1: runtime_info: required section is missing; add it with input"),
        ("# nothing", "config.yaml:1:1: runtime_info: required section is missing"),
    ],
)
def test_text_that_is_no_config_is_answered(tmp_path: Path, text: str, message: str) -> None:
    assert any(error.startswith(message) for error in errors(tmp_path, text))


def test_aliases_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert any(
        "aliases expand to more than 100,000" in e for e in errors(tmp_path, "\n".join(levels))
    )


def test_a_missing_file_is_answered_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"absent.yaml: no such file; name another one with --con"
    ):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("written", "value"),
    [("5e-5", 5e-5), ("1E-3", 1e-3), (".5", 0.5), ("1", 1.0), ("0o10", 8.0), ("010", 10.0)],
)
def test_numbers_are_read_as_yaml_1_2(tmp_path: Path, written: str, value: float) -> None:
    assert loaded_training(tmp_path, f"learning_rate: {written}").learning_rate == value


def test_no_is_a_word(tmp_path: Path) -> None:
    assert loaded_training(tmp_path, "save_strategy: no").save_strategy == "no"


def test_bom_crlf_anchors_and_merge_keys_load(tmp_path: Path) -> None:
    text = training("<<: &more {cutoff_len: 7, seed: 1}", "seed: 2").replace("\n", "\r\n")
    loaded = load_config(write(tmp_path, b"\xef\xbb\xbf" + text.encode()))
    given = loaded.config.runtime_info.input.training
    assert (given.cutoff_len, given.seed) == (7, 2)


def test_a_merged_key_is_reported_where_it_is_written(tmp_path: Path) -> None:
    [error] = errors(tmp_path, training("<<:", "  cutof_len: 7"))
    assert error.startswith("config.yaml:12:9: runtime_info.input.training.cutof_len: unknown key")


def test_null_sections_and_null_texts_mean_the_default(tmp_path: Path) -> None:
    text = VALID + "    dataset:\n    experiment:\n      run_name: null\n    credentials: null\n"
    text = text.replace("source:", "source:\n      type: null\n      hf_subset:")
    given = load_config(write(tmp_path, text)).config.runtime_info.input
    assert (given.source.type, given.dataset.name, given.experiment.run_name) == (
        "harbor_job",
        "",
        "",
    )
    assert loaded_training(tmp_path, "deepspeed: ''").deepspeed is None


def test_placeholders_in_keys_of_another_source_type_do_not_matter(tmp_path: Path) -> None:
    text = VALID.replace(
        "job_dir: jobs/demo", "type: local_lf\n      lf_path: a.json\n      job_dir: ../<job>"
    )
    assert load_config(write(tmp_path, text)).config.runtime_info.input.source.lf_path == "a.json"


# Secrets


@pytest.mark.parametrize(
    "line", ["hf_token: hf_abcdef", "hf_tokn: hf_abcdef", "hf_token: [hf_abcdef]"]
)
def test_a_literal_secret_is_refused_and_never_shown(tmp_path: Path, line: str) -> None:
    found = errors(tmp_path, VALID + f"    credentials:\n      {line}\n")
    assert "12:" in found[0]
    assert "abcdef" not in "".join(found)


def test_a_literal_secret_in_an_override_is_never_shown(tmp_path: Path) -> None:
    [error] = errors(tmp_path, VALID, "credentials.hf_token=hf_abcdef")
    assert error.startswith("override 'credentials.hf_token=...': runtime_info.input.credentials")
    assert "abcdef" not in error


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("resources: {pwd: hunter2}", "meta_info.resources.pwd"),
        ("resources:\n    hosts: [{ssh_password: hunter2}]", "meta_info.resources.hosts[0].ssh_pa"),
        ("repositories: {a: {url: 'https://me:hunter2@host/r'}}", "meta_info.repositories.a.url"),
    ],
)
def test_secrets_in_ignored_sections_are_refused(tmp_path: Path, section: str, key: str) -> None:
    [error] = errors(tmp_path, f"meta_info:\n  {section}\n{VALID}")
    assert key in error
    assert "hunter2" not in error


def test_a_token_key_of_llamafactory_is_refused(tmp_path: Path) -> None:
    text = training("hf_hub_token: hf_abcdef") + "    infrastructure: {engine: llamafactory}\n"
    found = "\n".join(errors(tmp_path, text))
    assert "training.hf_hub_token: holds a secret; remove it and set runtime_info" in found
    assert "abcdef" not in found


def test_references_are_kept_as_they_are_and_resolve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_file = tmp_path / "token"
    secret_file.write_text("from-file\n")
    text = f"{VALID}    credentials: {{hf_token: file:{secret_file}, wandb_api_key: env:A_KEY}}\n"
    loaded = load_config(write(tmp_path, text))
    credentials = loaded.config.runtime_info.input.credentials
    assert loaded.resolved()["runtime_info"]["input"]["credentials"]["wandb_api_key"] == "env:A_KEY"
    assert "A_KEY" not in repr(loaded)
    assert resolve_secret(credentials.hf_token, "k") == "from-file"
    monkeypatch.setenv("A_KEY", "from-env")
    assert resolve_secret(credentials.wandb_api_key, "k") == "from-env"
    assert resolve_secret("", "k") is None
    monkeypatch.delenv("A_KEY")
    with pytest.raises(ConfigError, match="^k: the environment variable A_KEY is not set or empty"):
        resolve_secret("env:A_KEY", "k")
    with pytest.raises(ConfigError, match=r"^k: the file .*absent cannot be read"):
        resolve_secret(f"file:{tmp_path}/absent", "k")


# Engine llamafactory

LLAMAFACTORY = (
    "    infrastructure:\n      engine: llamafactory\n      llamafactory_python: lf/bin/python\n"
)


def test_llamafactory_keys_and_values_pass_with_its_engine(tmp_path: Path) -> None:
    text = training(
        "stage: kto", "galore_rank: 8", "save_steps: 0.1", "report_to: [swanlab]", "eval_steps: 0.1"
    )
    loaded = load_config(write(tmp_path, text + LLAMAFACTORY))
    given = loaded.config.runtime_info.input.training
    assert (given.stage, given.save_steps) == ("kto", 0.1)
    assert given.model_extra == {"galore_rank": 8}
    assert loaded.resolved()["runtime_info"]["input"]["training"]["galore_rank"] == 8


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lora_rnk: 8", "unknown key; did you mean lora_rank?"),
        ("cutoff_len: 0", "must be a whole number >= 1 (got 0)"),
        ("curriculum: turns", "training.curriculum: only the native engine has it; remove it"),
        ("deepspeed: auto", "only the native engine has auto; name a DeepSpeed file, or null"),
        ("flash_attn: flex", "flash_attn: only the native engine has flex; set it to auto"),
        ("stage: 5", "must be text (got 5); put it in quotes"),
    ],
)
def test_mistakes_are_found_with_the_other_engine_too(
    tmp_path: Path, line: str, message: str
) -> None:
    [error] = errors(tmp_path, training(line) + LLAMAFACTORY)
    assert error.endswith(message)


def test_llamafactory_needs_its_python(tmp_path: Path) -> None:
    [error] = errors(tmp_path, VALID + "    infrastructure: {engine: llamafactory}\n")
    assert "infrastructure.llamafactory_python: required by infrastructure.engine" in error


# Overrides


def test_overrides_are_dotted_from_the_top_or_from_the_input(tmp_path: Path) -> None:
    given = (
        "training.resume_from_checkpoint=latest",
        "runtime_info.input.conversion.max_instances=5",
        "training.learning_rate=1e-4",
        "experiment.run_name=a b",
        "training.report_to=[wandb]",
        "training.learning_rate=2e-4",
    )
    loaded = load_config(write(tmp_path, VALID), given)
    chosen = loaded.config.runtime_info.input
    assert loaded.overrides == given
    assert loaded.source == VALID.encode()
    assert chosen.training.resume_from_checkpoint == "latest"
    assert (chosen.conversion.max_instances, chosen.experiment.run_name) == (5, "a b")
    assert math.isclose(chosen.training.learning_rate, 2e-4)
    assert chosen.training.report_to == ["wandb"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.cutof_len=5",
            "runtime_info.input.training.cutof_len: unknown key; did you mean",
        ),
        ("cutoff_len=5", "runtime_info.input.cutoff_len: unknown key here; it belongs in runtime"),
        ("traning.seed=5", "runtime_info.input.traning: unknown key; did you mean training?"),
        ("training.seed=x", "runtime_info.input.training.seed: must be a whole number >= 0 (got"),
        ("training.output_dir.x=1", "runtime_info.input.training.output_dir is no section"),
        ("training.seed=[1", "1:10: not valid YAML: while parsing a flow sequence"),
    ],
)
def test_a_wrong_override_is_answered_with_its_text(
    tmp_path: Path, override: str, message: str
) -> None:
    [error] = errors(tmp_path, VALID, override)
    assert error.startswith(f"override '{override}':")
    assert message in error


def test_an_override_without_a_value_is_answered(tmp_path: Path) -> None:
    [error] = errors(tmp_path, VALID, "resume")
    assert error == "override 'resume': must be key=value, such as training.max_steps=10"


def test_mistakes_of_file_and_overrides_come_in_one_message(tmp_path: Path) -> None:
    found = errors(tmp_path, training("cutof_len: 1"), "training.sed=1")
    assert [line.partition(": ")[0] for line in found] == [
        "config.yaml:11:7",
        "override 'training.sed=1'",
    ]


def test_no_wording_of_pydantic_reaches_the_user(tmp_path: Path) -> None:
    text = "\n".join(errors(tmp_path, training("cutoff_len: x", "bf16: 3", "seed: -1", "optim: z")))
    assert "Input should" not in text
    assert "pydantic" not in text
    assert "https:" not in text
