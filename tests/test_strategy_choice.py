"""Property: `deepspeed: auto` takes the cheapest strategy that fits, and what is taken is recorded.

Run: pytest tests/test_strategy_choice.py
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from sft_command import write_config
from trainer_runs import conversations, tokenise, train_args, write_dataset

from pipeline import step2_train
from pipeline.config import load_config
from pipeline.errors import ConfigError
from pipeline.launch import auto_strategy
from pipeline.launch.machine import Accelerator
from pipeline.paths import SHIPPED, RunPaths
from pipeline.trainer.memory.strategy_choice import StrategyChoice, choose_strategy
from pipeline.trainer.planned_run import PlannedRun
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

_RANKS = 4
_FILES = SHIPPED / "deepspeed"
_STRATEGIES = {
    "DDP": None,
    "ZeRO-2": str(_FILES / "ds_z2_config.json"),
    "ZeRO-3": str(_FILES / "ds_z3_config.json"),
}


@pytest.fixture
def dataset_dir(tmp_path: Path) -> Path:
    """Of one turn each: the fewer documents a step has, the sooner it is simulated."""
    rows = [{"conversations": row["conversations"][:2]} for row in conversations(4)]
    return write_dataset(tmp_path / "data", rows)


def _choice(model: Path, dataset_dir: Path, room: int, **keys: Any) -> StrategyChoice:
    args = train_args(model, dataset_dir, dataset_dir / "run", bf16=True, **keys)
    run = PlannedRun.of(args, tokenise(args).store, _RANKS)
    return choose_strategy(run, _STRATEGIES, _RANKS, room, on_accelerator=False)


def test_the_first_that_fits_is_chosen(tiny_model: Path, dataset_dir: Path) -> None:
    none_fits = _choice(tiny_model, dataset_dir, 1)
    assert [one.name for one in none_fits.tried] == list(_STRATEGIES)
    assert not none_fits.fits
    needs = {one.name: one.needed for one in none_fits.tried}
    assert none_fits.chosen.needed == min(needs.values())
    assert "needs least, of 0.00 MiB" in none_fits.describe()
    assert needs["DDP"] > needs["ZeRO-2"]
    second = _choice(tiny_model, dataset_dir, needs["ZeRO-2"])
    assert second.chosen.deepspeed == _STRATEGIES["ZeRO-2"]
    assert [one.name for one in second.tried] == ["DDP", "ZeRO-2"]
    assert ": ZeRO-2 is the first to fit into " in second.describe()
    assert _choice(tiny_model, dataset_dir, needs["DDP"]).chosen.name == "DDP"


def test_what_cannot_run_the_training_is_left_out(tiny_model: Path, dataset_dir: Path) -> None:
    muon = _choice(tiny_model, dataset_dir, 1, use_muon=True)
    assert [one.name for one in muon.tried] == ["DDP"]
    assert "Muon needs whole matrices" in muon.obstacles["ZeRO-2"]
    dora = _choice(tiny_model, dataset_dir, 1, finetuning_type="lora", use_dora=True)
    assert [one.name for one in dora.tried] == ["DDP", "ZeRO-2"]
    assert "ZeRO-3 is refused (training.use_dora: " in dora.describe()


def test_more_ranks_come_before_offload_and_offload_needs_a_device_and_a_compiler(
    tiny_model: Path, dataset_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = train_args(tiny_model, dataset_dir, dataset_dir / "run")
    run = PlannedRun.of(args, tokenise(args).store, 1)
    tiny = [Accelerator("GPU-0", "NVIDIA H200", 2**20, 2**20)]

    def tried(num_ranks: int, accelerators: list[Accelerator]) -> list[str]:
        choice = auto_strategy.choose_deepspeed(run, num_ranks, accelerators)
        return [one.name for one in choice.tried]

    offloads = ["ZeRO-2 with offload", "ZeRO-3 with offload"]
    monkeypatch.setattr(auto_strategy, "compiler", lambda: "/usr/bin/c++")
    assert tried(1, tiny) == ["DDP", *offloads]
    assert tried(2, tiny) == ["DDP", "ZeRO-2", "ZeRO-3", *offloads]
    monkeypatch.setattr(auto_strategy, "compiler", lambda: None)
    assert tried(1, tiny) == ["DDP"]
    assert tried(1, []) == ["DDP"]


def test_what_is_recorded_is_what_was_chosen(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"deepspeed": "auto", "bf16": True}
    loaded = load_config(write_config(tmp_path / "config.yaml", training=training))
    paths = RunPaths.of(loaded.config)
    values = step2_train.training_values(loaded.config, paths, model=str(tiny_model))
    values |= {"dataset_dir": str(dataset_dir), "dataset": "demo"}
    values["tokenized_path"] = str(step2_train.tokenize(values))
    for room, file in ((2**40, None), (2**20, "ds_z3_offload_config.json")):
        devices = [Accelerator(f"GPU-{i}", "NVIDIA H200", room, room) for i in range(2)]
        monkeypatch.setattr(step2_train, "accelerators", lambda devices=devices: devices)
        monkeypatch.setattr(auto_strategy, "compiler", lambda: "/usr/bin/c++")
        text = step2_train.render_train_yaml(
            step2_train.decided(loaded.config, values), loaded.path
        )
        expected = None if file is None else str(_FILES / file)
        assert yaml.safe_load(text)["deepspeed"] == expected


def test_a_rank_is_never_told_to_choose(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    args = train_args(tiny_model, dataset_dir, tmp_path / "run", deepspeed="auto")
    with pytest.raises(ConfigError, match="deepspeed: auto is decided before the ranks start"):
        train(args, StopRequest())
