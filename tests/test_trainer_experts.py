"""Property: the balance loss of a mixture of experts and its log depend on the data alone.

Run: pytest tests/test_trainer_experts.py
"""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trainer_runs import (
    ROOT,
    conversations,
    losses,
    plan_of,
    read_log,
    run,
    train_args,
    write_dataset,
)
from transformers import AutoConfig, AutoModelForCausalLM, Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from pipeline.errors import TrainError
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.collate import MicroBatch, collate, collate_trees
from pipeline.trainer.data.example import Example
from pipeline.trainer.data.prefix_tree import PrefixTree
from pipeline.trainer.modeling.load import load_model
from pipeline.trainer.objective import SupervisedObjective
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

pytestmark = pytest.mark.usefixtures("rank_of_its_own")

_EXPERTS, _CHOSEN, _LAYERS = 8, 2, 2
_COEFFICIENT = 0.5


@pytest.fixture(scope="module")
def moe_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 mixture of experts with random weights."""
    directory = tmp_path_factory.mktemp("moe") / "model"
    shutil.copytree(tiny_model, directory)
    dense = AutoConfig.from_pretrained(tiny_model)
    config = Qwen3MoeConfig(
        vocab_size=dense.vocab_size,
        hidden_size=32,
        moe_intermediate_size=24,
        num_hidden_layers=_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_experts=_EXPERTS,
        num_experts_per_tok=_CHOSEN,
        max_position_embeddings=dense.max_position_embeddings,
        initializer_range=0.2,
        eos_token_id=dense.eos_token_id,
        pad_token_id=dense.pad_token_id,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), conversations(11))


def _args(model: Path, dataset_dir: Path, output_dir: Path, **changes: Any) -> TrainArgs:
    changes = {"moe_aux_loss_coef": _COEFFICIENT, "max_steps": 4, "save_steps": 100, **changes}
    return train_args(model, dataset_dir, output_dir, **changes)


def _train(args: TrainArgs) -> Path:
    train(args, StopRequest())
    return Path(args.output_dir)


def _balance_of(model: Any, examples: list[Example]) -> float:
    """What transformers' own function says of every layer and document, weighted."""
    total = 0.0
    for example in examples:
        output = model.model(torch.tensor([example.ids]), output_router_logits=True)
        layers = [
            float(load_balancing_loss_func((logits,), _EXPERTS, _CHOSEN))
            for logits in output.router_logits
        ]
        weight = sum(span.weight * (span.end - span.start) for span in example.spans)
        total += weight * sum(layers) / len(layers)
    return total


def _packed(examples: list[Example], pad_token_id: int) -> MicroBatch:
    return collate_trees([PrefixTree.of([example]) for example in examples], pad_token_id)


@pytest.mark.parametrize("form", [collate, _packed])
def test_the_balance_loss_is_that_of_each_document(
    moe_model: Path, dataset_dir: Path, tmp_path: Path, form: Any
) -> None:
    args = _args(moe_model, dataset_dir, tmp_path / "run", packing=form is _packed)
    store = plan_of(args)[1].store
    examples = [store[index] for index in range(5)]
    assert len({len(example.ids) for example in examples}) > 1
    model = load_model(args, torch.float32)
    batch = form(examples, store.pad_token_id)
    plain = SupervisedObjective(model)(**vars(batch))
    balanced = SupervisedObjective(model, _COEFFICIENT)(**vars(batch))
    with torch.no_grad():
        reference = AutoModelForCausalLM.from_pretrained(moe_model, dtype=torch.float32)
        expected = _COEFFICIENT * _balance_of(reference, examples)
    assert expected > 1
    assert (balanced.total - plain.total).item() == pytest.approx(expected, rel=1e-5)
    assert balanced.expert_load is not None
    num_tokens = sum(len(example.ids) for example in examples)
    assert balanced.expert_load.sum(dim=1).tolist() == [_CHOSEN * num_tokens] * _LAYERS
    gate = model.model.layers[0].mlp.gate.weight
    without, with_balance = (torch.autograd.grad(part.total, gate)[0] for part in (plain, balanced))
    assert (with_balance - without).abs().max() > 1e-3
    objective = SupervisedObjective(model, _COEFFICIENT).eval()
    assert objective(**vars(batch)).total.item() == pytest.approx(plain.total.item(), rel=1e-5)


def test_a_rank_without_data_adds_nothing(
    moe_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    model = load_model(_args(moe_model, dataset_dir, tmp_path / "run"), torch.float32)
    output = SupervisedObjective(model, _COEFFICIENT)(**vars(collate([], pad_token_id=0)))
    assert float(output.total) == 0.0
    assert float(output.expert_load.sum()) == 0.0


def _same_run(one: Path, other: Path) -> None:
    assert losses(one) == pytest.approx(losses(other), abs=1e-5)
    loads = [[line["expert_load"] for line in read_log(run)] for run in (one, other)]
    assert loads[0] == loads[1]
    weights = [load_file(run / "model.safetensors") for run in (one, other)]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=0, atol=1e-5)


def test_micro_batches_change_nothing_and_the_balance_is_logged(
    moe_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    one = _train(_args(moe_model, dataset_dir, tmp_path / "one"))
    changes = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    _same_run(one, _train(_args(moe_model, dataset_dir, tmp_path / "other", **changes)))
    for line in read_log(one):
        assert len(line["expert_load"]) == _EXPERTS
        assert sum(line["expert_load"]) == pytest.approx(1, abs=1e-4)
        assert line["expert_load_max"] >= max(line["expert_load"]) * _EXPERTS - 1e-3
    free = _train(_args(moe_model, dataset_dir, tmp_path / "free", moe_aux_loss_coef=None))
    assert losses(free)[0] < losses(one)[0] - 0.5


@pytest.mark.slow
@pytest.mark.parametrize("stage", [None, 2, 3])
def test_every_strategy_balances_alike(
    moe_model: Path, dataset_dir: Path, tmp_path: Path, stage: int | None
) -> None:
    one = _train(_args(moe_model, dataset_dir, tmp_path / "one"))
    deepspeed = stage and str(ROOT / f"training_config/deepspeed/ds_z{stage}_config.json")
    changes = {"per_device_train_batch_size": 1, "deepspeed": deepspeed}
    args = _args(moe_model, dataset_dir, tmp_path / "ranks", **changes)
    run(args, ranks=2)
    _same_run(one, Path(args.output_dir))


def test_a_dense_model_has_nothing_to_balance(
    tiny_model: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainError, match="moe_aux_loss_coef: this model has no routers that can"):
        _train(_args(tiny_model, dataset_dir, tmp_path / "run"))
    log = read_log(_train(_args(tiny_model, dataset_dir, tmp_path / "on", moe_aux_loss_coef=None)))
    assert "expert_load" not in log[0]
