"""Property: positions are stretched as LLaMA-Factory stretches them, and never just exceeded.

Run: pytest tests/test_trainer_rope.py
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_runs import conversations, losses, train_args, write_dataset
from transformers import LlamaConfig, Qwen3Config

from pipeline.errors import ConfigError, TrainError
from pipeline.trainer.modeling.load import load_model
from pipeline.trainer.modeling.rope import scale_rope
from pipeline.trainer.stop import StopRequest
from pipeline.trainer.train import train

_LLAMA_3_1 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


# The expected values are what LLaMA-Factory 0.9.5 writes into `rope_scaling`.
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", {"factor": 4.0}),
        ("dynamic", {"factor": 4.0, "original_max_position_embeddings": 40_960}),
        ("yarn", {"factor": 4.0, "original_max_position_embeddings": 40_960}),
        (
            "llama3",
            {
                "factor": 4.0,
                "original_max_position_embeddings": 40_960,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            },
        ),
    ],
)
def test_the_parameters_are_those_of_llamafactory(kind: str, expected: dict[str, Any]) -> None:
    rope = {"rope_type": "default", "rope_theta": 1e6}
    config = Qwen3Config(max_position_embeddings=40_960, rope_parameters=rope)
    scale_rope(config, kind, 131_072)
    assert config.rope_parameters == {"rope_theta": 1e6, "rope_type": kind, **expected}
    assert config.max_position_embeddings == 163_840


def test_scaling_that_the_model_came_with_is_replaced() -> None:
    config = LlamaConfig(max_position_embeddings=131_072, rope_parameters=dict(_LLAMA_3_1))
    scale_rope(config, "yarn", 20_000)
    assert config.rope_parameters == {
        "rope_type": "yarn",
        "rope_theta": 500000.0,
        "factor": 3.0,
        "original_max_position_embeddings": 8192,
    }
    assert config.max_position_embeddings == 3 * 8192


def test_positions_that_suffice_are_left_alone() -> None:
    config = LlamaConfig(max_position_embeddings=131_072, rope_parameters=dict(_LLAMA_3_1))
    scale_rope(config, "yarn", 8192)
    assert config.rope_parameters == _LLAMA_3_1
    assert config.max_position_embeddings == 131_072


def test_several_rotary_embeddings_are_refused() -> None:
    config = Qwen3Config(
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 1e6}}
    )
    with pytest.raises(TrainError, match="qwen3 has no single rotary embedding to scale; remove"):
        scale_rope(config, "yarn", 131_072)


@pytest.mark.usefixtures("rank_of_its_own")
def test_a_run_beyond_the_positions_is_refused_and_stretched_when_asked(
    tiny_model: Path, tmp_path: Path
) -> None:
    dataset_dir = write_dataset(tmp_path / "data", conversations(4))
    args = train_args(tiny_model, dataset_dir, tmp_path / "run", cutoff_len=50_000, max_steps=1)
    with pytest.raises(ConfigError) as caught:
        train(args, StopRequest())
    assert str(caught.value) == (
        "training.cutoff_len 50,000 exceeds the model's 40,960 positions; lower it, or stretch "
        "them with training.rope_scaling (yarn)"
    )
    args = args.model_copy(update={"rope_scaling": "yarn"})
    train(args, StopRequest())
    assert losses(tmp_path / "run")
    saved = load_model(args.model_copy(update={"model_name_or_path": args.output_dir}), torch.float)
    assert saved.config.max_position_embeddings == 2 * 40_960
    assert saved.config.rope_parameters["factor"] == 2.0
