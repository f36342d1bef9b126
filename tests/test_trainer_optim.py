"""Property: the learning rate of every step is that of Transformers' schedule.

Run: pytest tests/test_trainer_optim.py
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_runs import train_args
from transformers import get_scheduler

from pipeline.trainer.args import TrainArgs
from pipeline.trainer.optim import adamw, learning_rate_at

_STEPS = 23


def _args(**changes: Any) -> TrainArgs:
    return train_args(Path("model"), Path("data"), Path("out"), **{"warmup_steps": 0, **changes})


@pytest.mark.parametrize(
    ("warmup", "warmup_steps"),
    [
        ({}, 0),
        ({"warmup_steps": 5}, 5),
        ({"warmup_ratio": 0.1}, 3),
        ({"warmup_ratio": 0.5, "warmup_steps": 2}, 2),
        ({"warmup_ratio": 1.0}, _STEPS),
        ({"warmup_steps": 2 * _STEPS}, 2 * _STEPS),
    ],
    ids=["none", "steps", "ratio", "steps win", "all", "longer than the run"],
)
@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "constant_with_warmup"])
def test_every_step_has_the_learning_rate_of_transformers(
    name: str, warmup: dict[str, Any], warmup_steps: int
) -> None:
    args = _args(lr_scheduler_type=name, **warmup)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate)
    scheduler = get_scheduler(name, optimizer, warmup_steps, _STEPS)
    for step in range(1, _STEPS + 1):
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate_at(step, args, _STEPS) == pytest.approx(expected, rel=1e-9, abs=1e-15)
        optimizer.step()
        scheduler.step()


def test_biases_and_norms_do_not_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    decayed, kept = adamw(model, _args(weight_decay=0.1, adam_beta2=0.95)).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3)]
    assert [tuple(p.shape) for p in kept["params"]] == [(4,), (4,), (4,)]
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert decayed["betas"] == kept["betas"] == (0.9, 0.95)
