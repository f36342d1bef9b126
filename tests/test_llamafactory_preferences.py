"""Stage dpo gives the losses and rewards of real LLaMA-Factory, which are those of TRL's trainer.

Run: LLAMAFACTORY_PYTHON=<interpreter> pytest tests/test_llamafactory_preferences.py
"""

import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from trainer_runs import read_log

from pipeline.step1_register import register
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

pytestmark = [pytest.mark.llamafactory, pytest.mark.usefixtures("rank_of_its_own")]

STEPS = 3
LOSSES: list[dict[str, Any]] = [
    {"dpo_label_smoothing": 0.2, "pref_ftx": 0.3},
    {"pref_loss": "hinge"},
    {"pref_loss": "ipo"},
    {"pref_loss": "orpo"},
    {"pref_loss": "simpo", "pref_beta": 2.0, "simpo_gamma": 0.7},
]
# The loss of TRL 0.24, which LLaMA-Factory 0.9.5 allows, takes its kind as an argument, which
# LLaMA-Factory leaves out, so that hinge and ipo would be sigmoid there.
RUN = """
import json, sys
from llamafactory.train.dpo.trainer import CustomDPOTrainer
from llamafactory.train.tuner import run_exp

trl_loss = CustomDPOTrainer.dpo_loss
CustomDPOTrainer.dpo_loss = lambda self, *likelihoods: trl_loss(
    self, *likelihoods, loss_type=self.loss_type
)
for values in json.load(open(sys.argv[1])):
    run_exp(values)
"""


def _pairs(count: int) -> list[dict[str, Any]]:
    draw = random.Random(3)
    words = "the file was read and then one test of it failed again so we fix it".split()

    def text(most: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(1, most)))

    def reply() -> dict[str, str]:
        return {"from": "gpt", "value": f"<think>\n{text(5)}\n</think>\n\n{text(12)}"}

    return [
        {
            "conversations": [
                {"from": "human", "value": text(20)},
                {"from": "gpt", "value": text(9)},
                {"from": "human", "value": "go on"},
            ],
            "tools": "",
            "chosen": reply(),
            "rejected": reply(),
        }
        for _ in range(count)
    ]


def _values(model: Path, data: Path, output_dir: Path, loss: dict[str, Any]) -> dict[str, Any]:
    return {
        "stage": "dpo",
        "do_train": True,
        "finetuning_type": "full",
        "model_name_or_path": str(model),
        "dataset": "demo",
        "dataset_dir": str(data),
        "template": "qwen3",
        "cutoff_len": 2048,
        "disable_shuffling": True,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "max_steps": STEPS,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "learning_rate": 1e-3,
        "bf16": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "output_dir": str(output_dir),
        **loss,
    }


def test_losses_and_rewards_are_those_of_llamafactory(tiny_model: Path, tmp_path: Path) -> None:
    if "LLAMAFACTORY_PYTHON" not in os.environ:
        pytest.skip("LLAMAFACTORY_PYTHON is not set")
    data = tmp_path / "data"
    data.mkdir()
    (data / "demo.json").write_text(json.dumps(_pairs(2 * STEPS)))
    register(data, "demo", data / "demo.json", "pairs")
    theirs = [_values(tiny_model, data, tmp_path / f"lf-{n}", x) for n, x in enumerate(LOSSES)]
    (tmp_path / "runs.json").write_text(json.dumps(theirs))
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    finished = subprocess.run(
        [os.environ["LLAMAFACTORY_PYTHON"], "-c", RUN, str(tmp_path / "runs.json")],
        env={**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    for number, loss in enumerate(LOSSES):
        ours = _values(tiny_model, data, tmp_path / f"native-{number}", loss)
        train(TrainArgs.model_validate({**ours, "deepspeed": None}), StopRequest())
        history = json.loads((tmp_path / f"lf-{number}" / "trainer_state.json").read_bytes())
        expected = [line for line in history["log_history"] if "loss" in line]
        found = read_log(Path(ours["output_dir"]))
        for name in ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins"):
            assert [line[name] for line in found] == pytest.approx(
                [line[name] for line in expected], abs=1e-4
            ), (loss, name)
