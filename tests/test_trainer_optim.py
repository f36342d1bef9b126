"""Property: optimizers and learning rates are those of PyTorch and Transformers.

Run: pytest tests/test_trainer_optim.py
"""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from trainer_runs import (
    RankServer,
    conversations,
    losses,
    signalling_tracker,
    train_args,
    write_dataset,
)
from transformers import get_scheduler

from pipeline.errors import InterruptedRun
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.optimizer import compact_adamw
from pipeline.trainer.optimizer.compact_adamw import dynamic_codes
from pipeline.trainer.optimizer.lr_schedule import learning_rate_at
from pipeline.trainer.optimizer.make import make_optimizer
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

_STEPS = 23
pytestmark = pytest.mark.usefixtures("rank_of_its_own")


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
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cosine", {}),
        ("cosine", {"num_cycles": 1.3}),
        ("linear", {}),
        ("constant", {}),
        ("constant_with_warmup", {}),
        ("cosine_with_restarts", {}),
        ("cosine_with_restarts", {"num_cycles": 3}),
        ("cosine_with_min_lr", {"min_lr_rate": 0.1}),
        ("cosine_with_min_lr", {"min_lr": 2e-4, "num_cycles": 0.8}),
        ("polynomial", {}),
        ("polynomial", {"lr_end": 1e-4, "power": 2}),
        ("inverse_sqrt", {}),
        ("inverse_sqrt", {"timescale": 4}),
        ("warmup_stable_decay", {"num_decay_steps": 7}),
        (
            "warmup_stable_decay",
            {"num_decay_steps": 5, "num_stable_steps": 4, "decay_type": "linear"},
        ),
        (
            "warmup_stable_decay",
            {
                "num_decay_steps": 6,
                "warmup_type": "cosine",
                "decay_type": "1-sqrt",
                "min_lr_ratio": 0.2,
            },
        ),
        ("warmup_stable_decay", {"num_decay_steps": 3, "warmup_type": "1-sqrt", "num_cycles": 1}),
    ],
)
def test_every_step_has_the_learning_rate_of_transformers(
    name: str, options: dict[str, Any], warmup: dict[str, Any], warmup_steps: int
) -> None:
    args = _args(lr_scheduler_type=name, lr_scheduler_kwargs=options or None, **warmup)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate)
    scheduler = get_scheduler(
        name, optimizer, warmup_steps, _STEPS, scheduler_specific_kwargs=options
    )
    for step in range(1, _STEPS + 1):
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate_at(step, args, _STEPS) == pytest.approx(expected, rel=1e-9, abs=1e-15)
        if step < _STEPS:  # Transformers' polynomial divides by zero behind a warmup of all steps
            optimizer.step()
            scheduler.step()


def test_stable_and_decay_have_the_lengths_of_llamafactory_by_default() -> None:
    args = _args(lr_scheduler_type="warmup_stable_decay", warmup_steps=2)
    rates = [learning_rate_at(step, args, _STEPS) for step in range(1, _STEPS + 1)]
    assert rates.count(args.learning_rate) == 21 // 3 + 1  # its decay starts at the peak
    assert rates[-1] < 0.02 * args.learning_rate


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("linear", {"power": 2}, "linear has no option power (valid: none); remove it"),
        ("cosine", {"num_cycles": "2"}, "num_cycles must be a number >= 0 (got '2')"),
        ("inverse_sqrt", {"timescale": 0.5}, "timescale must be a whole number >= 0 (got 0.5)"),
        ("cosine_with_min_lr", None, "needs either min_lr or min_lr_rate; set one of them"),
        ("polynomial", {"lr_end": 1.0}, "lr_end must be below learning_rate; lower it"),
        (
            "warmup_stable_decay",
            {"decay_type": "steep"},
            "decay_type must be linear, cosine, 1-sqrt (got 'steep')",
        ),
    ],
)
def test_options_that_the_schedule_does_not_have_are_refused(
    name: str, options: dict[str, Any] | None, message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        _args(lr_scheduler_type=name, lr_scheduler_kwargs=options)
    assert message in str(caught.value)


def test_biases_and_norms_do_not_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    args = _args(weight_decay=0.1, adam_beta2=0.95)
    decayed, kept = make_optimizer(model, args).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3)]
    assert [tuple(p.shape) for p in kept["params"]] == [(4,), (4,), (4,)]
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert decayed["betas"] == kept["betas"] == (0.9, 0.95)


def _model() -> torch.nn.Module:
    """With a large matrix, one whose rows are no multiple of a block, and small parameters."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(300, 16), torch.nn.Tanh(), torch.nn.Linear(16, 256, bias=False)
    )


def _learn(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
    """Imitate a fixed network. Returns: the last loss."""
    draw = torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    target = torch.nn.Sequential(torch.nn.Linear(300, 8), torch.nn.Tanh(), torch.nn.Linear(8, 256))
    loss = torch.zeros(())
    for _ in range(steps):
        inputs = torch.randn(64, 300, generator=draw)
        loss = torch.nn.functional.mse_loss(model(inputs), target(inputs).detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize(("optim", "bytes_each"), [("adamw_bf16", 4), ("adamw_8bit", 2)])
def test_small_moments_learn_as_well_as_fp32(optim: str, bytes_each: int) -> None:
    exact, compact = _model(), _model()
    of_exact = _learn(exact, make_optimizer(exact, _args(adam_beta2=0.99)), 100)
    optimizer = make_optimizer(compact, _args(optim=optim, adam_beta2=0.99))
    before = _learn(_model(), torch.optim.SGD(_model().parameters()), 1)
    of_compact = _learn(compact, optimizer, 100)
    assert of_compact == pytest.approx(of_exact, rel=0.05)
    assert of_exact < 0.5 * before, "so the test sees learning"
    [matrix, bias, _] = compact.parameters()
    kept = sum(t.numel() * t.element_size() for t in optimizer.state[matrix].values())
    assert kept < bytes_each * matrix.numel() * 1.05
    if optim == "adamw_8bit":
        assert {t.dtype for t in optimizer.state[bias].values()} == {torch.float32}


def test_fp32_moments_are_those_of_adamw() -> None:
    """The arithmetic is the same; only the storage differs."""
    model, other = torch.nn.Linear(30, 5), torch.nn.Linear(30, 5)
    other.load_state_dict(model.state_dict())
    small = make_optimizer(model, _args(optim="adamw_8bit", weight_decay=0.1))
    exact = make_optimizer(other, _args(weight_decay=0.1))
    for step in range(5):
        for optimizer, network in ((small, model), (exact, other)):
            network(torch.ones(2, 30) * step).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, tiled = _model(), _model()
    _learn(whole, make_optimizer(whole, _args(optim="adamw_8bit")), 3)
    monkeypatch.setattr(compact_adamw, "_TILE", 256)
    _learn(tiled, make_optimizer(tiled, _args(optim="adamw_8bit")), 3)
    for one, two in zip(whole.parameters(), tiled.parameters(), strict=True):
        assert torch.equal(one, two)


def test_codes_span_seven_decades() -> None:
    signed, unsigned = dynamic_codes(signed=True), dynamic_codes(signed=False)
    for codes in (signed, unsigned):
        assert len(codes) == len(codes.unique()) == 256
        assert codes[-1] == 1
    assert (signed == 0).sum() == 1
    assert unsigned[0] == pytest.approx(1e-7)
    # Near the top a code is at most half a percent of its block's largest away.
    assert (unsigned[-64:].diff() / 2).max() < 0.005


def test_rounding_at_random_loses_nothing_on_average() -> None:
    exact = torch.full((100_000,), 1 + 1 / 1024)
    rounded = compact_adamw._round_at_random(exact, torch.Generator().manual_seed(0))
    assert set(rounded.float().unique().tolist()) == {1.0, 1 + 1 / 128}
    assert rounded.float().mean().item() == pytest.approx(1 + 1 / 1024, rel=1e-4)


@pytest.mark.parametrize("optim", ["adamw_bf16", "adamw_8bit"])
def test_saved_and_loaded_moments_are_the_same(optim: str) -> None:
    model = _model()
    optimizer = make_optimizer(model, _args(optim=optim))
    _learn(model, optimizer, 2)
    copied = copy.deepcopy(model)
    loaded = make_optimizer(copied, _args(optim=optim))
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for network, its in ((model, optimizer), (copied, loaded)):
        _learn(network, its, 2)
    for one, two in zip(model.parameters(), copied.parameters(), strict=True):
        assert torch.equal(one, two)


class _Layers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed_tokens = torch.nn.Embedding(11, 8)
        self.proj = torch.nn.Linear(8, 16)
        self.lm_head = torch.nn.Linear(16, 11, bias=False)

    def forward(self) -> torch.Tensor:
        return self.lm_head(self.proj(self.embed_tokens.weight)).square().mean()


def test_muon_is_that_of_torch_for_matrices_of_layers_and_adamw_for_the_rest() -> None:
    ours, expected = _Layers(), _Layers()
    args = _args(use_muon=True, weight_decay=0.1)
    optimizer = make_optimizer(ours, args)
    matrix, bias = expected.proj.weight, expected.proj.bias
    tables = [expected.embed_tokens.weight, expected.lm_head.weight]
    rate = args.learning_rate
    parts = [
        torch.optim.Muon([matrix], rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(tables, rate, weight_decay=0.1),
        torch.optim.AdamW([bias], rate, weight_decay=0.0),
    ]
    for step in range(4):
        for network, its in ((ours, [optimizer]), (expected, parts)):
            network().backward()
            for part in its:
                part.step()
                part.zero_grad()
        if step == 1:  # a restart in between changes nothing
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = make_optimizer(ours, args)
            optimizer.load_state_dict(saved)
    for one, two in zip(ours.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("changes", [{"optim": "adamw_8bit"}, {"use_muon": True}], ids=str)
def test_a_run_learns_and_resumes_bit_for_bit(
    tiny_model: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    import_wandb_from: Callable[[Path], None],
) -> None:
    dataset_dir = write_dataset(tmp_path / "data", conversations(6))
    whole = train_args(tiny_model, dataset_dir, tmp_path / "whole", **changes)
    train(whole, StopRequest())
    found = losses(tmp_path / "whole")
    assert found[-1] < found[0]
    import_wandb_from(signalling_tracker(tmp_path / "tracker", step=2))
    cut = train_args(tiny_model, dataset_dir, tmp_path / "cut", report_to="wandb", **changes)
    with pytest.raises(InterruptedRun):
        train(cut, StopRequest())
    resumed = {"report_to": "none", "resume_from_checkpoint": "latest"}
    train(cut.model_copy(update=resumed), StopRequest())
    assert losses(tmp_path / "cut") == found
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "cut")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("changes", "ranks", "tolerance"),
    [
        ({"optim": "adamw_8bit"}, 2, 1e-5),
        ({"use_muon": True}, 2, 1e-4),
        pytest.param({"optim": "adamw_bf16"}, 2, 1e-4, marks=pytest.mark.slow),
        pytest.param({"optim": "adamw_8bit"}, 4, 1e-5, marks=pytest.mark.slow),
        pytest.param({"use_muon": True}, 4, 1e-4, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_equivalence_of_sharded_optimizers_to_one_process(
    tiny_model: Path,
    tmp_path: Path,
    rank_server: RankServer,
    changes: dict[str, Any],
    ranks: int,
    tolerance: float,
) -> None:
    """Muon's update is computed in bf16, and bf16 moments are rounded at random."""
    dataset_dir = write_dataset(tmp_path / "data", conversations(6))
    alone = train_args(tiny_model, dataset_dir, tmp_path / "alone", **changes)
    train(alone, StopRequest())
    batches = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4 // ranks}
    mesh = {"mp_shard_size": 2} if ranks == 4 else {}
    sharding = {"fsdp": "full_shard", "fsdp_config": mesh, "save_steps": 3}
    args = train_args(
        tiny_model, dataset_dir, tmp_path / "sharded", **changes, **batches, **sharding
    )
    rank_server.run(args, ranks=ranks)
    whole = losses(tmp_path / "sharded")
    assert whole == pytest.approx(losses(tmp_path / "alone"), abs=tolerance)
    expected = load_file(tmp_path / "alone" / "model.safetensors")
    for name, weight in load_file(tmp_path / "sharded" / "model.safetensors").items():
        # Six steps change a weight by several times 1e-3.
        assert (weight - expected[name]).abs().mean() < tolerance
    shutil.rmtree(tmp_path / "sharded" / "checkpoint-6")
    rank_server.run(args.model_copy(update={"resume_from_checkpoint": "latest"}), ranks=ranks)
    assert losses(tmp_path / "sharded") == whole
