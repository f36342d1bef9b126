"""`conversion.lf_format: rendered`: STEP 0 writes the turns of the model's chat template.

Run: pytest tests/test_lf_rendered.py
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from sft_command import ROOT, error_of, sft, write_config
from transformers import AutoTokenizer

from pipeline.conversion.example import example_of, layout_fingerprint
from pipeline.conversion.source import HarborJob
from pipeline.conversion.trial import TrialOptions
from pipeline.export.rendered import to_rendered
from pipeline.export.source import read_records
from pipeline.rejects import Defect, RejectReason
from pipeline.sharegpt import from_sharegpt
from pipeline.step0_convert import ConvertOptions, convert, stale_reason
from pipeline.trainer.data.dataset import find_datasets
from pipeline.trainer.data.render import Renderer
from pipeline.trainer.data.tokenize import TokenizerSource

JOB = ROOT / "examples" / "job"


@pytest.fixture
def tokenizer(tiny_model: Path) -> TokenizerSource:
    return TokenizerSource(str(tiny_model), "main", False)


def with_template(tiny_model: Path, directory: Path, template: str) -> TokenizerSource:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    return TokenizerSource(str(directory), "main", False)


@pytest.mark.slow
def test_a_run_registers_rendered_examples_that_the_engine_reads(tmp_path: Path):
    config = write_config(
        tmp_path / "config.yaml", conversion={"lf_format": "rendered", "num_workers": 1}
    )
    checked = sft("dryrun", "--config", config)
    assert checked.returncode == 0, checked.stdout
    assert not (tmp_path / "artifacts").exists()
    done = sft("prep", "--register", "--config", config)
    assert done.returncode == 0, done.stderr
    lf_data = tmp_path / "artifacts" / "data" / "lf_data"
    (dataset,) = find_datasets(lf_data, "demo")
    assert dataset.entry["columns"] == {"messages": "messages"}
    rows = list(dataset.rows())
    im_file = tmp_path / "artifacts" / "data" / "im_data" / "demo.jsonl"
    model = next((tmp_path / "artifacts" / "cache" / "models").iterdir())
    tokenizer = AutoTokenizer.from_pretrained(model)
    trajectories = [record.trajectory for _, record in read_records(im_file)]
    rendered = [{k: v for k, v in row.items() if k != "_score"} for row in rows]
    assert rendered == [to_rendered(trajectory, tokenizer).row for trajectory in trajectories]
    for row in rows:
        assert Renderer(tokenizer).examples(*from_sharegpt(dataset.canonical(row)))
    again = sft("prep", "--config", config)
    assert "input, options and code are unchanged" in again.stderr


def test_other_templates_make_the_data_anew(
    tiny_model: Path, tokenizer: TokenizerSource, tmp_path: Path
):
    template = AutoTokenizer.from_pretrained(tiny_model).chat_template
    other = with_template(tiny_model, tmp_path / "other", template + "{# changed #}")
    moved = replace(tokenizer, model_name_or_path=str(tmp_path / "moved"))
    shutil.copytree(tokenizer.model_name_or_path, moved.model_name_or_path)
    files = (tmp_path / "im.jsonl", tmp_path / "lf.json")

    def options(source: TokenizerSource | None) -> ConvertOptions:
        return ConvertOptions(trial=TrialOptions(rendered_by=source), num_workers=1)

    convert(HarborJob(JOB), *files, options(tokenizer))
    assert stale_reason(HarborJob(JOB), *files, options(tokenizer)) is None
    assert stale_reason(HarborJob(JOB), *files, options(moved)) is None
    assert stale_reason(HarborJob(JOB), *files, options(other)) is not None
    assert stale_reason(HarborJob(JOB), *files, options(None)) is not None


def test_what_a_template_cannot_render_is_rejected_with_the_reason(
    tiny_model: Path, tmp_path: Path
):
    refusing = with_template(tiny_model, tmp_path / "other", "{{ raise_exception('no tools') }}")
    _, record = next(read_records(ROOT / "tests" / "data" / "codex" / "im.jsonl"))
    trajectory = record.trajectory
    assert example_of(trajectory, refusing) == Defect(
        RejectReason.NOT_RENDERED, "the chat template refuses this conversation: no tools"
    )
    assert RejectReason.NOT_RENDERED.is_defect


def test_what_is_not_shown_is_counted(tokenizer: TokenizerSource, tmp_path: Path):
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello", "reasoning_content": "greet back"},
        {"role": "user", "content": "more"},
        {"role": "assistant", "content": "bye"},
    ]
    chats = tmp_path / "raw" / "chats.jsonl"
    chats.parent.mkdir()
    chats.write_text(json.dumps({"messages": turns}))
    config = write_config(
        tmp_path / "config.yaml",
        conversion={"lf_format": "rendered", "num_workers": 1},
        source={"type": "files", "path": str(chats.parent), "job_dir": ""},
    )
    done = sft("prep", "--config", config)
    assert done.returncode == 0, done.stderr
    assert "1 turns lose their reasoning: the chat template does not show it" in done.stderr
    stats = json.loads((tmp_path / "artifacts/data/lf_data/demo.stats.json").read_text())
    assert stats["log"]["reasoning_not_shown"] == 1


def test_the_layout_is_part_of_what_the_data_depends_on(tokenizer: TokenizerSource):
    assert layout_fingerprint(None) == "structured"
    assert layout_fingerprint(tokenizer) == f"rendered {tokenizer.fingerprint()}"


def test_without_a_config_the_model_to_render_with_is_an_option(tmp_path: Path):
    outputs = ["--im", "im.jsonl", "--lf", "lf.json", "--rejected", "rejected.jsonl"]
    done = sft("convert", JOB, "--set", "lf_format=rendered", *outputs)
    assert done.returncode == 2
    assert error_of(done).startswith("lf_format rendered, max_tokens, count_tokens, and tokens in")
    model = ["--model", "builtin:tiny-qwen3"]
    done = sft(
        "convert", JOB, "--set", "lf_format=rendered", *in_directory(outputs, tmp_path), *model
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "lf.json").read_text())[0]["messages"][0]["role"] == "system"


def in_directory(options: list[str], directory: Path) -> list[str]:
    return [o if o.startswith("--") else str(directory / o) for o in options]
