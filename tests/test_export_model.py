"""Property: an exported model computes what its source computes, or nothing is written.

Run: pytest tests/test_export_model.py
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from sft_command import error_of, sft
from trainer_runs import conversations, train_args, write_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from pipeline import cli
from pipeline.errors import ConfigError, TrainError
from pipeline.export import model as export_module
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

pytestmark = pytest.mark.usefixtures("rank_of_its_own")


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), conversations(6))


@pytest.fixture
def bf16_model(tiny_model: Path, tmp_path: Path) -> Path:
    """The builtin model as most are published."""
    directory = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).save_pretrained(
        directory
    )
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(directory)
    return directory


def _trained(model: Path, dataset_dir: Path, output_dir: Path, **changes: Any) -> Path:
    changes = {"max_steps": 3, "learning_rate": 2e-2, "save_strategy": "no", **changes}
    train(train_args(model, dataset_dir, output_dir, **changes), StopRequest())
    return output_dir


def _export(source: Path, out: Path, *options: str) -> dict[str, Any]:
    arguments = ["export", str(source), "--to", "model", "--out", str(out), "--json", *options]
    result = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(40)[None]).logits


def _load(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def test_adapters_are_merged_and_what_rounding_changes_is_said(
    bf16_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    lora = {"finetuning_type": "lora", "bf16": True}
    first = _trained(bf16_model, dataset_dir, tmp_path / "first", **lora)
    stacked = {**lora, "adapter_name_or_path": str(first), "create_new_adapter": True}
    second = _trained(bf16_model, dataset_dir, tmp_path / "second", **stacked)
    record = _export(second, tmp_path / "out")
    assert record["adapters"] == [str(first), str(second)]
    assert (record["dtype"], record["num_parameters"]) == ("bfloat16", 229_760)
    assert 1e-5 < record["largest_difference"] < 0.05 < record["largest_logit"]
    merged = PeftModel.from_pretrained(_load(bf16_model), first).merge_and_unload()
    expected = _logits(PeftModel.from_pretrained(merged, second))
    torch.testing.assert_close(_logits(_load(tmp_path / "out")), expected, rtol=0, atol=0.05)
    assert (expected - _logits(_load(bf16_model))).abs().max() > 0.1
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    }
    assert not list(tmp_path.glob(".*"))


def test_a_model_is_cut_into_files_of_the_given_size_and_joined_again(
    tiny_model: Path, tmp_path: Path
) -> None:
    cut = _export(tiny_model, tmp_path / "cut", "--max-shard-size", "100KB")
    assert (len(cut["files"]), cut["largest_difference"]) == (5, 0.0)
    joined = _export(tmp_path / "cut", tmp_path / "joined")
    assert (joined["files"], joined["adapters"]) == (["model.safetensors"], [])
    weights = [load_file(path / "model.safetensors") for path in (tiny_model, tmp_path / "joined")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_an_adapter_goes_into_another_base_only_if_told_so(
    tiny_model: Path, bf16_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    adapter = _trained(tiny_model, dataset_dir, tmp_path / "run", finetuning_type="lora")
    assert _export(adapter, tmp_path / "one")["dtype"] == "float32"
    record = _export(adapter, tmp_path / "other", "--model", str(bf16_model))
    assert record["dtype"] == "bfloat16"


def test_what_does_not_compute_the_same_is_not_published(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = export_module.save_whole_model

    def save_spoilt(model: Any, state: Any, directory: Path, *given: Any, **keys: Any) -> None:
        save(model, state, directory, *given, **keys)
        weights = load_file(directory / "model.safetensors")
        weights["model.norm.weight"][3] *= 1.5
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(export_module, "save_whole_model", save_spoilt)
    with pytest.raises(TrainError, match=r"out: what was written and loaded again does not comp"):
        _export(tiny_model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "other"], "is a whole model, it needs no base; leave it out"),
        (["--max-shard-size", "5"], "--max-shard-size: not a size (got 5); write 5GB or 500MB"),
        (["--out", "{source}/out"], "lies in the source; choose another directory"),
        (["--out", "{source}"], "exists already; choose a new directory"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    tiny_model: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    given = [option.replace("{source}", str(tiny_model)) for option in options]
    with pytest.raises(ConfigError) as caught:
        _export(tiny_model, tmp_path / "out", *given)
    assert message in str(caught.value)


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    done = sft("export", tmp_path, "--to", "model", "--out", tmp_path.parent / "new")
    error = error_of(done)
    assert done.returncode == 2
    assert "no model (neither config.json nor adapter_config.json); give the output_dir" in error


def test_a_pissa_adapter_is_exported_converted(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    keys = {"finetuning_type": "lora", "pissa_init": True, "pissa_convert": True}
    output_dir = _trained(tiny_model, dataset_dir, tmp_path / "run", **keys)
    with pytest.raises(ConfigError, match="a PiSSA adapter belongs to what its run left of the"):
        _export(output_dir, tmp_path / "out")
    assert _export(output_dir / "pissa_converted", tmp_path / "out")["largest_difference"] < 1e-4
